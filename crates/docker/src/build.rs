//! Building images: BuildKit through the engine's own API where it is there, the classic builder
//! otherwise. The context is a tar that the caller makes (and makes deterministic).
//!
//! A reproducible digest needs three things: the same context bytes, `SOURCE_DATE_EPOCH`, and
//! `rewrite-timestamp` at the exporter. bollard cannot name the engine's own exporter, so its
//! attributes are added to the request's query here.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::Docker;
use bollard::models::BuildInfoAux;
use bollard::query_parameters::{BuildImageOptionsBuilder, BuilderVersion};
use bytes::Bytes;
use futures::StreamExt as _;

use crate::context::Offer;
use crate::engine::within;
use crate::{Credentials, DockerError, Engine, EngineFacts};

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Uncompressed tar of the context.
    pub context: Bytes,
    /// Path of the Dockerfile inside the context.
    pub dockerfile: String,
    /// The name that the image gets, `repository:tag`.
    pub tag: String,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// Names of `RUN --mount=type=cache` mean this build's caches in here, and no other's elsewhere.
    pub cache_namespace: String,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Seconds since 1970 of the commit.
    pub source_date_epoch: i64,
    /// `linux/amd64`; empty = the engine's own.
    pub platform: String,
    /// Logins by image registry host.
    pub credentials: BTreeMap<String, Credentials>,
    /// Random and unique per build: names the session, and keeps the context to the engine.
    pub session: String,
    /// The build is given up after this time.
    pub limit: Duration,
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    /// The engine's id of it.
    pub id: String,
    /// Whether the same request gives the same digest again.
    pub reproducible: bool,
}

/// Asks the image exporter to give every file the commit's time. The engine's default exporter
/// (`moby`) insists on unpacking, which excludes it; the image is unpacked at its first use instead.
const REWRITE: &str = "%5B%7B%22Type%22%3A%22image%22%2C%22Attrs%22%3A%7B%22rewrite-timestamp%22%3A%22true%22%7D%7D%5D";

impl Engine {
    /// Builds an image. `progress` gets what the builder prints, as raw bytes.
    ///
    /// # Errors
    /// `Failed` with the builder's last words when a step fails.
    pub async fn build_image(
        &self,
        request: &BuildRequest,
        facts: &EngineFacts,
        mut progress: impl FnMut(&[u8]) + Send,
    ) -> Result<BuiltImage, DockerError> {
        let docker = if facts.reproducible_images {
            rewriting(&self.docker)
        } else {
            self.docker.clone()
        };
        let mut options = options(request, facts);
        let credentials: HashMap<_, _> = request
            .credentials
            .iter()
            .map(|(host, login)| (host.clone(), login.for_engine()))
            .collect();
        let offer = match facts.reproducible_images {
            true => Some(
                Offer::open(request.context.clone(), &request.session)
                    .await
                    .map_err(DockerError::Context)?,
            ),
            false => None,
        };
        let mut context = request.context.clone();
        if let Some(offer) = &offer {
            options.remote = Some(offer.address().map_err(DockerError::Context)?);
            context = Bytes::new();
        }
        let body = bollard::body_full(context);
        let building = within("build", request.limit, async {
            let mut steps = docker.build_image(options, Some(credentials), Some(body));
            let mut narrator = Narrator::default();
            while let Some(step) = steps.next().await {
                let step = step?;
                if let Some(text) = &step.stream {
                    progress(text.as_bytes());
                }
                if let Some(BuildInfoAux::BuildKit(status)) = &step.aux {
                    narrator.tell(status, &mut progress);
                }
            }
            Ok(())
        });
        match &offer {
            None => building.await?,
            Some(offer) => tokio::select! {
                result = building => result?,
                () = offer.serve() => {}
            },
        }
        let view = self.inspect_image(&request.tag).await?;
        Ok(BuiltImage {
            id: view.id,
            reproducible: facts.reproducible_images,
        })
    }
}

fn options(
    request: &BuildRequest,
    facts: &EngineFacts,
) -> bollard::query_parameters::BuildImageOptions {
    let mut args: HashMap<String, String> = crate::spec::to_hash_map(&request.args);
    args.insert(
        "SOURCE_DATE_EPOCH".to_owned(),
        request.source_date_epoch.to_string(),
    );
    if facts.buildkit {
        let namespace = request.cache_namespace.clone();
        args.insert("BUILDKIT_CACHE_MOUNT_NS".to_owned(), namespace);
    }
    let labels = crate::spec::to_hash_map(&request.labels);
    let mut options = BuildImageOptionsBuilder::default()
        .dockerfile(&request.dockerfile)
        .t(&request.tag)
        .buildargs(&args)
        .labels(&labels)
        .rm(true)
        .forcerm(true);
    if !request.platform.is_empty() {
        options = options.platform(&request.platform);
    }
    if facts.buildkit {
        options = options
            .version(BuilderVersion::BuilderBuildKit)
            .session(&request.session);
    }
    options.build()
}

fn rewriting(docker: &Docker) -> Docker {
    docker.clone().with_request_modifier(|mut request| {
        let uri = request.uri().to_string();
        let path = request.uri().path();
        if path.ends_with("/build") || path.ends_with("/build/") {
            let joint = if uri.contains('?') { '&' } else { '?' };
            if let Ok(with_output) = format!("{uri}{joint}outputs={REWRITE}").parse() {
                *request.uri_mut() = with_output;
            }
        }
        request
    })
}

/// Turns BuildKit's status messages into a readable log: each step's name once, its output as it
/// comes, its error.
#[derive(Default)]
struct Narrator {
    told: std::collections::BTreeSet<String>,
}

impl Narrator {
    fn tell(
        &mut self,
        status: &bollard::moby::buildkit::v1::StatusResponse,
        progress: &mut impl FnMut(&[u8]),
    ) {
        for vertex in &status.vertexes {
            if vertex.started.is_some() && self.told.insert(vertex.digest.clone()) {
                let cached = if vertex.cached { " (cached)" } else { "" };
                progress(format!("#> {}{cached}\n", vertex.name).as_bytes());
            }
            if !vertex.error.is_empty() && self.told.insert(format!("{}!", vertex.digest)) {
                progress(format!("#! {}\n", vertex.error).as_bytes());
            }
        }
        for log in &status.logs {
            progress(&log.msg);
        }
    }
}
