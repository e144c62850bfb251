//! What this node's own experience says of others. Decays; never a ban. Pure.
//!
//! The score is the mean of a beta distribution (Jøsang and Ismail, "The Beta Reputation System",
//! 2002): good over all experiences, with a prior for nodes that little is known of. Both sums lose
//! half of their weight in a week, so that a node that was repaired is soon like a new one.

use agent_api::tasks::Worker;
use serde::{Deserialize, Serialize};

use crate::clock::DAY_MS;

/// Experiences lose half of their weight in this time: 7 days.
const HALF_LIFE_MS: f64 = 7.0 * 24.0 * 60.0 * 60.0 * 1e3;
/// An unknown node is taken for one with two experiences, 70 % good.
const PRIOR: (f64, f64) = (1.4, 0.6);
/// Nobody falls lower: a node that nobody asks could never make up for anything.
const FLOOR: f64 = 0.05;
/// Results that differ from the majority, or break the protocol, are worse than failures, which
/// happen to the honest.
const WRONG: f64 = 5.0;
/// More of either sum would make a change for better or worse take too long to be seen.
const MOST: f64 = 50.0;
/// Characters of the last problem that are kept.
const PROBLEM_CHARS: usize = 200;

/// What happened with a node. Comparisons without a majority are no experience.
#[derive(Clone, Debug, PartialEq)]
pub enum Experience {
    Done,
    /// It broke off or failed by its own fault.
    Failed(String),
    Agreed,
    Disagreed,
    /// It broke the protocol, or claimed what cannot be.
    Misbehaved(String),
}

impl Experience {
    pub fn is_bad(&self) -> bool {
        !matches!(self, Self::Done | Self::Agreed)
    }
}

/// Kept per node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reputation {
    /// Sums of experiences as they weighed at `at_ms`.
    pub good: f64,
    pub bad: f64,
    pub at_ms: i64,
    pub done: u64,
    pub failed: u64,
    pub agreed: u64,
    pub disagreed: u64,
    pub agreed_in_a_row: u32,
    pub problem: Option<String>,
}

impl Reputation {
    /// 0.05 to 1; 0.7 for a node that nothing is known of.
    pub fn score(&self, now_ms: i64) -> f64 {
        let (good, bad) = self.weighed(now_ms);
        let score = (good + PRIOR.0) / (good + bad + PRIOR.0 + PRIOR.1);
        score.clamp(FLOOR, 1.0)
    }

    pub fn add(&mut self, experience: &Experience, now_ms: i64) {
        let (good, bad) = self.weighed(now_ms);
        let (more_good, more_bad) = match experience {
            Experience::Done | Experience::Agreed => (1.0, 0.0),
            Experience::Failed(_) => (0.0, 1.0),
            Experience::Disagreed | Experience::Misbehaved(_) => (0.0, WRONG),
        };
        self.good = (good + more_good).min(MOST);
        self.bad = (bad + more_bad).min(MOST);
        // A clock that was set back must not make the past weigh more; one that was far ahead once
        // must not keep it from ever weighing less.
        let ahead = self.at_ms.saturating_sub(now_ms) > DAY_MS;
        self.at_ms = if ahead { now_ms } else { self.at_ms.max(now_ms) };
        match experience {
            Experience::Done => self.done = self.done.saturating_add(1),
            Experience::Agreed => {
                self.agreed = self.agreed.saturating_add(1);
                self.agreed_in_a_row = self.agreed_in_a_row.saturating_add(1);
            }
            Experience::Failed(why) => {
                self.failed = self.failed.saturating_add(1);
                self.note(why);
            }
            Experience::Disagreed => {
                self.disagreed = self.disagreed.saturating_add(1);
                self.agreed_in_a_row = 0;
                self.note("its result differed from the majority's");
            }
            Experience::Misbehaved(why) => {
                self.failed = self.failed.saturating_add(1);
                self.agreed_in_a_row = 0;
                self.note(why);
            }
        }
    }

    fn note(&mut self, why: &str) {
        self.problem = Some(why.chars().take(PROBLEM_CHARS).collect());
    }

    /// Both sums as they weigh now. What a damaged database gives counts as nothing.
    fn weighed(&self, now_ms: i64) -> (f64, f64) {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of years fit")]
        let age_ms = now_ms.saturating_sub(self.at_ms).max(0) as f64;
        let left = 0.5_f64.powf(age_ms / HALF_LIFE_MS);
        let weigh = |sum: f64| if sum.is_finite() { sum.clamp(0.0, MOST) * left } else { 0.0 };
        (weigh(self.good), weigh(self.bad))
    }

