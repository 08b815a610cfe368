//! What an installation needs before its first process starts: an administrator, and an authority.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use slipway_daemon::{Clock, Rng};
use slipway_dispatcher::seal::Seal;
use slipway_dispatcher::token::{self, Kind};
use slipway_identity::Authority;
use slipway_store::{Db, Settings};

/// The installation's authority, as the dispatcher finds it at its start.
///
/// # Panics
/// When the database is away.
pub async fn authority(database: &Settings, data: &Path) -> Arc<Authority> {
    let db = Db::open(database).await.expect("open");
    let seal = Seal::open_or_create(&data.join("keys/seal.key"), &Rng::system()).expect("a key");
    let made = slipway_dispatcher::identity::authority(&db, &seal, &Clock::system()).await;
    db.close().await;
    made.expect("stored")
}

/// An administrator's token.
///
/// # Panics
/// When the database is away.
pub async fn admin(database: &Settings) -> String {
    slipway_daemon::start::install_crypto();
    let db = Db::open(database).await.expect("open");
    let (rng, now) = (Rng::system(), Clock::system().now());
    let secret = token::mint(Kind::Api, &rng);
    let hash = token::hash(Kind::Api, &secret).expect("a token");
    let until = now.after(Duration::from_secs(3_600));
    db.insert_token(&rng.id(now), "admin", &hash, r#"["admin"]"#, now, until)
        .await
        .expect("stored");
    db.close().await;
    secret
}
