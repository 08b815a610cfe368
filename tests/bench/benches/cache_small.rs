//! Ten thousand small entries, as a compiler cache puts and gets them: 4 KiB each over 16 connections, through the
//! door of a real cache daemon. Beside it, in the same run and in turns: Redis (`appendfsync always`) for what is
//! put, nginx (files) for what is got.
//!
//! What "put" includes: ours until the entries are kept (the door closed and settled), Redis until the last
//! answer. Redis has each entry on the disk then; ours may lose those of the last seconds when the machine loses
//! power, and finds them missing: the stage then compiles again.
#![expect(clippy::disallowed_methods, reason = "a bench: it measures real time")]

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use slipway_bench::figure::{Figure, median};
use slipway_bench::peers::{Peer, installed};
use slipway_bench::process::Process;
use slipway_bench::routed::free;
use slipway_cache_client::LocalCache;
use slipway_core::cache::remote;
use slipway_proto::v1::{CacheScope, OpenDoorRequest};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const ENTRIES: usize = 10_000;
const SIZE: usize = 4 * 1024;
const CONNECTIONS: usize = 16;
const ROUNDS: usize = 5;

/// Bytes that no two entries share and that do not shrink.
fn content(number: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ (number as u64 + 1);
    let mut all = Vec::with_capacity(SIZE);
    while all.len() < SIZE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend(state.to_le_bytes());
    }
    all
}

/// How a connection asks for one entry, and reads the answer.
#[derive(Clone)]
enum Speaks {
    HttpPut { prefix: String, token: String },
    HttpGet { prefix: String, token: String },
    RedisSet { prefix: String },
}

impl Speaks {
    fn question(&self, number: usize) -> Vec<u8> {
        let body = content(number);
        match self {
            Self::HttpPut { prefix, token } => {
                let head = format!(
                    "PUT {prefix}{number:08x} HTTP/1.1\r\nhost: c\r\nauthorization: Bearer {token}\r\n\
                     content-length: {SIZE}\r\n\r\n"
                );
                [head.as_bytes(), &body].concat()
            }
            Self::HttpGet { prefix, token } => format!(
                "GET {prefix}{number:08x} HTTP/1.1\r\nhost: c\r\nauthorization: Bearer {token}\r\n\r\n"
            )
            .into_bytes(),
            Self::RedisSet { prefix } => {
                let key = format!("{prefix}{number:08x}");
                let length = key.len();
                let head = format!("*3\r\n$3\r\nSET\r\n${length}\r\n{key}\r\n${SIZE}\r\n");
                [head.as_bytes(), &body, b"\r\n"].concat()
            }
        }
    }

