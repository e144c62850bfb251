//! Progress of a pull on stderr: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal as _, Write as _};

use agent_api::pull::{Pull, PullState};
use indicatif::{ProgressBar, ProgressStyle};

use crate::words::{printable, pull_progress};

pub(crate) enum Progress {
    Bar(ProgressBar),
    Lines(Lines),
}

impl Progress {
    pub(crate) fn on_stderr() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines(Lines::default());
        }
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:24} {percent:>3} %  {wide_msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        Self::Bar(bar)
    }

    pub(crate) fn show(&mut self, pull: &Pull) {
        match self {
            Self::Bar(bar) => {
                if let Some(total) = pull.size_bytes {
                    bar.set_length(total);
                }
                bar.set_position(pull.done_bytes);
                bar.set_message(printable(&pull_progress(pull)));
            }
            Self::Lines(lines) => {
                if let Some(line) = lines.next(pull) {
                    // Nobody reads it any more: no reason to stop.
                    let _ = writeln!(std::io::stderr(), "{}", printable(&line));
                }
            }
        }
    }

    /// Takes the bar away; plain lines stay.
    pub(crate) fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// One line for each tenth and each change of state, so that a log stays short.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    last: Option<(PullState, u64)>,
}

impl Lines {
    fn next(&mut self, pull: &Pull) -> Option<String> {
        let percent = percent(pull).unwrap_or_default();
        let now = (pull.state, percent / 10);
        if self.last == Some(now) {
            return None;
        }
        self.last = Some(now);
        Some(format!("{} {percent} %: {}", pull.model, pull_progress(pull)))
    }
}

/// Whole percents that are certainly reached; `None` while the size is not known.
fn percent(pull: &Pull) -> Option<u64> {
    let total = pull.size_bytes.filter(|&total| total > 0)?;
    let done = u128::from(pull.done_bytes.min(total)) * 100 / u128::from(total);
    u64::try_from(done).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gets_one_line_per_tenth_and_change_of_state() {
        let mut lines = Lines::default();
        let mut pull = crate::model::tests::pull(PullState::Resolving);
        assert_eq!(lines.next(&pull).as_deref(), Some("tiny:latest 0 %: looking it up"));
        assert_eq!(lines.next(&pull), None, "nothing new");
        (pull.state, pull.size_bytes) = (PullState::Downloading, Some(1_000));
        let mut said = Vec::new();
        for done in 0..=1_000 {
            pull.done_bytes = done;
            said.extend(lines.next(&pull));
        }
        assert_eq!(said.len(), 11, "{said:#?}");
        assert_eq!(said[3], "tiny:latest 30 %: downloading, 300 B of 1.0 kB");
        pull.state = PullState::Done;
        assert!(lines.next(&pull).is_some_and(|line| line.contains("done")));
    }

    #[test]
    fn a_pull_that_is_not_complete_is_never_at_100_percent() {
        let mut pull = crate::model::tests::pull(PullState::Downloading);
        (pull.size_bytes, pull.done_bytes) = (Some(100_000_000_000_000), 99_999_999_999_999);
        assert_eq!(percent(&pull), Some(99));
        pull.size_bytes = Some(0);
        assert_eq!(percent(&pull), None);
    }
}
