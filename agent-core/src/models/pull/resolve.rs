//! What peers are asked for besides parts of weights: who has a blob, which manifest a name stands
//! for, and small layers, when the registry is out of reach.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::{
    fetch::{Attempt, Context},
    peers::{FIRST_LOOK, Holder, OtherPlaces, Pool, SILENT, Wanted},
};
use crate::models::{
    manifest::{Digest, Layer, Manifest},
    name::ModelRef,
    registry::{RegistryError, Source},
};

/// A name's manifest.
pub(super) struct Resolved {
    pub manifest: Manifest,
    /// What a person should know about it.
    pub note: Option<String>,
}

impl Context {
    /// The peers, if the owner wants them asked.
    pub(super) fn peers(&self) -> Option<&dyn OtherPlaces> {
        let settings = self.settings.borrow();
        let wanted = settings.mesh.enabled && settings.mesh.fetch_from_peers;
        self.places.as_deref().filter(|_| wanted)
    }
}

/// Asks the registry; if that is out of reach, the peers that the owner has reason to believe.
pub(super) async fn resolve(context: &Context, name: &ModelRef) -> Result<Resolved, RegistryError> {
    let error = match context.client.manifest(name).await {
        Ok(manifest) => return Ok(Resolved { manifest, note: None }),
        Err(error) => error,
    };
    let peers = context.peers().filter(|_| error.is_transient());
    let Some(peers) = peers else { return Err(error) };
    let found = timeout(FIRST_LOOK, peers.manifests(name)).await.unwrap_or_default();
    let manifests = found
        .into_iter()
        .filter_map(|found| Some((found.peer, Manifest::parse(found.bytes).ok()?)));
    let Some((peer, manifest)) = usual(manifests.collect()) else { return Err(error) };
    let note = format!(
        "{} cannot be reached, so {peer} said what {} is made of. Pull it again later to compare.",
        name.host,
        name.id()
    );
    Ok(Resolved { manifest, note: Some(note) })
}

/// What most say; of equals, what was heard first.
fn usual(found: Vec<(String, Manifest)>) -> Option<(String, Manifest)> {
    let mut votes: HashMap<Digest, usize> = HashMap::new();
    for (_, manifest) in &found {
        *votes.entry(manifest.digest).or_default() += 1;
    }
    let most = votes.values().copied().max()?;
    found.into_iter().find(|(_, manifest)| votes.get(&manifest.digest) == Some(&most))
}

/// What peers are asked for; `None` where a layer has no digest yet, or the model no weights.
pub(super) fn wanted(manifest: &Manifest, layer: &Layer) -> Option<Wanted> {
    let weights = manifest.model()?.digest;
    Some(Wanted { blob: layer.digest, size: layer.size, weights })
}

impl Attempt {
    /// Peers that have a layer.
    pub(super) async fn find_peers(
        &self,
        wanted: Option<Wanted>,
    ) -> (Pool, Option<&dyn OtherPlaces>) {
        let mut pool =
            Pool::new(self.progress.sources.distrusted(), self.context.tuning.slow_after);
        // A plain file is known by its address, not by what is in it.
        let is_named = matches!(self.source, Source::Registry(_));
        let places = self.context.peers().filter(|_| is_named);
        if let (Some(places), Some(wanted)) = (places, wanted) {
            pool.admit(timeout(FIRST_LOOK, places.holders(wanted)).await.unwrap_or_default());
        }
        (pool, places)
    }

    /// Whether peers may be why a layer has wrong bytes. Those that brought some are out then.
    pub(super) fn blames_peers(&self, layer: &Layer) -> bool {
        let blamed = self.progress.sources.distrust_all(layer.digest);
        if blamed {
            let host = self.source.host();
            let note = format!("A peer sent wrong bytes; this layer is fetched from {host}.");
            self.progress.set_note(note);
        }
        blamed
    }

    /// All bytes of a small layer, from the registry or, if that is out of reach, from a peer.
    pub(super) async fn small_bytes(
        &self,
        manifest: &Manifest,
        layer: &Layer,
    ) -> Result<Bytes, RegistryError> {
        let limit = usize::try_from(layer.size).unwrap_or(usize::MAX);
        let error = match self.remote(layer).whole(limit).await {
            Ok(bytes) => {
                self.progress.sources.registry(&self.source.host(), bytes.len() as u64);
                return Ok(bytes);
            }
            Err(error) => error,
        };
        let wanted = wanted(manifest, layer).filter(|_| error.is_transient());
        let (Some(peers), Some(wanted)) = (self.context.peers(), wanted) else {
            return Err(error);
        };
        let distrusted = self.progress.sources.distrusted();
        let holders = timeout(FIRST_LOOK, peers.holders(wanted)).await.unwrap_or_default();
        for holder in holders.iter().filter(|holder| !distrusted.contains(holder.id())) {
            if let Some(bytes) = whole(&**holder, wanted).await {
                self.progress.sources.peer(wanted.blob, &**holder, bytes.len() as u64);
                return Ok(bytes);
            }
        }
        Err(error)
    }
}

/// A whole small blob; `None`: the peer did not send it, or sent another.
async fn whole(holder: &dyn Holder, wanted: Wanted) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    let mut chunks = holder.open(0..wanted.size);
    while let Some(chunk) = timeout(SILENT, chunks.next()).await.ok()? {
        bytes.extend_from_slice(&chunk.ok()?);
        if bytes.len() as u64 > wanted.size {
            return None;
        }
    }
    (Digest::of(&bytes) == wanted.blob).then(|| bytes.freeze())
}
