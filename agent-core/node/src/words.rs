//! How sizes, times, states and tables are written on a terminal. The same words as the page's.

use agent_api::{
    fit::{Fit, Verdict},
    models::{InstalledModel, ModelState},
    pull::{Pull, PullSource, PullSourceKind, PullState},
};
use console::measure_text_width;

/// Columns are this far apart.
const GAP: usize = 2;

/// Bytes in powers of 1,000, as file managers show them: `4.7 GB`.
pub(crate) fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    scaled(bytes as f64)
}

/// `54.0 MB/s`.
pub(crate) fn rate(bytes_per_s: f64) -> String {
    format!("{}/s", scaled(bytes_per_s.max(0.0)))
}

fn scaled(bytes: f64) -> String {
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter().peekable();
    let (mut value, mut unit) = (bytes, units.next().unwrap_or_default());
    // 999.5 would round to a number of four digits.
    while value >= 999.5 && units.peek().is_some() {
        value /= 1_000.0;
        unit = units.next().unwrap_or_default();
    }
    if unit != "B" && value < 99.95 {
        return format!("{value:.1} {unit}");
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, not negative"
    )]
    let whole = value.round() as u64;
    format!("{} {unit}", number(whole))
}

/// A whole number with a comma between thousands: `131,072`.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `45 s`, `2 min 5 s`, `3 h 20 min`.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{} h {} min", number(hours), minutes % 60),
    }
}

/// The number of weights: `1.2 B`, `494 M`.
pub(crate) fn parameters(count: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let count = count as f64;
    let (value, unit) = if count >= 999.5e6 { (count / 1e9, "B") } else { (count / 1e6, "M") };
    if value < 99.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// The badge of the Models panel.
pub(crate) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::FitsGpu => "fits GPU",
        Verdict::Splits => "splits GPU/RAM",
        Verdict::FitsRam => "fits RAM",
        Verdict::WontFit => "will not fit",
    }
}

/// The badge and its reason: `fits RAM: 12.6 GB at 32k`.
pub(crate) fn fit(fit: &Fit) -> String {
    let estimated = if fit.exact { "" } else { " (estimated from its size)" };
    format!("{}: {}{estimated}", verdict(fit.verdict), fit.reason)
}

/// What a model is doing, in a word or two.
pub(crate) fn model_state(model: &InstalledModel) -> String {
    if let Some(problem) = &model.problem {
        return format!("cannot be loaded: {problem}");
    }
    let in_memory = match model.residency.as_ref().map(|residency| residency.state) {
        Some(ModelState::Ready) => Some("in memory"),
        Some(ModelState::Loading) => Some("loading"),
        Some(ModelState::Restarting) => Some("restarting"),
        Some(ModelState::Failed) => Some("failed"),
        Some(ModelState::None | ModelState::Unloaded) | None => None,
    };
    match (model.active, in_memory) {
        (true, Some(state)) => format!("active, {state}"),
        (true, None) => "active".to_owned(),
        (false, Some(state)) => state.to_owned(),
        (false, None) => "on disk".to_owned(),
    }
}

pub(crate) fn pull_state(state: PullState) -> &'static str {
    match state {
        PullState::Queued => "waiting",
        PullState::Resolving => "looking it up",
        PullState::Downloading => "downloading",
        PullState::Retrying => "trying again",
        PullState::Paused => "paused",
        PullState::Verifying => "checking",
        PullState::Done => "done",
        PullState::Failed => "failed",
    }
}

/// How far a pull is, without its name: `downloading, 1.2 GB of 4.7 GB, 54.0 MB/s, 1 min 5 s left`.
/// Rate and time left are there only when the node knows them.
pub(crate) fn pull_progress(pull: &Pull) -> String {
    let mut parts = vec![pull_state(pull.state).to_owned()];
    if let Some(total) = pull.size_bytes {
        parts.push(format!("{} of {}", size(pull.done_bytes.min(total)), size(total)));
    }
    if pull.state == PullState::Downloading {
        parts.extend(pull.bytes_per_s.map(rate));
        parts.extend(pull.eta_s.map(|seconds| format!("{} left", duration(seconds))));
        parts.extend(pull_sources(pull).map(|places| format!("from {places}")));
    } else if pull.state != PullState::Done && !pull.reason.is_empty() {
        return format!("{}: {}", parts.join(", "), pull.reason);
    }
    parts.join(", ")
}

