//! A short run of the nemesis; `make nemesis` has longer ones.

use slipway_tests::{nemesis, require};

#[tokio::test]
async fn nothing_is_lost_doubled_or_stuck_whatever_happens_to_the_processes() {
    if require("docker").is_none() || require("postgres").is_none() {
        return;
    }
    let said = std::sync::Mutex::new(Vec::new());
    let hear = |what: &str| {
        if let Ok(mut said) = said.lock() {
            said.push(what.to_owned());
        }
    };
    let verdict = nemesis::run(crate::binary(), 7, 20, hear).await;
    let verdict = verdict.expect("it starts");
    assert!(verdict.is_good(), "{said:?}\n{verdict}");
}
