//! `remote_cache` of a stage: tools of real stages find what stages before them left, through real processes,
//! real containers and the host's packet filter.

use std::time::Duration;

use serde_json::{Value, json};
use slipway_tests::{Repository, eventually};

use crate::place::Place;

const LIMIT: Duration = Duration::from_secs(180);
/// Compiles one file with a compiler cache that begins empty, and says what that asked for.
const COMPILE: &str = "version: 1\non:\n  push:\ndefaults:\n  image: slipway-compiler:1\nstages:\n  make:\n    memoize: false\n    remote_cache: ccache\n    commands:\n      - ccache gcc -O2 -c hello.c\n      - ccache --print-stats | grep remote_storage\n      - echo my token is $SLIPWAY_CACHE_TOKEN\n      - echo $CCACHE_REMOTE_STORAGE | base64 -w 0\n";
/// Each tool's request as `curl` sends it: what is there, then an entry.
const ASK: &str = r#"set -e
url=${SLIPWAY_CACHE_URL:-http://127.0.0.1:9}
each() {
  when=$1
  shift
  for path in /v8/artifacts/0a /v1/cache/0a /ccache/ab/0a /sccache/0/a/0a /cache/0a /bazel/cas/ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73; do
    curl -s -o /dev/null -w "$when $path %{http_code}\n" -H "Authorization: Bearer $SLIPWAY_CACHE_TOKEN" "$@" "$url$path" || true
  done
}
each before
printf content > body
each put -T body
each after
"#;

async fn started(place: &Place, url: &str, commit: &str) -> String {
    let body = json!({"repo_url": url, "commit_sha": commit, "no_cache": true});
    let started = place.rest.post("/builds", body).await.expect("started");
    started["build_id"].as_str().expect("an id").to_owned()
}

async fn log_of(place: &Place, id: &str) -> anyhow::Result<Vec<String>> {
    let path = format!("/builds/{id}/logs?stage=make");
    let found = place.rest.get(&path).await?;
    let lines = found["logs"].as_array().cloned().unwrap_or_default();
    let text = |line: &Value| line["message"].as_str().unwrap_or_default().to_owned();
    Ok(lines.iter().map(text).collect())
}

async fn ended(place: &Place, url: &str, commit: &str) -> (Value, Vec<String>) {
    let id = started(place, url, commit).await;
    let ended = place.rest.build_ended(&id, LIMIT).await.expect("ended");
    let log = log_of(place, &id).await;
    let log = log.unwrap_or_else(|error| panic!("{error}: {ended:#}"));
    (ended, log)
}

async fn passed(place: &Place, url: &str, commit: &str) -> Vec<String> {
    let (ended, log) = ended(place, url, commit).await;
    assert_eq!(ended["status"], "passed", "{ended:#}\n{log:#?}");
    log
}

fn says(log: &[String], text: &str) -> bool {
    log.iter().any(|line| line.contains(text))
}

/// The figure behind a name in what the compiler cache printed.
fn counted(log: &[String], name: &str) -> u64 {
    let line = log
        .iter()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
    line.and_then(|n| n.trim().parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {log:#?}"))
}

async fn place() -> Place {
    let mut place = Place::sqlite().await;
    place.start_dispatcher().await;
    place.start_agent("a").await;
    place
}

#[tokio::test]
async fn a_compiler_cache_in_a_stage_hits_what_an_earlier_build_left() {
    let place = place().await;
    let repository = Repository::create(place.dir(), "shop");
    repository.write(".slipway.yml", COMPILE);
    repository.write("hello.c", "int hello(int x) { return x * 7; }\n");
    let url = repository.url.clone();
    place.rest.add_repository(&url).await.expect("added");
    let commit = repository.push("first");

    let first = passed(&place, &url, &commit).await;
    assert_eq!(counted(&first, "remote_storage_hit"), 0, "{first:#?}");
    assert!(counted(&first, "remote_storage_write") > 0, "{first:#?}");
    assert!(says(&first, "remote cache: 0 hits"), "{first:#?}");
    assert!(says(&first, "to keep"), "{first:#?}");
    let second = passed(&place, &url, &commit).await;
    assert!(counted(&second, "remote_storage_hit") > 0, "{second:#?}");
    assert_eq!(counted(&second, "remote_storage_miss"), 0, "{second:#?}");

    // The token is in no log, in none of its forms.
    for log in [&first, &second] {
        assert!(says(log, "my token is ***"), "{log:#?}");
        let encoded = log.iter().find(|line| line.starts_with("aHR0cDov"));
        assert!(encoded.is_some_and(|line| line.contains("***")), "{log:#?}");
    }

    // Another repository with the same file and the same compiler finds nothing.
    let other = Repository::create(place.dir(), "other");
    other.write(".slipway.yml", COMPILE);
    other.write("hello.c", "int hello(int x) { return x * 7; }\n");
    place.rest.add_repository(&other.url).await.expect("added");
    let theirs = passed(&place, &other.url, &other.push("first")).await;
    assert_eq!(counted(&theirs, "remote_storage_hit"), 0, "{theirs:#?}");
}

/// A pipeline whose one stage executes `ask.sh`, and this.
fn asking(more: &str, then: &str) -> String {
    format!(
        "version: 1\non:\n  push:\ndefaults:\n  image: slipway-toolchain:1\nstages:\n  make:\n    memoize: false\n{more}    commands:\n      - sh ask.sh\n      - {then}\n"
    )
}

fn answers(log: &[String], when: &str) -> Vec<String> {
    let of = |line: &&String| line.starts_with(&format!("{when} /"));
    let status = |line: &String| line.rsplit(' ').next().unwrap_or_default().to_owned();
    log.iter().filter(of).map(status).collect()
}

#[tokio::test]
async fn every_protocol_is_answered_in_a_stage_and_only_a_stage_that_passed_leaves_something() {
    let place = place().await;
    let repository = Repository::create(place.dir(), "shop");
    let url = repository.url.clone();
    place.rest.add_repository(&url).await.expect("added");
    repository.write("ask.sh", ASK);
    let covered = "TN:\nSF:a.c\nDA:1,1\nDA:2,0\nLF:10\nLH:1\nend_of_record\n";
    repository.write("cov.info", covered);
    let mut build = 0;
    let mut push = |more: &str, then: &str| {
        build += 1;
        repository.write(".slipway.yml", &asking(more, then));
        repository.push(&format!("build {build}"))
    };

    let failing = push("    remote_cache: true\n", "exit 3");
    let (end, log) = ended(&place, &url, &failing).await;
    assert_eq!(end["status"], "failed", "{end:#}");
    assert_eq!(answers(&log, "before"), ["404"; 6], "{log:#?}");
    assert_eq!(answers(&log, "after"), ["200"; 6], "its own: {log:#?}");
    assert!(says(&log, "thrown away"), "{log:#?}");

    // The commands went well, and the dispatcher says that the stage did not pass.
    let uncovered = "    remote_cache: true\n    artifacts:\n      reports:\n        coverage: {lcov: cov.info, min: 90}\n";
    let uncovered = push(uncovered, "echo covers cov.info");
    let (end, log) = ended(&place, &url, &uncovered).await;
    assert_eq!(end["status"], "failed", "{end:#}");
    assert_eq!(answers(&log, "before"), ["404"; 6], "{log:#?}");

    let first = push("    remote_cache: true\n", "echo done");
    let log = passed(&place, &url, &first).await;
    assert_eq!(answers(&log, "before"), ["404"; 6], "{log:#?}");
    let put = answers(&log, "put");
    assert_eq!(put, ["202", "200", "201", "201", "201", "200"], "{log:#?}");

    let second = push(
        "    remote_cache: [turborepo]\n",
        "env | cut -d= -f1 | grep -c TURBO_",
    );
    let log = passed(&place, &url, &second).await;
    assert_eq!(answers(&log, "before"), ["200"; 6], "{log:#?}");
    assert!(log.iter().any(|line| line == "3"), "{log:#?}");

    // Not asked for: no address, no token.
    let without = push("", "env | cut -d= -f1 | grep -c SLIPWAY_CACHE || true");
    let (_, log) = ended(&place, &url, &without).await;
    assert_eq!(answers(&log, "before"), ["000"; 6], "{log:#?}");

    // With services it has a network of its own, and the door is there.
    let service = "    remote_cache: true\n    services:\n      beside: {image: \"slipway-busybox:1\", command: [sleep, \"600\"]}\n";
    let served = push(service, "echo done");
    let log = passed(&place, &url, &served).await;
    assert_eq!(answers(&log, "before"), ["200"; 6], "{log:#?}");

    // So it is where nothing outside is reached.
    let inner = format!("    sandbox: strict\n{service}");
    let (_, log) = ended(&place, &url, &push(&inner, "echo done")).await;
    assert_eq!(answers(&log, "before"), ["200"; 6], "{log:#?}");

    // In the strictest sandbox there is no network, and the stage goes on without.
    let strict = push("    remote_cache: true\n    sandbox: strict\n", "echo done");
    let (_, log) = ended(&place, &url, &strict).await;
    assert!(says(&log, "remote cache: not used"), "{log:#?}");
}

/// Says where its door is, asks who else is there, puts an entry, and waits to be told to go on.
const WAIT: &str = r#"set -e
echo at $SLIPWAY_CACHE_URL $SLIPWAY_CACHE_TOKEN
gateway=${SLIPWAY_CACHE_URL#http://}
curl -s -o /dev/null -m 5 -w "host %{http_code}\n" http://${gateway%:*}:$(cat port)/ || true
auth="Authorization: Bearer $SLIPWAY_CACHE_TOKEN"
curl -s -o /dev/null -w "put %{http_code}\n" -H "$auth" -T port $SLIPWAY_CACHE_URL/cache/$(cat key)
while [ ! -e go ]; do sleep 0.1; done
curl -s -o /dev/null -w "late %{http_code}\n" -H "$auth" $SLIPWAY_CACHE_URL/cache/$(cat key)
"#;
/// Knocks at another attempt's door with its own token, and looks behind its own.
const KNOCK: &str = r#"set -e
auth="Authorization: Bearer $SLIPWAY_CACHE_TOKEN"
curl -s -o /dev/null -m 5 -w "theirs %{http_code}\n" -H "$auth" $(cat at)/cache/$(cat key) || true
curl -s -o /dev/null -w "mine %{http_code}\n" -H "$auth" $SLIPWAY_CACHE_URL/cache/$(cat key)
"#;

fn open_doors() -> String {
    let out = std::process::Command::new("nft")
        .args(["list", "set", "inet", "slipway_ci_doors", "four"])
        .output();
    String::from_utf8_lossy(&out.expect("nft").stdout).into_owned()
}

/// A build whose stage has put an entry and waits; where its door is.
async fn waits(place: &Place, repository: &Repository) -> (String, String) {
    repository.write("key", "k");
    repository.write("ask.sh", WAIT);
    let pipeline = asking("    remote_cache: true\n", "echo done");
    repository.write(".slipway.yml", &pipeline);
    let waiting = started(place, &repository.url, &repository.push("waits")).await;
    let put = eventually("it has put something", LIMIT, || async {
        let log = log_of(place, &waiting).await.ok()?;
        says(&log, "put 201").then_some(log)
    });
    let log = put.await.expect("put");
    assert!(
        says(&log, "host 000"),
        "nothing else of this host: {log:#?}"
    );
    let at = log.iter().find_map(|line| line.strip_prefix("at "));
    let (at, token) = at.and_then(|at| at.split_once(' ')).expect("an address");
    assert_eq!(token, "***");
    (waiting, at.to_owned())
}

#[tokio::test]
async fn hostile_a_door_is_for_its_attempt_alone_and_goes_with_it_also_when_its_agent_was_killed() {
    let mut place = place().await;
    let repository = Repository::create(place.dir(), "shop");
    let url = repository.url.clone();
    place.rest.add_repository(&url).await.expect("added");
    // Something of this host's own, on every address that it has.
    let own = std::net::TcpListener::bind("0.0.0.0:0").expect("listens");
    let port = own.local_addr().expect("an address").port();
    repository.write("port", &port.to_string());
    let (waiting, at) = waits(&place, &repository).await;
    // Idle, so that a busy machine keeps no second stage waiting.
    place.start_agent("b").await;
    let its = at.rsplit(':').next().expect("a port").to_owned();
    assert!(
        open_doors().contains(&format!(". {its} ")),
        "{}",
        open_doors()
    );

    let knocking = Repository::create(place.dir(), "knocks");
    place
        .rest
        .add_repository(&knocking.url)
        .await
        .expect("added");
    knocking.write("ask.sh", KNOCK);
    knocking.write("key", "k");
    knocking.write("at", &at);
    knocking.write(
        ".slipway.yml",
        &asking("    remote_cache: true\n", "echo done"),
    );
    let commit = knocking.push("knocks");
    let log = passed(&place, &knocking.url, &commit).await;
    assert!(
        says(&log, "theirs 401") && says(&log, "mine 404"),
        "{log:#?}"
    );

    // The agent dies, and its next life comes back to the stage and to its door.
    place.agent(0).kill();
    place.start_agent("a").await;
    let work = std::fs::read_dir(place.dir().join("a/work")).expect("readable");
    // What the other build left may still be there.
    let mut folders = work.flatten().map(|entry| entry.path());
    let folder = folders.find(|folder| folder.join("port").exists());
    std::fs::write(folder.expect("a workspace").join("go"), "").expect("written");
    let end = place
        .rest
        .build_ended(&waiting, LIMIT)
        .await
        .expect("ended");
    let log = log_of(&place, &waiting).await.expect("readable");
    assert_eq!(end["status"], "passed", "{end:#}\n{log:#?}");
    assert!(says(&log, "late 200") && says(&log, "to keep"), "{log:#?}");
    assert!(says(&log, &format!("at {at} ***")), "{log:#?}");
    assert!(
        !open_doors().contains(&format!(". {its} ")),
        "{}",
        open_doors()
    );
    let log = passed(&place, &knocking.url, &commit).await;
    assert!(says(&log, "theirs 000"), "it is closed: {log:#?}");

    repository.write("ask.sh", KNOCK);
    repository.write("at", &at);
    let log = passed(&place, &url, &repository.push("looks")).await;
    assert!(says(&log, "mine 200"), "it was kept: {log:#?}");
    drop(own);
}
