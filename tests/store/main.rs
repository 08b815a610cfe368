//! The store's suites on both engines, and every statement read by both.

use std::path::{Path, PathBuf};
use std::time::Duration;

use slipway_store::conformance::{
    self, access, audit, fleet, inbox, locks, memo, queue, results, rollouts, together,
};
use slipway_store::{Db, Settings};
use slipway_tests::Postgres;

async fn sqlite(dir: &Path) -> Db {
    let settings = Settings::Sqlite(dir.join("store.db"));
    Db::open(&settings).await.expect("a fresh database opens")
}

async fn postgres(server: &Postgres, name: &str) -> Db {
    let settings = Settings::Postgres(server.database(name));
    Db::open(&settings).await.expect("a fresh database opens")
}

macro_rules! suites {
    ($($suite:ident::$case:ident),* $(,)?) => {
        mod on_sqlite {
            $(
                #[tokio::test]
                async fn $case() {
                    let dir = tempfile::tempdir().unwrap();
                    super::$suite::$case(super::sqlite(dir.path()).await).await;
                }
            )*
        }

        #[tokio::test]
        async fn every_suite_passes_on_postgres() {
            let Some(server) = Postgres::start() else { return };
            $(
                let db = postgres(&server, stringify!($case)).await;
                $suite::$case(db.clone()).await;
                db.close().await;
            )*
        }
    };
}

suites! {
    access::a_flag_has_a_name_of_its_own,
    access::a_hidden_failure_is_no_success_of_what_is_not_stored,
    access::a_join_token_is_redeemed_as_often_as_it_says,
    access::a_process_that_joined_may_call_until_it_is_revoked,
    access::an_installation_has_one_authority,
    access::a_secret_is_replaced_whole,
    access::a_token_is_revoked_once,
    access::a_write_that_fails_takes_no_other_with_it,
    access::an_idempotency_key_is_one_request,
    audit::audit_tamper_detected,
    audit::audit_tamper_detected_at_the_end,
    fleet::a_drained_agent_is_resumed,
    fleet::a_machine_goes_only_when_its_agent_holds_nothing,
    fleet::a_machine_that_was_given_up_cannot_join,
    fleet::a_pool_is_kept_until_it_is_empty,
    fleet::agent_hours_are_counted_by_day,
    fleet::scale_down_race,
    inbox::a_decision_is_final_until_reopened,
    inbox::a_delivery_is_recorded_once,
    inbox::a_newer_build_supersedes_its_lane,
    inbox::concurrent_repeats_are_one_row,
    inbox::heads_are_remembered_and_forgotten,
    inbox::one_event_is_one_build,
    memo::a_recalled_stage_has_its_records_outputs_and_no_attempt,
    memo::cache_scope_server_side,
    memo::memo_conflict_quarantine,
    memo::only_a_plain_success_is_recorded,
    memo::what_was_recalled_and_is_gone_is_executed_after_all,
    queue::a_concurrency_group_has_a_limit,
    queue::a_draining_agent_gets_nothing,
    queue::a_build_begins_with_its_first_stage,
    queue::a_lost_attempt_is_queued_again_once,
    queue::a_stage_is_assigned_once,
    queue::a_quarantined_agent_gets_nothing_until_it_is_resumed,
    queue::a_long_queue_is_read_in_parts,
    queue::what_stages_took_is_the_last_ten_of_the_pipeline,
    queue::an_unanswered_assignment_is_taken_back,
    queue::fencing_stale_result_rejected,
    results::a_cancel_after_the_end_changes_nothing,
    results::a_failure_skips_its_dependants,
    results::a_rerun_opens_the_build_again,
    results::a_success_makes_its_dependants_ready,
    results::an_unknown_outcome_waits_for_its_own_result,
    results::cancel_race_success,
    results::result_reply_lost_idempotent,
    rollouts::a_claim_raises_the_token_of_the_holder_only,
    rollouts::a_decision_from_an_old_row_is_refused,
    locks::a_quiet_fence_is_given_only_while_nobody_holds_the_place,
    rollouts::a_rollback_undoes_a_success,
    locks::a_silent_holder_is_resolved_before_the_next_starts,
    rollouts::a_success_makes_a_version_good_and_the_others_retire,
    rollouts::a_takeover_fences_the_old_owner,
    rollouts::a_version_that_is_wanted_again_is_not_gone,
    rollouts::an_approval_is_recorded_until_the_rollout_ends,
    rollouts::an_environment_keeps_its_id,
    rollouts::an_intent_is_written_under_the_lock_with_a_new_generation,
    rollouts::starting_twice_with_one_key_is_one_rollout,
    locks::the_lock_has_one_holder_and_goes_to_the_next,
    together::attempts_that_begin_together_are_judged_one_by_one,
    together::builds_that_are_made_together_are_judged_one_by_one,
    together::heads_that_are_seen_together_end_with_the_last_of_each,
    together::results_that_arrive_together_are_judged_one_by_one,
    together::rows_that_are_asked_for_together_go_to_whoever_asked,
    together::stages_given_out_together_are_judged_one_by_one,
}

fn statements() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/store/src/queries");
    let mut found = Vec::new();
    for table in std::fs::read_dir(root).expect("readable").flatten() {
        for file in std::fs::read_dir(table.path()).expect("readable").flatten() {
            let text = std::fs::read_to_string(file.path()).expect("text");
            found.push((file.path(), text));
        }
    }
    assert!(found.len() > 100, "only {} statements", found.len());
    found
}

