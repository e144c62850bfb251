//! What the page says about one peer.

use agent_api::{
    hardware::Tier,
    mesh::{AnnouncedServing, Announcement, PathKind, Peer, PeerState, Power, SourceKind},
};

use super::Tone;
use crate::{
    components::icon::Icon,
    format,
    mesh::{Kind, places},
};

/// Below this it was just now.
const NOW_MS: i64 = 5_000;

/// `0.6 ms`, `98 ms`, `1.4 s`.
pub fn rtt(ms: f64) -> String {
    match ms {
        ms if ms < 0.05 => "<0.1\u{202f}ms".into(),
        ms if ms < 9.95 => format!("{ms:.1}\u{202f}ms"),
        ms => format::wait(ms),
    }
}

pub fn path_icon(kind: Kind) -> Icon {
    match kind {
        Kind::Lan => Icon::Lan,
        Kind::Direct => Icon::Direct,
        Kind::Relay => Icon::Relay,
        Kind::Known => Icon::Idle,
        Kind::Unreachable => Icon::X,
    }
}

/// One word for the path, or why there is none.
pub fn path(peer: &Peer) -> &'static str {
    match peer.state {
        PeerState::Stale => "Overdue",
        PeerState::Known => "None",
        PeerState::Connected | PeerState::Unreachable => Kind::of(peer).title(),
    }
}

pub fn path_kind(kind: PathKind) -> Kind {
    match kind {
        PathKind::Lan => Kind::Lan,
        PathKind::Direct => Kind::Direct,
        PathKind::Relay => Kind::Relay,
    }
}

fn way(peer: &Peer) -> &'static str {
    match (peer.state, peer.path) {
        (PeerState::Connected, Some(PathKind::Lan)) => "Straight, on this network",
        (PeerState::Connected, Some(PathKind::Relay)) => "Through a relay, which cannot read it",
        (PeerState::Connected, _) => "Straight over the internet",
        (PeerState::Known, _) => "In the mesh; other peers carry news from it",
        (PeerState::Stale, _) => "Nothing was heard from it for longer than it promised",
        (PeerState::Unreachable, _) => "The last attempts to connect failed",
    }
}

/// Longer than the word, for the pointer.
pub fn path_hint(peer: &Peer) -> String {
    let what = way(peer);
    let more = peer.problem.as_deref().or(peer.address.as_deref());
    more.map_or_else(|| format!("{what}."), |more| format!("{what}. {more}"))
}

/// How it is reached, in a few words: `direct, 98 ms`.
pub fn reached(peer: &Peer) -> String {
    let kind = Kind::of(peer);
    let word = if kind == Kind::Lan { "LAN".into() } else { kind.title().to_lowercase() };
    match peer.rtt_ms.filter(|_| kind.connected()) {
        Some(ms) => format!("{word}, {}", rtt(ms)),
        None => word,
    }
}

/// The place of its time zone, if it shows one.
pub fn place(peer: &Peer) -> Option<String> {
    let zone = peer.announcement.as_ref()?.region.as_deref()?;
    Some(places::name(zone))
}

pub fn power(power: Power) -> String {
    match power {
        Power::Mains => "mains".into(),
        Power::Battery { percent } => format!("battery, about {percent}\u{202f}%"),
    }
}

/// Of 100.
pub fn reputation(of_one: f64) -> String {
    format!("{:.0}", of_one * 100.0)
}

/// Whether it can be reached, as a dot in the drawer's head would say it.
pub fn state(peer: &Peer) -> (Tone, &'static str) {
    match peer.state {
        PeerState::Connected => (Tone::Good, "Connected"),
        PeerState::Known => (Tone::Plain, "In the mesh"),
        PeerState::Stale => (Tone::Attention, "Overdue"),
        PeerState::Unreachable => (Tone::Bad, "Unreachable"),
    }
}

/// Why it is in this state, in a sentence.
pub fn state_reason(peer: &Peer) -> String {
    if let Some(problem) = &peer.problem {
        return problem.clone();
    }
    let reason = match peer.state {
        PeerState::Connected => return format!("{}.", way(peer)),
        PeerState::Known => "No connection is needed at the moment: other peers carry its news.",
        PeerState::Stale => "Its last announcement is overdue. It may be asleep or off.",
        PeerState::Unreachable => "The last attempts to connect failed.",
    };
    reason.into()
}

/// How busy a peer is.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Of its slots, 0 to 1.
    pub share: f64,
    pub hint: String,
}

/// `None` for a peer that takes no work.
pub fn load(said: &Announcement) -> Option<Load> {
    let taking = matches!(said.serving, AnnouncedServing::Ready | AnnouncedServing::Busy);
    if !taking || said.slots == 0 {
        return None;
    }
    let used = said.slots.saturating_sub(said.slots_free);
    let mut hint = format!("{used} of {} slots used", said.slots);
    if said.queue > 0 {
        hint.push_str(&format!(", {} waiting", said.queue));
    }
    Some(Load { share: f64::from(used) / f64::from(said.slots), hint })
}

