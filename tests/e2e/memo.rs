//! A stage whose inputs were executed before is recalled: through real processes, real containers, and a
//! dispatcher that is killed in between.

use std::time::Duration;

use serde_json::{Value, json};
use slipway_docker::Engine;
use slipway_tests::{Repository, Rest, eventually};

use crate::caches::host;
use crate::place::Place;

const LIMIT: Duration = Duration::from_secs(120);

/// `make` leaves something else each time it is executed, so that a recall can be told from a repetition.
const PIPELINE: &str = "version: 1\non:\n  push:\ndefaults:\n  image: IMAGE\nstages:\n  make:\n    labels: {host: a}\n    memoize: {inputs: [\"src/**\"]}\n    commands:\n      - cat src/in /proc/sys/kernel/random/uuid > made\n      - echo made $(cat made)\n    artifacts: {paths: [\"=made\"]}\n  use:\n    needs: [make]\n    labels: {host: b}\n    memoize: {inputs: [\"tests/**\"]}\n    commands:\n      - grep -q . made\n      - test -z \"$(env | grep _SHA=)\"\n  tell:\n    commands:\n      - sh version.sh\n";

/// A busybox by its digest: what a tag means can move.
async fn pinned() -> String {
    let engine = Engine::connect(None).expect("an engine");
    let image = engine.inspect_image("slipway-busybox:1").await;
    let image = image.expect("made by tests/images.sh");
    let digest = image.digest_in("slipway-busybox");
    format!(
        "slipway-busybox@{}",
        digest.expect("the containerd store keeps digests")
    )
}

struct Story {
    place: Place,
    repository: Repository,
    repo_url: String,
}

impl Story {
    async fn begin() -> Self {
        let mut place = Place::sqlite().await;
        place.start_dispatcher().await;
        let _daemons = (host(&mut place, "a").await, host(&mut place, "b").await);
        let repository = Repository::create(place.dir(), "shop");
        let pipeline = PIPELINE.replace("IMAGE", &pinned().await);
        repository.write(".slipway.yml", &pipeline);
        repository.write("src/in", "one\n");
        repository.write(
            "version.sh",
            "# prints it\necho version \"$CI_COMMIT_SHA\"\n",
        );
        let repo_url = repository.url.clone();
        place.rest.add_repository(&repo_url).await.expect("added");
        Self {
            place,
            repository,
            repo_url,
        }
    }

    fn rest(&self) -> &Rest {
        &self.place.rest
    }

    async fn build(&self, commit: &str, no_cache: bool) -> Value {
        let body = json!({"repo_url": self.repo_url, "commit_sha": commit, "no_cache": no_cache});
        let started = self.rest().post("/builds", body).await.expect("started");
        let id = started["build_id"].as_str().expect("an id");
        let ended = self.rest().build_ended(id, LIMIT).await.expect("ended");
        assert_eq!(ended["status"], "passed", "{ended:#}");
        ended
    }

    async fn made(&self, build: &Value) -> Vec<u8> {
        let url = build["artifact_urls"][0].as_str().expect("an artifact");
        let path = url.strip_prefix("/api/v1").expect("ours");
        let answer = self.rest().call(reqwest::Method::GET, path, None).await;
        let answer = answer.expect("answered");
        assert_eq!(answer.status, 200);
        answer.text.into_bytes()
    }

    async fn log(&self, build: &Value, stage: &str) -> Vec<String> {
        let id = build["build_id"].as_str().expect("an id");
        let path = format!("/builds/{id}/logs?stage={stage}");
        let found = self.rest().get(&path).await.expect("readable");
        let lines = found["logs"].as_array().expect("lines");
        let text = |line: &Value| line["message"].as_str().unwrap_or_default().to_owned();
        lines.iter().map(text).collect()
    }
}

fn stage<'a>(build: &'a Value, name: &str) -> &'a Value {
    let stages = build["stages"].as_array().expect("stages");
    let found = stages.iter().find(|s| s["stage_name"] == name);
    found.expect("a stage of this name")
}

fn recalled(build: &Value) -> Vec<&str> {
    let names = ["make", "use", "tell"];
    let was = |name: &&str| {
        let stage = stage(build, name);
        let recalled = stage["recalled"] == true;
        assert_eq!(recalled, stage["attempt"] == 0, "no attempt: {stage:#}");
        recalled
    };
    names.into_iter().filter(was).collect()
}

fn why(build: &Value, name: &str) -> String {
    let memo = stage(build, name)["memo"].as_str();
    memo.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_was_executed_before_is_recalled_and_what_depends_on_a_change_is_not() {
    let mut story = Story::begin().await;
    let first_commit = story.repository.push("first");
    let first = story.build(&first_commit, false).await;
    assert_eq!(recalled(&first), [""; 0], "{first:#}");
    assert!(why(&first, "make").contains("never seen"), "{first:#}");

    let same = story.build(&first_commit, false).await;
    assert_eq!(recalled(&same), ["make", "use", "tell"], "{same:#}");
    assert_eq!(same["stages_recalled"], 3);
    assert_eq!(same["cache"]["moved_bytes"], 0);
    let reused = first["cache"]["reused_bytes"].as_u64();
    assert!(
        reused.is_some_and(|reused| reused > 0),
        "what `make` left is there for `use`: {first:#}"
    );
    assert_eq!(story.made(&same).await, story.made(&first).await);
    let (before, after) = (
        story.log(&first, "make").await,
        story.log(&same, "make").await,
    );
    let from = first["build_id"].as_str().expect("an id");
    assert!(
        after[0].contains("recalled, not executed") && after[0].contains(from),
        "{after:?}"
    );
    assert_eq!(after[1..], before);

    story.repository.write("docs/readme", "a line\n");
    let docs_commit = story.repository.push("docs");
    let docs = story.build(&docs_commit, false).await;
    assert_eq!(recalled(&docs), ["make", "use"], "{docs:#}");
    let told = why(&docs, "tell");
    assert!(
        told.contains("CI_COMMIT_SHA, named by version.sh:2"),
        "{told}"
    );
    let said = story.log(&docs, "tell").await;
    assert!(said.contains(&format!("version {docs_commit}")), "{said:?}");

    story.repository.write("src/in", "two\n");
    let source_commit = story.repository.push("source");
    let source = story.build(&source_commit, false).await;
    assert_eq!(recalled(&source), [""; 0], "{source:#}");
    let told = why(&source, "make");
    assert!(told.ends_with(": inputs"), "{told}");

    let fresh = story.build(&source_commit, true).await;
    assert_eq!(recalled(&fresh), [""; 0]);
    let told = why(&fresh, "make");
    assert!(
        told.contains("not reproducible") && told.contains("made"),
        "{told}"
    );

    // Records outlive a dispatcher, and daemons tell the next one what they hold.
    story.place.kill_dispatcher();
    story.place.start_dispatcher().await;
    let rest = story.rest();
    let back = eventually("both agents are back", LIMIT, || async {
        let agents = rest.get("/agents").await.ok()?;
        let connected = |a: &&Value| a["connected"] == true;
        let count = agents.as_array()?.iter().filter(connected).count();
        (count == 2).then_some(())
    });
    back.await.expect("back");
    let again = story.build(&first_commit, false).await;
    assert!(recalled(&again).contains(&"tell"), "{again:#}");
}
