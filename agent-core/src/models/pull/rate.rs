//! How fast bytes arrive, and how long the rest will take once that can be told.

use std::{collections::VecDeque, time::Duration};

/// The rate is the mean over this span.
const WINDOW: Duration = Duration::from_secs(5);
/// The rate has to have been steady for this long before an end is predicted.
const STEADY_SECONDS: usize = 5;
/// Standard deviation of the seconds' rates over their mean.
const STEADY_DEVIATION: f64 = 0.25;
/// Before this, the mean says more about the first round trips than about the line.
const SHORTEST: Duration = Duration::from_secs(1);
/// Samples kept: the window at four a second and some.
const MAX_SAMPLES: usize = 64;

/// Bytes per second from samples of a counter of received bytes. Bytes that were on disk already
/// are not received, so a resumed pull does not seem fast.
#[derive(Clone, Debug, Default)]
pub(super) struct RateMeter {
    /// Time and counter.
    samples: VecDeque<(Duration, u64)>,
}

impl RateMeter {
    pub(super) fn push(&mut self, now: Duration, received: u64) {
        self.samples.push_back((now, received));
        while self.samples.len() > MAX_SAMPLES
            || self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Forgets everything: the pull was paused or the connection lost.
    pub(super) fn reset(&mut self) {
        self.samples.clear();
    }

    /// `None` until a second was seen.
    pub(super) fn bytes_per_s(&self) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let span = last.0.saturating_sub(first.0);
        (span >= SHORTEST).then(|| (last.1 - first.1) as f64 / span.as_secs_f64())
    }

    /// Seconds until `remaining` bytes are here; `None` until the rate was steady for five seconds.
    pub(super) fn eta_s(&self, remaining: u64) -> Option<u64> {
        let rate = self.bytes_per_s().filter(|rate| *rate > 0.0)?;
        let seconds = self.seconds()?;
        let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
        let variance = seconds.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>();
        let deviation = (variance / seconds.len() as f64).sqrt();
        let steady = mean > 0.0 && deviation / mean < STEADY_DEVIATION;
        steady.then(|| (remaining as f64 / rate).ceil() as u64)
    }

    /// Bytes of each of the last five seconds.
    fn seconds(&self) -> Option<Vec<f64>> {
        let (last, _) = *self.samples.back()?;
        let at = |ago: usize| self.counter_at(last.checked_sub(Duration::from_secs(ago as u64))?);
        (0..STEADY_SECONDS).map(|n| Some(at(n)? - at(n + 1)?)).collect()
    }

    /// The counter at a time, between samples in proportion.
    fn counter_at(&self, time: Duration) -> Option<f64> {
        let after = self.samples.iter().position(|(at, _)| *at >= time)?;
        let (end, high) = self.samples[after];
        if end == time {
            return Some(high as f64);
        }
        let (start, low) = *self.samples.get(after.checked_sub(1)?)?;
        let share = (time - start).as_secs_f64() / (end - start).as_secs_f64();
        Some(low as f64 + share * (high - low) as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Four samples a second.
    fn feed(meter: &mut RateMeter, from_ms: u64, seconds: u64, start: u64, per_s: u64) -> u64 {
        let mut received = start;
        for tick in 1..=seconds * 4 {
            received += per_s / 4;
            meter.push(Duration::from_millis(from_ms + tick * 250), received);
        }
        received
    }

    #[test]
    fn an_end_is_predicted_only_after_five_steady_seconds() {
        let mut meter = RateMeter::default();
        meter.push(Duration::ZERO, 0);
        let received = feed(&mut meter, 0, 4, 0, 1_000_000);
        assert_eq!(meter.bytes_per_s().map(f64::round), Some(1_000_000.0));
        assert_eq!(meter.eta_s(10_000_000), None);
        let received = feed(&mut meter, 4_000, 2, received, 1_000_000);
        assert_eq!(meter.eta_s(10_000_000), Some(10));
        // The line gets four times faster: no prediction until that is steady.
        let received = feed(&mut meter, 6_000, 2, received, 4_000_000);
        assert_eq!(meter.eta_s(10_000_000), None);
        feed(&mut meter, 8_000, 5, received, 4_000_000);
        assert_eq!(meter.eta_s(10_000_000), Some(3));
        meter.reset();
        assert_eq!((meter.bytes_per_s(), meter.eta_s(1)), (None, None));
    }

    #[test]
    fn a_standstill_has_no_end() {
        let mut meter = RateMeter::default();
        feed(&mut meter, 0, 8, 0, 0);
        assert_eq!(meter.bytes_per_s(), Some(0.0));
        assert_eq!(meter.eta_s(1), None);
    }

    proptest! {
        #[test]
        fn any_history_gives_sensible_numbers(
            steps in prop::collection::vec((1u64..3_000, 0u64..1_000_000_000), 0..200),
        ) {
            let mut meter = RateMeter::default();
            let (mut now, mut received) = (0, 0);
            for (wait, bytes) in steps {
                now += wait;
                received += bytes;
                meter.push(Duration::from_millis(now), received);
                prop_assert!(meter.samples.len() <= MAX_SAMPLES);
                if let Some(rate) = meter.bytes_per_s() {
                    prop_assert!(rate.is_finite() && rate >= 0.0);
                }
                let _ = meter.eta_s(received);
            }
        }
    }
}
