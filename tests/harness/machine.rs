//! Hosts of their own on this machine: a network namespace each, in it a real Docker engine over mutual TLS and
//! whatever else a test starts there. What is done to a host (its cable pulled, its power gone) is done to that namespace.
//!
//! Owns their making and their end, by id. Does not own what runs on them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::process::Process;
use crate::wait::eventually;

/// For an engine to come up on a loaded machine.
const UP: Duration = Duration::from_secs(60);

/// Authority, and the coordinator's certificate, of a test's engines.
pub struct EngineAuthority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    dir: PathBuf,
}

impl EngineAuthority {
    /// Makes one, with its files and those of a client below `dir`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn create(dir: &Path) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![]).expect("settings");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "engines of a test");
        let certificate = params.self_signed(&key).expect("an authority");
        let authority = Self {
            certificate,
            issuer: rcgen::Issuer::new(params, key),
            dir: dir.to_owned(),
        };
        std::fs::write(dir.join("ca.pem"), authority.certificate.pem()).expect("written");
        authority.sign("client", "client");
        authority
    }

    /// Writes `<file>.pem` and `<file>.key` for this name or address.
    fn sign(&self, file: &str, name: &str) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("settings");
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        std::fs::write(self.file(&format!("{file}.pem")), signed.pem()).expect("written");
        std::fs::write(self.file(&format!("{file}.key")), key.serialize_pem()).expect("written");
    }

    /// One of its files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// One host.
