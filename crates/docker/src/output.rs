//! What a container prints, and its end. Output is attached to *before* the container is started, so
//! that no byte is missed; the wait is asked for after it, and resolves at once for what has ended.

use std::pin::Pin;
use std::task::{Context, Poll};

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, LogsOptionsBuilder, WaitContainerOptionsBuilder,
};
use bytes::Bytes;
use futures::stream::{Stream, StreamExt as _};

use crate::engine::{SHORT, within};
use crate::error::WAIT;
use crate::{DockerError, Engine};

/// Which of the two streams bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputSource {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>;

/// The bytes that a container prints, in the order in which the engine saw them. Ends with the
/// container.
pub struct OutputStream {
    items: Items<LogOutput>,
    call: &'static str,
}

impl Stream for OutputStream {
    type Item = Result<(OutputSource, Bytes), DockerError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let call = self.call;
        self.items.poll_next_unpin(cx).map(|item| {
            item.map(|result| match result {
                Ok(LogOutput::StdErr { message }) => Ok((OutputSource::Stderr, message)),
                Ok(other) => Ok((OutputSource::Stdout, other.into_bytes())),
                Err(error) => Err(DockerError::from_call(call, error)),
            })
        })
    }
}

/// Resolves when the container ended.
pub struct WaitHandle {
    items: Items<bollard::models::ContainerWaitResponse>,
}

impl WaitHandle {
    /// The exit code. Has no deadline of its own: the caller's time-out is the stage's.
    ///
    /// # Errors
    /// When the engine goes away, or the container was removed.
    pub async fn exit_code(&mut self) -> Result<i64, DockerError> {
        match self.items.next().await {
            Some(Ok(end)) => Ok(end.status_code),
            Some(Err(Error::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(DockerError::from_call(WAIT, error)),
            None => Err(DockerError::Incomplete {
                call: WAIT,
                what: "an exit code",
            }),
        }
    }
}

impl Engine {
    /// Attaches to what the container prints from now on.
    ///
    /// # Errors
    /// `NotFound` when there is no such container.
    pub async fn attach(&self, id: &str) -> Result<OutputStream, DockerError> {
        let options = AttachContainerOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .stream(true)
            .build();
        let attached = self.docker.attach_container(id, Some(options));
        let attached = within("attach", SHORT, attached).await?;
        Ok(OutputStream {
            items: attached.output,
            call: "attach",
        })
    }

    /// Everything that the engine kept of the output from the beginning, then what comes. Needs a
    /// log driver that keeps it.
    #[must_use]
    pub fn follow_logs(&self, id: &str) -> OutputStream {
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(true)
            .tail("all")
            .build();
        let docker = self.docker.clone();
        let id = id.to_owned();
        OutputStream {
            items: docker.logs(&id, Some(options)).boxed(),
            call: "logs",
        }
    }

    /// Waits for the end of a container that was started before this call: it resolves at once when
    /// the container has ended already, so nothing is missed in between.
    #[must_use]
    pub fn wait_exit(&self, id: &str) -> WaitHandle {
        let options = WaitContainerOptionsBuilder::default()
            .condition("not-running")
            .build();
        WaitHandle {
            items: self.docker.wait_container(id, Some(options)).boxed(),
        }
    }
}
