//! What happens to containers, as the engine tells it.

use std::collections::{BTreeMap, HashMap};

use bollard::query_parameters::EventsOptionsBuilder;
use futures::stream::{Stream, StreamExt as _};

use crate::{DockerError, Engine};

/// Something happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Engine's id.
    pub id: String,
    /// `start`, `die`, `oom`, `destroy`, `health_status: healthy` …
    pub action: String,
    /// The container's labels, and the event's own attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Engine {
    /// Events of containers that carry `label` with `value`, from now on. Ends when the engine does.
    pub fn container_events(
        &self,
        label: &str,
        value: &str,
    ) -> impl Stream<Item = Result<ContainerEvent, DockerError>> + Send + 'static {
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("label".to_owned(), vec![format!("{label}={value}")]),
        ]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        let docker = self.docker.clone();
        docker.events(Some(options)).filter_map(|item| async {
            match item {
                Ok(event) => {
                    let actor = event.actor?;
                    Some(Ok(ContainerEvent {
                        id: actor.id?,
                        action: event.action?,
                        attributes: actor.attributes.unwrap_or_default().into_iter().collect(),
                    }))
                }
                Err(error) => Some(Err(DockerError::from_call("events", error))),
            }
        })
    }
}
