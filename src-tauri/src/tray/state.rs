//! What the tray shows, as a function of what the node says. Pure.

use agent_api::{
    host::HostState,
    node::{Health, Serving, ServingState},
};

/// Longest line of the menu, in characters; a menu grows as wide as its longest line.
const LINE_CHARS: usize = 72;

/// What the icon, and the lines that change, show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrayState {
    pub(crate) glyph: Glyph,
    /// The first line: the state and its reason.
    pub(crate) status: String,
    pub(crate) model: String,
    pub(crate) switch: Switch,
}

/// The five icons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glyph {
    Idle,
    Serving,
    Paused,
    Error,
    Offline,
}

/// What the lines for pausing offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    Pause,
    Resume,
    /// There is no node to pause.
    Off,
}

impl TrayState {
    /// `health` is the node's newest answer, if it gave one.
    pub(crate) fn from(host: &HostState, health: Option<&Health>) -> Self {
        match (host, health) {
            (HostState::Running, Some(health)) => Self::of_node(health),
            (HostState::Running, None) => Self::without_node(Glyph::Error, "Not answering", ""),
            (HostState::Starting, _) => Self::without_node(Glyph::Offline, "Starting", ""),
            (HostState::Restarting { reason, .. }, _) => {
                Self::without_node(Glyph::Error, "Restarting", reason)
            }
            (HostState::Stopping, _) => Self::without_node(Glyph::Offline, "Stopping", ""),
            (HostState::Stopped, _) => Self::without_node(Glyph::Offline, "Stopped", ""),
        }
    }

    fn of_node(health: &Health) -> Self {
        let Serving { state, reason, .. } = &health.serving;
        let (glyph, word, switch) = match state {
            ServingState::Starting => (Glyph::Offline, "Starting", Switch::Pause),
            ServingState::Idle => (Glyph::Idle, "Idle", Switch::Pause),
            ServingState::Serving => (Glyph::Serving, "Serving", Switch::Pause),
            ServingState::Paused => (Glyph::Paused, "Paused", Switch::Resume),
            ServingState::Degraded => (Glyph::Error, "Needs attention", Switch::Pause),
            ServingState::Stopping => (Glyph::Offline, "Stopping", Switch::Off),
        };
        let model = health.model.as_deref().unwrap_or("none");
        Self { glyph, status: status(word, reason), model: line("Model", model), switch }
    }

    fn without_node(glyph: Glyph, word: &str, reason: &str) -> Self {
        // A value that is not known is a dash, never "none".
        let model = line("Model", "–");
        Self { glyph, status: status(word, reason), model, switch: Switch::Off }
    }

    /// Whether this is about to change by itself, so that it is worth looking again soon.
    pub(crate) fn is_passing(&self) -> bool {
        self.glyph == Glyph::Offline
    }
}

/// The state with the first sentence of its reason; the rest is for the Dashboard.
fn status(word: &str, reason: &str) -> String {
    let reason = reason.split_once(". ").map_or(reason, |(first, _)| first);
    let says_the_word = reason.get(..word.len()).is_some_and(|s| s.eq_ignore_ascii_case(word));
    if says_the_word { cut(reason) } else { line(word, reason) }
}

fn line(word: &str, rest: &str) -> String {
    if rest.is_empty() { word.to_owned() } else { cut(&format!("{word}: {rest}")) }
}

/// On one line, without a full stop, at most [`LINE_CHARS`].
fn cut(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.trim_end_matches('.');
    if text.chars().count() <= LINE_CHARS {
        return text.to_owned();
    }
    let kept: String = text.chars().take(LINE_CHARS - 1).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use agent_api::NodeId;

    use super::*;

    fn health(state: ServingState, reason: &str, model: Option<&str>) -> Health {
        Health {
            ok: true,
            node_id: NodeId("ab".repeat(32)),
            version: "0.1.0".into(),
            serving: Serving { state, reason: reason.into(), until_ms: None },
            model: model.map(Into::into),
            running: 0,
            queued: 0,
            tokens_per_s: 0.0,
            uptime_ms: 1,
        }
    }

    fn shown(state: ServingState, reason: &str) -> TrayState {
        TrayState::from(&HostState::Running, Some(&health(state, reason, Some("demo_q8"))))
    }

    #[test]
    fn a_running_node_shows_state_reason_and_model() {
        let idle = shown(ServingState::Idle, "Ready, nothing to do.");
        let expected = TrayState {
            glyph: Glyph::Idle,
            status: "Idle: Ready, nothing to do".into(),
            model: "Model: demo_q8".into(),
            switch: Switch::Pause,
        };
        assert_eq!(idle, expected);
        let serving = shown(ServingState::Serving, "2 requests");
        assert_eq!(
            (serving.glyph, serving.status.as_str()),
            (Glyph::Serving, "Serving: 2 requests")
        );
    }

    #[test]
    fn a_paused_node_offers_to_resume() {
        let paused = shown(ServingState::Paused, "You paused it until 14:30");
        assert_eq!((paused.glyph, paused.switch), (Glyph::Paused, Switch::Resume));
        assert_eq!(paused.status, "Paused: You paused it until 14:30");
        // The state is not said twice, and the menu has room for one sentence.
        let paused = shown(ServingState::Paused, "Paused by you. Requests of this computer work.");
        assert_eq!(paused.status, "Paused by you");
    }

    #[test]
    fn what_needs_the_owner_has_the_error_sign() {
        let degraded = shown(ServingState::Degraded, "No model is installed.");
        assert_eq!((degraded.glyph, degraded.switch), (Glyph::Error, Switch::Pause));
        assert_eq!(degraded.status, "Needs attention: No model is installed");
        let none = health(ServingState::Degraded, "", None);
        assert_eq!(TrayState::from(&HostState::Running, Some(&none)).model, "Model: none");
    }

    #[test]
    fn without_a_node_nothing_is_offered_and_nothing_invented() {
        let restarting =
            HostState::Restarting { attempt: 1, retry_at_ms: 0, reason: "port in use".into() };
        let old = health(ServingState::Idle, "Ready", Some("demo"));
        for (host, glyph, status) in [
            (HostState::Starting, Glyph::Offline, "Starting"),
            (restarting, Glyph::Error, "Restarting: port in use"),
            (HostState::Stopping, Glyph::Offline, "Stopping"),
            (HostState::Stopped, Glyph::Offline, "Stopped"),
        ] {
            let state = TrayState::from(&host, Some(&old));
            assert_eq!((state.glyph, state.status.as_str()), (glyph, status));
            assert_eq!((state.model.as_str(), state.switch), ("Model: –", Switch::Off));
        }
        let hung = TrayState::from(&HostState::Running, None);
        assert_eq!((hung.glyph, hung.status.as_str()), (Glyph::Error, "Not answering"));
    }

    #[test]
    fn a_long_reason_is_one_line_of_bounded_width() {
        let long = shown(ServingState::Degraded, &"Zeile\nmit Umbruch é ".repeat(20));
        assert!(!long.status.contains('\n'));
        assert!(long.status.chars().count() <= LINE_CHARS && long.status.ends_with('…'));
    }
}
