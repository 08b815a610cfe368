//! The container engine goes away under running stages, and comes back. These tests have an engine of their
//! own, in a network namespace of its own, because the others need theirs.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use slipway_proto::v1;
use slipway_proto::v1::agent_message::Message as Said;

use crate::harness::{World, docker, eventually};

/// Prints a number every tenth of a second until the folder has a file `go`.
const COUNTS: &str =
    "n=0; while [ ! -e go ]; do n=$((n+1)); echo line $n; sleep 0.1; done; echo last $n";

/// Whether an engine of its own can be started here.
fn own_engine() -> bool {
    let root = run("id", &["-u"]).trim() == "0";
    if !root {
        eprintln!("skipped: an engine of its own needs root");
    }
    root && docker()
}

struct Engine {
    folder: tempfile::TempDir,
    namespace: String,
    settings: &'static str,
    process: Option<Child>,
}

/// How an engine goes.
#[derive(Clone, Copy, PartialEq)]
enum Goes {
    /// As `systemctl restart` does it.
    Gracefully,
    /// As a crash does it.
    Killed,
}

impl Engine {
    async fn start(settings: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy();
        let namespace = format!("slipway{}", name.replace('.', "-"));
        run("ip", &["netns", "add", &namespace]);
        let mut engine = Self {
            folder,
            namespace,
            settings,
            process: None,
        };
        engine.begin().await;
        let image = engine.folder.path().join("image.tar");
        let image = image.to_str().unwrap();
        run("docker", &["save", "-o", image, "slipway-busybox:1"]);
        engine.docker(&["load", "-q", "-i", image]);
        engine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn address(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    fn docker(&self, args: &[&str]) -> String {
        let address = self.address();
        run("docker", &[&["-H", &address], args].concat())
    }

    async fn begin(&mut self) {
        let config = self.path("daemon.json");
        std::fs::write(&config, self.settings).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("dockerd.log"))
            .unwrap();
        let dockerd = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .arg("dockerd")
            .args(["-H", &self.address()])
            .arg("--config-file")
            .arg(&config)
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--pidfile")
            .arg(self.path("docker.pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(dockerd);
        let address = self.address();
        eventually("the engine answers", || {
            let version = Command::new("docker")
                .args(["-H", &address, "version"])
                .output();
            version.is_ok_and(|out| out.status.success())
        })
        .await;
    }

    async fn go(&mut self, how: Goes) {
        let mut process = self.process.take().unwrap();
        match how {
            Goes::Killed => process.kill().unwrap(),
            Goes::Gracefully => {
                run("kill", &["-TERM", &process.id().to_string()]);
            }
        }
        eventually("the engine is gone", || {
            process.try_wait().unwrap().is_some()
        })
        .await;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.process.is_some() {
            let address = self.address();
            let list = ["-H", &address, "ps", "-aq"];
            let listed = Command::new("docker").args(list).output();
            let listed = listed.map(|out| out.stdout).unwrap_or_default();
            for id in String::from_utf8_lossy(&listed).split_whitespace() {
                let remove = ["-H", &address, "rm", "-f", id];
                let _removed = Command::new("docker").args(remove).output();
            }
        }
        if let Some(process) = &mut self.process {
            let _asked = Command::new("kill")
                .args(["-TERM", &process.id().to_string()])
                .status();
            let _reaped = process.wait();
        }
        let delete = ["netns", "delete", &self.namespace];
        let _deleted = Command::new("ip").args(delete).output();
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

async fn world(engine: &Engine) -> World {
    let mut world = World::new(&[]).await;
    let socket = engine.path("docker.sock");
    world.settings = format!("docker = \"{}\"\n", socket.display());
    world.start_agent().await;
    world
}

fn numbers(log: &str) -> Vec<u32> {
    log.lines()
        .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
        .collect()
}

/// Whether the lines are 1, 2, 3 … to the last, each once.
fn assert_whole(log: &str) {
    let numbers = numbers(log);
    let last = log.lines().find_map(|line| line.strip_prefix("last "));
    let last: u32 = last.expect("it was printed to its end").parse().unwrap();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "{log}");
}

async fn lines(world: &World, key: &v1::AttemptRef, least: usize) {
    eventually("more lines", || {
        let log = world.talk.dispatcher.log(key);
        log.matches("line ").count() > least
    })
    .await;
}

/// The engine goes under a running stage and comes back, with `live-restore`.
async fn a_stage_goes_on(how: Goes) {
    let mut engine = Engine::start(r#"{"live-restore": true}"#).await;
    let mut world = world(&engine).await;
    let key = world.assign(&[COUNTS], |_, _| {}).await;
    lines(&world, &key, 5).await;
    engine.go(how).await;
    // It goes on, and nobody reads what it prints.
    let folder = world.workspace(&key);
    let before = world.talk.dispatcher.log(&key).matches("line ").count();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    engine.begin().await;
    lines(&world, &key, before + 20).await;
    std::fs::write(folder.join("go"), "").unwrap();
    let result = world.result(&key).await;
    assert_eq!((result.ending(), result.exit_code), (v1::Ending::Exited, 0));
    let log = world.log_closed(&key).await;
    assert_whole(&log);
}

#[tokio::test]
async fn a_stage_goes_on_while_its_engine_is_restarted_and_no_line_is_lost() {
    if own_engine() {
        a_stage_goes_on(Goes::Gracefully).await;
    }
}

#[tokio::test]
async fn a_stage_goes_on_while_its_engine_is_killed_and_started_again_and_no_line_is_lost() {
    if own_engine() {
        a_stage_goes_on(Goes::Killed).await;
    }
}

#[tokio::test]
async fn a_stage_that_ends_while_its_engine_is_away_has_its_own_exit_code_and_says_what_was_not_seen()
 {
    if !own_engine() {
        return;
    }
    let mut engine = Engine::start(r#"{"live-restore": true}"#).await;
    let mut world = world(&engine).await;
    let key = world.assign(&[COUNTS, "exit 7"], |_, _| {}).await;
    lines(&world, &key, 5).await;
    engine.go(Goes::Killed).await;
    std::fs::write(world.workspace(&key).join("go"), "").unwrap();
    let name = format!("{}-{}", key.stage_id, key.attempt).to_lowercase();
    eventually("the stage has ended", || {
        let found = Command::new("pgrep").args(["-f", "[n]=0; while"]).output();
        found.is_ok_and(|out| out.stdout.is_empty())
    })
    .await;
    engine.begin().await;
    let result = world.result(&key).await;
    assert_eq!((result.ending(), result.exit_code), (v1::Ending::Exited, 7));
    let log = world.log_closed(&key).await;
    // Docker gives up what a container printed that ended unseen; that is said, and nothing else is lost.
    assert!(
        log.contains("the container engine was away when the stage ended"),
        "{log}"
    );
    let numbers: Vec<u32> = numbers(&log);
    assert!(numbers.len() >= 5, "{log}");
    assert_eq!(
        numbers,
        (1..=numbers.len() as u32).collect::<Vec<_>>(),
        "{log}"
    );
    eventually("its container is removed", || {
        !engine
            .docker(&["ps", "-a", "--format", "{{.Names}}"])
            .contains(&name)
    })
    .await;
}

/// The engine takes its containers with it.
async fn a_stage_is_lost(how: Goes) {
    let mut engine = Engine::start("{}").await;
    let mut world = world(&engine).await;
    let key = world.assign(&[COUNTS], |_, _| {}).await;
    lines(&world, &key, 5).await;
    engine.go(how).await;
    engine.begin().await;
    let result = world.result(&key).await;
    assert_eq!(
        (result.ending(), result.reason.as_str()),
        (v1::Ending::Aborted, "sandbox"),
        "the host's doing is not the user's failure"
    );
    assert!(result.detail.contains("live-restore"), "{}", result.detail);
    let hellos = || world.talk.dispatcher.with(|inner| inner.hellos.len());
    eventually("the agent says anew what it can", || hellos() > 1).await;
    let next = world.assign(&["true"], |_, _| {}).await;
    let result = world.result(&next).await;
    assert_eq!(result.exit_code, 0, "{}", result.detail);
}

#[tokio::test]
async fn a_stage_whose_engine_ends_it_by_restarting_is_lost_and_has_not_failed() {
    if own_engine() {
        a_stage_is_lost(Goes::Gracefully).await;
    }
}

#[tokio::test]
async fn a_stage_whose_engine_crashed_and_kept_nothing_is_lost_and_has_not_failed() {
    if own_engine() {
        a_stage_is_lost(Goes::Killed).await;
    }
}

#[tokio::test]
async fn while_its_engine_is_away_an_agent_takes_nothing_and_afterwards_says_anew_what_it_can() {
    if !own_engine() {
        return;
    }
    let mut engine = Engine::start(r#"{"live-restore": true}"#).await;
    let mut world = world(&engine).await;
    engine.go(Goes::Killed).await;
    eventually("the agent has seen it", || {
        world.agent_log().contains("the container engine is away")
    })
    .await;
    let key = world.assign(&["true"], |_, _| {}).await;
    let reason = world
        .hear(|said| match said {
            Said::Declined(declined) if declined.attempt.as_ref() == Some(&key) => {
                Some(declined.reason.clone())
            }
            _ => None,
        })
        .await;
    assert_eq!(reason, "sandbox");
    engine.begin().await;
    world
        .hear(|said| match said {
            Said::Hello(hello) => {
                let facts = hello.facts.clone().unwrap_or_default();
                (!facts.engine_version.is_empty()).then_some(())
            }
            _ => None,
        })
        .await;
    let key = world.assign(&["true"], |_, _| {}).await;
    assert_eq!(world.result(&key).await.exit_code, 0);
}

#[tokio::test]
async fn a_stage_that_is_cancelled_while_its_engine_is_away_ends_when_it_is_back() {
    if !own_engine() {
        return;
    }
    let mut engine = Engine::start(r#"{"live-restore": true}"#).await;
    let mut world = world(&engine).await;
    let key = world.assign(&[COUNTS], |_, _| {}).await;
    lines(&world, &key, 3).await;
    engine.go(Goes::Killed).await;
    let cancel = v1::Cancel {
        attempt: Some(key.clone()),
        grace_ms: 1_000,
    };
    let told = slipway_proto::v1::dispatcher_message::Message::Cancel(cancel);
    world.talk.dispatcher.tell(told).await;
    engine.begin().await;
    let result = world.result(&key).await;
    assert_eq!(result.ending(), v1::Ending::Cancelled);
}
