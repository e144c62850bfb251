//! How many prompt tokens a decode step may carry beside tokens of running answers.
//!
//! A running answer waits for the whole step, so a long prompt is fed in pieces that take about as
//! long as a listener does not notice. The speed is measured: a piece that is nothing for a small
//! model is half a minute for a large one.

use std::time::Duration;

/// How long prompts may hold up running answers in one step.
const HOLD_UP: Duration = Duration::from_millis(200);
/// Smallest piece: below this llama.cpp's matrix kernels lose most of their speed.
const SMALLEST: usize = 32;
/// Piece before anything was measured.
const FIRST: usize = 128;
/// A step with fewer prompt tokens says little about prompt speed.
const MEASURABLE: usize = 16;
/// Weight of the newest measurement.
const NEWEST: f64 = 0.3;

#[derive(Debug, Default)]
pub(crate) struct Pace {
    tokens_per_second: Option<f64>,
}

impl Pace {
    /// Prompt tokens for a step in which answers are running.
    pub(crate) fn shared_step(&self) -> usize {
        let Some(speed) = self.tokens_per_second else { return FIRST };
        // A float-to-integer cast saturates, which is what is wanted here.
        ((speed * HOLD_UP.as_secs_f64()) as usize).max(SMALLEST)
    }

    /// Takes note of a decode step.
    pub(crate) fn observe(&mut self, prompt_tokens: usize, took: Duration) {
        if prompt_tokens < MEASURABLE {
            return;
        }
        let speed = prompt_tokens as f64 / took.as_secs_f64().max(1e-6);
        let before = self.tokens_per_second.unwrap_or(speed);
        self.tokens_per_second = Some(before + NEWEST * (speed - before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_model_gets_small_pieces_and_a_fast_one_large_ones() {
        let mut slow = Pace::default();
        slow.observe(512, Duration::from_secs(25));
        assert_eq!(slow.shared_step(), SMALLEST);
        let mut fast = Pace::default();
        fast.observe(2_048, Duration::from_millis(100));
        assert_eq!(fast.shared_step(), 4_096);
    }

    #[test]
    fn a_step_with_a_few_prompt_tokens_is_not_taken_as_a_measurement() {
        let mut pace = Pace::default();
        pace.observe(1, Duration::from_secs(1));
        assert_eq!(pace.shared_step(), FIRST);
    }
}
