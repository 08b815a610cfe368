//! Agents, tokens, idempotency keys, flags, secrets.

use slipway_core::access::PeerRole;
use slipway_core::id::{FlagId, TokenId};

use super::sample::{agent_id, at, repo_id, repository, ulid};
use crate::sql::args;
use crate::{AuthorityRow, Db, FlagRow, IdempotencyClaim, JoinOutcome, NewPeer, StoreError};

fn new_peer(n: u32) -> NewPeer {
    NewPeer {
        id: agent_id(n).to_string(),
        name: format!("agent-{n}"),
        created: at(5),
    }
}

/// A join token is good as often as it says, until it expires.
pub async fn a_join_token_is_redeemed_as_often_as_it_says(db: Db) {
    db.insert_join_token("once", r#"{"zone":"a"}"#, 1, at(100), at(0))
        .await
        .expect("stored");
    db.insert_join_token("late", "{}", 1, at(1), at(0))
        .await
        .expect("stored");
    let (a, b) = tokio::join!(db.join("once", new_peer(1)), db.join("once", new_peer(2)));
    let outcomes = [a.expect("stored"), b.expect("stored")];
    assert!(outcomes.contains(&JoinOutcome::Used));
    assert!(outcomes.contains(&JoinOutcome::Joined(PeerRole::Agent)));
    let late = db.join("late", new_peer(3)).await.expect("stored");
    assert_eq!(late, JoinOutcome::Expired);
    let none = db.join("none", new_peer(4)).await.expect("stored");
    assert_eq!(none, JoinOutcome::Unknown);
    let agents = db.agents().await.expect("readable");
    assert_eq!(agents.len(), 1);
    assert_eq!(agents[0].labels, r#"{"zone":"a"}"#);
}

/// A process is what its token says, may call from then on, and not after it was revoked.
pub async fn a_process_that_joined_may_call_until_it_is_revoked(db: Db) {
    let token = db.insert_role_token(PeerRole::Deployer, "d", "{}", 1, at(100), at(0));
    token.await.expect("stored");
    let id = agent_id(7).to_string();
    let joined = db.join("d", new_peer(7)).await.expect("stored");
    assert_eq!(joined, JoinOutcome::Joined(PeerRole::Deployer));
    assert_eq!(
        db.agents().await.expect("readable").len(),
        0,
        "it is no agent"
    );
    let agent = super::sample::agent(&db, 8).await;
    let good = |role, id: String| {
        let db = db.clone();
        async move { db.peer_is_good(role, &id).await.expect("readable") }
    };
    assert!(good(PeerRole::Deployer, id.clone()).await);
    assert!(!good(PeerRole::Agent, id.clone()).await, "another role");
    assert!(good(PeerRole::Agent, agent.to_string()).await);
    assert_eq!(db.good_peers().await.expect("readable").len(), 2);
    for (id, role) in [
        (id, PeerRole::Deployer),
        (agent.to_string(), PeerRole::Agent),
    ] {
        let revoke = || db.revoke_peer(&id, "left".to_owned(), at(50));
        assert!(revoke().await.expect("stored"));
        assert!(!revoke().await.expect("stored"), "once");
        assert!(!good(role, id.clone()).await);
    }
    assert_eq!(db.good_peers().await.expect("readable"), vec![]);
    assert_eq!(db.agents().await.expect("readable").len(), 0, "it is gone");
}

/// Of dispatchers that start at once, all use the authority that was stored first.
pub async fn an_installation_has_one_authority(db: Db) {
    assert!(db.authority().await.expect("readable").is_none());
    let row = |n: u8| AuthorityRow {
        certificate: vec![n],
        sealed_key: vec![n, n],
    };
    let (a, b) = tokio::join!(
        db.insert_authority(row(1), at(0)),
        db.insert_authority(row(2), at(0))
    );
    a.and(b).expect("stored");
    let kept = db.authority().await.expect("readable").expect("there");
    let n = kept.certificate[0];
    assert_eq!(
        kept.sealed_key,
        vec![n, n],
        "a certificate with its own key"
    );
    db.insert_authority(row(3), at(1)).await.expect("stored");
    let again = db.authority().await.expect("readable").expect("there");
    assert_eq!(again.certificate, vec![n]);
}

/// Writes that are queued together share a commit and nothing else: whichever of them fail, first, last
/// or between, the others stand.
pub async fn a_write_that_fails_takes_no_other_with_it(db: Db) {
    let insert = |n: u32| {
        let (id, db) = (ulid(n).parse().expect("an id"), db.clone());
        async move {
            let hash = format!("hash-{n}");
            db.insert_token(&id, "sam", &hash, "[]", at(0), at(100))
                .await
        }
    };
    insert(1).await.expect("stored");
    let alone = insert(1).await;
    assert!(alone.is_err(), "a repeated id is refused");
    let numbers = [1, 2, 1, 1, 3, 4, 2, 5, 1];
    let good = [false, true, false, false, true, true, false, true, false];
    let outcomes = futures::future::join_all(numbers.map(insert)).await;
    let stood: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(stood, good, "{outcomes:?}");
    assert_eq!(db.tokens().await.expect("readable").len(), 5);
}

/// A write that hides the failure of one of its statements is answered by what is really stored, whether
/// it is alone or among others.
pub async fn a_hidden_failure_is_no_success_of_what_is_not_stored(db: Db) {
    let write = |n: u32| {
        let row = move |n: u32, hash: String| args![ulid(n), "sam", hash, "[]", at(0), at(100)];
        let db = db.clone();
        async move {
            let body = db.write(move |tx| {
                Box::pin(async move {
                    let insert = include_str!("../queries/api_tokens/insert.sql");
                    tx.execute(insert, row(n, format!("hash-{n}"))).await?;
                    let _hidden = tx.execute(insert, row(n, "again".to_owned())).await;
                    Ok(())
                })
            });
            body.await
        }
    };
    let mut told = vec![write(1).await];
    told.extend(futures::future::join_all((2..6).map(write)).await);
    let stored = db.tokens().await.expect("readable").len();
    let good = told.iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(good, stored, "{told:?}");
}

/// A token is found by its hash, and revoked once.
pub async fn a_token_is_revoked_once(db: Db) {
    let id: TokenId = ulid(7).parse().expect("an id");
    db.insert_token(&id, "ada", "hash", r#"["viewer"]"#, at(0), at(100))
        .await
        .expect("stored");
    let row = db
        .token_by_hash("hash")
        .await
        .expect("readable")
        .expect("there");
    assert_eq!((row.subject.as_str(), row.revoked_ms), ("ada", None));
    assert!(db.token_by_hash("other").await.expect("readable").is_none());
    assert!(db.revoke_token(&id, at(3)).await.expect("stored"));
    let row = db
        .token_by_hash("hash")
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(row.revoked_ms, Some(at(3).as_millis()));
    let taken = db
        .insert_token(&id, "eve", "hash", "[]", at(0), at(100))
        .await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))));
}