/// Why a peer has no load, in a word.
pub fn no_load(said: &Announcement) -> &'static str {
    match said.serving {
        AnnouncedServing::Paused => "paused",
        AnnouncedServing::Unable => "takes no work",
        AnnouncedServing::Ready | AnnouncedServing::Busy => "no slots",
    }
}

pub fn serving(serving: AnnouncedServing) -> &'static str {
    match serving {
        AnnouncedServing::Ready => "Ready for work",
        AnnouncedServing::Busy => "Busy",
        AnnouncedServing::Paused => "Paused by its owner",
        AnnouncedServing::Unable => "Takes no work: no model, or its runner is down",
    }
}

/// The first model and how many more.
pub fn models(said: &Announcement) -> Option<(String, usize)> {
    let first = said.models.first()?;
    Some((first.id.clone(), said.models.len() - 1))
}

pub fn all_models(said: &Announcement) -> String {
    let ids: Vec<_> = said.models.iter().map(|m| m.id.as_str()).collect();
    ids.join(", ")
}

pub fn tier_badge(tier: Tier) -> &'static str {
    match tier {
        Tier::StudioPremium => "badge badge--tier badge--violet",
        Tier::MiniStandard => "badge badge--tier badge--info",
        Tier::MiniEconomy => "badge badge--tier",
    }
}

/// `now`, `8 s ago`, `3 h ago`, `12 d ago`.
pub fn seen(at_ms: Option<i64>, now_ms: i64) -> String {
    let Some(at) = at_ms else { return format::UNKNOWN.into() };
    let passed = (now_ms - at).max(0);
    let (amount, unit) = match passed {
        _ if passed < NOW_MS => return "now".into(),
        ms if ms < 60_000 => (ms / 1_000, "s"),
        ms if ms < 3_600_000 => (ms / 60_000, "min"),
        ms if ms < 86_400_000 => (ms / 3_600_000, "h"),
        ms => (ms / 86_400_000, "d"),
    };
    format!("{amount}\u{202f}{unit} ago")
}

/// Where it was found, in order: `LAN, then gossip`.
pub fn found(sources: &[SourceKind]) -> String {
    let words: Vec<_> = sources.iter().map(|s| super::mesh::found_by(*s)).collect();
    if words.is_empty() { format::UNKNOWN.into() } else { words.join(", then ") }
}

/// A version beside this node's.
pub fn version(theirs: &str, ours: Option<&str>) -> String {
    match ours {
        Some(ours) if ours == theirs => format!("{theirs}, same as this node"),
        Some(ours) => format!("{theirs}; this node has {ours}"),
        None => theirs.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::peers::tests::{announcement, peer};

    #[test]
    fn times_and_distances_are_short() {
        assert_eq!(rtt(0.64), "0.6\u{202f}ms");
        assert_eq!(rtt(9.96), "10\u{202f}ms");
        assert_eq!(rtt(1_400.0), "1.4\u{202f}s");
        assert_eq!(seen(Some(0), 4_000), "now");
        assert_eq!(seen(Some(0), 8_000), "8\u{202f}s ago");
        assert_eq!(seen(Some(0), 90 * 60_000), "1\u{202f}h ago");
        assert_eq!(seen(Some(9_000), 0), "now", "clocks differ");
        assert_eq!(seen(None, 0), format::UNKNOWN);
    }

    #[test]
    fn load_is_the_share_of_slots_and_a_paused_peer_has_none() {
        let mut said = announcement("Europe/Berlin");
        let busy = load(&said).expect("it takes work");
        assert_eq!((busy.share, busy.hint.as_str()), (0.25, "1 of 4 slots used"));
        said.queue = 2;
        assert_eq!(load(&said).expect("still").hint, "1 of 4 slots used, 2 waiting");
        said.serving = AnnouncedServing::Paused;
        assert_eq!((load(&said), no_load(&said)), (None, "paused"));
    }

    #[test]
    fn a_failed_attempt_is_the_reason_that_is_shown() {
        let why = "No answer on any of 3 addresses.";
        let lost = Peer {
            state: PeerState::Unreachable,
            problem: Some(why.into()),
            path: None,
            ..peer(1)
        };
        assert_eq!(state_reason(&lost), why);
        assert!(path_hint(&lost).ends_with(why));
        assert_eq!((path(&lost), reached(&lost).as_str()), ("Unreachable", "unreachable"));
        assert_eq!(reached(&peer(98)), "direct, 98\u{202f}ms");
        assert_eq!(state_reason(&peer(1)), "Straight over the internet.");
    }

    #[test]
    fn sources_are_told_in_order() {
        assert_eq!(found(&[SourceKind::Lan, SourceKind::Gossip]), "LAN, then gossip");
        assert_eq!(found(&[]), format::UNKNOWN);
        assert_eq!(version("0.9.2", Some("0.9.2")), "0.9.2, same as this node");
    }
}
