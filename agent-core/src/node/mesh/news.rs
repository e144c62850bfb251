//! Which peers changed since the listeners were told, and which of a peer's ends are worth a line.
//! Pure bookkeeping, bounded.

use std::collections::{BTreeSet, HashMap};

use super::feed::Happening;
use crate::mesh::NodeKey;

/// Changes that are told one by one; with more, listeners are asked to look at the whole list.
const CHANGES: usize = 512;
/// Peers whose name is remembered until they leave; a mesh knows no more.
const NAMES: usize = 4_096;

/// What listeners have not heard of yet.
#[derive(Debug, Default)]
pub(super) struct News {
    changed: BTreeSet<NodeKey>,
    gone: BTreeSet<NodeKey>,
    overflow: bool,
    /// Whose coming was told, and not its leaving.
    up: HashMap<NodeKey, Known>,
}

#[derive(Debug)]
struct Known {
    name: String,
    /// The mesh it was met in: when this node goes to another one, its old peers are no news.
    mesh: String,
}

/// What to tell.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    Nothing,
    Changes {
        changed: BTreeSet<NodeKey>,
        gone: BTreeSet<NodeKey>,
    },
    /// Too much for single changes, or some were missed.
    AskAgain,
}

impl News {
    pub(super) fn changed(&mut self, peer: NodeKey) {
        self.gone.remove(&peer);
        self.changed.insert(peer);
        self.bound();
    }

    pub(super) fn gone(&mut self, peer: NodeKey) {
        self.changed.remove(&peer);
        self.gone.insert(peer);
        self.bound();
    }

    /// Events were lost.
    pub(super) fn missed(&mut self) {
        self.overflow = true;
        self.bound();
    }

    fn bound(&mut self) {
        self.overflow |= self.changed.len() + self.gone.len() > CHANGES;
        if self.overflow {
            self.changed.clear();
            self.gone.clear();
        }
    }

    /// What came together since the last time.
    pub(super) fn take(&mut self) -> Told {
        if std::mem::take(&mut self.overflow) {
            return Told::AskAgain;
        }
        if self.changed.is_empty() && self.gone.is_empty() {
            return Told::Nothing;
        }
        let (changed, gone) = (std::mem::take(&mut self.changed), std::mem::take(&mut self.gone));
        Told::Changes { changed, gone }
    }

    /// A peer came. False: it was told of before, and has not left since.
    pub(super) fn up(&mut self, peer: NodeKey, name: &str, mesh: &str) -> bool {
        let known = self.up.get(&peer).is_some_and(|known| known.mesh == mesh);
        if self.up.len() < NAMES || self.up.contains_key(&peer) {
            self.up.insert(peer, Known { name: name.to_owned(), mesh: mesh.to_owned() });
        }
        !known
    }

    /// It is not any more. A line only once, whether its goodbye or the end of its connection is
    /// heard first, and only in the mesh that it belonged to.
    pub(super) fn down(&mut self, peer: NodeKey, mesh: &str, reason: String) -> Option<Happening> {
        let known = self.up.remove(&peer).filter(|known| known.mesh == mesh)?;
        Some(Happening::Lost { name: known.name, reason })
    }

    /// It said goodbye, or was not heard of for long. Those that were never connected are no news.
    pub(super) fn left(&mut self, peer: NodeKey, mesh: &str) -> Option<Happening> {
        let known = self.up.remove(&peer).filter(|known| known.mesh == mesh)?;
        Some(Happening::Left { name: known.name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> NodeKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        NodeKey(bytes)
    }

    #[test]
    fn changes_come_together_and_the_last_word_counts() {
        let mut news = News::default();
        assert_eq!(news.take(), Told::Nothing);
        news.changed(key(1));
        news.changed(key(1));
        news.changed(key(2));
        news.gone(key(2));
        news.gone(key(3));
        news.changed(key(3));
        let (changed, gone) = (BTreeSet::from([key(1), key(3)]), BTreeSet::from([key(2)]));
        assert_eq!(news.take(), Told::Changes { changed, gone });
        assert_eq!(news.take(), Told::Nothing);
    }

    #[test]
    fn a_burst_asks_listeners_to_look_at_everything_once() {
        let mut news = News::default();
        (0..=CHANGES).for_each(|n| news.changed(key(n)));
        news.gone(key(7));
        assert_eq!(news.take(), Told::AskAgain);
        assert_eq!(news.take(), Told::Nothing);
        news.missed();
        assert_eq!(news.take(), Told::AskAgain);
    }

    #[test]
    fn a_leaving_peer_is_told_of_once() {
        let mut news = News::default();
        news.up(key(1), "studio", "home");
        assert_eq!(news.left(key(1), "home"), Some(Happening::Left { name: "studio".into() }));
        assert_eq!(news.down(key(1), "home", String::new()), None);
        assert_eq!(news.left(key(2), "home"), None, "it was never connected");
    }

    #[test]
    fn a_peer_joins_once_until_it_leaves() {
        let mut news = News::default();
        assert!(news.up(key(1), "studio", "home"));
        assert!(!news.up(key(1), "studio", "home"), "connected again");
        assert!(news.up(key(1), "studio", "work"), "another mesh");
        assert!(news.left(key(1), "work").is_some());
        assert!(news.up(key(1), "studio", "work"));
    }

    #[test]
    fn peers_of_a_mesh_that_was_left_are_no_news() {
        let mut news = News::default();
        news.up(key(1), "studio", "home");
        assert_eq!(news.down(key(1), "work", String::new()), None);
    }
}
