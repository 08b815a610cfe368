//! Two daemons: what is fetched, what is refused, what happens in the middle.

use std::net::SocketAddr;
use std::path::Path;

use slipway_core::access::PeerRole;
use slipway_core::cache::capability::Capability as Statement;
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;
use slipway_daemon::Rng;
use slipway_identity::Authority;
use slipway_proto::v1::{CacheDaemon, CacheHolder, Capability, LayerSource};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::blobs::{Disk, PackIncoming};
use crate::index::MemoryIndex;
use crate::noise::noise;

/// Of what is carried.
const SEED: u64 = 1;

struct Daemon {
    store: Arc<Store>,
    peers: Arc<Peers>,
    folder: tempfile::TempDir,
}

struct Two {
    authority: Authority,
    shutdown: Shutdown,
    a: Daemon,
    b: Daemon,
}

async fn daemon(authority: &Authority, id: &str, shutdown: &Shutdown) -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let index = Arc::new(MemoryIndex::default());
    let disk = Disk::open(&folder.path().join("cache"), index, 1 << 30).unwrap();
    let clock = Clock::system();
    let store = Arc::new(Store::open(disk, clock.clone()));
    store.list();
    let own = authority.credentials(PeerRole::Cache, id, clock.now(), &Rng::system());
    let own = Own::new(own.unwrap());
    let listen = "127.0.0.1:0".parse().unwrap();
    let peers = start(&store, own, &clock, listen, "", shutdown)
        .await
        .unwrap();
    Daemon {
        store,
        peers,
        folder,
    }
}

