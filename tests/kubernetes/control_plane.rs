//! etcd, kube-apiserver and kube-controller-manager on loopback, below a temporary folder, with RBAC on
//! and certificates of this test's own. One for all tests that execute at the same time.
//!
//! There is no kubelet, no scheduler and no gateway: see [`crate::node`] and [`crate::gateway`].

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use slipway_kubernetes::Cluster;
use slipway_tests::{Process, free_address, wait};

/// For any of the three to come up on a loaded machine.
const UP: Duration = Duration::from_secs(120);
/// Its definition comes with the control plane; see `setup.sh`.
const ROUTES: &str = "httproutes.yaml";

/// A control plane; ended when the last test that holds it ends.
pub(crate) struct Plane {
    beside: Option<tokio::runtime::Runtime>,
    _controllers: Process,
    _api: Process,
    _etcd: Process,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

/// A certificate and its key, as files.
struct Signed {
    certificate: PathBuf,
    key: PathBuf,
}

/// The running control plane, or one that is started now.
///
/// # Panics
/// When there is none, or it does not start: these tests are never skipped.
pub(crate) fn plane() -> Arc<Plane> {
    static SHARED: Mutex<Weak<Plane>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return running;
    }
    // Elsewhere: a test's own runtime must not be blocked by another one.
    let starting = std::thread::spawn(Plane::start).join();
    let started = match starting {
        Ok(Ok(started)) => Arc::new(started),
        Ok(Err(error)) => panic!("no control plane: {error:#}"),
        Err(_) => panic!("no control plane: its start panicked"),
    };
    *shared = Arc::downgrade(&started);
    started
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test harness is its own main"
)]
pub(crate) fn built() -> anyhow::Result<PathBuf> {
    let said = std::env::var("SLIPWAY_CONTROL_PLANE").unwrap_or_default();
    let dir = PathBuf::from(said);
    let whole = [
        "helm",
        "kube-apiserver",
        "kube-controller-manager",
        "kubectl",
        "chart",
        ROUTES,
    ];
    let there = whole.iter().all(|name| dir.join(name).is_file());
    anyhow::ensure!(
        there,
        "`{}` has not all of {whole:?}; use `make kubernetes`, which builds them",
        dir.display()
    );
    Ok(dir)
}

impl Plane {
    fn start() -> anyhow::Result<Self> {
        slipway_daemon::start::install_crypto();
        let built = built()?;
        let folder = tempfile::tempdir()?;
        let dir = folder.path();
        let address = free_address()?;
        let admin = certificates(dir, address)?;
        let etcd_at = format!("http://{}", free_address()?);
        let etcd = start_etcd(dir, &etcd_at)?;
        let mut api = start_api(dir, &built, address, &etcd_at);
        write_kubeconfig(dir, address, &admin)?;
        let kubeconfig = dir.join("admin.json");
        let ready = wait::until("the API server is ready", UP, || {
            let answer = kubectl(&kubeconfig, &["get", "--raw", "/readyz"], "").ok();
            answer.map(Some).or((!api.is_alive()).then_some(None))
        })?;
        anyhow::ensure!(ready.is_some(), "the API server died: {}", api.log());
        let controllers = start_controllers(dir, &built);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let plane = Self {
            beside: Some(runtime),
            _controllers: controllers,
            _api: api,
            _etcd: etcd,
            address,
            folder,
        };
        plane.prepare(&built.join(ROUTES))?;
        Ok(plane)
    }

    /// The definition of routes, and what stands in for a node and a gateway.
    fn prepare(&self, routes: &Path) -> anyhow::Result<()> {
        let routes = routes.display().to_string();
        self.admin(&["apply", "--server-side", "-f", &routes], "")?;
        wait::until("routes are known", UP, || {
            self.admin(&["get", "httproutes", "-A"], "").ok()
        })?;
        wait::until("the controllers work", UP, || {
            self.admin(&["get", "serviceaccount", "default"], "").ok()
        })?;
        let kubeconfig = self.admin_file();
        let pods = self.folder.path().join("pods");
        if let Some(runtime) = &self.beside {
            runtime.block_on(async move {
                let client = crate::node::client(&kubeconfig).await?;
                crate::node::register(&client).await?;
                slipway_daemon::spawn("node", crate::node::live(client.clone(), pods));
                slipway_daemon::spawn("gateway", crate::gateway::live(client));
                anyhow::Ok(())
            })?;
        }
        Ok(())
    }

    /// The file of a member of `system:masters`, whom RBAC does not hold.
    pub(crate) fn admin_file(&self) -> PathBuf {
        self.folder.path().join("admin.json")
    }

    /// What `kubectl` prints, asked by the administrator.
    pub(crate) fn admin(&self, args: &[&str], input: &str) -> anyhow::Result<String> {
        kubectl(&self.admin_file(), args, input)
    }

    /// A namespace that is new.
    pub(crate) fn namespace(&self, name: &str) -> anyhow::Result<()> {
        self.admin(&["create", "namespace", name], "")?;
        wait::until("a namespace has its account", UP, || {
            let asked = ["get", "serviceaccount", "default", "-n", name];
            self.admin(&asked, "").ok()
        })?;
        Ok(())
    }

