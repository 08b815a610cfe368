//! Programs of the system's packages that ours are measured beside; HAProxy and nginx before an instance. `None`
//! where one is not installed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::routed::free;
use crate::wire::Client;

/// A running peer; killed on drop.
pub struct Peer {
    child: Child,
    /// Which one.
    pub name: &'static str,
    /// Where it answers.
    pub listen: String,
}

impl Peer {
    /// Starts one; it may not answer yet.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(mut command: Command, name: &'static str, listen: String) -> anyhow::Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn()?;
        Ok(Self {
            child,
            name,
            listen,
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Where a program of the system is.
#[must_use]
pub fn installed(binary: &str) -> Option<std::path::PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(binary))
        .find(|path| path.exists())
}

/// HAProxy before one instance, with keep-alive to it.
///
/// # Errors
/// When it is installed and does not come up.
pub async fn haproxy(dir: &Path, instance: &str) -> anyhow::Result<Option<Peer>> {
    let Some(binary) = installed("haproxy") else {
        return Ok(None);
    };
    let listen = free()?;
    let config = dir.join("haproxy.cfg");
    let text = format!(
        "global\n  maxconn 4096\ndefaults\n  mode http\n  option http-keep-alive\n  http-reuse safe\n  \
         timeout connect 5s\n  timeout client 60s\n  timeout server 60s\nfrontend f\n  bind {listen}\n  \
         default_backend b\nbackend b\n  server s1 {instance}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(binary);
    command.arg("-db").arg("-f").arg(&config);
    up(command, "haproxy", listen).await.map(Some)
}

/// nginx before one instance, with keep-alive to it.
///
/// # Errors
/// When it is installed and does not come up.
pub async fn nginx(dir: &Path, instance: &str) -> anyhow::Result<Option<Peer>> {
    let Some(binary) = installed("nginx") else {
        return Ok(None);
    };
    let listen = free()?;
    let config = dir.join("nginx.conf");
    let place = dir.display();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log {place}/nginx.log;\n\
         worker_rlimit_nofile 8192;\nevents {{ worker_connections 4096; }}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path {place}/n1; proxy_temp_path {place}/n2; fastcgi_temp_path {place}/n3;\n  \
         uwsgi_temp_path {place}/n4; scgi_temp_path {place}/n5;\n  keepalive_requests 1000000;\n  \
         upstream u {{ server {instance}; keepalive 256; keepalive_requests 1000000; }}\n  \
         server {{ listen {listen}; location / {{ proxy_pass http://u; proxy_http_version 1.1; \
         proxy_set_header Connection \"\"; }} }}\n}}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(binary);
    command.arg("-p").arg(dir).arg("-c").arg(&config);
    up(command, "nginx", listen).await.map(Some)
}

async fn up(command: Command, name: &'static str, listen: String) -> anyhow::Result<Peer> {
    let peer = Peer::start(command, name, listen)?;
    for _ in 0..300 {
        if Client::new(&peer.listen).ask(false).await {
            return Ok(peer);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("{name} did not come up")
}