/// One request goes on; the same one gets its answer; another one is told apart.
pub async fn an_idempotency_key_is_one_request(db: Db) {
    let claim =
        |caller: &'static str, hash: &'static str| db.claim_idempotency(caller, "key", hash, at(0));
    let (a, b) = tokio::join!(claim("ada", "h"), claim("ada", "h"));
    let mut both = [a.expect("stored"), b.expect("stored")];
    both.sort_by_key(|c| *c != IdempotencyClaim::Fresh);
    assert_eq!(both, [IdempotencyClaim::Fresh, IdempotencyClaim::InFlight]);
    let other = claim("ada", "another").await.expect("stored");
    assert_eq!(other, IdempotencyClaim::OtherRequest);
    let someone = claim("bob", "h").await.expect("stored");
    assert_eq!(
        someone,
        IdempotencyClaim::Fresh,
        "a key is its caller's own"
    );
    let answer = Some((201, "{}".to_owned(), Some("/x".to_owned())));
    db.settle_idempotency("ada", "key", answer)
        .await
        .expect("stored");
    let known = claim("ada", "h").await.expect("stored");
    assert_eq!(
        known,
        IdempotencyClaim::Answered(201, "{}".to_owned(), Some("/x".to_owned()))
    );
    db.settle_idempotency("bob", "key", None)
        .await
        .expect("stored");
    assert_eq!(
        claim("bob", "h").await.expect("stored"),
        IdempotencyClaim::Fresh
    );
}

/// Flags: unique names, changed whole.
pub async fn a_flag_has_a_name_of_its_own(db: Db) {
    let flag = |n: u32, name: &str| FlagRow {
        flag_id: ulid(n),
        name: name.to_owned(),
        enabled: 0,
        rollout_percentage: 0,
        target_users: "[]".to_owned(),
        created_at: at(0).as_millis(),
        updated_at: at(0).as_millis(),
    };
    db.insert_flag(flag(1, "basket")).await.expect("stored");
    let taken = db.insert_flag(flag(2, "basket")).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))), "{taken:?}");
    let changed = FlagRow {
        enabled: 1,
        rollout_percentage: 33_333,
        ..flag(1, "basket")
    };
    assert!(db.update_flag(changed, at(9)).await.expect("stored"));
    let id: FlagId = ulid(1).parse().expect("an id");
    let row = db.flag(&id).await.expect("readable").expect("there");
    assert_eq!(
        (row.enabled, row.rollout_percentage, row.updated_at),
        (1, 33_333, at(9).as_millis())
    );
    assert!(
        !db.update_flag(flag(3, "none"), at(9))
            .await
            .expect("stored")
    );
}

/// Secrets: bytes as they were sealed, replaced whole, names alone are listed.
pub async fn a_secret_is_replaced_whole(db: Db) {
    repository(&db).await;
    let repo = repo_id();
    db.put_secret(&repo, "TOKEN", vec![0, 255, 7], at(0))
        .await
        .expect("stored");
    db.put_secret(&repo, "TOKEN", vec![1], at(1))
        .await
        .expect("stored");
    db.put_secret(&repo, "A", vec![2], at(1))
        .await
        .expect("stored");
    let sealed = db.sealed_secret(&repo, "TOKEN").await.expect("readable");
    assert_eq!(sealed, Some(vec![1]));
    assert_eq!(
        db.sealed_secret(&repo, "token").await.expect("readable"),
        None
    );
    assert_eq!(
        db.secret_names(&repo).await.expect("readable"),
        ["A", "TOKEN"]
    );
}
