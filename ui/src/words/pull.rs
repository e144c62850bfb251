//! Pulls in words: how far, how fast, how long, and why not.

use agent_api::pull::{Pull, PullSource, PullSourceKind, PullState};

use super::{Badge, Tone};
use crate::{components::icon::Icon, format};

/// Parts of this size are deleted only after a question.
const WORTH_ASKING_BYTES: u64 = 100_000_000;

/// Pulls that are done now and were not before; unknown ones were done before the page came.
pub fn arrived(before: &[Pull], now: &[Pull]) -> Vec<Pull> {
    let was_under_way =
        |pull: &Pull| before.iter().any(|b| b.id == pull.id && b.state != PullState::Done);
    now.iter().filter(|p| p.state == PullState::Done && was_under_way(p)).cloned().collect()
}

/// Whole percents, rounded down: 100 only when every byte is here.
pub fn percent(done: u64, size: Option<u64>) -> Option<u64> {
    let size = size.filter(|s| *s > 0)?;
    Some((done.min(size) as f64 / size as f64 * 100.0).floor() as u64)
}

/// Goes on by itself: it counts as a download.
pub fn under_way(pull: &Pull) -> bool {
    !pull.state.is_settled()
}

/// Number of pulls under way, and how far they are together; the percentage is `None` until a
/// size is known.
pub fn overall(pulls: &[Pull]) -> Option<(usize, Option<u64>)> {
    let active: Vec<_> = pulls.iter().filter(|p| under_way(p)).collect();
    if active.is_empty() {
        return None;
    }
    let known = active.iter().filter_map(|p| p.size_bytes.map(|s| (p.done_bytes.min(s), s)));
    let (done, size) = known.fold((0, 0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
    Some((active.len(), percent(done, Some(size))))
}

/// `One download at 62%`, `2 downloads`
pub fn overall_text(count: usize, percent: Option<u64>) -> String {
    let what = if count == 1 { "One download".into() } else { format!("{count} downloads") };
    match percent {
        Some(percent) => format!("{what} at {percent}%"),
        None => what,
    }
}

/// `8.9 of 14.3 GB`, or what is here while the whole is not known.
pub fn amount(pull: &Pull) -> Option<String> {
    match pull.size_bytes {
        Some(size) => {
            let (done, of) = format::part_of(pull.done_bytes.min(size), size, format::file_size);
            Some(format!("{done} {of}"))
        }
        None => (pull.done_bytes > 0).then(|| format::file_size(pull.done_bytes)),
    }
}

/// Places that are named in a row; the others are counted.
const NAMED: usize = 2;

/// `from attic-mini (LAN) and registry.example`: where the bytes come from, and before there are
/// any, where they will be asked for.
pub fn origin(pull: &Pull) -> Option<String> {
    let names: Vec<_> = pull.sources.iter().map(place).collect();
    let text = match names.as_slice() {
        [] if pull.source.is_empty() => return None,
        [] => pull.source.clone(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        _ => format!("{} and {} more", names[..NAMED].join(", "), names.len() - NAMED),
    };
    Some(format!("from {text}"))
}

fn place(source: &PullSource) -> String {
    let name = source.name.trim();
    match source.kind {
        PullSourceKind::Peer if source.lan => format!("{name} (LAN)"),
        PullSourceKind::Peer => format!("{name} (peer)"),
        PullSourceKind::Registry => name.to_owned(),
    }
}

/// Each place with what it brought, for those who want to know exactly.
pub fn origin_hint(pull: &Pull) -> String {
    let line =
        |source: &PullSource| format!("{}: {}", place(source), format::file_size(source.bytes));
    pull.sources.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `38.2 MB/s`, while bytes come.
pub fn speed(pull: &Pull) -> Option<String> {
    let rate = pull.bytes_per_s.filter(|_| pull.state == PullState::Downloading)?;
    Some(format!("{}/s", format::file_size(rate.max(0.0) as u64)))
}

/// `2 min 22 s left`, once the node knows it.
pub fn left(pull: &Pull) -> Option<String> {
    let seconds = pull.eta_s.filter(|_| pull.state == PullState::Downloading)?;
    let ms = i64::try_from(seconds).ok()?.checked_mul(1_000)?;
    Some(format!("{} left", format::duration(ms)))
}

/// How the bar is drawn.
pub fn bar(pull: &Pull) -> &'static str {
    match pull.state {
        PullState::Resolving => "bar bar--wait",
        PullState::Queued if pull.size_bytes.is_none() => "bar",
        PullState::Downloading | PullState::Verifying | PullState::Queued => "bar",
        PullState::Retrying => "bar bar--warn",
        PullState::Paused => "bar bar--paused",
        PullState::Failed => "bar bar--bad",
        PullState::Done => "bar bar--ok",
    }
}

/// The state, where it is more than bytes coming in.
pub fn state(pull: &Pull, now_ms: i64) -> Option<Badge> {
    let (tone, icon, word) = match pull.state {
        PullState::Downloading => return None,
        PullState::Queued => (Tone::Plain, Icon::Clock, "Queued".to_owned()),
        PullState::Resolving => (Tone::Plain, Icon::Search, "Reading the manifest".to_owned()),
        PullState::Retrying => {
            let wait = pull.retry_at_ms.map(|at| format::countdown(at, now_ms));
            let word = wait.map_or("Retrying".into(), |wait| format!("Retrying in {wait}"));
            (Tone::Attention, Icon::Refresh, word)
        }
        PullState::Paused => (Tone::Plain, Icon::Pause, "Paused".to_owned()),
        PullState::Verifying => (Tone::Busy, Icon::Check, "Checking the hash".to_owned()),
        PullState::Failed => (Tone::Bad, Icon::Error, "Failed".to_owned()),
        PullState::Done => (Tone::Good, Icon::Check, "Ready".to_owned()),
    };
    let text = match pull.reason.trim() {
        "" => word,
        // The node's sentence often begins with the same word.
        reason if reason.to_lowercase().starts_with(&word.to_lowercase()) => reason.to_owned(),
        reason => format!("{word}. {reason}"),
    };
    Some(Badge { tone, icon: Some(icon), text, hint: String::new() })
}

/// What cancelling throws away, if that is worth a question.
pub fn lost_by_cancel(pull: &Pull) -> Option<u64> {
    (pull.done_bytes > WORTH_ASKING_BYTES).then_some(pull.done_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn pull(model: &str, state: PullState) -> Pull {
        Pull {
            id: format!("id-{model}"),
            model: model.into(),
            source: "registry.example".into(),
            state,
            reason: String::new(),
            size_bytes: Some(14_300_000_000),
            done_bytes: 8_900_000_000,
            bytes_per_s: Some(38_200_000.0),
            eta_s: Some(142),
            retry_at_ms: None,
            layers: Vec::new(),
            sources: Vec::new(),
            fit: None,
            swap_when_done: false,
            created_at_ms: 0,
            changed_at_ms: 0,
        }
    }

    fn plain(text: &str) -> String {
        text.replace('\u{202f}', " ")
    }

    #[test]
    fn a_download_says_how_much_how_fast_and_how_long() {
        let p = pull("a", PullState::Downloading);
        assert_eq!(percent(p.done_bytes, p.size_bytes), Some(62));
        assert_eq!(plain(&amount(&p).unwrap_or_default()), "8.9 of 14.3 GB");
        assert_eq!(plain(&speed(&p).unwrap_or_default()), "38.2 MB/s");
        assert_eq!(plain(&left(&p).unwrap_or_default()), "2 min 22 s left");
        assert_eq!(state(&p, 0), None);
    }

    fn source(kind: PullSourceKind, name: &str, lan: bool) -> PullSource {
        PullSource { kind, name: name.into(), node_id: None, lan, bytes: 2_000_000_000 }
    }

    #[test]
    fn a_pull_names_where_its_bytes_come_from() {
        let mut p = pull("a", PullState::Downloading);
        assert_eq!(origin(&p).as_deref(), Some("from registry.example"));
        p.sources.push(source(PullSourceKind::Peer, "attic-mini", true));
        assert_eq!(origin(&p).as_deref(), Some("from attic-mini (LAN)"));
        p.sources.push(source(PullSourceKind::Registry, "registry.example", false));
        let both = "from attic-mini (LAN) and registry.example";
        assert_eq!(origin(&p).as_deref(), Some(both));
        p.sources.push(source(PullSourceKind::Peer, "far", false));
        p.sources.push(source(PullSourceKind::Peer, "farther", false));
        let many = "from attic-mini (LAN), registry.example and 2 more";
        assert_eq!(origin(&p).as_deref(), Some(many));
        assert!(
            plain(&origin_hint(&p)).starts_with("attic-mini (LAN): 2.0 GB\nregistry.example: 2")
        );
        p.sources.clear();
        p.source.clear();
        assert_eq!(origin(&p), None);
    }

    #[test]
    fn nothing_is_guessed_before_it_is_known() {
        let mut p = pull("a", PullState::Downloading);
        p.eta_s = None;
        p.bytes_per_s = None;
        assert_eq!((left(&p), speed(&p)), (None, None));
        p.size_bytes = None;
        p.done_bytes = 0;
        assert_eq!((percent(0, None), amount(&p)), (None, None));
        assert_eq!(left(&pull("a", PullState::Paused)), None);
    }

    #[test]
    fn a_hundred_percent_means_every_byte() {
        assert_eq!(percent(999_999_999, Some(1_000_000_000)), Some(99));
        assert_eq!(percent(5, Some(5)), Some(100));
        assert_eq!(percent(0, Some(0)), None);
    }

    #[test]
    fn the_sidebar_adds_up_what_is_under_way() {
        let mut small = pull("b", PullState::Queued);
        (small.done_bytes, small.size_bytes) = (0, Some(700_000_000));
        let paused = pull("c", PullState::Paused);
        assert_eq!(
            overall(&[pull("a", PullState::Downloading), small, paused]),
            Some((2, Some(59)))
        );
        assert_eq!(overall(&[pull("c", PullState::Paused)]), None);
        assert_eq!(overall_text(1, Some(62)), "One download at 62%");
        assert_eq!(overall_text(2, None), "2 downloads");
    }

    #[test]
    fn every_stop_says_why() {
        let mut p = pull("a", PullState::Retrying);
        p.retry_at_ms = Some(9_000);
        p.reason = "The connection was closed.".into();
        let shown = state(&p, 3_000).map(|b| plain(&b.text)).unwrap_or_default();
        assert_eq!(shown, "Retrying in 6 s. The connection was closed.");
        p.state = PullState::Paused;
        p.reason = "Paused by you. Continues where it stopped.".into();
        let shown = state(&p, 0).map(|b| b.text).unwrap_or_default();
        assert_eq!(shown, "Paused by you. Continues where it stopped.");
    }

    #[test]
    fn only_a_large_part_is_worth_a_question() {
        let mut p = pull("a", PullState::Paused);
        assert_eq!(lost_by_cancel(&p), Some(8_900_000_000));
        p.done_bytes = 40_000_000;
        assert_eq!(lost_by_cancel(&p), None);
    }
}
