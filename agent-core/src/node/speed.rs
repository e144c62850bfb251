//! Generation speed over time, from a counter that only grows. Pure: time is passed in.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use agent_api::node::Speed;

/// Speed "now" is over this long.
const WINDOW: Duration = Duration::from_secs(2);
const BUCKET: Duration = Duration::from_secs(10);
const BUCKETS: usize = 60;
/// Readings kept for the window: at two a second, with room for extra ones.
const READINGS: usize = 64;

#[derive(Debug)]
pub(super) struct SpeedMeter {
    readings: VecDeque<(Instant, u64)>,
    bucket_start: (Instant, u64),
    history: VecDeque<f64>,
}

impl SpeedMeter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            readings: VecDeque::from([(now, 0)]),
            bucket_start: (now, 0),
            history: VecDeque::new(),
        }
    }

    /// Takes note of the counter. Called about once a second.
    pub(super) fn tick(&mut self, now: Instant, tokens: u64) {
        self.readings.push_back((now, tokens));
        // One reading older than the window stays, as its beginning.
        while self.readings.len() > READINGS
            || self.readings.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW)
        {
            self.readings.pop_front();
        }
        let (start, start_tokens) = self.bucket_start;
        let long = now.duration_since(start);
        if long >= BUCKET {
            self.history.push_back(rate(tokens - start_tokens, long));
            self.bucket_start = (now, tokens);
            if self.history.len() > BUCKETS {
                self.history.pop_front();
            }
        }
    }

    pub(super) fn speed(&self) -> Speed {
        let tokens_per_s = match (self.readings.front(), self.readings.back()) {
            (Some((from, before)), Some((to, after))) if to > from => {
                rate(after - before, to.duration_since(*from))
            }
            _ => 0.0,
        };
        Speed { tokens_per_s, history: self.history.iter().copied().collect() }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for display")]
fn rate(tokens: u64, over: Duration) -> f64 {
    tokens as f64 / over.as_secs_f64().max(1e-3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_that_of_the_last_two_seconds() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut meter = SpeedMeter::new(start);
        for s in 1..=10 {
            meter.tick(at(s), s * 100);
        }
        assert!((meter.speed().tokens_per_s - 100.0).abs() < 1e-6);
        meter.tick(at(11), 1000);
        meter.tick(at(12), 1000);
        meter.tick(at(13), 1000);
        assert_eq!(meter.speed().tokens_per_s, 0.0, "nothing for two seconds");
    }

    #[test]
    fn history_is_ten_second_averages_and_bounded() {
        let start = Instant::now();
        let mut meter = SpeedMeter::new(start);
        for s in 1..=1200_u32 {
            meter.tick(start + Duration::from_secs(u64::from(s)), u64::from(s) * 5);
        }
        let history = meter.speed().history;
        assert_eq!(history.len(), BUCKETS);
        assert!(history.iter().all(|rate| (rate - 5.0).abs() < 1e-6));
    }
}