/// `attic-mini (LAN) and registry.example`; `None` before the first byte. The most bytes come first.
pub(crate) fn pull_sources(pull: &Pull) -> Option<String> {
    let place = |source: &PullSource| match source.kind {
        PullSourceKind::Peer if source.lan => format!("{} (LAN)", source.name),
        PullSourceKind::Peer => format!("{} (peer)", source.name),
        PullSourceKind::Registry => source.name.clone(),
    };
    let names: Vec<_> = pull.sources.iter().map(place).collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        [others @ .., last] => Some(format!("{} and {last}", others.join(", "))),
    }
}

/// Rows under a heading, in columns. The last column is not padded.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|&text| text.to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(&heading)
        .chain(rows)
        // A line break or an escape sequence in a name must not tear the table.
        .map(|row| row.iter().map(|cell| printable(cell).replace('\n', " ")).collect())
        .collect();
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|c| measure_text_width(c)).max()
    };
    let widths: Vec<usize> = (0..heading.len()).filter_map(width).collect();
    let mut text = String::new();
    for row in &all {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width + GAP - measure_text_width(cell).min(*width)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text of unknown origin (licences, names, a registry's own words) without what a terminal would
/// obey or what would turn the order of letters around.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if obeyed_by_terminals(c) { '\u{fffd}' } else { c }).collect()
}

fn obeyed_by_terminals(c: char) -> bool {
    let turns_direction = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns_direction || (c.is_control() && !matches!(c, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_with_three_digits_at_most() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (4_700_000_000, "4.7 GB"),
            (99_940_000, "99.9 MB"),
            (364_000_000, "364 MB"),
            (999_600_000, "1.0 GB"),
            (100_000_000_000_000, "100 TB"),
            (9_000_000_000_000_000, "9,000 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(rate(54_000_000.0), "54.0 MB/s");
    }

    #[test]
    fn thousands_have_commas() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (131_072, "131,072"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn times_have_two_units_at_most() {
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (65, "1 min 5 s"), (12_000, "3 h 20 min")]
        {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn weights_are_counted_in_millions_or_billions() {
        assert_eq!(parameters(4_200_000), "4.2 M");
        assert_eq!(parameters(494_000_000), "494 M");
        assert_eq!(parameters(1_236_000_000), "1.2 B");
        assert_eq!(parameters(405_000_000_000), "405 B");
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_printed() {
        assert_eq!(printable("MIT\u{1b}[2J\u{202e}x\nü\t"), "MIT\u{fffd}[2J\u{fffd}x\nü\t");
    }

    #[test]
    fn columns_line_up_whatever_is_in_them() {
        let rows = [
            vec!["llama3.2:1b".to_owned(), "1.3 GB".to_owned(), "on\ndisk".to_owned()],
            vec!["名前".to_owned(), "4.7 GB".to_owned(), "active".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", "SIZE", "STATE"], &rows),
            "NAME         SIZE    STATE\nllama3.2:1b  1.3 GB  on disk\n名前         4.7 GB  active\n"
        );
    }

    #[test]
    fn rate_and_time_left_are_shown_only_when_known() {
        let mut pull = crate::model::tests::pull(PullState::Downloading);
        (pull.size_bytes, pull.done_bytes) = (Some(4_700_000_000), 1_200_000_000);
        assert_eq!(pull_progress(&pull), "downloading, 1.2 GB of 4.7 GB");
        (pull.bytes_per_s, pull.eta_s) = (Some(54e6), Some(65));
        assert_eq!(
            pull_progress(&pull),
            "downloading, 1.2 GB of 4.7 GB, 54.0 MB/s, 1 min 5 s left"
        );
        (pull.state, pull.reason) = (PullState::Retrying, "the connection broke".to_owned());
        assert_eq!(pull_progress(&pull), "trying again, 1.2 GB of 4.7 GB: the connection broke");
    }
}
