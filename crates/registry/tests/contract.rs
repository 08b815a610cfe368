//! One suite for every adapter, on the fake and on the real thing.
#![expect(clippy::unwrap_used, reason = "a test's failure is its message")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use slipway_core::image::ImageReference;
use slipway_core::time::Timestamp;
use slipway_registry::{
    Ecr, EcrSettings, FakeRegistry, ImageRegistry, Login, Oci, Registries, RegistryError,
};

/// What every adapter keeps: `known` is there and means `digest`.
async fn contract(registry: &dyn ImageRegistry, known: &ImageReference, digest: &str) {
    assert_eq!(registry.resolve(known).await.unwrap(), digest);
    let pinned = known.with_digest(digest).unwrap();
    assert_eq!(registry.resolve(&pinned).await.unwrap(), digest);
    let repository = known.repository();
    let other = format!("sha256:{}", "0".repeat(64));
    for absent in [
        format!("{repository}:never"),
        format!("{repository}-never:v1"),
        format!("{repository}@{other}"),
    ] {
        let error = registry
            .resolve(&absent.parse().unwrap())
            .await
            .unwrap_err();
        assert!(
            matches!(error, RegistryError::NotFound(_)),
            "{absent}: {error}"
        );
    }
    assert_eq!(registry.credentials("nobody.example").await.unwrap(), None);
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let fake = FakeRegistry::default();
    let image: ImageReference = "registry.example/shop:v1".parse().unwrap();
    let digest = format!("sha256:{}", "a".repeat(64));
    fake.tag(&image, &digest);
    let login = Login {
        username: "ci".to_owned(),
        password: "secret".to_owned(),
    };
    fake.login("registry.example", login.clone());
    contract(&fake, &image, &digest).await;
    let got = fake.credentials("registry.example").await.unwrap();
    assert_eq!(got, Some(login.clone()));
    assert!(!format!("{login:?}").contains("secret"));
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

async fn listening(port: u16) {
    let waiting = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting)
        .await
        .unwrap();
}

fn start(command: &mut Command, what: &str) -> Option<Server> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness says what must be there"
    )]
    let required = std::env::var("SLIPWAY_REQUIRE").unwrap_or_default();
    match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => Some(Server(child)),
        Err(error) => {
            assert!(
                !required.split(',').any(|r| r == what),
                "{what} is required: {error}"
            );
            eprintln!("skipped: {what} not installed");
            None
        }
    }
}

async fn push(host: &str, repository: &str) -> (ImageReference, String) {
    use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
    let client = Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    });
    let name = format!("{host}/{repository}:v1");
    let reference: oci_client::Reference = name.parse().unwrap();
    let layer = ImageLayer::oci_v1(b"not really a layer".to_vec(), None);
    let config = Config::oci_v1(b"{}".to_vec(), None);
    let auth = oci_client::secrets::RegistryAuth::Anonymous;
    client
        .push(&reference, &[layer], config, &auth, None)
        .await
        .unwrap();
    let digest = client
        .fetch_manifest_digest(&reference, &auth)
        .await
        .unwrap();
    (name.parse().unwrap(), digest)
}

fn crypto() {
    // A second test in the same process finds it installed, which is as good.
    let _installed = rustls::crypto::ring::default_provider().install_default();
}

#[tokio::test]
async fn the_oci_adapter_keeps_the_contract_on_a_real_registry() {
    crypto();
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let config = folder.path().join("config.yml");
    let root = folder.path().join("data");
    let text = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        root.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("docker-registry");
    let Some(server) = start(command.arg("serve").arg(&config), "registry") else {
        return;
    };
    listening(port).await;
    let (image, digest) = push(&format!("127.0.0.1:{port}"), "team/shop").await;
    let oci = Oci::new(BTreeMap::new());
    contract(&oci, &image, &digest).await;
    contract(&Registries::new(oci, Vec::new()), &image, &digest).await;
    drop(server);
    let error = Oci::new(BTreeMap::new()).resolve(&image).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Unavailable { .. }),
        "{error}"
    );
}

const HOST: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com";

fn aws(endpoint: &str, arguments: &str) -> String {
    let script = format!(
        "import boto3\nc = boto3.client('ecr', region_name='us-east-1', endpoint_url='{endpoint}', \
         aws_access_key_id='id', aws_secret_access_key='secret')\n{arguments}\n"
    );
    let out = Command::new("python3")
        .arg("-c")
        .arg(script)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn the_ecr_adapter_keeps_the_contract_and_renews_its_password_early() {
    crypto();
    let there = Command::new("python3")
        .args(["-c", "import moto.server, boto3"])
        .output();
    if !there.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: moto not installed");
        return;
    }
    let port = free_port();
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        &port.to_string(),
    ]);
    let Some(server) = start(&mut command, "moto") else {
        return;
    };
    listening(port).await;
    let endpoint = format!("http://127.0.0.1:{port}");
    let digest = aws(
        &endpoint,
        "import json\nc.create_repository(repositoryName='shop')\n\
         m = json.dumps({'schemaVersion': 2, 'mediaType': 'application/vnd.oci.image.manifest.v1+json', \
         'config': {'mediaType': 'x', 'size': 2, 'digest': 'sha256:' + 'a' * 64}, 'layers': []})\n\
         r = c.put_image(repositoryName='shop', imageManifest=m, imageTag='v1')\n\
         print(r['image']['imageId']['imageDigest'])",
    );
    let image: ImageReference = format!("{HOST}/shop:v1").parse().unwrap();
    // The password that moto gives ends at a fixed time that depends on the real clock; ours is
    // moved by hand.
    let clock = Arc::new(AtomicI64::new(0));
    let time = Arc::clone(&clock);
    let now = Arc::new(move || Timestamp::from_millis(time.load(Ordering::SeqCst)));
    let settings = EcrSettings {
        host: HOST.to_owned(),
        region: "us-east-1".to_owned(),
        endpoint,
        key_pair: Some(("id".to_owned(), "secret".to_owned())),
    };
    let ecr = Ecr::open(&settings, now).await;
    contract(&ecr, &image, &digest).await;
    let login = ecr.credentials(HOST).await.unwrap().unwrap();
    assert_eq!(login.username, "AWS");
    drop(server);
    // The service is gone: the kept password serves, until its end has passed.
    assert_eq!(ecr.credentials(HOST).await.unwrap(), Some(login));
    clock.store(i64::MAX / 2, Ordering::SeqCst);
    assert!(ecr.credentials(HOST).await.is_err());
    let error = ecr
        .resolve(&"other.example/x:1".parse().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Foreign(_)));
}