async fn two() -> Two {
    let authority = Authority::create(Clock::system().now()).unwrap();
    let shutdown = Shutdown::new();
    let a = daemon(&authority, "daemona", &shutdown).await;
    let b = daemon(&authority, "daemonb", &shutdown).await;
    Two {
        authority,
        shutdown,
        a,
        b,
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

impl Two {
    /// A workspace that is on A, packed. Answers its root and its pack.
    fn workspace(&self) -> (Digest, Digest) {
        let source = self.a.folder.path().join("source");
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("large"), noise(20 << 20, SEED)).unwrap();
        std::fs::write(source.join("small"), "hello").unwrap();
        let (root, ..) = self.a.store.capture_tree(&source, false).unwrap();
        (root, self.a.store.make_pack(&root, true).unwrap())
    }

    fn capability(&self, holder: &str, layer: Digest, expires: Timestamp) -> Capability {
        let statement = Statement {
            holder: holder.to_owned(),
            project: "p".to_owned(),
            attempt: "s-1".to_owned(),
            layers: vec![layer],
            expires,
        };
        let statement = statement.encode();
        let signature = self.authority.sign(&statement).unwrap();
        Capability {
            statement,
            signature,
        }
    }

    fn good(&self, layer: Digest) -> Capability {
        let until = Clock::system()
            .now()
            .after(std::time::Duration::from_secs(60));
        self.capability("daemonb", layer, until)
    }

    fn holder(&self, pack: Digest, address: Option<SocketAddr>) -> CacheHolder {
        let address = address.map(|at| at.to_string());
        CacheHolder {
            daemon: Some(CacheDaemon {
                id: "daemona".to_owned(),
                address: address.unwrap_or_else(|| self.a.peers.me.address.clone()),
            }),
            pack: pack.to_string(),
        }
    }

    async fn fetch(
        &self,
        layer: Digest,
        holders: Vec<CacheHolder>,
        given: Option<Capability>,
    ) -> bool {
        let source = LayerSource {
            layer: layer.to_string(),
            holders,
        };
        self.b.peers.fetch(&[source], given.as_ref()).await;
        !self.b.store.lacks(&layer)
    }

    fn is_empty(&self) -> bool {
        let files = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
        let disk = &self.b.store.disk;
        disk.index.totals().0 == 0
            && files(&disk.root().join("tmp")) == 0
            && disk.space.reserved() == 0
    }
}

/// TCP alone, as where UDP is blocked; each connection is cut after so many bytes to the caller.
async fn tcp_only(to: &str, cut: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let to = to.to_owned();
    slipway_daemon::spawn("forward", async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&to).await.unwrap();
            slipway_daemon::spawn("forwarded", async move {
                let (mut near_read, mut near_write) = near.split();
                let (far_read, mut far_write) = far.split();
                let mut far_read = far_read.take(cut);
                let back = tokio::io::copy(&mut far_read, &mut near_write);
                let forth = tokio::io::copy(&mut near_read, &mut far_write);
                tokio::select! { _ = back => {}, _ = forth => {} }
            });
        }
    });
    at
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_is_fetched_once_however_many_want_it() {
    let two = two().await;
    let (root, pack) = two.workspace();
    let fetch = || two.fetch(root, vec![two.holder(pack, None)], Some(two.good(root)));
    let all = tokio::join!(fetch(), fetch(), fetch());
    assert_eq!(all, (true, true, true));
    let served = two.a.store.counters().served_bytes.get();
    assert!((20 << 20..21 << 20).contains(&served), "{served}");
    let work = two.b.folder.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let wanted = crate::Wanted {
        directory: &work,
        root: &root,
        layers: &[],
        attempt: None,
    };
    two.b.store.restore(&wanted).unwrap();
    assert_eq!(
        std::fs::read(work.join("large")).unwrap(),
        noise(20 << 20, SEED)
    );
    // And who has fetched it can be asked for it.
    assert_eq!(two.b.store.holdings(), [(root, pack)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn knowing_a_digest_is_not_enough() {
    let two = two().await;
    let (root, pack) = two.workspace();
    let later = Clock::system()
        .now()
        .after(std::time::Duration::from_secs(60));
    let mut forged = two.good(root);
    if let Some(byte) = forged.signature.last_mut() {
        *byte ^= 1;
    }
    let other = Authority::create(Clock::system().now()).unwrap();
    let mut foreign = two.good(root);
    foreign.signature = other.sign(&foreign.statement).unwrap();
    let cases = [
        None,
        Some(forged),
        Some(foreign),
        Some(two.capability("daemonc", root, later)),
        Some(two.capability("daemonb", Digest::of(b"another"), later)),
        Some(two.capability("daemonb", root, Timestamp::EPOCH)),
    ];
    for given in cases {
        assert!(!two.fetch(root, vec![two.holder(pack, None)], given).await);
        assert!(two.is_empty());
    }
    assert_eq!(two.a.store.counters().served_bytes.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_certificate_is_no_daemons() {
    let two = two().await;
    let (root, pack) = two.workspace();
    let rng = Rng::system();
    let now = Clock::system().now();
    let agent = two
        .authority
        .credentials(PeerRole::Agent, "daemonb", now, &rng);
    let endpoint = lanes::endpoint(&Own::new(agent.unwrap()), "127.0.0.1:0".parse().unwrap());
    let own = two
        .authority
        .credentials(PeerRole::Agent, "daemonb", now, &rng);
    let lanes = lanes::Lanes::new(endpoint.unwrap(), Own::new(own.unwrap()));
    let me = two.b.peers.me.clone();
    let store = Arc::clone(&two.b.store);
    let agent = Peers::new(store, lanes, Clock::system(), me);
    let source = LayerSource {
        layer: root.to_string(),
        holders: vec![two.holder(pack, None)],
    };
    agent.fetch(&[source], Some(&two.good(root))).await;
    assert!(two.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_udp_is_blocked_tcp_carries_it_and_what_was_cut_goes_on_elsewhere() {
    let two = two().await;
    let (root, pack) = two.workspace();
    let cut = tcp_only(&two.a.peers.me.address, 9 << 20).await;
    let whole = tcp_only(&two.a.peers.me.address, u64::MAX).await;
    let holders = vec![two.holder(pack, Some(cut)), two.holder(pack, Some(whole))];
    assert!(two.fetch(root, holders, Some(two.good(root))).await);
    let served = two.a.store.counters().served_bytes.get();
    // The frames that had come were not sent again; what was on the way when it was cut was.
    assert!(served < 34 << 20, "{served}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_of_a_peer_are_noticed_and_nothing_of_them_stays() {
    let two = two().await;
    let (root, pack) = two.workspace();
    let disk = &two.a.store.disk;
    let kind = slipway_core::cache::eviction::Kind::Pack;
    let size = disk.find(kind, &root).unwrap();
    let path = disk.path(kind, &root, size);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 1_000;
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let holders = vec![two.holder(pack, None)];
    assert!(!two.fetch(root, holders, Some(two.good(root))).await);
    assert!(two.is_empty());
    assert_eq!(two.b.store.counters().faults.get(), 1);
    // A pack of another name than the dispatcher said is none.
    let holders = vec![two.holder(Digest::of(b"other"), None)];
    assert!(!two.fetch(root, holders, Some(two.good(root))).await);
    assert!(two.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cache_down_degrades() {
    let two = two().await;
    let (root, pack) = two.workspace();
    // A black hole by UDP, and by TCP somebody who accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = silent.local_addr().unwrap();
    let holders = vec![two.holder(pack, Some(at)); 4];
    let clock = Clock::system();
    let begun = clock.monotonic();
    assert!(!two.fetch(root, holders.clone(), Some(two.good(root))).await);
    assert!((clock.monotonic() - begun).as_secs() < 6);
    // The breaker is open: nobody waits again.
    let begun = clock.monotonic();
    assert!(!two.fetch(root, holders, Some(two.good(root))).await);
    assert!((clock.monotonic() - begun).as_millis() < 500);
    assert!(two.is_empty());
}

#[test]
fn room_is_reserved_before_the_first_byte() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path(), Arc::new(MemoryIndex::default()), 1 << 20).unwrap();
    let layer = Digest::of(b"l");
    assert!(PackIncoming::begin(&disk, &layer, 2 << 20).is_err());
    drop(PackIncoming::begin(&disk, &layer, 1 << 19).unwrap());
    assert_eq!(disk.space.reserved(), 0);
}

/// Carries datagrams between one client and `to`, while it is not cut.
async fn relay(to: SocketAddr) -> (SocketAddr, Arc<std::sync::atomic::AtomicBool>) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let cut = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&cut);
    slipway_daemon::spawn("relay", async move {
        let (mut buffer, mut client) = (vec![0; 65_536], None);
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let next = if from == to { client } else { Some(to) };
            if from != to {
                client = Some(from);
            }
            if let (Some(next), false) = (next, state.load(Ordering::SeqCst)) {
                let _lost = socket.send_to(&buffer[..length], next).await;
            }
        }
    });
    (at, cut)
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_partition_5s() {
    use std::sync::atomic::Ordering;
    let authority = Authority::create(Clock::system().now()).unwrap();
    let own = |id: &str| {
        let now = Clock::system().now();
        let own = authority.credentials(PeerRole::Cache, id, now, &Rng::system());
        Own::new(own.unwrap())
    };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let server = lanes::endpoint(&own("server"), any).unwrap();
    let (at, cut) = relay(server.local_addr().unwrap()).await;
    let echo = slipway_daemon::spawn("echo", async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let (mut send, mut receive) = connection.accept_bi().await.unwrap();
        tokio::io::copy(&mut receive, &mut send).await.unwrap();
        send.finish().unwrap();
        connection.closed().await;
    });
    let client = lanes::endpoint(&own("client"), any).unwrap();
    let connection = lanes::connect(&client, &own("client"), at).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let sent = noise(2 << 20, SEED);
    let (first, rest) = sent.split_at(sent.len() / 2);
    send.write_all(first).await.unwrap();
    let mut got = vec![0; 64 * 1024];
    receive.read_exact(&mut got).await.unwrap();
    // In the middle of it the network is gone for five seconds, both ways.
    cut.store(true, Ordering::SeqCst);
    let writing = async {
        send.write_all(rest).await.unwrap();
        send.finish().unwrap();
    };
    let mended = async {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        cut.store(false, Ordering::SeqCst);
    };
    let reading = async {
        let left = receive.read_to_end(sent.len()).await.unwrap();
        got.extend(left);
    };
    let all = async { tokio::join!(writing, mended, reading) };
    let limit = std::time::Duration::from_secs(28);
    tokio::time::timeout(limit, all)
        .await
        .expect("the connection goes on");
    assert_eq!(Digest::of(&got), Digest::of(&sent));
    connection.close(0_u32.into(), b"");
    drop(echo);
}
