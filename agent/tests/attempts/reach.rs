//! What a stage reaches over the network, and what not.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use slipway_proto::v1::{self, AttemptRef};

use crate::harness::{World, docker, eventually};

/// A public address (TEST-NET-3), and this host's own in that network.
const PUBLIC: &str = "203.0.113.2";
const HOST: &str = "203.0.113.1";
/// In private zones; the second one is opened.
const PRIVATE: &str = "10.99.77.1";
const OPENED: &str = "10.99.77.2";
const METADATA: &str = "169.254.169.254";
const PORT: u16 = 8_080;

/// A network namespace with a server that answers on all of the addresses above: the world outside.
struct Outside {
    name: String,
    folder: tempfile::TempDir,
    server: Option<Child>,
}

fn ip(args: &[&str]) {
    let out = Command::new("ip").args(args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "ip {args:?}: {said}");
}

impl Outside {
    fn new() -> Self {
        let name = format!("slipway-{}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index.html"), "reached").unwrap();
        ip(&["netns", "add", &name]);
        let mut outside = Self {
            name: name.clone(),
            folder,
            server: None,
        };
        ip(&[
            "link", "add", "slw-out", "type", "veth", "peer", "slw-in", "netns", &name,
        ]);
        ip(&["addr", "add", &format!("{HOST}/24"), "dev", "slw-out"]);
        ip(&["link", "set", "slw-out", "up"]);
        let inside = |args: &[&str]| ip(&[&["-n", name.as_str()], args].concat());
        inside(&["addr", "add", &format!("{PUBLIC}/24"), "dev", "slw-in"]);
        inside(&["link", "set", "slw-in", "up"]);
        inside(&["link", "set", "lo", "up"]);
        inside(&["route", "add", "default", "via", HOST]);
        for address in [PRIVATE, OPENED, METADATA] {
            inside(&["addr", "add", &format!("{address}/32"), "dev", "lo"]);
            ip(&["route", "add", address, "via", PUBLIC]);
        }
        let mut server = Command::new("ip");
        server.args(["netns", "exec", &name, "busybox", "httpd", "-f", "-p"]);
        server
            .arg(PORT.to_string())
            .arg("-h")
            .arg(outside.folder.path());
        outside.server = Some(server.stdout(Stdio::null()).spawn().unwrap());
        outside
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _gone = server.kill();
            let _reaped = server.wait();
        }
        for args in [["link", "del", "slw-out"], ["netns", "del", &self.name]] {
            let _removed = Command::new("ip").args(args).output();
        }
    }
}

/// Whether this host itself gets a connection: what a stage is refused is really there.
fn answers(address: &str, port: u16) -> bool {
    let address: SocketAddr = format!("{address}:{port}").parse().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
}

fn address_of(key: &AttemptRef) -> String {
    let name = format!("slipway-{}-{}-stage", key.stage_id, key.attempt).to_lowercase();
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let out = Command::new("docker")
        .args(["inspect", "-f", format, &name])
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A command that says which of these answer.
fn try_all(targets: &[String]) -> String {
    let list = targets.join(" ");
    format!(
        "for t in {list}; do nc -w 3 ${{t%:*}} ${{t#*:}} </dev/null >/dev/null && echo \"reached $t\"; done; true"
    )
}

#[tokio::test]
async fn hostile_h092_a_stage_reaches_the_world_and_neither_this_host_nor_private_zones_nor_another_stage()
 {
    if !docker() {
        return;
    }
    let outside = Outside::new();
    // Something of this host's own, on every address that it has.
    let own = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let own_port = own.local_addr().unwrap().port();
    eventually("the world answers", || answers(PUBLIC, PORT)).await;
    for address in [PRIVATE, OPENED, METADATA] {
        assert!(answers(address, PORT), "{address} is there");
    }
    assert!(answers(HOST, own_port));
    let mut world = World::new(&[]).await;
    world.settings = format!("allowed_addresses = [\"{OPENED}:{PORT}\"]\n");
    world.start_agent().await;
    let serve = "echo other > index.html; httpd -p 8080; while [ ! -e go ]; do sleep 0.1; done";
    let other = world.assign(&[serve], |_, _| {}).await;
    world.phase(&other, v1::Phase::Running).await;
    let neighbour = address_of(&other);
    assert!(answers(&neighbour, PORT), "the other stage serves");
    let targets: Vec<String> = [PUBLIC, OPENED, PRIVATE, METADATA, neighbour.as_str()]
        .iter()
        .map(|address| format!("{address}:{PORT}"))
        .chain([
            format!("{HOST}:{own_port}"),
            // The host's end of the stage's own network.
            format!("$(ip route | awk '/default/ {{print $3}}'):{own_port}"),
        ])
        .collect();
    // An agent beside it that opens nothing neither closes it for this one, nor has it open.
    let mut closed = World::new(&[]).await;
    closed.start_agent().await;
    for (world, open) in [
        (&mut world, &[PUBLIC, OPENED][..]),
        (&mut closed, &[PUBLIC]),
    ] {
        let key = world.assign(&[&try_all(&targets)], |_, _| {}).await;
        assert_eq!(world.result(&key).await.exit_code, 0);
        let log = world.log_closed(&key).await;
        let reached = log.lines().filter(|line| line.starts_with("reached "));
        let open = open
            .iter()
            .map(|address| format!("reached {address}:{PORT}"));
        assert!(reached.eq(open), "{log}");
    }
    std::fs::write(world.workspace(&other).join("go"), "").unwrap();
    assert_eq!(world.result(&other).await.exit_code, 0);
    drop(outside);
}
