//! An agent that will not take what it is given: nothing is lost, and nobody asks it in a circle.

use std::time::Duration;

use slipway_proto::v1;
use slipway_proto::v1::agent_message::Message as Out;
use slipway_tests::cluster::{FAKE_URL, ONE_STAGE};
use slipway_tests::{BareAgent, Cluster, Parts};

use crate::ZERO;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_declined_assignment_is_no_loss_and_its_agent_is_passed_over_until_it_renews() {
    let parts = Parts {
        agents: 0,
        ..Parts::default()
    };
    let cluster = Cluster::start_with(parts).await;
    let mut agent = BareAgent::join(&cluster).await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.expect("added");
    let hook = cluster.rest.add_hook(&repo, "github").await.expect("made");
    let sha = cluster.commit(1, ONE_STAGE);
    let body = hook.push_body(ZERO, &sha);
    hook.deliver(&cluster.rest, "d", body).await.expect("taken");
    for attempt in 1..=5 {
        let assign = agent.assigned(SOON).await.expect("an assignment");
        let named = assign.attempt.expect("an attempt");
        assert_eq!(named.attempt, attempt, "each has a number of its own");
        let declined = v1::Declined {
            attempt: Some(named),
            reason: "disk".to_owned(),
        };
        agent.say(Out::Declined(declined)).await;
        let again = agent.assigned(Duration::from_millis(300)).await;
        assert!(again.is_none(), "it was asked in a circle");
        let queue = cluster.rest.get("/queue").await.expect("listed");
        let reason = queue[0]["reason"].as_str().expect("a reason");
        assert!(reason.contains("disk"), "{reason}");
        agent.say(Out::Renew(v1::Renew::default())).await;
    }
    let assign = agent.assigned(SOON).await.expect("an assignment");
    agent.succeed(assign.attempt).await;
    let row = cluster.rest.decided(&hook, "d", SOON).await;
    let build = row.expect("decided")["build_id"].clone();
    let build = build.as_str().expect("built");
    let ended = cluster.rest.build_ended(build, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    let stages = cluster.up.db.stages(&build.parse().expect("an id")).await;
    assert_eq!(stages.expect("readable")[0].losses, 0);
    cluster.stop().await;
}
