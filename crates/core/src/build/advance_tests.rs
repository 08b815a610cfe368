//! What follows from the end of a stage: examples and properties.

use proptest::prelude::*;

use super::*;

fn stage(name: &str, state: StageState, needs: &[&str]) -> StageView {
    StageView {
        name: name.to_owned(),
        state,
        needs: needs
            .iter()
            .map(|n| Need {
                stage: (*n).to_owned(),
                optional: false,
            })
            .collect(),
        failure_ignored: false,
        runs_on: RunsOn::Success,
    }
}

#[test]
fn dependants_of_a_failure_are_skipped_with_the_name_of_what_failed() {
    use StageState::{Failed, Waiting};
    let stages = [
        stage("a", Failed, &[]),
        stage("b", Waiting, &["a"]),
        stage("c", Waiting, &["b"]),
    ];
    let (moved, status) = advance(&stages);
    assert_eq!(
        moved["b"],
        Transition::Skipped("needs `a`, which did not succeed".to_owned())
    );
    assert_eq!(
        moved["c"],
        Transition::Skipped("needs `b`, which was skipped".to_owned())
    );
    assert_eq!(status, BuildStatus::Failed);
}

#[test]
fn an_ignored_failure_lets_dependants_go_on_and_the_build_pass() {
    let mut lint = stage("lint", StageState::Failed, &[]);
    lint.failure_ignored = true;
    let (moved, status) = advance(&[lint.clone(), stage("b", StageState::Waiting, &["lint"])]);
    assert_eq!(moved["b"], Transition::Ready);
    assert_eq!(status, BuildStatus::Building);
    assert_eq!(advance(&[lint]).1, BuildStatus::Passed);
}

#[test]
fn a_stage_for_failures_is_executed_only_after_one() {
    let mut report = stage("report", StageState::Waiting, &["a"]);
    report.runs_on = RunsOn::Failure;
    let (moved, _) = advance(&[stage("a", StageState::Failed, &[]), report.clone()]);
    assert_eq!(moved["report"], Transition::Ready);
    let (moved, status) = advance(&[stage("a", StageState::Succeeded, &[]), report]);
    assert_eq!(
        moved["report"],
        Transition::Skipped("no need failed".to_owned())
    );
    assert_eq!(status, BuildStatus::Passed);
}

#[test]
fn an_optional_need_that_was_skipped_does_not_skip_its_dependant() {
    let mut b = stage("b", StageState::Waiting, &["a"]);
    b.needs[0].optional = true;
    let (moved, _) = advance(&[stage("a", StageState::Skipped, &[]), b]);
    assert_eq!(moved["b"], Transition::Ready);
}

proptest! {
    /// I-22: executes a random graph of 100 stages in random order with random outcomes and
    /// duplicates; the history of executions is topological.
    #[test]
    fn dag_order_property(
        edges in prop::collection::vec((0usize..100, 0usize..100), 0..300),
        picks in prop::collection::vec((any::<prop::sample::Index>(), 0u8..10), 400),
    ) {
        let mut stages: Vec<StageView> =
            (0..100).map(|i| stage(&format!("s{i}"), StageState::Waiting, &[])).collect();
        for (a, b) in edges {
            if a < b {
                let name = format!("s{a}");
                if !stages[b].needs.iter().any(|n| n.stage == name) {
                    stages[b].needs.push(Need { stage: name, optional: false });
                }
            }
        }
        let mut succeeded = std::collections::BTreeSet::new();
        for (pick, luck) in picks {
            let (moved, _) = advance(&stages);
            for s in &mut stages {
                if let Some(t) = moved.get(&s.name) {
                    s.state = match t {
                        Transition::Ready => StageState::Ready,
                        Transition::Skipped(_) => StageState::Skipped,
                    };
                }
            }
            // Asking again changes nothing.
            prop_assert!(advance(&stages).0.is_empty());
            let ready: Vec<usize> = stages.iter().enumerate()
                .filter(|(_, s)| s.state == StageState::Ready).map(|(i, _)| i).collect();
            if ready.is_empty() { break; }
            let at = ready[pick.index(ready.len())];
            for need in &stages[at].needs {
                prop_assert!(succeeded.contains(&need.stage), "{} before {}", stages[at].name, need.stage);
            }
            stages[at].state = if luck == 0 { StageState::Failed } else { StageState::Succeeded };
            if luck != 0 { succeeded.insert(stages[at].name.clone()); }
        }
        let (_, status) = advance(&stages);
        if stages.iter().all(|s| s.state.is_final()) {
            let failed = stages.iter().any(|s| s.state == StageState::Failed);
            prop_assert_eq!(status, if failed { BuildStatus::Failed } else { BuildStatus::Passed });
        }
    }
}
