//! Images: look, pull, tag, push, remove. Layers are moved by the engine, never by us.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, PushImageOptionsBuilder, RemoveImageOptionsBuilder,
    TagImageOptionsBuilder,
};
use futures::StreamExt as _;

use crate::engine::{LONG, SHORT, within};
use crate::{DockerError, Engine};

/// Login for one image registry. Has no `Debug` output of its password.
#[derive(Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    pub(crate) fn for_engine(&self) -> DockerCredentials {
        DockerCredentials {
            username: Some(self.username.clone()),
            password: Some(self.password.clone()),
            ..DockerCredentials::default()
        }
    }
}

/// One image in the engine's store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageView {
    /// The engine's id: the manifest's digest with the containerd store, the config's otherwise.
    pub id: String,
    /// `repository@sha256:…`, as pulled or pushed.
    pub repo_digests: Vec<String>,
    /// `repository:tag`.
    pub repo_tags: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// The user it executes as; empty = root.
    pub user: String,
    /// The folder it executes in; empty = the root.
    pub workdir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl ImageView {
    /// The manifest digest under which `repository` knows this image.
    #[must_use]
    pub fn digest_in(&self, repository: &str) -> Option<&str> {
        self.repo_digests
            .iter()
            .find_map(|d| d.strip_prefix(repository)?.strip_prefix('@'))
    }
}

impl Engine {
    /// Looks at an image.
    ///
    /// # Errors
    /// `NotFound` when it is not here.
    pub async fn inspect_image(&self, reference: &str) -> Result<ImageView, DockerError> {
        let found = within("inspect image", SHORT, self.docker.inspect_image(reference)).await?;
        let config = found.config.unwrap_or_default();
        Ok(ImageView {
            id: found.id.ok_or(DockerError::Incomplete {
                call: "inspect image",
                what: "an id",
            })?,
            repo_digests: found.repo_digests.unwrap_or_default(),
            repo_tags: found.repo_tags.unwrap_or_default(),
            size: found.size.and_then(|s| u64::try_from(s).ok()).unwrap_or(0),
            user: config.user.unwrap_or_default(),
            workdir: config.working_dir.unwrap_or_default(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
        })
    }

    /// Pulls an image. `progress` gets the engine's status lines.
    ///
    /// # Errors
    /// When the image registry refuses, or `limit` passes.
    pub async fn pull_image(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
        limit: Duration,
        mut progress: impl FnMut(&str) + Send,
    ) -> Result<(), DockerError> {
        let options = CreateImageOptionsBuilder::default()
            .from_image(reference)
            .build();
        let login = credentials.map(Credentials::for_engine);
        within("pull", limit, async {
            let mut steps = self.docker.create_image(Some(options), None, login);
            while let Some(step) = steps.next().await {
                if let Some(status) = step?.status {
                    progress(&status);
                }
            }
            Ok(())
        })
        .await
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// `NotFound` when the image is not here.
    pub async fn tag_image(
        &self,
        image: &str,
        repository: &str,
        tag: &str,
    ) -> Result<(), DockerError> {
        let options = TagImageOptionsBuilder::default()
            .repo(repository)
            .tag(tag)
            .build();
        within("tag", SHORT, self.docker.tag_image(image, Some(options))).await
    }

    /// Pushes `repository:tag` and returns the manifest digest that the image registry now has.
    ///
    /// # Errors
    /// When the image registry refuses, or `limit` passes.
    pub async fn push_image(
        &self,
        repository: &str,
        tag: &str,
        credentials: Option<&Credentials>,
        limit: Duration,
        mut progress: impl FnMut(&str) + Send,
    ) -> Result<String, DockerError> {
        let options = PushImageOptionsBuilder::default().tag(tag).build();
        let login = credentials.map(Credentials::for_engine);
        let mut said = None;
        within("push", limit, async {
            let mut steps = self.docker.push_image(repository, Some(options), login);
            while let Some(step) = steps.next().await {
                if let Some(status) = step?.status {
                    said = digest_in_status(&status).or(said.take());
                    progress(&status);
                }
            }
            Ok(())
        })
        .await?;
        if let Some(digest) = said {
            return Ok(digest);
        }
        let view = self.inspect_image(&format!("{repository}:{tag}")).await?;
        view.digest_in(repository)
            .map(str::to_owned)
            .ok_or(DockerError::Incomplete {
                call: "push",
                what: "the pushed digest",
            })
    }

    /// Removes a name of an image, and the image with its last name. Gone is success.
    ///
    /// # Errors
    /// `Conflict` when a container uses it.
    pub async fn remove_image(&self, reference: &str) -> Result<(), DockerError> {
        let options = RemoveImageOptionsBuilder::default().build();
        let remove = self.docker.remove_image(reference, Some(options), None);
        match within("remove image", LONG, remove).await {
            Err(DockerError::NotFound(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The engine's last line of a push: `latest: digest: sha256:… size: 528`.
fn digest_in_status(status: &str) -> Option<String> {
    let (_, rest) = status.split_once("digest: ")?;
    let digest = rest.split_whitespace().next()?;
    let hex = digest.strip_prefix("sha256:")?;
    let good = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    good.then(|| digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pushed_digest_is_read_from_the_last_line_and_nothing_else() {
        let hex = "a".repeat(64);
        let line = format!("v1: digest: sha256:{hex} size: 528");
        assert_eq!(digest_in_status(&line), Some(format!("sha256:{hex}")));
        assert_eq!(digest_in_status("v1: digest: sha256:abc size: 528"), None);
        assert_eq!(digest_in_status("Preparing"), None);
    }
}