    /// A kubeconfig of a service account, by a token that the API server issues.
    pub(crate) fn account(&self, namespace: &str, account: &str) -> anyhow::Result<PathBuf> {
        let asked = ["create", "token", account, "-n", namespace];
        let token = self.admin(&asked, "")?;
        let ca = self.folder.path().join("ca.crt");
        let text = kubeconfig(self.address, &ca, &json!({"token": token.trim()}));
        let file = self
            .folder
            .path()
            .join(format!("{namespace}-{account}.json"));
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// A client of a namespace, by a kubeconfig.
    pub(crate) async fn cluster(&self, file: &Path, namespace: &str) -> Cluster {
        let opened = Cluster::open(&file.display().to_string(), "", namespace).await;
        opened.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if let Some(runtime) = self.beside.take() {
            runtime.shutdown_background();
        }
    }
}

/// What `kubectl` prints, or what it said instead.
pub(crate) fn kubectl(file: &Path, args: &[&str], input: &str) -> anyhow::Result<String> {
    let mut command = Command::new(built()?.join("kubectl"));
    command.arg("--kubeconfig").arg(file).args(args);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "kubectl {args:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn kubeconfig(address: SocketAddr, ca: &Path, user: &serde_json::Value) -> String {
    let cluster = json!({"server": format!("https://{address}"), "certificate-authority": ca});
    let context = json!({"cluster": "test", "user": "test"});
    // JSON is YAML, too.
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": context}],
    })
    .to_string()
}

fn write_kubeconfig(dir: &Path, address: SocketAddr, admin: &Signed) -> anyhow::Result<()> {
    let user = json!({"client-certificate": admin.certificate, "client-key": admin.key});
    let text = kubeconfig(address, &dir.join("ca.crt"), &user);
    Ok(std::fs::write(dir.join("admin.json"), text)?)
}

/// An authority, the API server's own certificate, the key of service accounts' tokens, and the
/// administrator, who is answered.
fn certificates(dir: &Path, address: SocketAddr) -> anyhow::Result<Signed> {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca.distinguished_name.push(DnType::CommonName, "test");
    let key = KeyPair::generate()?;
    std::fs::write(dir.join("ca.crt"), ca.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(ca, key);
    let sign = |name: &str, mut params: CertificateParams, usage| -> anyhow::Result<Signed> {
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let signed = Signed {
            certificate: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
        };
        let certificate = params.signed_by(&key, &issuer)?;
        std::fs::write(&signed.certificate, certificate.pem())?;
        std::fs::write(&signed.key, key.serialize_pem())?;
        Ok(signed)
    };
    let names = vec![address.ip().to_string(), "localhost".to_owned()];
    let served = CertificateParams::new(names)?;
    sign("api", served, ExtendedKeyUsagePurpose::ServerAuth)?;
    let tokens = KeyPair::generate()?;
    std::fs::write(dir.join("tokens.key"), tokens.serialize_pem())?;
    std::fs::write(dir.join("tokens.pub"), tokens.public_key_pem())?;
    let mut admin = CertificateParams::default();
    let name = &mut admin.distinguished_name;
    name.push(DnType::CommonName, "administrator");
    name.push(DnType::OrganizationName, "system:masters");
    sign("admin", admin, ExtendedKeyUsagePurpose::ClientAuth)
}

fn start_etcd(dir: &Path, at: &str) -> anyhow::Result<Process> {
    let data = dir.join("etcd").display().to_string();
    let peers = format!("http://{}", free_address()?);
    let members = format!("default={peers}");
    let args = [
        "--data-dir",
        &data,
        "--listen-client-urls",
        at,
        "--advertise-client-urls",
        at,
        "--listen-peer-urls",
        &peers,
        "--initial-advertise-peer-urls",
        &peers,
        "--initial-cluster",
        &members,
        // Nothing here outlives the test.
        "--unsafe-no-fsync",
    ];
    let log = dir.join("etcd.log");
    Ok(Process::start(Path::new("etcd"), &args, &[], &log))
}

fn start_api(dir: &Path, built: &Path, address: SocketAddr, etcd: &str) -> Process {
    let file = |name: &str| dir.join(name).display().to_string();
    let args = [
        format!("--etcd-servers={etcd}"),
        format!("--bind-address={}", address.ip()),
        format!("--advertise-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--tls-cert-file={}", file("api.crt")),
        format!("--tls-private-key-file={}", file("api.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--service-account-key-file={}", file("tokens.pub")),
        format!("--service-account-signing-key-file={}", file("tokens.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let program = built.join("kube-apiserver");
    Process::start(&program, &args, &[], &dir.join("api.log"))
}

/// Only those whose work is looked at: others would judge a node that sends no heartbeats, or addresses
/// on loopback.
fn start_controllers(dir: &Path, built: &Path) -> Process {
    let file = |name: &str| dir.join(name).display().to_string();
    let admin = file("admin.json");
    let args = [
        format!("--kubeconfig={admin}"),
        format!("--authentication-kubeconfig={admin}"),
        format!("--authorization-kubeconfig={admin}"),
        format!("--service-account-private-key-file={}", file("tokens.key")),
        format!("--root-ca-file={}", file("ca.crt")),
        "--controllers=deployment-controller,replicaset-controller,garbage-collector-controller,\
         serviceaccount-controller,namespace-controller"
            .to_owned(),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let program = built.join("kube-controller-manager");
    Process::start(&program, &args, &[], &dir.join("controllers.log"))
}
