//! Waiting times between attempts to bring something back: the runner, or a whole node.

use std::time::Duration;

/// Exponential backoff with jitter: 1, 2, 4, 8, 16, then 30 seconds, each times 0.9 to 1.1, so
/// that several nodes that lost the same thing do not come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    attempt: u32,
    first: Duration,
    last: Duration,
}

impl Backoff {
    pub fn new(first: Duration, last: Duration) -> Self {
        Self { attempt: 0, first, last }
    }

    /// How many waits were handed out since the last [`reset`](Self::reset).
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let doublings = self.attempt.min(16);
        self.attempt = self.attempt.saturating_add(1);
        let wait = self.first.saturating_mul(1 << doublings).min(self.last);
        wait.mul_f64(0.9 + 0.2 * random_unit())
    }

    /// Called when the thing has been up long enough to be trusted again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// 0 to 1; 0.5 where the operating system gives no randomness, which only costs the jitter.
fn random_unit() -> f64 {
    let mut byte = [128];
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_last_and_start_again_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for expected in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
            let wait = backoff.next_wait().as_secs_f64();
            assert!((wait / expected - 1.0).abs() <= 0.11, "{wait} s instead of {expected} s");
        }
        assert_eq!(backoff.attempt(), 7);
        backoff.reset();
        assert!(backoff.next_wait() < Duration::from_millis(1200));
    }
}