    pub fn view(&self, node: agent_api::NodeId, name: String, now_ms: i64) -> Worker {
        Worker {
            node,
            name,
            reputation: self.score(now_ms),
            done: self.done,
            failed: self.failed,
            agreed: self.agreed,
            disagreed: self.disagreed,
            agreed_in_a_row: self.agreed_in_a_row,
            problem: self.problem.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 24 * 60 * 60 * 1_000;

    fn after(experiences: &[(Experience, u32)]) -> Reputation {
        let mut reputation = Reputation::default();
        for (experience, times) in experiences {
            for _ in 0..*times {
                reputation.add(experience, 0);
            }
        }
        reputation
    }

    #[test]
    fn what_was_written_under_a_clock_far_ahead_decays_again() {
        let mut reputation = Reputation::default();
        reputation.add(&Experience::Done, 1_000 * DAY);
        reputation.add(&Experience::Done, 5);
        assert_eq!(reputation.at_ms, 5);
        let (then, later) = (reputation.score(5), reputation.score(70 * DAY));
        assert!(later < then, "{later} < {then}");
        reputation.add(&Experience::Done, 4);
        assert_eq!(reputation.at_ms, 5, "a small step back changes nothing");
    }

    #[test]
    fn a_node_that_nothing_is_known_of_is_given_a_chance() {
        assert!((Reputation::default().score(5) - 0.7).abs() < 1e-9);
    }

    #[test]
    fn work_done_well_counts_for_it_and_failures_against_it() {
        let good = after(&[(Experience::Done, 20)]).score(0);
        let mixed = after(&[(Experience::Done, 20), (Experience::Failed("died".into()), 5)]);
        let wrong = after(&[(Experience::Done, 20), (Experience::Disagreed, 5)]).score(0);
        assert!(good > 0.95 && mixed.score(0) < good && wrong < mixed.score(0));
        assert_eq!(mixed.problem.as_deref(), Some("died"));
        assert_eq!((mixed.done, mixed.failed), (20, 5));
    }

    #[test]
    fn the_past_is_half_forgotten_in_a_week_and_nobody_is_banned() {
        let bad = after(&[(Experience::Misbehaved("nonsense".into()), 1_000)]);
        assert!((bad.score(0) - FLOOR).abs() < 1e-9, "never nothing");
        let scores: Vec<_> = (0..12).map(|week| bad.score(week * 7 * DAY)).collect();
        assert!(scores.is_sorted(), "{scores:?}");
        assert!(scores[11] > 0.65, "after a season it is nearly like new: {scores:?}");
        let half = after(&[(Experience::Failed(String::new()), 8)]);
        let expected = (PRIOR.0) / (PRIOR.0 + PRIOR.1 + 4.0);
        assert!((half.score(7 * DAY) - expected).abs() < 1e-9);
    }

    #[test]
    fn agreements_in_a_row_begin_anew_after_a_disagreement() {
        let mut node = after(&[(Experience::Agreed, 12), (Experience::Done, 1)]);
        assert_eq!(node.agreed_in_a_row, 12);
        node.add(&Experience::Failed("net".into()), 0);
        assert_eq!(node.agreed_in_a_row, 12, "a failure is no wrong result");
        node.add(&Experience::Disagreed, 0);
        assert_eq!((node.agreed_in_a_row, node.agreed, node.disagreed), (0, 12, 1));
    }

    #[test]
    fn a_long_past_does_not_hide_a_change() {
        let mut node = after(&[(Experience::Done, 1_000_000)]);
        for _ in 0..60 {
            node.add(&Experience::Failed("broken since today".into()), 0);
        }
        assert!(node.score(0) < 0.55);
    }

    proptest! {
        #[test]
        fn scores_stay_within_their_bounds_whatever_the_database_and_the_clock_say(
            good in prop::num::f64::ANY, bad in prop::num::f64::ANY, at_ms: i64, now_ms: i64,
            kinds in prop::collection::vec((0_u8..5, any::<i64>()), 0..20),
        ) {
            let mut node = Reputation { good, bad, at_ms, ..Reputation::default() };
            for (kind, at) in kinds {
                let experience = match kind {
                    0 => Experience::Done,
                    1 => Experience::Failed("x".repeat(500)),
                    2 => Experience::Agreed,
                    3 => Experience::Disagreed,
                    _ => Experience::Misbehaved("y".into()),
                };
                node.add(&experience, at);
                prop_assert!((FLOOR..=1.0).contains(&node.score(at)));
            }
            prop_assert!((FLOOR..=1.0).contains(&node.score(now_ms)));
            prop_assert!(node.problem.is_none_or(|text| text.len() <= PROBLEM_CHARS));
        }
    }
}
