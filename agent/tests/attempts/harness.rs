//! An agent as a process of its own, a repository, and what a test says to both.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use slipway_proto::v1::agent_message::Message as Said;
use slipway_proto::v1::dispatcher_message::Message as Told;
use slipway_proto::v1::{self, AttemptRef};

use crate::dispatcher::Conversation;

pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) talk: Conversation,
    pub(crate) socket: PathBuf,
    /// Health and metrics; empty = none.
    pub(crate) health: String,
    /// More lines of the settings file.
    pub(crate) settings: String,
    pub(crate) commit: String,
    agent: Option<Child>,
    next: u64,
}

/// Whether there is an engine; a missing one fails the test where it is required.
pub(crate) fn docker() -> bool {
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness says what must be there"
    )]
    let required = std::env::var("SLIPWAY_REQUIRE").unwrap_or_default();
    let there = Path::new("/var/run/docker.sock").exists();
    if !there {
        assert!(
            !required.contains("docker"),
            "docker is required and absent"
        );
        eprintln!("skipped: docker not installed");
    }
    there
}

fn git(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("git")
        .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
        .args(args)
        .env("GIT_AUTHOR_DATE", "1700000000 +0000")
        .env("GIT_COMMITTER_DATE", "1700000000 +0000")
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

impl World {
    pub(crate) async fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repo = folder.path().join("repo");
        std::fs::create_dir_all(&repo).unwrap();
        git(&repo, &["init", "-q", "-b", "main", "."]);
        for (path, text) in files {
            let path = repo.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        git(&repo, &["add", "-A"]);
        git(&repo, &["commit", "-q", "--allow-empty", "-m", "first"]);
        let commit = git(&repo, &["rev-parse", "HEAD"]);
        let talk = crate::dispatcher::serve().await;
        let socket = crate::cache::serve(folder.path());
        Self {
            folder,
            talk,
            socket,
            health: String::new(),
            settings: String::new(),
            commit,
            agent: None,
            next: 0,
        }
    }

    fn repo_url(&self) -> String {
        format!("file://{}", self.folder.path().join("repo").display())
    }

    /// Starts the agent and waits for its hello.
    pub(crate) async fn start_agent(&mut self) {
        let config = self.folder.path().join("agent.toml");
        let text = format!(
            "data_dir = \"{dir}/agent\"\ndispatcher = \"https://{address}\"\njoin_token = \"{join}\"\n\
             cache = \"{socket}\"\nallowed_sources = [\"{url}\"]\nhealth_address = \"{health}\"\nslots = 4\n{settings}",
            dir = self.folder.path().display(),
            address = self.talk.address,
            join = self.talk.dispatcher.join_token(),
            socket = self.socket.display(),
            url = self.repo_url(),
            health = self.health,
            settings = self.settings,
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("agent.log"))
            .unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_slipway-agent"))
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
        self.hear(|said| matches!(said, Said::Hello(_)).then_some(()))
            .await;
    }

    /// What the agent has said on its own terminal.
    pub(crate) fn agent_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default()
    }

    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// Asks the agent to stop, as a service manager does.
    pub(crate) fn terminate_agent(&self) {
        let id = self.agent.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.unwrap().success());
    }

    /// The exit code of an agent that stops by itself.
    pub(crate) async fn agent_exit(&mut self) -> Option<i32> {
        let mut agent = self.agent.take().unwrap();
        let mut ended = None;
        eventually("the agent exits", || {
            ended = agent.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended.and_then(|status| status.code())
    }

    /// The folder that is a stage's `/workspace`.
    pub(crate) fn workspace(&self, key: &AttemptRef) -> PathBuf {
        let name = format!("{}-{}", key.stage_id, key.attempt);
        self.folder.path().join("agent/work").join(name)
    }

    /// Waits for something that the agent says.
    pub(crate) async fn hear<T>(&mut self, pick: impl Fn(&Said) -> Option<T>) -> T {
        let hearing = async {
            loop {
                let said = self.talk.said.recv().await.unwrap();
                if let Some(found) = pick(&said) {
                    return found;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, hearing).await {
            Ok(found) => found,
            Err(_) => {
                panic!("the agent never said it; its log: {}", self.agent_log());
            }
        }
    }

    /// Assigns a stage; `change` edits its spec.
    pub(crate) async fn assign(
        &mut self,
        commands: &[&str],
        change: impl FnOnce(&mut serde_json::Value, &mut v1::Assign),
    ) -> AttemptRef {
        self.next += 1;
        // Unique among concurrent tests, whose containers share one engine.
        let unique = u64::from(std::process::id()) * 1_000 + u64::from(self.talk.address.port());
        let key = AttemptRef {
            stage_id: format!("01ARZ{:016}{:05}", unique, self.next),
            attempt: 1,
        };
        let mut spec = serde_json::json!({
            "name": "stage", "image": "slipway-busybox:1", "commands": commands, "services": [],
            "environment": {}, "caches": [], "artifacts": [], "artifacts_expire_s": null,
            "junit": [], "coverage": [], "timeout_ms": 60_000, "sandbox": "standard",
            "build": null, "clone": {"depth": 1, "submodules": false, "lfs": false},
            "memoize": false
        });
        let mut assign = v1::Assign {
            attempt: Some(key.clone()),
            source: Some(v1::Source {
                repo_url: self.repo_url(),
                commit_sha: self.commit.clone(),
                ref_name: "refs/heads/main".to_owned(),
                depth: 1,
                ..v1::Source::default()
            }),
            lease_ms: 60_000,
            source_date_epoch: 1_700_000_000,
            ..v1::Assign::default()
        };
        change(&mut spec, &mut assign);
        assign.spec_json = spec.to_string();
        self.talk.dispatcher.tell(Told::Assign(assign)).await;
        key
    }

    pub(crate) async fn result(&mut self, key: &AttemptRef) -> v1::Result {
        self.hear(|said| match said {
            Said::Result(result) if result.attempt.as_ref() == Some(key) => Some(result.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn phase(&mut self, key: &AttemptRef, phase: v1::Phase) {
        self.hear(|said| match said {
            Said::Progress(progress) if progress.attempt.as_ref() == Some(key) => {
                (progress.phase() == phase).then_some(())
            }
            _ => None,
        })
        .await;
    }

    pub(crate) async fn log_closed(&self, key: &AttemptRef) -> String {
        let name = (key.stage_id.clone(), key.attempt);
        eventually("the log is closed", || {
            self.talk
                .dispatcher
                .with(|i| i.logs.get(&name).is_some_and(|l| l.closed))
        })
        .await;
        self.talk.dispatcher.log(key)
    }

    pub(crate) async fn containers_gone(&self, key: &AttemptRef) {
        eventually("the container is removed", || containers(key).is_empty()).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _gone = agent.kill();
            let _reaped = agent.wait();
        }
        // It is killed while it cleans up behind its last result.
        let filter = format!("label=slipway.install={}", self.talk.dispatcher.agent_id);
        let list = Command::new("docker")
            .args(["ps", "-aq", "--filter", &filter])
            .output();
        let ids = list.map(|out| out.stdout).unwrap_or_default();
        for id in String::from_utf8_lossy(&ids).split_whitespace() {
            let _removed = Command::new("docker").args(["rm", "-f", id]).output();
        }
        let prune = ["network", "prune", "-f", "--filter", &filter];
        let _removed = Command::new("docker").args(prune).output();
    }
}

pub(crate) fn containers(key: &AttemptRef) -> String {
    of_stage(key, &["ps", "-aq"])
}

pub(crate) fn networks(key: &AttemptRef) -> String {
    of_stage(key, &["network", "ls", "-q"])
}

fn of_stage(key: &AttemptRef, list: &[&str]) -> String {
    let filter = format!("label=slipway.stage={}", key.stage_id);
    let out = Command::new("docker")
        .args(list)
        .args(["--filter", &filter])
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Looks again and again, for as long as a test is patient.
pub(crate) async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let looking = async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, looking).await;
    assert!(seen.is_ok(), "never: {what}");
}
