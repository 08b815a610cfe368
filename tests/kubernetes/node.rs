//! Stands in for the scheduler, the kubelet and the containers of the only node: there are none of these.
//!
//! Each pod is bound to it at once, gets an address on loopback and is said to be ready. Where the pod has
//! a port of ours, a server listens there and answers every request with the last word of the pod's image
//! (`registry.test/one@…` says `one`), so that health checks have somebody to ask. An image whose word
//! begins with `broken` never becomes ready and answers 500. A pod whose image begins with `executed` is
//! executed: see [`crate::executed`]. A pod that is told to end is gone at once:
//! `preStop` and the grace are not waited for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::executed::{Executed, execute};

/// Its name.
const NAME: &str = "stand-in";
/// Between two looks at all pods.
const LOOK: Duration = Duration::from_millis(50);
/// The label that says where a serving pod is asked.
const PORT: &str = "slipway.dev/port";

/// A client by a kubeconfig.
pub(crate) async fn client(file: &Path) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(file)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Makes the node known.
pub(crate) async fn register(client: &Client) -> anyhow::Result<()> {
    let node = serde_json::from_value(json!({"metadata": {"name": NAME}}))?;
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&PostParams::default(), &node).await?;
    Ok(())
}

/// Pods that have an address, by their unique id.
#[derive(Default)]
struct Standing {
    folder: PathBuf,
    executed: BTreeMap<String, Executed>,
    addresses: BTreeMap<String, IpAddr>,
    servers: BTreeMap<String, JoinHandle<Option<()>>>,
}

/// Looks after pods for ever; those that are executed have a folder each below this one.
pub(crate) async fn live(client: Client, folder: PathBuf) {
    let mut node = Standing {
        folder,
        ..Standing::default()
    };
    loop {
        let pods = Api::<Pod>::all(client.clone());
        // What fails is tried again at the next look, as a kubelet does.
        if let Ok(all) = pods.list(&ListParams::default()).await {
            for pod in &all.items {
                let _next_time = node.look_after(&client, pod).await;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Standing {
    async fn look_after(&mut self, client: &Client, pod: &Pod) -> anyhow::Result<()> {
        let metadata = &pod.metadata;
        let (Some(name), Some(uid)) = (&metadata.name, &metadata.uid) else {
            return Ok(());
        };
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if metadata.deletion_timestamp.is_some() {
            self.end(uid);
            let now = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: Some(uid.clone()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            pods.delete(name, &now).await?;
        } else if bound.is_none() {
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": NAME},
            });
            let create = PostParams::default();
            pods.create_subresource::<_, Value>("binding", name, &create, &binding)
                .await?;
        } else if phase == Some("Pending") {
            let status = self.start(client, pod, uid).await?;
            let status = json!({"status": status});
            let patch = Patch::Merge(&status);
            pods.patch_status(name, &PatchParams::default(), &patch)
                .await?;
        } else if phase == Some("Running")
            && self.executed.get_mut(uid).is_some_and(|e| !e.goes_on())
        {
            let status = json!({"status": {"phase": "Succeeded"}});
            let patch = Patch::Merge(&status);
            pods.patch_status(name, &PatchParams::default(), &patch)
                .await?;
        }
        Ok(())
    }

    fn end(&mut self, uid: &str) {
        if let Some(server) = self.servers.remove(uid) {
            server.abort();
        }
        drop(self.executed.remove(uid));
    }

    /// The pod's server, and what is said of the pod.
    async fn start(&mut self, client: &Client, pod: &Pod, uid: &str) -> anyhow::Result<Value> {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let containers: Vec<_> = containers.collect();
        let image = containers.first().and_then(|one| one.image.clone());
        let word = word_of(&image.unwrap_or_default());
        let broken = word.starts_with("broken");
        let next = self.addresses.len();
        let ip = *self
            .addresses
            .entry(uid.to_owned())
            .or_insert_with(|| address(next));
        if word.starts_with("executed") && !self.executed.contains_key(uid) {
            // Short: a socket's path has an end.
            let dir = self.folder.join(next.to_string());
            let executed = execute(client, pod, &dir).await?;
            self.executed.insert(uid.to_owned(), executed);
        }
        let labels = pod.metadata.labels.as_ref();
        let port = labels.and_then(|all| all.get(PORT)?.parse::<u16>().ok());
        if let Some(port) = port.filter(|_| !self.servers.contains_key(uid)) {
            let listener = TcpListener::bind(SocketAddr::new(ip, port)).await?;
            let server = slipway_daemon::spawn("pod", serve(listener, word, broken));
            self.servers.insert(uid.to_owned(), server);
        }
        let ready = if broken { "False" } else { "True" };
        let statuses: Vec<Value> = containers
            .iter()
            .map(|one| {
                json!({"name": one.name, "image": one.image, "imageID": one.image, "ready": !broken,
                    "started": true, "restartCount": 0,
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
            })
            .collect();
        Ok(json!({
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "startTime": "2026-01-01T00:00:00Z",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "ContainersReady", "status": ready},
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ],
            "containerStatuses": statuses,
        }))
    }
}

/// `one` of `registry.test/one@sha256:…`.
fn word_of(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Another one for each pod, and for each process of tests.
fn address(number: usize) -> IpAddr {
    let low = |n: usize| u8::try_from(n % 250 + 1).unwrap_or(1);
    let own = usize::try_from(std::process::id()).unwrap_or_default();
    IpAddr::V4(Ipv4Addr::new(127, low(own), low(number / 250), low(number)))
}

async fn serve(listener: TcpListener, word: String, broken: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        let word = word.clone();
        slipway_daemon::spawn(
            "request",
            async move { answer(stream, &word, broken).await },
        );
    }
}

async fn answer(mut stream: TcpStream, word: &str, broken: bool) -> std::io::Result<()> {
    let mut head = Vec::new();
    // A request without a body; what is longer than this is none of ours.
    while !head.ends_with(b"\r\n\r\n") && head.len() < 16_384 {
        let mut some = [0; 1024];
        let n = stream.read(&mut some).await?;
        if n == 0 {
            return Ok(());
        }
        head.extend_from_slice(&some[..n]);
    }
    let status = if broken { "500 Broken" } else { "200 OK" };
    let length = word.len();
    let text =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{word}");
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}