pub struct Machine {
    /// Its name, and that of its namespace.
    pub name: String,
    /// Its address, also for this machine.
    pub address: std::net::Ipv4Addr,
    dir: PathBuf,
    engine: Option<Process>,
    link: String,
    namespace: String,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

fn run(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Machine {
    /// Whether hosts can be made here: it needs to be root, with the programs for it.
    #[must_use]
    pub fn can_be_made() -> bool {
        // Tests of one process ask at the same time.
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
        let name = format!("slprobe{process}n{number}");
        let made = run("ip", &["netns", "add", &name]);
        made && run("ip", &["netns", "del", &name]) && run("dockerd", &["--version"])
    }

    /// Makes one, with its engine.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(name: &str, dir: &Path, authority: &EngineAuthority) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let process = std::process::id();
        // Two tests of different processes must not meet: the third byte is the process's, the second a test range's.
        let (third, fourth) = (process % 250, 4 * (number % 60));
        let (ours, theirs) = (fourth + 1, fourth + 2);
        let namespace = format!("sl{process}h{number}");
        let link = format!("sl{}v{number}", process % 1_000_000);
        let peer = format!("sl{}p{number}", process % 1_000_000);
        let address: std::net::Ipv4Addr = format!("10.213.{third}.{theirs}")
            .parse()
            .expect("an address");
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        let machine = Self {
            name: name.to_owned(),
            address,
            dir,
            engine: None,
            link: link.clone(),
            namespace: namespace.clone(),
        };
        let at = |last: u32| format!("10.213.{third}.{last}/30");
        for args in [
            vec!["netns", "add", &namespace],
            vec![
                "link", "add", &link, "type", "veth", "peer", "name", &peer, "netns", &namespace,
            ],
            vec!["addr", "add", &at(ours), "dev", &link],
            vec!["link", "set", &link, "up"],
            vec!["-n", &namespace, "addr", "add", &at(theirs), "dev", &peer],
            vec!["-n", &namespace, "link", "set", &peer, "up"],
            vec!["-n", &namespace, "link", "set", "lo", "up"],
            vec![
                "-n",
                &namespace,
                "route",
                "add",
                "default",
                "via",
                at(ours).trim_end_matches("/30"),
            ],
        ] {
            assert!(run("ip", &args), "ip {args:?}");
        }
        machine.with_engine(authority).await
    }

    async fn with_engine(mut self, authority: &EngineAuthority) -> Self {
        authority.sign(&self.name, &self.address.to_string());
        let file = |name: &str| self.dir.join(name).display().to_string();
        std::fs::write(file("daemon.json"), "{}").expect("written");
        let of = |name: &str| authority.file(name).display().to_string();
        let args = [
            ("--config-file", file("daemon.json")),
            ("--data-root", file("data")),
            ("--exec-root", file("exec")),
            ("--pidfile", file("pid")),
            ("-H", format!("unix://{}", file("docker.sock"))),
            ("-H", format!("tcp://{}:2376", self.address)),
            ("--bip", "10.214.0.1/24".to_owned()),
            (
                "--default-address-pool",
                "base=10.215.0.0/16,size=24".to_owned(),
            ),
            ("--tlscacert", of("ca.pem")),
            ("--tlscert", of(&format!("{}.pem", self.name))),
            ("--tlskey", of(&format!("{}.key", self.name))),
        ];
        let mut words = vec!["dockerd".to_owned(), "--tlsverify".to_owned()];
        for (flag, value) in args {
            words.extend([flag.to_owned(), value]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.engine = Some(self.run_in(Path::new("dockerd.log"), &words));
        let answers = eventually("the engine answers", UP, || async {
            let version = self.docker(&["version", "--format", "{{.Server.Version}}"], &[]);
            (!version.is_empty()).then_some(())
        });
        answers.await.expect("up");
        self
    }

    /// A process on this host; its output goes to a file below its folder.
    #[must_use]
    pub fn run_in(&self, log: &Path, words: &[&str]) -> Process {
        let net = format!("--net=/run/netns/{}", self.namespace);
        // The namespace of the network alone: with `ip netns exec` an engine would not see its control groups.
        let mut args = vec![net.as_str()];
        args.extend(words);
        Process::start(Path::new("nsenter"), &args, &[], &self.dir.join(log))
    }

    /// What its `docker` prints; nothing when it refuses.
    ///
    /// # Panics
    /// When there is no `docker`.
    #[must_use]
    pub fn docker(&self, args: &[&str], input: &[u8]) -> String {
        String::from_utf8_lossy(&self.docker_bytes(args, input))
            .trim()
            .to_owned()
    }

    /// The same, as bytes.
    ///
    /// # Panics
    /// When there is no `docker`.
    #[must_use]
    pub fn docker_bytes(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let socket = format!("unix://{}", self.dir.join("docker.sock").display());
        let mut command = Command::new("docker");
        command.args(["-H", &socket]).args(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("docker starts");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        let writing = std::thread::spawn(move || {
            // Whoever refuses does not read to the end.
            let _refused = std::io::Write::write_all(&mut stdin, &input);
        });
        let output = child.wait_with_output().expect("docker ends");
        writing.join().expect("written");
        output.stdout
    }

    /// A port of it.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.address, port))
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its cable is pulled (`false`), or back: nothing reaches it, and what runs on it goes on.
    ///
    /// # Panics
    /// When the link cannot be changed.
    pub fn connect(&self, connected: bool) {
        let state = if connected { "up" } else { "down" };
        assert!(
            run("ip", &["link", "set", &self.link, state]),
            "the link of {}",
            self.name
        );
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let ids = self.docker(&["ps", "-aq"], &[]);
        if !ids.is_empty() {
            let mut remove = vec!["rm", "-f"];
            remove.extend(ids.lines());
            let _removed = self.docker(&remove, &[]);
        }
        if let Some(engine) = &mut self.engine {
            // It ends its own containerd when it is asked to stop, and not when it is killed.
            engine.signal("TERM");
            for _ in 0..100 {
                if !engine.is_alive() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        self.engine = None;
        let mut trouble = String::new();
        for args in [
            vec!["link", "del", &self.link],
            vec!["netns", "del", &self.namespace],
        ] {
            if !run("ip", &args) {
                let _text = write!(trouble, "ip {args:?} ");
            }
        }
        if !trouble.is_empty() {
            let _closed = std::io::Write::write_all(&mut std::io::stderr(), trouble.as_bytes());
        }
    }
}
