//! The installation's authority, kept in the store and sealed with the installation's key; and the
//! certificate of this dispatcher, which comes from it.
//!
//! All dispatchers of one installation share database and key file, and with them the authority.

use std::sync::Arc;

use anyhow::Context as _;
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_identity::{Authority, Own};
use slipway_store::{AuthorityRow, Db};
use zeroize::Zeroizing;

use crate::seal::Seal;

/// What the authority's key is sealed for.
const PLACE: &str = "authority/own";

/// The authority; made at the first start of an installation.
///
/// # Errors
/// When the store is away, or its key does not open with this installation's key.
pub async fn authority(db: &Db, seal: &Seal, clock: &Clock) -> anyhow::Result<Arc<Authority>> {
    if db.authority().await?.is_none() {
        let now = clock.now();
        let fresh = Authority::create(now)?;
        let row = AuthorityRow {
            certificate: fresh.certificate().to_vec(),
            sealed_key: seal.seal(PLACE, fresh.key())?,
        };
        db.insert_authority(row, now).await?;
    }
    // Read again: another dispatcher may have been first.
    let row = db.authority().await?.context("the authority was stored")?;
    let key = seal.open(PLACE, &row.sealed_key).context(
        "the installation's authority was sealed with another key; restore the key file that \
         belongs to this database",
    )?;
    let authority = Authority::open(&row.certificate, &Zeroizing::new(key))?;
    Ok(Arc::new(authority))
}

/// An identity straight from the authority, renewed until shutdown: for dispatchers, and for roles in
/// the same process.
///
/// # Errors
/// When the system gives no key.
pub fn at_hand(
    authority: &Arc<Authority>,
    role: PeerRole,
    clock: &Clock,
    rng: &Rng,
    shutdown: &Shutdown,
) -> anyhow::Result<Own> {
    let id = rng.ulid(clock.now());
    let own = Own::new(authority.credentials(role, &id, clock.now(), rng)?);
    let (authority, made_at, made_of) = (Arc::clone(authority), clock.clone(), rng.clone());
    let renew = move || {
        let fresh = authority.credentials(role, &id, made_at.now(), &made_of);
        std::future::ready(fresh.map_err(anyhow::Error::from))
    };
    let renewing =
        own.clone()
            .keep_renewed(None, clock.clone(), rng.clone(), shutdown.clone(), renew);
    shutdown.spawn("renew certificate", renewing);
    Ok(own)
}
