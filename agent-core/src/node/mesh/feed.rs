//! Lines of the activity feed about peers, few enough to be read: past a number a minute they are
//! only counted. Pure: time is passed in.

use std::time::Duration;

use agent_api::{ActivityKind, mesh::PathKind};

/// A feed that shows 50 lines still has the owner's own news after a minute of this.
const LINES: u32 = 6;
/// How long what is over is counted before it is told in one line.
const WINDOW: Duration = Duration::from_secs(60);

/// What happened to a peer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Happening {
    Joined { name: String, path: Option<PathKind> },
    Left { name: String },
    Lost { name: String, reason: String },
    Path { name: String, from: PathKind, to: PathKind },
}

pub(super) type Line = (ActivityKind, String);

#[derive(Debug, Default)]
pub(super) struct Feed {
    /// When the current window began; `None`: it was quiet.
    since: Option<Duration>,
    written: u32,
    joined: u32,
    left: u32,
    paths: u32,
}

impl Feed {
    /// The line to write now, unless there were too many.
    pub(super) fn note(&mut self, now: Duration, happening: Happening) -> Option<Line> {
        self.since.get_or_insert(now);
        if self.written < LINES {
            self.written += 1;
            return Some(line(happening));
        }
        let count = match happening {
            Happening::Joined { .. } => &mut self.joined,
            Happening::Left { .. } | Happening::Lost { .. } => &mut self.left,
            Happening::Path { .. } => &mut self.paths,
        };
        *count = count.saturating_add(1);
        None
    }

    /// At the end of a window, what was only counted in it.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Line> {
        if self.since.is_none_or(|since| now.saturating_sub(since) < WINDOW) {
            return Vec::new();
        }
        let over = std::mem::take(self);
        let told = [
            (ActivityKind::PeerJoined, over.joined, "joined"),
            (ActivityKind::PeerLeft, over.left, "left"),
            (ActivityKind::PeerPath, over.paths, "reached in another way"),
        ];
        let told = told.into_iter().filter(|(_, count, _)| *count > 0);
        told.map(|(kind, count, what)| {
            let peers = if count == 1 { "peer" } else { "peers" };
            (kind, format!("{count} more {peers} {what}"))
        })
        .collect()
    }
}

fn line(happening: Happening) -> Line {
    match happening {
        Happening::Joined { name, path } => {
            let how = path.map_or_else(String::new, |path| format!(", reached {}", words(path)));
            (ActivityKind::PeerJoined, format!("{name} joined{how}"))
        }
        Happening::Left { name } => (ActivityKind::PeerLeft, format!("{name} left")),
        Happening::Lost { name, reason } if reason.is_empty() => {
            (ActivityKind::PeerLeft, format!("Connection to {name} ended"))
        }
        Happening::Lost { name, reason } => {
            (ActivityKind::PeerLeft, format!("Connection to {name} ended: {reason}"))
        }
        Happening::Path { name, from, to } => {
            let text = format!("{name} is reached {} now, not {}", words(to), words(from));
            (ActivityKind::PeerPath, text)
        }
    }
}

fn words(path: PathKind) -> &'static str {
    match path {
        PathKind::Lan => "on this network",
        PathKind::Direct => "directly",
        PathKind::Relay => "through a relay",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(name: &str) -> Happening {
        Happening::Joined { name: name.to_owned(), path: Some(PathKind::Lan) }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_few_peers_get_a_line_each() {
        let mut feed = Feed::default();
        assert_eq!(
            feed.note(at(0), joined("studio")),
            Some((ActivityKind::PeerJoined, "studio joined, reached on this network".to_owned()))
        );
        let path =
            Happening::Path { name: "studio".into(), from: PathKind::Relay, to: PathKind::Direct };
        let (_, text) = feed.note(at(1), path).expect("a line");
        assert_eq!(text, "studio is reached directly now, not through a relay");
        let lost = Happening::Lost { name: "studio".into(), reason: "timed out".into() };
        let (kind, text) = feed.note(at(2), lost).expect("a line");
        assert_eq!(
            (kind, text.as_str()),
            (ActivityKind::PeerLeft, "Connection to studio ended: timed out")
        );
        assert!(feed.due(at(600)).is_empty(), "nothing was left out");
    }

    #[test]
    fn churn_is_counted_and_told_once_a_minute() {
        let mut feed = Feed::default();
        let lines: Vec<_> = (0..18).filter_map(|n| feed.note(at(n), joined("x"))).collect();
        assert_eq!(lines.len(), 6);
        assert_eq!(feed.note(at(19), Happening::Left { name: "y".into() }), None);
        assert!(feed.due(at(59)).is_empty(), "the minute is not over");
        assert_eq!(
            feed.due(at(60)),
            [
                (ActivityKind::PeerJoined, "12 more peers joined".to_owned()),
                (ActivityKind::PeerLeft, "1 more peer left".to_owned()),
            ]
        );
        assert!(feed.due(at(120)).is_empty());
        assert!(feed.note(at(121), joined("z")).is_some(), "a new minute has lines again");
    }

    #[test]
    fn a_thousand_peers_an_hour_stay_readable() {
        let mut feed = Feed::default();
        let mut lines = 0;
        for second in 0..3_600 {
            lines += usize::from(feed.note(at(second), joined("x")).is_some());
            lines += feed.due(at(second)).len();
        }
        assert!(lines <= 60 * 7, "{lines} lines");
    }
}
