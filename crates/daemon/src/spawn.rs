//! The only way to start a task: named, and with its panic caught at the edge. A poisoned input may
//! end one task; it must not end the process or vanish without a line in the log.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Spawns `future` under `name`. The handle yields `None` when it panicked.
#[expect(clippy::disallowed_methods, reason = "the one home of spawning")]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let guarded = async move {
        match AssertUnwindSafe(future).catch_unwind().await {
            Ok(output) => Some(output),
            Err(panic) => {
                tracing::error!(
                    task = name,
                    reason = describe(panic.as_ref()),
                    "task panicked"
                );
                None
            }
        }
    };
    tokio::spawn(guarded.in_current_span())
}

fn describe(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("not a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_task_and_not_the_process() {
        let outcome = spawn("poisoned", async {
            if true {
                panic!("poison")
            }
        })
        .await;
        assert_eq!(outcome.ok(), Some(None));
        assert_eq!(spawn("fine", async { 7 }).await.ok(), Some(Some(7)));
    }
}
