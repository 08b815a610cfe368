//! What a release left behind goes on with today's: its database is brought to today's schema, what waited is
//! decided and executed, and what had ended is as it was.
//!
//! A history is recorded by `SLIPWAY_RECORD=<version> cargo test -p slipway-tests --test e2e history`, once per
//! release, and never edited.

use std::path::{Path, PathBuf};

use slipway_store::{Db, Settings, conformance::left};
use slipway_tests::{Postgres, Repository, eventually, require};

use crate::ZERO;
use crate::crash::SOON;
use crate::place::Place;
use crate::rollout::docker;

/// Short stages of which the second needs what the first made.
const SHORT: &str = "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n  make:\n    commands: [sleep 2, echo made > made]\n    artifacts: { paths: [made] }\n  look:\n    needs: [make]\n    commands: [grep made made]\n";

/// The commits of every recording, made again with today's git: which repository, and what its file says.
const COMMITS: [(&str, &str); 4] = [
    ("shop", "ended"),
    ("shop", "held"),
    ("shop", "queued"),
    ("away", "undecided"),
];

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/history")
}

/// A repository of the recording, with its commits so far.
fn push(repository: &Repository, name: &str) -> String {
    repository.write(".slipway.yml", SHORT);
    repository.write("name", name);
    repository.push(name)
}

/// What differs from one place to the next, and its name in a recording.
fn names(files: &Path, commits: &[String]) -> Vec<(String, String)> {
    let folder = (files.display().to_string(), "{FOLDER}".to_owned());
    let commits = (1..).zip(commits);
    let commits = commits.flat_map(|(n, sha)| {
        let bytes = hex::encode_upper(sha);
        [
            (sha.clone(), format!("{{COMMIT_{n}}}")),
            (bytes, format!("{{COMMIT_{n}_BYTES}}")),
        ]
    });
    std::iter::once(folder).chain(commits).collect()
}

/// An installation in which a build ended, one is held by an agent, one waits, and one delivery is undecided.
async fn record(version: &str) {
    let mut place = Place::sqlite().await;
    place.start_dispatcher().await;
    let agent = place.start_agent("agent-a").await;
    let shop = Repository::create(place.dir(), "shop");
    let away = Repository::create(place.dir(), "away");
    let mut hooks = Vec::new();
    for repository in [&shop, &away] {
        let repo = place.rest.add_repository(&repository.url).await;
        let repo = repo.expect("registered");
        let hook = place.rest.add_hook(&repo, "github").await;
        hooks.push(hook.expect("made"));
    }
    let mut commits = Vec::new();
    let mut builds = Vec::new();
    for (name, until) in [("ended", "ended"), ("held", "running"), ("queued", "")] {
        let sha = push(&shop, name);
        let body = hooks[0].push_body(ZERO, &sha);
        let sent = hooks[0].deliver(&place.rest, name, body).await;
        assert_eq!(sent.expect("sent").status, 202);
        let row = place.rest.decided(&hooks[0], name, SOON).await;
        let build = row.expect("decided")["build_id"]
            .as_str()
            .map(str::to_owned);
        let build = build.expect("built");
        match until {
            "ended" => {
                let ended = place.rest.build_ended(&build, SOON).await;
                assert_eq!(ended.expect("ended")["status"], "passed");
            }
            "running" => {
                let held = place.rest.stage_is(&build, "make", "running", SOON).await;
                held.expect("held");
                place.agent(agent).kill();
            }
            _ => {}
        }
        commits.push(sha);
        builds.push(build);
    }
    // Nobody can read it now.
    commits.push(push(&away, "undecided"));
    let bare = place.dir().join("away.git");
    std::fs::rename(&bare, place.dir().join("hidden.git")).expect("renamed");
    let body = hooks[1].push_body(ZERO, &commits[3]);
    let sent = hooks[1].deliver(&place.rest, "undecided", body).await;
    assert_eq!(sent.expect("sent").status, 202);
    let names = names(place.dir(), &commits);
    let text = place
        .stop_and_open(async |db| {
            let sealed = "UPDATE hooks SET webhook_secret = X'00'";
            let forgotten = slipway_store::conformance::tamper(&db, sealed).await;
            forgotten.expect("forgotten");
            let (schema, rows) = left::recorded(&db).await.expect("readable");
            format!("-- schema {schema}\n{rows}")
        })
        .await;
    let text = names
        .iter()
        .fold(text, |text, (is, was)| text.replace(is, was));
    std::fs::create_dir_all(recordings()).expect("a folder");
    let file = recordings().join(format!("{version}.sql"));
    std::fs::write(file, text).expect("written");
}

