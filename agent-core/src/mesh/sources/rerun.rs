//! A source that panics says so and starts again; the mesh goes on.

use std::{panic::AssertUnwindSafe, time::Duration};

use agent_api::mesh::{SourceKind, SourceState};
use futures_util::FutureExt as _;

use super::turn::Turn;
use crate::backoff::Backoff;

/// Between two runs.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LAST_WAIT: Duration = Duration::from_secs(15 * 60);

/// Runs a source until it ends by itself. Each run begins with a state of its own, so that nothing a
/// panic left half done is used again.
pub(super) async fn rerun<F>(turn: Turn, kind: SourceKind, run: impl Fn(Turn) -> F)
where
    F: Future<Output = ()>,
{
    let mut waits = Backoff::new(FIRST_WAIT, LAST_WAIT);
    while AssertUnwindSafe(run(turn.clone())).catch_unwind().await.is_err() {
        let reason =
            "It broke off by a fault of this program and starts again. The log says where.";
        tracing::error!(?kind, "{reason}");
        turn.say(kind, SourceState::Failed, reason);
        tokio::select! {
            () = turn.stop.cancelled() => return,
            () = tokio::time::sleep(waits.next_wait()) => {}
        }
    }
}
