//! What the agent says about its host: a cache daemon that is not there, and one that comes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use slipway_proto::v1;

use crate::harness::{World, docker, eventually};

/// One GET, without a client of its own.
fn get(address: &str, path: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let _cut_off = stream.read_to_string(&mut text);
    }
    text
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_missing_cache_daemon_is_named_in_the_log_and_in_health_until_it_comes() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    let socket = world.folder.path().join("not-there-yet.sock");
    world.socket.clone_from(&socket);
    world.health = free_address();
    world.start_agent().await;
    let ready = world.health.clone();
    eventually("health names the cache", || {
        get(&ready, "/readyz").contains("cache: the cache daemon does not answer at")
    })
    .await;
    assert!(get(&ready, "/readyz").starts_with("HTTP/1.1 503"));
    let key = world.assign(&["true"], |_, _| {}).await;
    let result = world.result(&key).await;
    assert_eq!(
        (result.ending(), result.reason.as_str()),
        (v1::Ending::Aborted, "cache")
    );
    let log = world.agent_log();
    let socket_named = socket.display().to_string();
    for part in [
        socket_named.as_str(),
        "there is no such socket",
        "Start `slipway-cache` on this host",
        "an attempt is lost here",
        &key.stage_id,
    ] {
        assert!(log.contains(part), "`{part}` is not said: {log}");
    }
    crate::cache::serve_at(world.folder.path(), &socket);
    eventually("the agent is ready again", || {
        get(&ready, "/readyz").starts_with("HTTP/1.1 200")
    })
    .await;
    let key = world.assign(&["true"], |_, _| {}).await;
    assert_eq!(world.result(&key).await.exit_code, 0);
}
