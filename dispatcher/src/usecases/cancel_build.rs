//! A person ends a build. The truth is a row, written first; messages to agents only make it sooner.

use slipway_core::id::BuildId;
use slipway_store::StoreError;

use crate::state::App;

/// Cancels; fine when the build has ended already.
///
/// # Errors
/// When the store is not available.
pub async fn cancel_build(app: &App, build: &BuildId, reason: &str) -> Result<(), StoreError> {
    let (held, change) = app.db.cancel_build(build, reason, app.clock.now()).await?;
    for (stage, attempt, agent) in held {
        app.link.cancel(agent.as_deref(), &stage, attempt);
    }
    app.build_changed(&change).await;
    Ok(())
}
