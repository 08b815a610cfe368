//! I-61: input that brings its handler down is put aside, and nothing else notices.

use std::time::Duration;

use slipway_tests::Cluster;
use slipway_tests::cluster::{FAKE_URL, ONE_STAGE};

const SOON: Duration = Duration::from_secs(60);
const ZERO: &str = "0000000000000000000000000000000000000000";

#[tokio::test]
async fn poison_pill_quarantine() {
    let cluster = Cluster::start().await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.expect("added");
    let hook = cluster.rest.add_hook(&repo, "github").await.expect("made");
    let (poison, good) = (cluster.commit(1, ONE_STAGE), cluster.commit(2, ONE_STAGE));
    cluster.source.set_poison(&poison);
    for (id, sha) in [("poison", &poison), ("good", &good)] {
        let body = hook.push_body(ZERO, sha);
        let taken = hook
            .deliver(&cluster.rest, id, body)
            .await
            .expect("answered");
        assert_eq!(taken.status, 202, "both are authentic");
    }
    let row = cluster.rest.decided(&hook, "good", SOON).await;
    let build = row.expect("decided")["build_id"].clone();
    let build = build.as_str().expect("built").to_owned();
    let ended = cluster.rest.build_ended(&build, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "the other goes on: {ended}");
    let row = cluster.rest.decided(&hook, "poison", SOON).await;
    let row = row.expect("decided");
    assert_eq!(row["state"], "quarantined", "{row}");
    let words = row.to_string();
    assert!(
        words.contains("poison: the handler failed three times"),
        "{words}"
    );
    cluster.stop().await;
}
