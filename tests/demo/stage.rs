//! The place of the demonstration: processes that are started, and questions to the server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use serde_json::Value;

const LOOK: Duration = Duration::from_millis(50);

/// Everything that runs.
pub(crate) struct Stage {
    pub(crate) dir: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) binary: PathBuf,
    pub(crate) registry: SocketAddr,
    pub(crate) rest: String,
    pub(crate) intake: String,
    pub(crate) staging: SocketAddr,
    pub(crate) production: SocketAddr,
    http: reqwest::Client,
    token: String,
    children: Vec<Child>,
    end: bool,
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Stage {
    /// Starts the image registry and `slipway up` in a fresh folder.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let root = std::env::current_dir()?.join(".demo");
        if root.exists() {
            std::fs::remove_dir_all(&root).context("an earlier .demo folder is in the way")?;
        }
        let data = root.join("data");
        std::fs::create_dir_all(&data)?;
        let binary = std::env::current_exe()?
            .parent()
            .context("no folder of binaries")?
            .join("slipway");
        let (registry, staging, production) = (free()?, free()?, free()?);
        let registry_child = start_registry(&root, registry)?;
        let addresses = root.join("addresses.json");
        let log = std::fs::File::create(root.join("slipway.log"))?;
        let up = Command::new(&binary)
            .arg("--data-dir")
            .arg(&data)
            .args([
                "up",
                "--any-ports",
                "--quick-rollouts",
                "--slots",
                "4",
                "--log",
                "info",
            ])
            .arg("--allow-source")
            .arg(format!("file://{}/", root.display()))
            .arg("--staging")
            .arg(staging.to_string())
            .arg("--production")
            .arg(production.to_string())
            .arg("--address-file")
            .arg(&addresses)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}; build it first", binary.display()))?;
        let mut children = vec![registry_child, up];
        let bound = wait_for_file(&addresses, &mut children).await?;
        let address = |name: &str| format!("http://{}", bound[name].as_str().unwrap_or_default());
        let token = std::fs::read_to_string(data.join("admin.token"))?;
        Ok(Self {
            rest: address("rest"),
            intake: address("intake"),
            http: reqwest::Client::builder().build()?,
            token: token.trim().to_owned(),
            dir: root,
            data,
            binary,
            registry,
            staging,
            production,
            children,
            end: said_to_end(),
        })
    }

    /// Whether `DEMO_EXIT=1` was given.
    pub(crate) fn told_to_end(&self) -> bool {
        self.end
    }

    /// Ends what was started: the whole system first, then the router and the registry.
    pub(crate) async fn stop(mut self) {
        let router = router_process(&self.data);
        for child in self.children.iter_mut().rev() {
            terminate(child.id());
            for _ in 0..200 {
                match child.try_wait() {
                    Ok(None) => tokio::time::sleep(LOOK).await,
                    _ => break,
                }
            }
            let _gone_already = child.kill();
            let _reaped = child.wait();
        }
        if let Some(router) = router {
            terminate(router);
        }
        remove_instances().await;
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(self.http.get(format!("{}/api/v1{path}", self.rest)))
            .await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(
            self.http
                .put(format!("{}/api/v1{path}", self.rest))
                .json(&body),
        )
        .await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.call(
            self.http
                .post(format!("{}/api/v1{path}", self.rest))
                .json(&body),
        )
        .await
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request.bearer_auth(&self.token).send().await?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{status}: {text}");
        }
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// A page of a service, through the router.
    pub(crate) async fn ask(&self, address: SocketAddr) -> anyhow::Result<Value> {
        let response = self.http.get(format!("http://{address}/")).send().await?;
        Ok(response.error_for_status()?.json().await?)
    }

    /// Sends a webhook; the answer's status and body.
    pub(crate) async fn deliver(
        &self,
        url: &str,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    ) -> anyhow::Result<(u16, Value)> {
        let mut request = self.http.post(format!("{}{url}", self.intake)).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let response = request.send().await?;
        Ok((
            response.status().as_u16(),
            response.json().await.unwrap_or_default(),
        ))
    }

    /// Waits until a delivery has led to a build.
    pub(crate) async fn build_of(&self, hook: &str, delivery: &str) -> anyhow::Result<String> {
        for _ in 0..400 {
            let all = self.get(&format!("/hooks/{hook}/deliveries")).await?;
            let found = all
                .as_array()
                .and_then(|a| a.iter().find(|d| d["id"] == delivery));
            match found {
                Some(d) if d["state"] == "built" => {
                    return Ok(d["build_id"].as_str().unwrap_or_default().to_owned());
                }
                Some(d) if d["state"] != "pending" => {
                    bail!("the delivery is {}: {}", d["state"], d["decision"])
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
        bail!("the delivery led to no build")
    }

    /// Prints a build's output as it comes.
    pub(crate) async fn follow(&self, build: &str) -> anyhow::Result<()> {
        let url = format!("{}/api/v1/builds/{build}/logs?follow=1", self.rest);
        let response = self.http.get(url).bearer_auth(&self.token).send().await?;
        let mut bytes = response.bytes_stream();
        let mut buffer = Vec::new();
        while let Some(piece) = bytes.next().await {
            buffer.extend_from_slice(&piece?);
            while let Some(end) = buffer.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = buffer.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event);
                if event.contains("event: end") || event.contains("event:end") {
                    return Ok(());
                }
                let data = event
                    .lines()
                    .find_map(|l| l.strip_prefix("data:"))
                    .unwrap_or_default();
                let data: Value = serde_json::from_str(data).unwrap_or_default();
                let stage = data["stage"].as_str().unwrap_or_default();
                for line in data["text"].as_str().unwrap_or_default().lines() {
                    let line: String = line.chars().filter(|c| !c.is_control()).take(110).collect();
                    println!("   {stage:>16} │ {line}");
                }
            }
        }
        Ok(())
    }

    /// Waits for the deployment of a build into an environment.
    pub(crate) async fn deployment_of(
        &self,
        build: &str,
        environment: &str,
    ) -> anyhow::Result<String> {
        for _ in 0..600 {
            let path = format!("/deployments?build={build}&environment={environment}");
            let found = self.get(&path).await?;
            if let Some(id) = found["items"][0]["deployment_id"].as_str() {
                return Ok(id.to_owned());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("no deployment of {build} into {environment}")
    }

    /// The newest deployment of an environment.
    pub(crate) async fn latest(&self, environment: &str) -> anyhow::Result<String> {
        let found = self
            .get(&format!("/deployments?environment={environment}&limit=1"))
            .await?;
        let id = found["items"][0]["deployment_id"].as_str();
        id.map(str::to_owned).context("nothing was deployed")
    }

    /// Waits until a deployment is in a phase.
    pub(crate) async fn in_phase(
        &self,
        id: &str,
        phase: &str,
        limit: Duration,
    ) -> anyhow::Result<()> {
        self.until(id, limit, |d| {
            d["phase"]
                .as_str()
                .is_some_and(|p| p.eq_ignore_ascii_case(phase))
        })
        .await
        .map(|_| ())
    }

    /// Waits until a deployment ends.
    pub(crate) async fn ended(&self, id: &str, limit: Duration) -> anyhow::Result<Value> {
        self.until(id, limit, |d| d["status"] != "in_progress")
            .await
    }

    /// Waits until a deployment has succeeded.
    pub(crate) async fn completed(&self, id: &str, limit: Duration) -> anyhow::Result<()> {
        let ended = self.ended(id, limit).await?;
        anyhow::ensure!(
            ended["status"] == "completed",
            "deployment {id} ended {}: {}",
            ended["status"],
            ended["reason"]
        );
        Ok(())
    }

    async fn until(
        &self,
        id: &str,
        limit: Duration,
        good: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let mut phase = String::new();
        let waiting = async {
            loop {
                let found = self.get(&format!("/deployments/{id}")).await?;
                let now = found["phase"].as_str().unwrap_or_default();
                if now != phase {
                    println!(
                        "   {:>16} │ {now} ({} %)",
                        found["environment"].as_str().unwrap_or_default(),
                        found["progress"]
                    );
                    phase = now.to_owned();
                }
                if good(&found) {
                    return Ok::<Value, anyhow::Error>(found);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(limit, waiting)
            .await
            .map_err(|_| anyhow::anyhow!("deployment {id} took longer than {limit:?}"))?
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a switch of the demonstration, not a setting"
)]
fn said_to_end() -> bool {
    std::env::var("DEMO_EXIT").is_ok_and(|v| v == "1")
}

fn start_registry(root: &Path, address: SocketAddr) -> anyhow::Result<Child> {
    let dir = root.join("registry");
    std::fs::create_dir_all(&dir)?;
    let config = root.join("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{ level: warn }}\nstorage:\n  filesystem: {{ rootdirectory: {} }}\n  delete: {{ enabled: true }}\nhttp: {{ addr: \"{address}\" }}\n",
        dir.display()
    );
    std::fs::write(&config, text)?;
    let log = std::fs::File::create(root.join("registry.log"))?;
    Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start docker-registry; `make setup` installs it")
}

async fn wait_for_file(path: &Path, children: &mut [Child]) -> anyhow::Result<Value> {
    for _ in 0..600 {
        if let Ok(text) = std::fs::read_to_string(path) {
            return Ok(serde_json::from_str(&text)?);
        }
        for child in children.iter_mut() {
            if let Some(status) = child.try_wait()? {
                bail!("a process ended at its start ({status}); see the logs in .demo");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("`slipway up` did not come up; see .demo/slipway.log")
}

fn terminate(pid: u32) {
    let _gone_already = Command::new("kill")
        .arg(pid.to_string())
        .stderr(Stdio::null())
        .status();
}

/// The router of this data folder: the process that holds its control socket.
fn router_process(data: &Path) -> Option<u32> {
    let wanted = data.join("router").display().to_string();
    std::fs::read_dir("/proc").ok()?.find_map(|entry| {
        let entry = entry.ok()?;
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        (line.contains("router") && line.contains(&wanted)).then_some(pid)
    })
}

/// Containers of the demonstration's service go with it.
async fn remove_instances() {
    let Ok(engine) = slipway_docker::Engine::connect(None) else {
        return;
    };
    let Ok(all) = engine.list_containers(&[("slipway.service", "shop")]).await else {
        return;
    };
    for container in all {
        let _best_effort = engine.remove_container(&container.id).await;
    }
}