    async fn answer(&self, stream: &mut BufReader<TcpStream>, number: usize) -> anyhow::Result<()> {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if let Self::RedisSet { .. } = self {
            anyhow::ensure!(line.starts_with("+OK"), "redis: {line}");
            return Ok(());
        }
        anyhow::ensure!(line.starts_with("HTTP/1.1 2"), "entry {number}: {line}");
        let mut length = 0;
        loop {
            line.clear();
            stream.read_line(&mut line).await?;
            let lower = line.trim().to_ascii_lowercase();
            if lower.is_empty() {
                break;
            }
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        if let Self::HttpGet { .. } = self {
            anyhow::ensure!(body == content(number), "entry {number} has other bytes");
        }
        Ok(())
    }
}

/// All entries over all connections.
async fn all(address: &str, speaks: &Speaks) -> anyhow::Result<()> {
    let asking: Vec<_> = (0..CONNECTIONS)
        .map(|connection| {
            let (address, speaks) = (address.to_owned(), speaks.clone());
            slipway_daemon::spawn("entries", async move {
                let stream = TcpStream::connect(&address).await?;
                stream.set_nodelay(true)?;
                let mut stream = BufReader::new(stream);
                for number in (connection..ENTRIES).step_by(CONNECTIONS) {
                    stream.write_all(&speaks.question(number)).await?;
                    speaks.answer(&mut stream, number).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for one in asking {
        one.await?.context("it panicked")??;
    }
    Ok(())
}

fn per_second(took: Duration) -> f64 {
    ENTRIES as f64 / took.as_secs_f64()
}

async fn up(address: &str) -> io::Result<()> {
    for _ in 0..500 {
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// One attempt of ours: everything put and kept, then everything got by a later one.
async fn ours(client: &LocalCache, round: usize) -> anyhow::Result<(f64, f64)> {
    let open = async |attempt: String, read_only| -> anyhow::Result<_> {
        let token = remote::token("a token", &attempt).context("no token")?;
        let scope = CacheScope {
            read: vec![format!("bench/{round}")],
            write: format!("bench/{round}"),
            trusted: true,
        };
        let request = OpenDoorRequest {
            attempt,
            address: "127.0.0.1".to_owned(),
            token: token.clone(),
            scope: Some(scope),
            read_only,
        };
        Ok((client.open_door(request).await?.to_string(), token))
    };
    let prefix = "/ccache/".to_owned();
    let (put, get) = (format!("put-{round}"), format!("get-{round}"));
    let (address, token) = open(put.clone(), false).await?;
    let began = Instant::now();
    let speaks = Speaks::HttpPut {
        prefix: prefix.clone(),
        token,
    };
    all(&address, &speaks).await?;
    client.close_door(&put).await?;
    let kept = client.settle_door(&put, true).await?;
    let puts = per_second(began.elapsed());
    anyhow::ensure!(kept == ENTRIES as u64, "{kept} of {ENTRIES} were kept");
    let (address, token) = open(get.clone(), true).await?;
    let began = Instant::now();
    all(&address, &Speaks::HttpGet { prefix, token }).await?;
    let gets = per_second(began.elapsed());
    client.close_door(&get).await?;
    client.settle_door(&get, false).await?;
    Ok((puts, gets))
}

fn redis(dir: &Path) -> anyhow::Result<Option<Peer>> {
    let Some(binary) = installed("redis-server") else {
        return Ok(None);
    };
    let listen = free()?;
    let port = listen.rsplit(':').next().unwrap_or_default();
    let mut command = Command::new(binary);
    command.args(["--bind", "127.0.0.1", "--port", port, "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]);
    command.arg(dir);
    Peer::start(command, "redis", listen).map(Some)
}

fn nginx(dir: &Path) -> anyhow::Result<Option<Peer>> {
    let Some(binary) = installed("nginx") else {
        return Ok(None);
    };
    let files = dir.join("files");
    std::fs::create_dir_all(&files)?;
    for number in 0..ENTRIES {
        std::fs::write(files.join(format!("{number:08x}")), content(number))?;
    }
    let listen = free()?;
    let (place, config) = (dir.display(), dir.join("nginx.conf"));
    let text = format!(
        "user root;\ndaemon off;\nworker_processes 2;\npid {place}/nginx.pid;\nerror_log {place}/nginx.log;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n  access_log off; sendfile on; tcp_nodelay on;\n  \
         keepalive_requests 1000000;\n  client_body_temp_path {place}/n1; proxy_temp_path {place}/n2;\n  \
         fastcgi_temp_path {place}/n3; uwsgi_temp_path {place}/n4; scgi_temp_path {place}/n5;\n  \
         server {{ listen {listen}; root {place}/files; }}\n}}\n"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(binary);
    command.arg("-p").arg(dir).arg("-c").arg(&config);
    Peer::start(command, "nginx", listen).map(Some)
}

async fn measure() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let config = at("cache.toml");
    let text = format!(
        "directory = '{}'\nsocket = '{}'\nhealth_address = ''\n",
        at("cache").display(),
        at("cache.sock").display()
    );
    std::fs::write(&config, text)?;
    let binary = Path::new(env!("CARGO_BIN_EXE_slipway-measured"));
    let _daemon = Process::start(binary, "cache", &config)?;
    let client = LocalCache::new(&at("cache.sock"))?;
    for _ in 0..500 {
        if client.stats().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (redis, nginx) = (redis(dir.path())?, nginx(dir.path())?);
    let addresses = [
        redis.as_ref().map(|one| one.listen.as_str()),
        nginx.as_ref().map(|one| one.listen.as_str()),
    ];
    for address in addresses.into_iter().flatten() {
        up(address).await?;
    }
    let (mut puts, mut gets, mut sets, mut files) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let (put, got) = ours(&client, round).await?;
        puts.push(put);
        gets.push(got);
        if let Some(Peer { listen: at, .. }) = &redis {
            let prefix = format!("{round}/");
            let began = Instant::now();
            all(at, &Speaks::RedisSet { prefix }).await?;
            sets.push(per_second(began.elapsed()));
        }
        if let Some(Peer { listen: at, .. }) = &nginx {
            let (prefix, token) = ("/".to_owned(), "none".to_owned());
            let began = Instant::now();
            all(at, &Speaks::HttpGet { prefix, token }).await?;
            files.push(per_second(began.elapsed()));
        }
    }
    for (figure, ours, name, there, theirs) in [
        ("put_ops", puts, "redis", redis.is_some(), sets),
        ("get_ops", gets, "nginx", nginx.is_some(), files),
    ] {
        Figure {
            bench: "cache_small",
            figure,
            value: median(&ours),
            unit: "entries/s",
            against: if there { name } else { "not installed" },
            against_value: median(&theirs),
        }
        .print();
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().build()?;
    runtime.block_on(measure())
}
