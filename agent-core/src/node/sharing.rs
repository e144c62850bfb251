//! Model files between this node and its peers: the store is put on the mesh's shelf, and pulls are
//! told who has what.

use std::{
    cmp::Ordering,
    io,
    ops::Range,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use agent_api::mesh::{Hash, PathKind, Peer, SourceKind};
use futures_util::{
    StreamExt as _,
    future::{BoxFuture, join_all},
    stream,
};
use tokio::time::timeout;

use super::Node;
use crate::{
    mesh::{
        NodeKey,
        files::{
            self, BLOBS, FetchError, Neighbours, Offer, OnShelf, OpenBlob, Provider, QUESTIONS,
            Shelf, ask_manifest, ask_offer,
        },
    },
    models::{
        ModelFile,
        manifest::Digest,
        name::{ModelRef, OLLAMA_REGISTRY},
        pull::{Chunks, Holder, OtherPlaces, PeerManifest, PlaceError, Wanted},
        store::{Sharable, Store},
    },
};

/// Peers that are asked at the same time; as many as one transfer uses.
const ASKED: usize = 8;
/// A peer that takes longer is asked again later.
const ASK_TIME: Duration = Duration::from_secs(4);

/// What lies in the model store, for peers.
#[derive(Debug)]
pub(super) struct StoreShelf(pub Store);

impl Shelf for StoreShelf {
    fn find(&self, sha256: [u8; 32]) -> io::Result<OnShelf> {
        Ok(match self.0.sharable(Digest::from_hash(sha256))? {
            Sharable::NotHere => OnShelf::NotHere,
            Sharable::NoTree => OnShelf::NotReady,
            Sharable::Ready(blob) => OnShelf::Ready(OpenBlob {
                data: blob.data,
                offer: Offer { size: blob.size, root: blob.root },
                outboard: blob.outboard,
            }),
        })
    }

    fn prepare(&self, sha256: [u8; 32], stop: &dyn Fn() -> bool) -> io::Result<()> {
        self.0.make_outboard(Digest::from_hash(sha256), stop)
    }

    fn manifest(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Ok(name) = ModelRef::parse(name, OLLAMA_REGISTRY) else { return Ok(None) };
        Ok(self.0.manifest(&name)?.map(|manifest| manifest.bytes))
    }
}

/// Peers as pulls see them. Pulls begin before there is a mesh: until then nobody has anything.
#[derive(Debug, Default)]
pub(super) struct Peers {
    neighbours: RwLock<Option<Arc<dyn Neighbours>>>,
}

impl Peers {
    pub(super) fn attach(&self, neighbours: Option<Arc<dyn Neighbours>>) {
        *self.neighbours.write().unwrap_or_else(PoisonError::into_inner) = neighbours;
    }

    fn neighbours(&self) -> Option<Arc<dyn Neighbours>> {
        self.neighbours.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl OtherPlaces for Peers {
    fn holders(&self, wanted: Wanted) -> BoxFuture<'_, Vec<Arc<dyn Holder>>> {
        Box::pin(async move {
            let Some(neighbours) = self.neighbours() else { return Vec::new() };
            let weights = Hash(wanted.weights.hash());
            let asked = candidates(neighbours.peers(), |model| model.digest == Some(weights));
            let asking = asked.into_iter().map(|(key, peer)| {
                let neighbours = Arc::clone(&neighbours);
                async move { has_blob(neighbours, key, peer, wanted).await }
            });
            join_all(asking).await.into_iter().flatten().collect()
        })
    }

    fn manifests<'a>(&'a self, name: &'a ModelRef) -> BoxFuture<'a, Vec<PeerManifest>> {
        Box::pin(async move {
            let Some(neighbours) = self.neighbours() else { return Vec::new() };
            let (id, is_private) = (name.id(), neighbours.is_private());
            // What a name stands for is a matter of trust; bytes are not.
            let mut known = neighbours.peers();
            known.retain(|peer| is_private || peer.trusted || peer.path == Some(PathKind::Lan));
            let asking =
                candidates(known, |model| model.id == id).into_iter().map(|(key, peer)| {
                    let neighbours = Arc::clone(&neighbours);
                    async move {
                        let ask = async {
                            let stream = neighbours.open(key, QUESTIONS).await.ok()?;
                            ask_manifest(stream, &name.to_string()).await.ok()
                        };
                        let bytes = timeout(ASK_TIME, ask).await.ok()??;
                        Some(PeerManifest { peer: peer.name, bytes })
                    }
                });
            join_all(asking).await.into_iter().flatten().collect()
        })
    }
}

/// On this network: reached here, or, while there is no connection, seen here by what anybody may
/// send; for the order only.
fn is_near(peer: &Peer) -> bool {
    match peer.path {
        Some(path) => path == PathKind::Lan,
        None => peer.sources.contains(&SourceKind::Lan),
    }
}

/// An announcement has room for so many models at least; who names as many may have more.
const NAMED_BY_ALL: usize = 6;

/// Peers that share such a model, those on this network first, then by round-trip time; after them
/// connected ones that may have it without having had room to say so.
fn candidates(
    peers: Vec<Peer>,
    is_wanted: impl Fn(&agent_api::mesh::AnnouncedModel) -> bool,
) -> Vec<(NodeKey, Peer)> {
    let has = |peer: &Peer| {
        let said = peer.announcement.as_ref();
        said.is_some_and(|said| said.models.iter().any(|m| m.shared && is_wanted(m)))
    };
    let may_have = |peer: &Peer| {
        let said = peer.announcement.as_ref().filter(|_| peer.connected);
        said.is_some_and(|said| {
            said.models.len() >= NAMED_BY_ALL && said.models.iter().any(|m| m.shared)
        })
    };
    let found = peers.into_iter().filter(|peer| has(peer) || may_have(peer));
    let mut found: Vec<_> =
        found.filter_map(|peer| Some((NodeKey::from_id(&peer.node_id)?, peer))).collect();
    let rank = |peer: &Peer| (!has(peer), !is_near(peer), !peer.connected);
    found.sort_by(|(_, a), (_, b)| {
        let rtt = |peer: &Peer| peer.rtt_ms.unwrap_or(f64::MAX);
        rank(a).cmp(&rank(b)).then(rtt(a).partial_cmp(&rtt(b)).unwrap_or(Ordering::Equal))
    });
    found.truncate(ASKED);
    found
}

async fn has_blob(
    neighbours: Arc<dyn Neighbours>,
    key: NodeKey,
    peer: Peer,
    wanted: Wanted,
) -> Option<Arc<dyn Holder>> {
    let ask = async {
        let stream = neighbours.open(key, QUESTIONS).await;
        let stream = stream.map_err(|e| FetchError::Broken(e.to_string()))?;
        ask_offer(stream, wanted.blob.hash()).await
    };
    match timeout(ASK_TIME, ask).await {
        Ok(Ok(offer)) if offer.size == wanted.size => {
            let id = peer.node_id.0.clone();
            // A connection that did not exist when the peers were ranked.
            let path = match peer.path {
                Some(path) => Some(path),
                None => neighbours.peers().into_iter().find(|p| p.node_id == peer.node_id)?.path,
            };
            let is_near = path == Some(PathKind::Lan);
            Some(Arc::new(PeerBlob { neighbours, key, id, name: peer.name, is_near, offer }))
        }
        Ok(Ok(offer)) => {
            tracing::warn!("{} says that a layer has {} bytes", peer.name, offer.size);
            None
        }
        Ok(Err(why)) => {
            tracing::debug!("{} does not send a layer: {why}", peer.name);
            None
        }
        Err(_) => None,
    }
}

/// A blob at a peer.
#[derive(Debug)]
struct PeerBlob {
    neighbours: Arc<dyn Neighbours>,
    key: NodeKey,
    id: String,
    name: String,
    is_near: bool,
    offer: Offer,
}

impl Holder for PeerBlob {
    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn is_near(&self) -> bool {
        self.is_near
    }

    fn root(&self) -> [u8; 32] {
        self.offer.root
    }

    fn open(&self, range: Range<u64>) -> Chunks {
        let (neighbours, key, offer) = (Arc::clone(&self.neighbours), self.key, self.offer);
        let opened = async move {
            match neighbours.open(key, BLOBS).await {
                Ok(stream) => files::fetch(stream, offer, range).map(place_error).boxed(),
                Err(e) => stream::iter([Err(PlaceError::Gone(e.to_string()))]).boxed(),
            }
        };
        stream::once(opened).flatten().boxed()
    }
}

fn place_error<T>(result: Result<T, FetchError>) -> Result<T, PlaceError> {
    result.map_err(|error| match error {
        FetchError::Lied(why) => PlaceError::Lied(why),
        FetchError::Busy => PlaceError::Busy,
        other => PlaceError::Gone(other.to_string()),
    })
}

impl Node {
    /// Lets this node fetch model files from these peers, and hand out its own as far as the
    /// settings allow: give what is returned the streams of [`Provider::KINDS`]. `None` ends the
    /// fetching.
    pub fn share_models_with(&self, neighbours: Option<Arc<dyn Neighbours>>) -> Option<Provider> {
        self.inner.peers.attach(neighbours);
        let store = self.inner.library.store()?.clone();
        let settings = self.inner.follow_settings.subscribe();
        Some(Provider::new(Arc::new(StoreShelf(store)), settings, self.inner.stop.clone()))
    }

    /// Whether peers may fetch this model's file: what [`agent_api::mesh::AnnouncedModel`] calls
    /// shared. Only layers of this node's own store are handed out.
    pub fn shares_model(&self, model: &ModelFile) -> bool {
        let of_store = self.inner.library.store().is_some_and(|store| {
            model.blobs.as_deref().is_some_and(|blobs| blobs == store.blobs())
        });
        of_store && self.settings().mesh.share_models
    }
}

#[cfg(test)]
mod tests;
