//! One contract for whoever starts machines, executed on the fake and on the adapters that need nothing
//! but this host. (Containers and pods have theirs where their engines are.)

mod called;
mod pods;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use slipway_dispatcher::config::FleetConfig;
use slipway_dispatcher::fleet::contract::{keeps_the_contract, order};
use slipway_dispatcher::fleet::exec::Program;
use slipway_dispatcher::fleet::fake::FakeProvider;
use slipway_dispatcher::fleet::process::{Processes, end_all};
use slipway_dispatcher::fleet::{FleetProvider as _, Target};

pub(crate) fn config(dir: &Path) -> FleetConfig {
    FleetConfig {
        directory: dir.to_owned(),
        dispatcher: "https://127.0.0.1:1".to_owned(),
        // Something that lives until it is asked to end, as an agent does.
        command: [
            "/bin/sh",
            "-c",
            "trap 'exit 0' TERM; while :; do sleep 0.05; done",
            "agent",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..FleetConfig::default()
    }
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("good");
    let fake = FakeProvider::default();
    keeps_the_contract(&fake, &fake.clone(), &config(dir.path())).await;
}

#[tokio::test]
async fn processes_keep_the_contract() {
    let dir = tempfile::tempdir().expect("good");
    let config = config(dir.path());
    let processes = || Processes::new(&config, "contract").expect("good");
    keeps_the_contract(&processes(), &processes(), &config).await;
    let left = std::fs::read_dir(dir.path().join("contract")).expect("good");
    assert_eq!(left.count(), 0, "folders of machines that are gone");
}

#[tokio::test]
async fn the_join_token_is_in_a_file_of_ours_alone_and_in_no_argument() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("good");
    let config = config(dir.path());
    let processes = Processes::new(&config, "contract").expect("good");
    let order = order(&config, 1);
    let name = processes.start(&order).await.expect("good");
    let file = dir
        .path()
        .join("contract")
        .join(order.agent.as_str())
        .join("agent.toml");
    assert!(
        std::fs::read_to_string(&file)
            .expect("good")
            .contains("slpj_secret")
    );
    assert_eq!(
        file.metadata().expect("good").permissions().mode() & 0o777,
        0o600
    );
    let pid = name.split(' ').nth(1).expect("good");
    for file in ["cmdline", "environ"] {
        let text = std::fs::read(format!("/proc/{pid}/{file}")).expect("good");
        assert!(!String::from_utf8_lossy(&text).contains("slpj_"), "{file}");
    }
    assert!(!format!("{order:?}").contains("slpj_"), "it is not shown");
    end_all(&config, Duration::from_secs(10)).await;
    assert!(processes.list().await.expect("good").machines.is_empty());
}

#[tokio::test]
async fn a_process_that_ended_by_itself_is_reaped_and_not_listed() {
    let dir = tempfile::tempdir().expect("good");
    let mut config = config(dir.path());
    config.command = vec!["/bin/true".to_owned()];
    let processes = Processes::new(&config, "contract").expect("good");
    let order = order(&config, 1);
    let name = processes.start(&order).await.expect("good");
    let pid = name.split(' ').nth(1).expect("good");
    let gone = tokio::time::timeout(Duration::from_secs(10), async {
        while Path::new(&format!("/proc/{pid}")).exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    gone.await.expect("a zombie");
    assert!(processes.list().await.expect("good").machines.is_empty());
    config.command = vec!["/nowhere/slipway".to_owned()];
    let broken = Processes::new(&config, "contract").expect("good");
    let error = broken.start(&order).await.expect_err("refused").to_string();
    assert!(error.contains("/nowhere/slipway"), "{error}");
}

/// A program that keeps its machines as files.
fn script(dir: &Path, body: &str) -> String {
    let path = dir.join("machines.sh");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o755)
        .open(&path)
        .expect("good");
    file.write_all(body.as_bytes()).expect("good");
    path.display().to_string()
}

const MACHINES: &str = r#"#!/bin/sh
set -eu
dir=$(dirname "$0")/machines
mkdir -p "$dir"
question=$(cat)
field() { printf '%s' "$question" | sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'; }
agent=$(field agent_id)
case $1 in
start) touch "$dir/$agent"; printf '{"machine": "vm-%s"}' "$agent" ;;
stop) rm -f "$dir/$agent"; printf '{}' ;;
list)
    all=''
    for file in "$dir"/*; do
        [ -e "$file" ] || continue
        name=$(basename "$file")
        all="$all${all:+,}{\"agent_id\": \"$name\", \"machine\": \"vm-$name\"}"
    done
    printf '{"machines": [%s], "complete": true}' "$all" ;;
esac
"#;

#[tokio::test]
async fn a_program_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("good");
    let program = script(dir.path(), MACHINES);
    let provider = || Program::new(&program, "here", "contract");
    keeps_the_contract(&provider(), &provider(), &config(dir.path())).await;
}

#[tokio::test]
async fn a_program_that_fails_hangs_or_talks_without_end_is_an_error_and_nothing_else() {
    let dir = tempfile::tempdir().expect("good");
    let limit = Duration::from_millis(1_500);
    for (body, words) in [
        ("#!/bin/sh\necho no capacity >&2; exit 3\n", "no capacity"),
        ("#!/bin/sh\nsleep 600 & wait\n", "no answer within"),
        ("#!/bin/sh\nyes\n", "more than"),
        ("#!/bin/sh\necho nonsense\n", "cannot be read"),
    ] {
        let program = script(dir.path(), body);
        let error = Program::new(&program, "here", "contract")
            .within(limit)
            .list()
            .await
            .expect_err("refused")
            .to_string();
        assert!(error.contains(words), "{body}: {error}");
    }
    let stop = Program::new("/nowhere", "here", "contract");
    assert!(stop.stop(&Target::default()).await.is_err());
}
