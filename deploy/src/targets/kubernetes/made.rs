//! How a version comes to be and goes: asked for first, then the Deployment without a pod, then what its pods
//! need, then the count. Decides nothing about counts and fences.

use serde_json::json;
use slipway_core::rollout::VersionSpec;
use slipway_core::traffic::Fence;
use slipway_kubernetes::{Claim, ClusterError, Object, ObjectKind};

use super::body::{bodies, extras_of};
use super::said::{refusal, sentence, unreadable};
use super::{KubernetesTarget, Place, TargetError, VERSION};

impl KubernetesTarget {
    /// Makes a Deployment that is not there; false when it takes another look. With manifests it has no pod
    /// at first: what its pods need comes before them, and is written down in it before it is made.
    pub(super) async fn make(
        &self,
        fence: Fence,
        place: &Place,
        version: &VersionSpec,
    ) -> Result<bool, TargetError> {
        let (cluster, kind) = (self.cluster().await?, ObjectKind::Deployment);
        let mut made = bodies(place, version, fence).map_err(|e| unreadable(&e))?;
        if version.pods.is_none() {
            let applied = cluster.apply(kind, made.deployment, None, Claim::Leave);
            return match applied.await {
                Ok(_) => Ok(true),
                Err(ClusterError::Conflict(_)) => Ok(false),
                Err(error) => Err(refusal(error)),
            };
        }
        // All are asked for before any is made: a refusal leaves nothing behind.
        for (kind, body) in &made.extras {
            cluster.judge(*kind, body.clone()).await.map_err(sentence)?;
        }
        let judged = cluster.judge(kind, made.deployment.clone()).await;
        judged.map_err(sentence)?;
        made.deployment["spec"]["replicas"] = json!(0);
        let applied = cluster.apply(kind, made.deployment, None, Claim::Leave);
        match applied.await {
            Ok(_) | Err(ClusterError::Conflict(_)) => Ok(false),
            Err(error) => Err(sentence(error)),
        }
    }

    /// What a version's pods need beside the Deployment. The same text gives the same objects.
    pub(super) async fn extras(
        &self,
        fence: Fence,
        place: &Place,
        version: &VersionSpec,
    ) -> Result<(), TargetError> {
        let cluster = self.cluster().await?;
        let wanted = bodies(place, version, fence).map_err(|e| unreadable(&e))?;
        for (kind, body) in wanted.extras {
            let made = cluster.apply(kind, body, None, Claim::Leave).await;
            made.map_err(sentence)?;
        }
        Ok(())
    }

    /// Removes what was made for a Deployment's pods; what is not ours by its label is left.
    pub(super) async fn strip(&self, deployment: &Object) -> Result<(), ClusterError> {
        let cluster = self.reach.cluster().await?;
        let version = deployment.labels.get(VERSION);
        for (kind, name) in extras_of(deployment) {
            let found = cluster.object(kind, &name).await?;
            let ours = found.filter(|one| version.is_some() && one.labels.get(VERSION) == version);
            if let Some(object) = ours {
                cluster.remove(kind, &object).await?;
            }
        }
        Ok(())
    }
}
