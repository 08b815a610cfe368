//! Executes the containers of a pod as processes of this host: the system under test, with the arguments,
//! variables and secrets that the pod says. What a container would see as `/var/lib/slipway` and
//! `/etc/slipway` are folders of the pod's own; nothing is isolated.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Secret};
use kube::{Api, Client};
use slipway_tests::Process;

/// What a pod mounts, by the paths inside.
const MOUNTED: [&str; 2] = ["/var/lib/slipway", "/etc/slipway"];

/// A pod's processes; killed on drop.
pub(crate) struct Executed {
    main: Process,
    _beside: Vec<Process>,
}

impl Executed {
    /// Whether the container whose end is the pod's goes on.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.main.is_alive()
    }
}

/// Starts every container of a pod: first those beside the main one.
pub(crate) async fn execute(client: &Client, pod: &Pod, dir: &Path) -> anyhow::Result<Executed> {
    let spec = pod.spec.clone().unwrap_or_default();
    for mounted in MOUNTED {
        std::fs::create_dir_all(inside(dir, mounted))?;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    write_secrets(&Api::namespaced(client.clone(), namespace), &spec, dir).await?;
    let beside = spec.init_containers.iter().flatten();
    let beside = beside.map(|container| start(container, dir)).collect();
    let main = spec.containers.first();
    let main = main.ok_or_else(|| anyhow::anyhow!("a pod without containers"))?;
    Ok(Executed {
        main: start(main, dir),
        _beside: beside,
    })
}

fn inside(dir: &Path, path: &str) -> PathBuf {
    dir.join(path.trim_start_matches('/'))
}

/// A text in which paths inside are those of this host.
fn here(dir: &Path, text: &str) -> String {
    MOUNTED.iter().fold(text.to_owned(), |text, mounted| {
        text.replace(mounted, &inside(dir, mounted).display().to_string())
    })
}

fn start(container: &Container, dir: &Path) -> Process {
    let args = container.args.iter().flatten();
    let args: Vec<String> = args.map(|arg| here(dir, arg)).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let variables = container.env.iter().flatten();
    let settings: Vec<(&str, String)> = variables
        .map(|one| {
            let value = one.value.as_deref().unwrap_or_default();
            (one.name.as_str(), here(dir, value))
        })
        .collect();
    let log = dir.join(format!("{}.log", container.name));
    Process::start(crate::binary(), &args, &settings, &log)
}

async fn write_secrets(secrets: &Api<Secret>, spec: &PodSpec, dir: &Path) -> anyhow::Result<()> {
    for volume in spec.volumes.iter().flatten() {
        let named = volume.secret.as_ref().and_then(|s| s.secret_name.as_ref());
        let Some(named) = named else { continue };
        let data = secrets.get(named).await?.data.unwrap_or_default();
        let mounts = spec.containers.iter().flat_map(|c| &c.volume_mounts);
        for mount in mounts.flatten().filter(|m| m.name == volume.name) {
            for (name, bytes) in &data {
                let file = inside(dir, &mount.mount_path).join(name);
                let text = here(dir, &String::from_utf8_lossy(&bytes.0));
                let mut open = std::fs::OpenOptions::new();
                open.create(true).write(true).truncate(true).mode(0o400);
                open.open(file)?.write_all(text.as_bytes())?;
            }
        }
    }
    Ok(())
}
