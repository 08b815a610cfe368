//! The router as a process of its own, and tables for it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use slipway_core::traffic::{Fence, Instance, Share, Stickiness, TrafficTable};
use slipway_deploy::traffic::{RouterTraffic, Traffic as _};

/// A router process; killed on drop.
pub struct Routed {
    child: Child,
    /// Its control conversation, as the coordinator has it.
    pub control: RouterTraffic,
    /// The same as an address.
    pub socket: String,
    generation: u64,
}

impl Routed {
    /// Starts one on a folder.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(binary: &Path, dir: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::create(dir.join("router.log"))?;
        let child = Command::new(binary)
            .args(["router", "--log", "warn", "--health-address", ""])
            .arg("--state-dir")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| binary.display().to_string())?;
        let socket = format!("unix://{}", dir.join("router.sock").display());
        let control = RouterTraffic::new(&socket)?;
        let mut routed = Self {
            child,
            control,
            socket,
            generation: 0,
        };
        for _ in 0..500 {
            if routed.control.read("").await.is_ok() {
                return Ok(routed);
            }
            if let Some(status) = routed.child.try_wait()? {
                bail!("the router ended at its start: {status}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("the router did not come up")
    }

    /// Uses a table; answers when every new request does.
    ///
    /// # Errors
    /// When the router refuses it.
    pub async fn switch(
        &mut self,
        listen: &str,
        versions: &[(&str, u32, &str)],
    ) -> anyhow::Result<()> {
        self.generation += 1;
        let fence = Fence {
            token: 1,
            generation: self.generation,
        };
        self.control.apply(fence, &table(listen, versions)).await?;
        Ok(())
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A table of versions with one instance each.
#[must_use]
pub fn table(listen: &str, versions: &[(&str, u32, &str)]) -> TrafficTable {
    TrafficTable {
        service: "shop".to_owned(),
        hosts: vec![],
        listen: listen.to_owned(),
        versions: versions
            .iter()
            .map(|(version, weight_bp, address)| Share {
                version: (*version).to_owned(),
                weight_bp: *weight_bp,
                instances: vec![Instance {
                    id: format!("{version}-1"),
                    address: (*address).to_owned(),
                }],
            })
            .collect(),
        upstream_timeout_ms: 10_000,
        canary: String::new(),
        stickiness: Stickiness::None,
        lease: None,
    }
}

/// An address that nobody listens on now.
///
/// # Errors
/// When there is none.
pub fn free() -> anyhow::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .to_string())
}
