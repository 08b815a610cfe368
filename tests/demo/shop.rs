//! The sample service: a repository that is pushed to, and its webhook.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

use crate::stage::Stage;

const FILES: [(&str, &str); 5] = [
    ("app.py", include_str!("sample/app.py")),
    ("prices.py", include_str!("sample/prices.py")),
    ("test_prices.py", include_str!("sample/test_prices.py")),
    ("Dockerfile", include_str!("sample/Dockerfile")),
    (".slipway.yml", include_str!("sample/slipway.yml")),
];

/// The repository and its hook.
pub(crate) struct Shop {
    pub(crate) url: String,
    pub(crate) hook: String,
    secret: String,
    hook_url: String,
    work: PathBuf,
    before: String,
    after: String,
    deliveries: u32,
}

fn git(dir: &Path, args: &[&str]) -> anyhow::Result<String> {
    let out = Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"])
        .args(args)
        .current_dir(dir)
        .output()?;
    ensure!(
        out.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

impl Shop {
    /// Makes the repository, registers it, makes its webhook.
    pub(crate) async fn create(stage: &Stage) -> anyhow::Result<Self> {
        let bare = stage.dir.join("shop.git");
        let work = stage.dir.join("shop");
        std::fs::create_dir_all(&bare)?;
        std::fs::create_dir_all(&work)?;
        git(&bare, &["init", "-q", "--bare", "-b", "main", "."])?;
        git(&work, &["init", "-q", "-b", "main", "."])?;
        git(
            &work,
            &["remote", "add", "origin", &bare.display().to_string()],
        )?;
        for (name, text) in FILES {
            std::fs::write(
                work.join(name),
                text.replace("REGISTRY", &stage.registry.to_string()),
            )?;
        }
        let url = format!("file://{}", bare.display());
        let repo = stage
            .post("/repositories", json!({"repo_url": url, "name": "shop"}))
            .await?;
        let id = repo["repo_id"].as_str().context("no repository id")?;
        let hook = stage
            .post(
                &format!("/repositories/{id}/hooks"),
                json!({"scheme": "github"}),
            )
            .await?;
        let text = |field: &str| hook[field].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            url,
            hook: text("hook_id"),
            secret: text("secret"),
            hook_url: text("url"),
            work,
            before: "0".repeat(40),
            after: "0".repeat(40),
            deliveries: 0,
        })
    }

    /// From now on, production is rolled out as a canary.
    pub(crate) fn production_by_canary(&self) -> anyhow::Result<()> {
        let path = self.work.join(".slipway.yml");
        let text = std::fs::read_to_string(&path)?;
        let canary = "strategy: canary\n      steps:\n        - { weight: 10, bake: 60s }\n        - { weight: 50, bake: 20s }\n        - { weight: 100 }\n      watch: 10s";
        let changed = text.replace("strategy: blue-green\n      watch: 3s", canary);
        ensure!(
            changed != text,
            "the sample pipeline has no blue-green production"
        );
        std::fs::write(path, changed)?;
        Ok(())
    }

    /// Commits and pushes a version; version 3 has a health check that fails, version 4 fails one
    /// request in twenty.
    pub(crate) fn push(&mut self, version: &str) -> anyhow::Result<String> {
        let mut app = FILES[0]
            .1
            .replace("VERSION = \"1\"", &format!("VERSION = \"{version}\""));
        if version == "3" {
            app = app.replace("return 200, {\"ok\": True}", "return 500, {\"ok\": False}");
        }
        if version == "4" {
            app = app.replace(
                "        status, body = page(self.path)\n",
                "        status, body = page(self.path)\n        if self.path == \"/\":\n            Handler.count = getattr(Handler, \"count\", 0) + 1\n            if Handler.count % 20 == 10:\n                status, body = 500, {\"error\": \"one in twenty\"}\n",
            );
        }
        std::fs::write(self.work.join("app.py"), app)?;
        git(&self.work, &["add", "-A"])?;
        git(
            &self.work,
            &["commit", "-q", "-m", &format!("version {version}")],
        )?;
        git(&self.work, &["push", "-q", "origin", "main"])?;
        let sha = git(&self.work, &["rev-parse", "HEAD"])?;
        self.before = std::mem::replace(&mut self.after, sha.clone());
        Ok(sha)
    }

    /// Delivers the signed webhook of the last push, as a code host would.
    pub(crate) async fn deliver(&mut self, stage: &Stage) -> anyhow::Result<String> {
        self.deliveries += 1;
        let body = json!({
            "ref": "refs/heads/main", "before": self.before, "after": self.after,
            "repository": {"id": 1, "full_name": "demo/shop"},
            "head_commit": {"id": self.after, "message": "a new version"},
            "sender": {"id": 7, "login": "ada"},
        })
        .to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes())?;
        mac.update(body.as_bytes());
        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        let headers = vec![
            ("x-github-event", "push".to_owned()),
            ("x-github-delivery", format!("demo-{}", self.deliveries)),
            ("x-hub-signature-256", signature),
            ("content-type", "application/json".to_owned()),
        ];
        let (status, answer) = stage
            .deliver(&self.hook_url, headers, body.into_bytes())
            .await?;
        ensure!(status == 202, "the webhook was answered {status}: {answer}");
        Ok(answer["delivery"].as_str().unwrap_or_default().to_owned())
    }

    /// Whether the image registry has the image under its digest.
    pub(crate) async fn check_in_registry(&self, stage: &Stage, image: &str) -> anyhow::Result<()> {
        let (name, digest) = image.split_once('@').context("the build has no image")?;
        let repository = name.split_once('/').context("the image has no registry")?.1;
        let url = format!(
            "http://{}/v2/{repository}/manifests/{digest}",
            stage.registry
        );
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.v2+json";
        let response = reqwest::Client::new()
            .get(url)
            .header("accept", accept)
            .send()
            .await?;
        ensure!(
            response.status().is_success(),
            "the registry answers {}",
            response.status()
        );
        Ok(())
    }
}
