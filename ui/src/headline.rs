//! The node's state in words: the Dashboard's headline and the sidebar's card say the same thing.

use agent_api::{
    Status,
    models::ModelState,
    node::{Serving, ServingState},
};

use crate::{
    format::{self, LocalTime},
    state::{AppState, Link},
};

/// How a state looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Serving,
    Ready,
    Paused,
    Trouble,
    Waiting,
}

impl Tone {
    /// The suffix of the hero's class.
    pub fn class(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Ready => "ready",
            Self::Paused => "paused",
            Self::Trouble => "error",
            Self::Waiting => "idle",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headline {
    pub tone: Tone,
    pub title: String,
    pub reason: String,
}

/// The headline at `now` (the node's clock), in the time zone `offset_ms`.
pub fn headline(state: &AppState, now_ms: i64, offset_ms: i64) -> Headline {
    let (tone, title, reason) = match (&state.link, &state.status) {
        // The banner says why and counts down; here it is only that the rest is old.
        (Link::Lost { .. }, _) => {
            (Tone::Waiting, "Not connected".into(), last_known(state, now_ms, offset_ms))
        }
        (Link::Stopped { stopping: true }, _) => (
            Tone::Waiting,
            "The node is stopping".into(),
            "Requests in flight finish first.".into(),
        ),
        (Link::Stopped { .. }, _) => {
            (Tone::Waiting, "The node is stopped".into(), last_known(state, now_ms, offset_ms))
        }
        (_, None) => {
            (Tone::Waiting, "Connecting to the node".into(), "Waiting for its first answer.".into())
        }
        (_, Some(status)) => of_status(status, now_ms, offset_ms),
    };
    Headline { tone, title, reason }
}

fn last_known(state: &AppState, now_ms: i64, offset_ms: i64) -> String {
    match state.heard_at_ms {
        Some(at) => {
            let now = LocalTime::new(now_ms, offset_ms);
            format!("What you see is from {}.", LocalTime::new(at, offset_ms).moment(now))
        }
        None => "It has not answered since this page was opened.".into(),
    }
}

fn of_status(status: &Status, now_ms: i64, offset_ms: i64) -> (Tone, String, String) {
    let serving = &status.serving;
    match serving.state {
        ServingState::Starting => (Tone::Waiting, "Starting".into(), serving.reason.clone()),
        ServingState::Idle => (Tone::Ready, "Ready".into(), serving.reason.clone()),
        ServingState::Serving => {
            let running = u64::from(status.requests.running.max(1));
            (
                Tone::Serving,
                format!("Serving {}", format::counted(running, "request", "requests")),
                serving.reason.clone(),
            )
        }
        ServingState::Paused => {
            (Tone::Paused, paused_title(serving, now_ms, offset_ms), paused_reason(serving, now_ms))
        }
        ServingState::Degraded => {
            (Tone::Trouble, trouble_title(status).into(), trouble_reason(status, now_ms))
        }
        ServingState::Stopping => (Tone::Waiting, "Stopping".into(), serving.reason.clone()),
    }
}

fn paused_title(serving: &Serving, now_ms: i64, offset_ms: i64) -> String {
    let now = LocalTime::new(now_ms, offset_ms);
    match serving.until_ms {
        Some(until) => format!("Paused until {}", LocalTime::new(until, offset_ms).moment(now)),
        None => "Paused".into(),
    }
}

fn paused_reason(serving: &Serving, now_ms: i64) -> String {
    match serving.until_ms.filter(|until| *until > now_ms) {
        Some(until) => {
            format!("{} {} left.", serving.reason, format::duration(until - now_ms)).trim().into()
        }
        None => serving.reason.clone(),
    }
}

fn trouble_title(status: &Status) -> &'static str {
    match status.model.state {
        ModelState::None => "No model",
        ModelState::Restarting => "The model runner is starting again",
        ModelState::Failed => "The model could not be loaded",
        ModelState::Loading | ModelState::Ready | ModelState::Unloaded => "Not everything works",
    }
}

fn trouble_reason(status: &Status, now_ms: i64) -> String {
    match status.model.retry_at_ms {
        Some(at) if status.model.state == ModelState::Restarting => {
            format!("{} Next try in {}.", status.serving.reason, format::countdown(at, now_ms))
        }
        _ => status.serving.reason.clone(),
    }
}

/// The sidebar's card: one word and one short line.
pub fn card(state: &AppState, now_ms: i64, offset_ms: i64) -> (Tone, &'static str, String) {
    match (&state.link, &state.status) {
        (Link::Lost { retry_at_ms, .. }, _) => {
            let left = format::countdown(*retry_at_ms, now_ms - state.clock_offset_ms);
            (Tone::Trouble, "Not answering", format!("next try in {left}"))
        }
        (Link::Stopped { stopping: true }, _) => (Tone::Waiting, "Stopping", String::new()),
        (Link::Stopped { .. }, _) => (Tone::Waiting, "Stopped", String::new()),
        (_, None) => (Tone::Waiting, "Connecting", String::new()),
        (_, Some(status)) => {
            let now = LocalTime::new(now_ms, offset_ms);
            let model =
                || status.model.active.as_ref().map_or("no model".into(), |m| m.name.clone());
            match status.serving.state {
                ServingState::Starting => (Tone::Waiting, "Starting", String::new()),
                ServingState::Idle => (Tone::Ready, "Ready", model()),
                ServingState::Serving => (Tone::Serving, "Serving", busy(status)),
                ServingState::Paused => {
                    let until =
                        status.serving.until_ms.map(|at| LocalTime::new(at, offset_ms).moment(now));
                    (
                        Tone::Paused,
                        "Paused",
                        until.map_or("until you resume".into(), |at| format!("until {at}")),
                    )
                }
                ServingState::Degraded if status.model.state == ModelState::Restarting => {
                    (Tone::Trouble, "Recovering", trouble_short(status).into())
                }
                ServingState::Degraded => {
                    (Tone::Trouble, "Needs you", trouble_short(status).into())
                }
                ServingState::Stopping => (Tone::Waiting, "Stopping", String::new()),
            }
        }
    }
}

fn busy(status: &Status) -> String {
    let rate = format::rate(status.speed.tokens_per_s);
    format!("{} of {} slots, {rate} tok/s", status.requests.running, status.requests.slots)
}

fn trouble_short(status: &Status) -> &'static str {
    match status.model.state {
        ModelState::None => "no model",
        ModelState::Restarting => "runner is starting again",
        ModelState::Failed => "model did not load",
        ModelState::Loading | ModelState::Ready | ModelState::Unloaded => "see the Dashboard",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::status;

    const HOUR: i64 = 3_600_000;

    fn live(change: impl FnOnce(&mut Status)) -> AppState {
        let mut status = status(0);
        change(&mut status);
        AppState { link: Link::Live, status: Some(status), ..AppState::default() }
    }

    fn plain(text: &str) -> String {
        text.replace('\u{202f}', " ")
    }

    #[test]
    fn idle_is_ready_and_serving_says_how_many() {
        assert_eq!(headline(&live(|_| {}), 0, 0).title, "Ready");
        let serving = live(|s| {
            s.serving.state = ServingState::Serving;
            s.requests.running = 2;
            s.requests.slots = 4;
            s.speed.tokens_per_s = 61.8;
        });
        assert_eq!(headline(&serving, 0, 0).title, "Serving 2 requests");
        assert_eq!(
            card(&serving, 0, 0),
            (Tone::Serving, "Serving", "2 of 4 slots, 61.8 tok/s".into())
        );
    }

    #[test]
    fn a_pause_says_until_when_and_how_long_that_is() {
        let timed = live(|s| {
            s.serving = Serving {
                state: ServingState::Paused,
                reason: "You paused it.".into(),
                until_ms: Some(3 * HOUR),
            };
        });
        let shown = headline(&timed, HOUR, 0);
        assert_eq!(shown.title, "Paused until 03:00");
        assert_eq!(plain(&shown.reason), "You paused it. 2 h left.");
        let open = live(|s| {
            s.serving = Serving {
                state: ServingState::Paused,
                reason: "You paused it.".into(),
                until_ms: None,
            };
        });
        assert_eq!(
            (headline(&open, 0, 0).title, card(&open, 0, 0).2),
            ("Paused".into(), "until you resume".into())
        );
    }

    #[test]
    fn trouble_names_what_is_missing() {
        let restarting = live(|s| {
            s.serving.state = ServingState::Degraded;
            s.serving.reason = "The runner ended unexpectedly.".into();
            s.model.state = ModelState::Restarting;
            s.model.retry_at_ms = Some(4_000);
        });
        let shown = headline(&restarting, 1_000, 0);
        assert_eq!(shown.title, "The model runner is starting again");
        assert_eq!(plain(&shown.reason), "The runner ended unexpectedly. Next try in 3 s.");
        let none = live(|s| {
            s.serving.state = ServingState::Degraded;
            s.model.state = ModelState::None;
        });
        assert_eq!(headline(&none, 0, 0).title, "No model");
    }

    #[test]
    fn a_node_that_is_gone_leaves_its_last_data_with_a_time() {
        let mut state = live(|_| {});
        state.heard_at_ms = Some(14 * HOUR + 31 * 60_000);
        state.link = Link::Lost { attempt: 3, retry_at_ms: 15 * HOUR, reason: "It ended.".into() };
        let shown = headline(&state, 15 * HOUR - 6_000, 0);
        assert_eq!(shown.title, "Not connected");
        assert_eq!(shown.reason, "What you see is from 14:31.");
        assert_eq!(plain(&card(&state, 15 * HOUR - 6_000, 0).2), "next try in 6 s");
        assert_eq!(headline(&AppState::default(), 0, 0).title, "Connecting to the node");
    }
}
