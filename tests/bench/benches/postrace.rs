//! POST over connections that the instance closes when they are idle for 100 ms, just as the next request
//! comes: none may be lost. Beside HAProxy and nginx in the same run, when they are installed.

use std::path::Path;
use std::time::Duration;

use slipway_bench::figure::Figure;
use slipway_bench::peers;
use slipway_bench::routed::{Routed, free};
use slipway_bench::wire::{Client, Instance, serve_if_asked};

/// POSTs in all, over so many connections at a time.
const POSTS: u32 = 5_000;
const CONNECTIONS: u32 = 50;
/// How long the instance keeps idle connections.
const IDLE_MS: u64 = 100;

fn main() -> anyhow::Result<()> {
    if serve_if_asked()? {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let instance = Instance::start("race", IDLE_MS)?;
        let dir = tempfile::tempdir()?;
        let listen = free()?;
        let binary = Path::new(env!("CARGO_BIN_EXE_slipway-measured"));
        let mut router = Routed::start(binary, dir.path()).await?;
        router
            .switch(&listen, &[("race", 10_000, &instance.address)])
            .await?;
        let ours = lost(&listen).await;
        let haproxy = peers::haproxy(dir.path(), &instance.address).await?;
        let nginx = peers::nginx(dir.path(), &instance.address).await?;
        for (figure, peer) in [("lost", haproxy), ("lost_nginx", nginx)] {
            let theirs = match &peer {
                Some(peer) => lost(&peer.listen).await,
                None => -1.0,
            };
            Figure {
                bench: "postrace",
                figure,
                value: ours,
                unit: "requests of 5000",
                against: peer.as_ref().map_or("not installed", |peer| peer.name),
                against_value: theirs,
            }
            .print();
        }
        Ok(())
    })
}

/// Each connection asks, waits until the instance is about to close its own, and asks again.
async fn lost(listen: &str) -> f64 {
    let asking = (0..CONNECTIONS).map(|number| {
        let listen = listen.to_owned();
        slipway_daemon::spawn("client", async move {
            let mut client = Client::new(&listen);
            let mut lost = 0_u32;
            for round in 0..POSTS / CONNECTIONS {
                if !client.ask(true).await {
                    lost += 1;
                }
                // Around the moment of the close: the instance's timer and ours are both of one
                // millisecond.
                let wait = 97_500 + (u64::from(round * 7 + number * 13) * 997) % 4_000;
                tokio::time::sleep(Duration::from_micros(wait)).await;
            }
            lost
        })
    });
    let asking: Vec<_> = asking.collect();
    let mut lost = 0_u32;
    for client in asking {
        lost += client.await.ok().flatten().unwrap_or(POSTS);
    }
    f64::from(lost)
}
