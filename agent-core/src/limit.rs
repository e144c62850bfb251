//! A bandwidth limit of the owner, over all transfers in one direction.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// Bytes that may go out at once after a quiet time: a tenth of a second's worth, but no less than
/// a large read.
const BURST: f64 = 0.1;
const SMALLEST_BURST: f64 = 64.0 * 1024.0;

/// A bucket that fills at the limit and may be overdrawn: who takes bytes waits until it is even
/// again, so that a large read needs no splitting. Time is passed in.
#[derive(Clone, Debug)]
struct Bucket {
    rate: Option<f64>,
    /// Negative: overdrawn.
    level: f64,
    filled_at: Duration,
}

impl Bucket {
    fn new(limit: Option<u64>) -> Self {
        Self { rate: to_rate(limit), level: 0.0, filled_at: Duration::ZERO }
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled_at).as_secs_f64();
        self.filled_at = now;
        if let Some(rate) = self.rate {
            let burst = (rate * BURST).max(SMALLEST_BURST);
            self.level = (self.level + rate * passed).min(burst);
        }
    }

    fn set(&mut self, limit: Option<u64>, now: Duration) {
        self.fill(now);
        self.rate = to_rate(limit);
        // A debt from a higher limit would be a long silence under a lower one.
        self.level = 0.0;
    }

    fn take(&mut self, bytes: u64, now: Duration) {
        self.fill(now);
        if self.rate.is_some() {
            self.level -= bytes as f64;
        }
    }

    /// How long until the bucket is even.
    fn wait(&mut self, now: Duration) -> Duration {
        self.fill(now);
        match self.rate {
            Some(rate) if self.level < 0.0 => Duration::from_secs_f64(-self.level / rate),
            _ => Duration::ZERO,
        }
    }
}

fn to_rate(limit: Option<u64>) -> Option<f64> {
    limit.filter(|limit| *limit > 0).map(|limit| limit as f64)
}

/// Shared by all transfers; may be changed while they run.
#[derive(Debug)]
pub(crate) struct Limiter {
    bucket: Mutex<Bucket>,
    limit: watch::Sender<Option<u64>>,
    started: Instant,
}

impl Limiter {
    /// Bytes per second; `None`: no limit.
    pub(crate) fn new(limit: Option<u64>) -> Self {
        let bucket = Mutex::new(Bucket::new(limit));
        Self { bucket, limit: watch::Sender::new(limit), started: Instant::now() }
    }

    pub(crate) fn limit(&self) -> Option<u64> {
        *self.limit.borrow()
    }

    pub(crate) fn set(&self, limit: Option<u64>) {
        if self.limit() == limit {
            return;
        }
        self.with(|bucket, now| bucket.set(limit, now));
        self.limit.send_replace(limit);
    }

    /// Returns when these bytes may have been read.
    pub(crate) async fn take(&self, bytes: u64) {
        if self.limit().is_none() {
            return;
        }
        let mut changed = self.limit.subscribe();
        self.with(|bucket, now| bucket.take(bytes, now));
        loop {
            let wait = self.with(|bucket, now| bucket.wait(now));
            if wait.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = changed.changed() => {}
            }
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Bucket, Duration) -> T) -> T {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut bucket, self.started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_passes_than_the_limit_and_one_burst(
            limit in 1_000u64..100_000_000,
            takes in prop::collection::vec(1u64..500_000, 1..100),
        ) {
            let mut bucket = Bucket::new(Some(limit));
            let (mut now, mut passed) = (Duration::ZERO, 0);
            for bytes in takes {
                bucket.take(bytes, now);
                passed += bytes;
                now += bucket.wait(now);
                let allowed = limit as f64 * now.as_secs_f64();
                let burst = (limit as f64 * BURST).max(SMALLEST_BURST);
                prop_assert!(passed as f64 <= allowed + burst + 1.0);
                prop_assert!(passed as f64 >= allowed - limit as f64 * 1e-6 - 1.0);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_lifted_while_waiting_ends_the_wait() {
        let limiter = std::sync::Arc::new(Limiter::new(Some(1_000)));
        let taking = tokio::spawn({
            let limiter = std::sync::Arc::clone(&limiter);
            async move { limiter.take(10_000_000).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!taking.is_finished());
        limiter.set(None);
        taking.await.expect("ends");
        let before = Instant::now();
        limiter.take(1 << 40).await;
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn two_pulls_share_the_limit() {
        let limiter = Limiter::new(Some(1_000_000));
        let before = Instant::now();
        let pull = || async {
            for _ in 0..10 {
                limiter.take(500_000).await;
            }
        };
        tokio::join!(pull(), pull());
        let took = before.elapsed().as_secs_f64();
        assert!((9.0..=10.5).contains(&took), "10 MB at 1 MB/s took {took} s");
    }
}
