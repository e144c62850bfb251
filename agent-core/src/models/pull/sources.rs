//! Where a pull's bytes came from, and which peers are not believed any more.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use agent_api::{
    NodeId,
    pull::{PullSource, PullSourceKind},
};

use super::peers::Holder;
use crate::models::manifest::Digest;

/// Peers that are shown; bytes of further ones are not attributed. A transfer has 8 at a time.
const MAX_SHOWN: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    shown: Vec<PullSource>,
    /// Who brought bytes of which layer.
    brought: HashSet<(Digest, String)>,
    distrusted: HashSet<String>,
}

impl Inner {
    fn add(&mut self, source: PullSource) {
        let same = |known: &&mut PullSource| {
            known.kind == source.kind
                && known.node_id == source.node_id
                && known.name == source.name
        };
        if let Some(known) = self.shown.iter_mut().find(same) {
            known.bytes += source.bytes;
            known.lan = source.lan;
        } else if self.shown.len() < MAX_SHOWN {
            self.shown.push(source);
        }
    }
}

impl Sources {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes from the registry were kept.
    pub(super) fn registry(&self, host: &str, bytes: u64) {
        if bytes > 0 {
            let (kind, name) = (PullSourceKind::Registry, host.to_owned());
            self.with(|i| i.add(PullSource { kind, name, node_id: None, lan: false, bytes }));
        }
    }

    /// Bytes of a layer from a peer were kept.
    pub(super) fn peer(&self, layer: Digest, holder: &dyn Holder, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let source = PullSource {
            kind: PullSourceKind::Peer,
            name: holder.name().to_owned(),
            node_id: Some(NodeId(holder.id().to_owned())),
            lan: holder.is_near(),
            bytes,
        };
        self.with(|inner| {
            inner.add(source);
            inner.brought.insert((layer, holder.id().to_owned()));
        });
    }

    /// A peer was caught sending wrong bytes.
    pub(super) fn distrust(&self, id: &str) {
        self.with(|inner| inner.distrusted.insert(id.to_owned()));
    }

    /// A whole layer has the wrong digest. `true`: peers brought some of it, and may be why; none
    /// of these is asked again in this pull.
    pub(super) fn distrust_all(&self, layer: Digest) -> bool {
        self.with(|inner| {
            let suspects: Vec<_> =
                inner.brought.extract_if(|(digest, _)| *digest == layer).collect();
            let found = !suspects.is_empty();
            for (_, id) in suspects {
                // What it brought is thrown away.
                inner.shown.retain(|s| s.node_id.as_ref().is_none_or(|node| node.0 != id));
                inner.distrusted.insert(id);
            }
            found
        })
    }

    pub(super) fn distrusted(&self) -> HashSet<String> {
        self.with(|inner| inner.distrusted.clone())
    }

    /// Those with the most bytes first.
    pub(super) fn list(&self) -> Vec<PullSource> {
        let mut shown = self.with(|inner| inner.shown.clone());
        shown.sort_by_key(|source| std::cmp::Reverse(source.bytes));
        shown
    }
}
