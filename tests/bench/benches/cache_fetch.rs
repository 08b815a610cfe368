//! A pack of 1 GiB that does not shrink, from one cache daemon to another on this host: fetched, every
//! frame checked, on the disk. Beside it, in the same run and in turns: the same bytes over a bare QUIC
//! stream of the same settings, dropped on arrival, and a plain TCP copy into a file.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench: it measures real time, and a failure is its message"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slipway_bench::figure::{Figure, median};
use slipway_cache::blobs::Disk;
use slipway_cache::index::MemoryIndex;
use slipway_cache::peers::{self, Peers};
use slipway_cache::{Store, Wanted};
use slipway_core::access::PeerRole;
use slipway_core::cache::capability::Capability as Statement;
use slipway_core::digest::Digest;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_identity::{Authority, Own};
use slipway_proto::v1::{CacheDaemon, CacheHolder, Capability};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const GIB: usize = 1 << 30;
const ROUNDS: usize = 10;

struct Bench {
    authority: Authority,
    shutdown: Shutdown,
    folder: tempfile::TempDir,
    payload: Arc<Vec<u8>>,
}

fn noise() -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut all = Vec::with_capacity(GIB);
    while all.len() < GIB {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend(state.to_le_bytes());
    }
    all
}

/// Processor seconds of this process so far: both ends are in it.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

fn speed(took: Duration) -> f64 {
    GIB as f64 / 1e6 / took.as_secs_f64()
}

impl Bench {
    fn own(&self, id: &str) -> Own {
        let (now, rng) = (Clock::system().now(), Rng::system());
        let own = self.authority.credentials(PeerRole::Cache, id, now, &rng);
        Own::new(own.unwrap())
    }

    async fn daemon(&self, id: &str, folder: &Path) -> (Arc<Store>, Arc<Peers>) {
        let disk = Disk::open(folder, Arc::new(MemoryIndex::default()), 8 << 30).unwrap();
        let store = Arc::new(Store::open(disk, Clock::system()));
        store.list();
        let at = "127.0.0.1:0".parse().unwrap();
        let (own, clock) = (self.own(id), Clock::system());
        let peers = peers::start(&store, own, &clock, at, "", &self.shutdown);
        let peers = peers.await.unwrap();
        (store, peers)
    }

    fn capability(&self, layer: Digest) -> Capability {
        let statement = Statement {
            holder: "b".to_owned(),
            project: String::new(),
            attempt: String::new(),
            layers: vec![layer],
            expires: Clock::system().now().after(Duration::from_secs(3_600)),
        };
        let statement = statement.encode();
        let signature = self.authority.sign(&statement).unwrap();
        Capability {
            statement,
            signature,
        }
    }

    /// A bare stream with the daemons' own settings.
    async fn raw_quic(&self) -> f64 {
        let at = "127.0.0.1:0".parse().unwrap();
        let server = peers::endpoint(&self.own("a"), at).unwrap();
        let address = server.local_addr().unwrap();
        let payload = Arc::clone(&self.payload);
        let sending = slipway_daemon::spawn("send", async move {
            let connection = server.accept().await.unwrap().await.unwrap();
            let (mut send, _receive) = connection.accept_bi().await.unwrap();
            for piece in payload.chunks(1 << 20) {
                send.write_all(piece).await.unwrap();
            }
            send.finish().unwrap();
            connection.closed().await;
        });
        let client = peers::endpoint(&self.own("b"), at).unwrap();
        let connection = peers::connect(&client, &self.own("b"), address)
            .await
            .unwrap();
        let begun = Instant::now();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(b"go").await.unwrap();
        let mut bytes = 0;
        while let Some(chunk) = receive.read_chunk(256 * 1024, true).await.unwrap() {
            bytes += chunk.bytes.len();
        }
        let took = begun.elapsed();
        assert_eq!(bytes, GIB);
        connection.close(0_u32.into(), b"");
        sending.await.unwrap();
        speed(took)
    }

    async fn tcp_copy(&self) -> f64 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let payload = Arc::clone(&self.payload);
        slipway_daemon::spawn("send", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for piece in payload.chunks(1 << 20) {
                stream.write_all(piece).await.unwrap();
            }
        });
        let path = self.folder.path().join("copy");
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let begun = Instant::now();
        let mut file = std::fs::File::create(&path).unwrap();
        let mut piece = vec![0; 1 << 20];
        loop {
            let read = stream.read(&mut piece).await.unwrap();
            if read == 0 {
                break;
            }
            std::io::Write::write_all(&mut file, &piece[..read]).unwrap();
        }
        let took = begun.elapsed();
        std::fs::remove_file(path).unwrap();
        speed(took)
    }
}

fn main() {
    slipway_daemon::start::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let bench = Bench {
        authority: Authority::create(Clock::system().now()).unwrap(),
        shutdown: Shutdown::new(),
        folder: tempfile::tempdir().unwrap(),
        payload: Arc::new(noise()),
    };
    let source = bench.folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("large"), &*bench.payload).unwrap();
    let (a, at_a) = bench.daemon("a", &bench.folder.path().join("a")).await;
    let (root, ..) = a.capture_tree(&source, false).unwrap();
    let pack = a.make_pack(&root, false).unwrap();
    let holder = CacheHolder {
        daemon: Some(CacheDaemon {
            id: "a".to_owned(),
            address: at_a.me.address.clone(),
        }),
        pack: pack.to_string(),
    };
    let given = bench.capability(root);
    let mut all: [Vec<f64>; 5] = Default::default();
    for round in 0..ROUNDS {
        all[1].push(bench.raw_quic().await);
        all[2].push(bench.tcp_copy().await);
        let folder = bench.folder.path().join(format!("b{round}"));
        let (b, peers) = bench.daemon("b", &folder).await;
        let (begun, spent) = (Instant::now(), cpu());
        let came = peers.fetch_pack(&root, std::slice::from_ref(&holder), Some(&given));
        assert!(came.await as usize > GIB && b.has_pack(&root));
        all[0].push(speed(begun.elapsed()));
        all[3].push(cpu() - spent);
        b.unpack(&root).unwrap();
        all[4].push(speed(begun.elapsed()));
        if round == 0 {
            let work = bench.folder.path().join("work");
            std::fs::create_dir(&work).unwrap();
            let wanted = Wanted {
                directory: &work,
                root: &root,
                layers: &[],
                attempt: None,
            };
            b.restore(&wanted).unwrap();
            let same = std::fs::read(work.join("large")).unwrap() == *bench.payload;
            assert!(same, "what was fetched is what was sent");
            std::fs::remove_dir_all(work).unwrap();
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
    let [fetch, raw, tcp, cpu, blobs] = all.map(|one| median(&one));
    let print = |figure, value, unit, against, against_value| {
        Figure {
            bench: "cache_fetch",
            figure,
            value,
            unit,
            against,
            against_value,
        }
        .print();
    };
    print("fetch", fetch, "MB/s", "raw quinn, dropped", raw);
    print("fetch_vs_tcp", fetch, "MB/s", "TCP into a file", tcp);
    print("fetch_into_blobs", blobs, "MB/s", "raw quinn, dropped", raw);
    print("cpu_per_gib", cpu, "cpu s", "", 0.0);
    bench.shutdown.begin();
}