/// A build as it stands, and its stages: name, state, attempt.
#[derive(Debug, PartialEq)]
struct Stands {
    build: String,
    status: String,
    stages: Vec<(String, String, i64)>,
}

async fn builds(db: &Db) -> Vec<Stands> {
    let all = slipway_store::BuildFilter {
        limit: 100,
        ..slipway_store::BuildFilter::default()
    };
    let mut seen = Vec::new();
    for build in db.builds(&all).await.expect("readable") {
        let id = build.build_id.parse().expect("an id");
        let stages = db.stages(&id).await.expect("readable");
        let stages = stages
            .into_iter()
            .map(|s| (s.stage_name, s.state, s.attempt))
            .collect();
        seen.push(Stands {
            build: build.build_id,
            status: build.status,
            stages,
        });
    }
    seen
}

/// The ids of a recording are always the same: a replay that was killed must not stand in the next one's way.
async fn clear(db: &Db) {
    for build in builds(db).await {
        let id = build.build.parse().expect("an id");
        for stage in db.stages(&id).await.expect("readable") {
            let filter = format!("label=slipway.stage={}", stage.stage_id);
            for left in docker(&["ps", "-aq", "--filter", &filter], "").lines() {
                docker(&["rm", "-f", left], "");
            }
        }
    }
}

/// Today's processes over that database.
async fn replay(recording: &Path, mut place: Place, before: &[Stands]) {
    place.start_dispatcher().await;
    place.start_agent("agent-today").await;
    let name = recording.display();
    let all = eventually("all that waited has passed", 2 * SOON, || async {
        let list = place.rest.get("/builds?limit=100").await.ok()?;
        let list = list["items"].as_array()?;
        let passed = list.iter().filter(|b| b["status"] == "passed").count();
        (list.len() == COMMITS.len() && passed == list.len()).then_some(())
    });
    all.await.unwrap_or_else(|e| panic!("{name}: {e}"));
    place
        .stop_and_open(async |db| {
            let after = builds(&db).await;
            for ended in before.iter().filter(|build| build.status == "passed") {
                assert!(after.contains(ended), "{name}: it was {ended:?}");
            }
            assert_eq!(db.verify_audit().await.expect("readable"), None, "{name}");
            assert!(db.queue().await.expect("readable").is_empty(), "{name}");
        })
        .await;
}

/// The version that is to be recorded, when one is.
#[expect(
    clippy::disallowed_methods,
    reason = "asked of the person who makes a release; no setting of a role"
)]
fn wanted() -> Option<String> {
    std::env::var("SLIPWAY_RECORD").ok()
}

#[tokio::test]
async fn history_replay_fixtures() {
    if require("docker").is_none() {
        return;
    }
    slipway_daemon::start::install_crypto();
    if let Some(version) = wanted() {
        record(&version).await;
    }
    let mut replayed = 0;
    for recording in std::fs::read_dir(recordings())
        .expect("recordings")
        .flatten()
    {
        let recording = recording.path();
        let text = std::fs::read_to_string(&recording).expect("text");
        let schema = text
            .lines()
            .next()
            .and_then(|l| l.strip_prefix("-- schema "));
        let schema: i64 = schema.and_then(|n| n.parse().ok()).expect("its schema");
        let server = Postgres::start();
        for engine in ["sqlite", "postgres"] {
            let folder = tempfile::tempdir().expect("a folder");
            let files = folder.path();
            let repositories = ["shop", "away"].map(|name| Repository::create(files, name));
            let commits: Vec<String> = COMMITS
                .iter()
                .map(|(of, name)| push(&repositories[usize::from(*of == "away")], name))
                .collect();
            let names = names(files, &commits);
            let text = text.clone();
            let rows = names
                .iter()
                .fold(text, |text, (is, was)| text.replace(was, is));
            let data = files.join("dispatcher");
            std::fs::create_dir_all(&data).expect("a folder");
            let settings = match (engine, &server) {
                ("sqlite", _) => Settings::Sqlite(data.join("slipway.db")),
                (_, Some(server)) => Settings::Postgres(server.database("slipway")),
                _ => continue,
            };
            let made = left::as_left(&settings, schema, &rows).await;
            made.unwrap_or_else(|e| panic!("{}: {e}", recording.display()));
            let place = Place::over(files, settings).await;
            let db = place.db().await;
            let before = builds(&db).await;
            clear(&db).await;
            db.close().await;
            assert!(!before.is_empty());
            replay(&recording, place, &before).await;
            replayed += 1;
        }
    }
    assert!(replayed > 0, "no history is recorded");
}