/// What is one round trip on PostgreSQL states the rule of the two statements it stands for once more.
#[test]
fn a_statement_that_does_two_things_holds_the_same_rule_as_the_one_that_does_the_first() {
    let all = statements();
    let text = |name: &str| -> String {
        let found = all.iter().find(|(path, _)| path.ends_with(name));
        let (_, text) = found.expect(name);
        let lines = text.lines().filter(|line| !line.starts_with("--"));
        lines
            .flat_map(str::split_whitespace)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let alone = text("build_stages/assign.sql");
    let both = text("build_stages/assign_and_note.postgres.sql");
    assert!(both.contains(&alone), "{alone}\nis not in\n{both}");
}

async fn all_prepare(db: &Db) {
    let mut wrong = Vec::new();
    let other = if db.engine() == "sqlite" {
        ".postgres.sql"
    } else {
        ".sqlite.sql"
    };
    for (path, text) in statements() {
        if path.to_string_lossy().ends_with(other) {
            continue;
        }
        if let Err(error) = conformance::prepare(db, &text).await {
            wrong.push(format!("{}: {error}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", db.engine(), wrong.join("\n"));
}

#[tokio::test]
async fn every_statement_is_read_by_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    all_prepare(&sqlite(dir.path()).await).await;
}

#[tokio::test]
async fn every_statement_is_read_by_postgres() {
    let Some(server) = Postgres::start() else {
        return;
    };
    all_prepare(&postgres(&server, "statements").await).await;
}

#[tokio::test]
async fn migrating_twice_or_at_once_is_migrating() {
    let Some(server) = Postgres::start() else {
        return;
    };
    let settings = Settings::Postgres(server.database("together"));
    let opened = futures::future::join_all((0..4).map(|_| Db::open(&settings))).await;
    for db in opened {
        db.unwrap().migrate().await.unwrap();
    }
}

/// One dispatcher assigns, another one drains: the agent's row decides.
#[tokio::test]
async fn scale_down_race_between_two_processes() {
    let Some(server) = Postgres::start() else {
        return;
    };
    let settings = Settings::Postgres(server.database("race"));
    let (first, second) = (Db::open(&settings).await, Db::open(&settings).await);
    let (first, second) = (first.expect("opens"), second.expect("opens"));
    fleet::scale_down_race_of(first, second).await;
}

/// FULL syncs the log at every commit, NORMAL would not.
#[tokio::test]
async fn the_connection_that_writes_syncs_every_commit() {
    let dir = tempfile::tempdir().unwrap();
    let db = sqlite(dir.path()).await;
    let now = |name: &'static str| {
        let db = db.clone();
        async move { conformance::setting(&db, name).await.unwrap() }
    };
    assert_eq!(now("synchronous").await, "2", "0 OFF, 1 NORMAL, 2 FULL");
    assert_eq!(now("journal_mode").await, "wal");
    assert_eq!(now("foreign_keys").await, "1");
}

/// I-18, in the statement: whoever was overtaken changes nothing, and its other writes go on.
#[tokio::test]
async fn ha_leader_fencing_a_write_of_an_older_epoch_is_refused() {
    use slipway_core::id::AgentId;
    use slipway_core::time::Timestamp;
    use slipway_store::{AuditEntry, Standing, StoreError};
    let Some(server) = Postgres::start() else {
        return;
    };
    let settings = Settings::Postgres(server.database("leaders"));
    let (old, new) = (
        Db::open(&settings).await.unwrap(),
        Db::open(&settings).await.unwrap(),
    );
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(1));
    let hello = |db: &Db| {
        let db = db.clone();
        let agent: AgentId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        async move {
            db.agent_hello(&agent, "boot", 1, "{}", Timestamp::from_millis(1))
                .await
        }
    };
    let first = old.take_lead("a", "https://a", short).await.unwrap();
    let first = first.expect("nobody leads");
    old.stand(Standing::Leading(first));
    new.stand(Standing::Following);
    hello(&old).await.unwrap();
    let following = hello(&new).await;
    assert!(
        matches!(following, Err(StoreError::NotLeader)),
        "{following:?}"
    );
    let second = slipway_tests::eventually("the lease ends", long, || async {
        new.take_lead("b", "https://b", long).await.unwrap()
    });
    let second = second.await.unwrap();
    assert_eq!(second, first + 1);
    new.stand(Standing::Leading(second));
    hello(&new).await.unwrap();
    // It does not know yet that it was overtaken.
    let (stale, other) = tokio::join!(
        hello(&old),
        old.audit(AuditEntry {
            at: Timestamp::from_millis(2),
            actor_type: "token".to_owned(),
            actor_id: "a".to_owned(),
            address: "127.0.0.1".to_owned(),
            action: "look".to_owned(),
            object_type: "none".to_owned(),
            object_id: "none".to_owned(),
            detail: serde_json::Value::Null,
        })
    );
    assert!(matches!(stale, Err(StoreError::NotLeader)), "{stale:?}");
    other.unwrap();
    assert!(!old.keep_lead(first, "a", long).await.unwrap());
    assert!(new.keep_lead(second, "b", long).await.unwrap());
    assert_eq!(old.take_lead("a", "https://a", long).await.unwrap(), None);
    new.give_up_lead(second, "b").await.unwrap();
    let third = old.take_lead("a", "https://a", long).await.unwrap();
    assert_eq!(third, Some(second + 1), "at once");
}
