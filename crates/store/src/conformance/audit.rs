//! The audit log cannot be edited silently.

use super::sample::at;
use super::tamper;
use crate::{AuditEntry, Db};

async fn five(db: &Db) {
    for n in 1..=5 {
        let entry = AuditEntry {
            at: at(n),
            actor_type: "token".to_owned(),
            actor_id: "ada".to_owned(),
            address: "192.0.2.1".to_owned(),
            action: "flag.change".to_owned(),
            object_type: "flag".to_owned(),
            object_id: n.to_string(),
            detail: serde_json::json!({"n": n}),
        };
        db.audit(entry).await.expect("stored");
    }
    assert_eq!(db.verify_audit().await.expect("readable"), None);
}

/// Whatever is changed, added, reordered or cut off: the first bad row is named.
pub async fn audit_tamper_detected(db: Db) {
    five(&db).await;
    let cases: [(&str, &str, i64); 4] = [
        (
            "UPDATE audit SET actor_id = 'eve' WHERE seq = 3",
            "UPDATE audit SET actor_id = 'ada' WHERE seq = 3",
            3,
        ),
        (
            "UPDATE audit SET detail = '{}' WHERE seq = 2",
            "UPDATE audit SET detail = '{\"n\":2}' WHERE seq = 2",
            2,
        ),
        (
            "UPDATE audit SET seq = -seq WHERE seq = 4",
            "UPDATE audit SET seq = 4 WHERE seq = -4",
            5,
        ),
        ("UPDATE audit SET hash = prev_hash WHERE seq = 1", "", 1),
    ];
    for (forge, mend, first_bad) in cases {
        tamper(&db, forge).await.expect("done");
        let found = db.verify_audit().await.expect("readable");
        assert_eq!(found, Some(first_bad), "{forge}");
        if !mend.is_empty() {
            tamper(&db, mend).await.expect("done");
            assert_eq!(db.verify_audit().await.expect("readable"), None, "{mend}");
        }
    }
}

/// The newest rows are missing: nothing follows that would not fit, but the head knows.
pub async fn audit_tamper_detected_at_the_end(db: Db) {
    five(&db).await;
    tamper(&db, "DELETE FROM audit WHERE seq = 5")
        .await
        .expect("done");
    assert_eq!(db.verify_audit().await.expect("readable"), Some(5));
}
