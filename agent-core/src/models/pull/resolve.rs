//! What peers are asked for besides parts of weights: who has a blob, which manifest a name stands
//! for, and small layers, when the registry is out of reach.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    fetch::{Attempt, Context},
    peers::{FIRST_LOOK, Holder, OtherPlaces, Pool, SILENT, Wanted},
};
use crate::models::{
    manifest::{Digest, Layer, Manifest},
    name::ModelRef,
    registry::{RegistryError, Source},
};

/// Peers are asked beside a registry that is quiet for so long: one whose packets are swallowed
/// (a captive network, a firewall) fails only after its connection's timeout.
pub(super) const QUIET_AFTER: Duration = Duration::from_secs(2);
/// The registry's word on a name counts more than a peer's, and it may be only slow: a peer's is
/// taken when the registry was quiet for so many times [`QUIET_AFTER`].
const NAME_PATIENCE: u32 = 3;

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
    let asked = async {
        let manifest = context.client.manifest(name).await?;
        Ok(Resolved { manifest, note: None })
    };
    let quiet_after = context.tuning.quiet_after;
    let patience = Patience { quiet_after, take_after: quiet_after * NAME_PATIENCE };
    beside(asked, by_peers(context, name), patience).await
}

/// What the peers say that the owner has reason to believe.
async fn by_peers(context: &Context, name: &ModelRef) -> Option<Resolved> {
    let found = timeout(FIRST_LOOK, context.peers()?.manifests(name)).await.ok()?;
    let manifests = found
        .into_iter()
        .filter_map(|found| Some((found.peer, Manifest::parse(found.bytes).ok()?)));
    let (peer, manifest) = usual(manifests.collect())?;
    let note = format!(
        "{} cannot be reached, so {peer} said what {} is made of. Pull it again later to compare.",
        name.host,
        name.id()
    );
    Some(Resolved { manifest, note: Some(note) })
}

/// How long a registry may be quiet.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until peers are asked beside it.
    quiet_after: Duration,
    /// Until what they said is taken.
    take_after: Duration,
}

/// What the registry answers; what the peers have, if it is out of reach or quiet for too long.
/// Peers are asked at most once, and not at all if the registry answers soon.
///
/// # Errors
/// The registry's, if peers cannot help.
async fn beside<T>(
    registry: impl Future<Output = Result<T, RegistryError>>,
    peers: impl Future<Output = Option<T>>,
    patience: Patience,
) -> Result<T, RegistryError> {
    let begun = Instant::now();
    tokio::pin!(registry, peers);
    let mut is_quiet = false;
    let mut said: Option<Option<T>> = None;
    let error = loop {
        let may_take = matches!(said, Some(Some(_)));
        tokio::select! {
            biased;
            answer = &mut registry => match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => break error,
            },
            found = &mut peers, if is_quiet && said.is_none() => said = Some(found),
            () = sleep_until(begun + patience.quiet_after), if !is_quiet => is_quiet = true,
            () = sleep_until(begun + patience.take_after), if may_take => {
                if let Some(Some(found)) = said.take() {
                    return Ok(found);
                }
            }
        }
    };
    if !error.is_transient() {
        return Err(error);
    }
    let found = match said {
        Some(found) => found,
        None => peers.await,
    };
    found.ok_or(error)
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

    /// All bytes of a small layer, from the registry or, if that is out of reach or quiet, from a
    /// peer. Whoever sends them: they fit the digest.
    pub(super) async fn small_bytes(
        &self,
        manifest: &Manifest,
        layer: &Layer,
    ) -> Result<Bytes, RegistryError> {
        let limit = usize::try_from(layer.size).unwrap_or(usize::MAX);
        let registry = async { Ok((self.remote(layer).whole(limit).await?, None)) };
        let quiet_after = self.context.tuning.quiet_after;
        let patience = Patience { quiet_after, take_after: quiet_after };
        let (bytes, holder) =
            beside(registry, self.small_from_peers(manifest, layer), patience).await?;
        let (sources, length) = (&self.progress.sources, bytes.len() as u64);
        match holder {
            None => sources.registry(&self.source.host(), length),
            Some(holder) => sources.peer(layer.digest, &*holder, length),
        }
        Ok(bytes)
    }

    async fn small_from_peers(
        &self,
        manifest: &Manifest,
        layer: &Layer,
    ) -> Option<(Bytes, Option<Arc<dyn Holder>>)> {
        let wanted = wanted(manifest, layer)?;
        let holders = timeout(FIRST_LOOK, self.context.peers()?.holders(wanted)).await.ok()?;
        let distrusted = self.progress.sources.distrusted();
        for holder in holders.into_iter().filter(|holder| !distrusted.contains(holder.id())) {
            if let Some(bytes) = whole(&*holder, wanted).await {
                return Some((bytes, Some(holder)));
            }
        }
        None
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

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::atomic::{AtomicBool, Ordering},
    };

    use tokio::time::sleep;

    use super::*;

    const QUIET: Duration = Duration::from_secs(2);
    const PATIENCE: Patience = Patience { quiet_after: QUIET, take_after: Duration::from_secs(6) };

    fn down() -> RegistryError {
        RegistryError::Silent { host: "registry.example".to_owned(), seconds: 15 }
    }

    async fn after<T>(seconds: u64, answer: T) -> T {
        sleep(Duration::from_secs(seconds)).await;
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_answers_soon_costs_no_question_to_peers() {
        let asked = AtomicBool::new(false);
        let peers = async {
            asked.store(true, Ordering::Relaxed);
            Some("a peer's")
        };
        let answer = beside(after(1, Ok("the registry's")), peers, PATIENCE).await;
        assert_eq!(answer.expect("an answer"), "the registry's");
        assert!(!asked.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_swallows_packets_is_not_waited_for() {
        let begun = Instant::now();
        let answer = beside(pending(), after(1, Some("a peer's")), PATIENCE).await;
        assert_eq!(answer.expect("an answer"), "a peer's");
        assert_eq!(begun.elapsed().as_secs(), 6, "virtual time, so this is no race");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_registrys_word_counts_more_than_a_peers() {
        let answer = beside(after(5, Ok("the registry's")), ready(Some("a peer's")), PATIENCE);
        assert_eq!(answer.await.expect("an answer"), "the registry's");
    }

    #[tokio::test(start_paused = true)]
    async fn what_peers_said_meanwhile_is_taken_when_the_registry_fails() {
        let begun = Instant::now();
        let answer = beside(after(3, Err(down())), ready(Some("a peer's")), PATIENCE).await;
        assert_eq!(answer.expect("an answer"), "a peer's");
        assert_eq!(begun.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn where_peers_cannot_help_the_registrys_error_is_told() {
        let answer = beside(after(15, Err(down())), ready(None::<()>), PATIENCE).await;
        assert!(matches!(answer, Err(RegistryError::Silent { .. })));
        let answer = beside(after(1, Err(down())), after(1, Some("a peer's")), PATIENCE).await;
        assert_eq!(answer.expect("an answer"), "a peer's", "asked when it has failed");
    }
}
