//! Plain HTTP over sockets: instances that can be killed, and clients that count what fails. As little
//! as possible, so that what is measured is what stands between them.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The largest head that is read.
const HEAD_MAX: usize = 16 * 1024;
/// An answer that takes longer is none.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The argument that makes a bench's binary an instance.
pub const SERVE: &str = "--serve-instance";

/// An instance: a process of its own, so that SIGKILL does to it what it does to a real one.
pub struct Instance {
    child: Child,
    /// Where it answers.
    pub address: String,
}

impl Instance {
    /// Starts one. `idle_ms` = how long it keeps an idle connection; 0 = for ever.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(name: &str, idle_ms: u64) -> anyhow::Result<Self> {
        use std::io::BufRead as _;
        let mut child = Command::new(std::env::current_exe()?)
            .args([SERVE, name, &idle_ms.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let out = child.stdout.take().context("no output")?;
        let mut address = String::new();
        std::io::BufReader::new(out).read_line(&mut address)?;
        let address = address.trim().to_owned();
        ensure!(!address.is_empty(), "the instance did not start");
        Ok(Self { child, address })
    }

    /// SIGKILL, now.
    pub fn kill(mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Serves until killed, when the arguments ask for it. To be called first in `main`.
///
/// # Errors
/// When nothing can be listened on.
pub fn serve_if_asked() -> anyhow::Result<bool> {
    let args: Vec<String> = std::env::args().collect();
    let Some(at) = args.iter().position(|arg| arg == SERVE) else {
        return Ok(false);
    };
    let name = args.get(at + 1).cloned().unwrap_or_default();
    let idle_ms: u64 = args.get(at + 2).and_then(|n| n.parse().ok()).unwrap_or(0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(name, Duration::from_millis(idle_ms)))?;
    Ok(true)
}

#[expect(clippy::print_stdout, reason = "its parent reads where it answers")]
async fn serve(name: String, idle: Duration) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let answer: Arc<str> = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{name}",
        name.len()
    )
    .into();
    loop {
        let (stream, _) = listener.accept().await?;
        let answer = Arc::clone(&answer);
        slipway_daemon::spawn("instance", async move {
            let _ended = one_connection(stream, &answer, idle).await;
        });
    }
}

async fn one_connection(stream: TcpStream, answer: &str, idle: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut head = Vec::with_capacity(1_024);
    loop {
        let reading = read_head(&mut stream, &mut head);
        let read = if idle.is_zero() {
            reading.await?
        } else {
            // The instance closes what is idle, without a word.
            match tokio::time::timeout(idle, reading).await {
                Ok(read) => read?,
                Err(_) => return Ok(()),
            }
        };
        if !read {
            return Ok(());
        }
        skip_body(&mut stream, length_of(&head)).await?;
        stream.get_mut().write_all(answer.as_bytes()).await?;
    }
}

/// Reads up to the empty line; false at the end of the stream.
async fn read_head(stream: &mut BufReader<TcpStream>, head: &mut Vec<u8>) -> std::io::Result<bool> {
    use tokio::io::AsyncBufReadExt as _;
    head.clear();
    loop {
        let read = stream.read_until(b'\n', head).await?;
        if read == 0 {
            return Ok(false);
        }
        if head.ends_with(b"\r\n\r\n") {
            return Ok(true);
        }
        if head.len() > HEAD_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
}

fn length_of(head: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(head);
    let mut lengths = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    lengths.next().unwrap_or(0)
}

async fn skip_body(stream: &mut BufReader<TcpStream>, length: u64) -> std::io::Result<()> {
    let mut left = length;
    let mut buffer = [0_u8; 4_096];
    while left > 0 {
        let most = usize::try_from(left.min(4_096)).unwrap_or(4_096);
        let read = stream.read(&mut buffer[..most]).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        left -= read as u64;
    }
    Ok(())
}

/// One keep-alive connection of a client.
pub struct Client {
    address: String,
    stream: Option<BufReader<TcpStream>>,
    head: Vec<u8>,
}

impl Client {
    /// To `address`; connects at the first request.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            stream: None,
            head: Vec::new(),
        }
    }

    /// One request; true when the answer was 200 and whole. Never repeated.
    pub async fn ask(&mut self, post: bool) -> bool {
        match tokio::time::timeout(ANSWER_LIMIT, self.exchange(post)).await {
            Ok(Ok((200, keeps))) => {
                if !keeps {
                    self.stream = None;
                }
                true
            }
            _ => {
                self.stream = None;
                false
            }
        }
    }

    async fn exchange(&mut self, post: bool) -> std::io::Result<(u16, bool)> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(BufReader::new(stream));
        }
        let Some(stream) = self.stream.as_mut() else {
            return Err(std::io::ErrorKind::NotConnected.into());
        };
        let request: &[u8] = if post {
            b"POST /p HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\n\r\nhello"
        } else {
            b"GET /g HTTP/1.1\r\nhost: shop\r\n\r\n"
        };
        stream.get_mut().write_all(request).await?;
        if !read_head(stream, &mut self.head).await? {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&self.head);
        let status = text.get(9..12).and_then(|code| code.parse().ok());
        let closes = text.to_ascii_lowercase().contains("connection: close");
        let length = length_of(&self.head);
        skip_body(stream, length).await?;
        Ok((status.unwrap_or(0), !closes))
    }
}

/// Clients that never stop asking.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// Answers so far.
    pub good: Arc<AtomicU64>,
    /// Requests without one.
    pub failed: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Option<()>>>,
}

impl Load {
    /// `connections` keep-alive connections, GET and POST in turns.
    #[must_use]
    pub fn start(address: &str, connections: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (good, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..connections)
            .map(|number| {
                let mut client = Client::new(address);
                let (stop, good, failed) =
                    (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&failed));
                slipway_daemon::spawn("load", async move {
                    let mut post = number % 2 == 0;
                    while !stop.load(Ordering::Relaxed) {
                        let counter = if client.ask(post).await {
                            &good
                        } else {
                            &failed
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                        post = !post;
                    }
                })
            })
            .collect();
        Self {
            stop,
            good,
            failed,
            tasks,
        }
    }

    /// Waits until so many more were answered.
    pub async fn more(&self, count: u64) {
        let until = self.good.load(Ordering::Relaxed) + count;
        while self.good.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Stops; answers and failures.
    pub async fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let _ended = task.await;
        }
        (
            self.good.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        )
    }
}
