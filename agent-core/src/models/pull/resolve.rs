//! What peers are asked for besides parts of weights: who has a blob, which manifest a name stands
//! for, and small layers, when the registry is out of reach.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

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
    let (heard, hears) = watch::channel(Instant::now());
    let client = context.client.heard_by(heard);
    let quiet_after = context.tuning.quiet_after;
    let patience = Patience { quiet_after, take_after: quiet_after * NAME_PATIENCE };
    let told = beside(client.manifest(name), hears, by_peers(context, name), patience).await?;
    Ok(match told {
        Told::Registry(manifest) => Resolved { manifest, note: None },
        Told::Peers((peer, manifest), why) => {
            Resolved { manifest, note: Some(note(name, &peer, &why)) }
        }
    })
}

/// What the peers say that the owner has reason to believe.
async fn by_peers(context: &Context, name: &ModelRef) -> Option<(String, Manifest)> {
    let found = timeout(FIRST_LOOK, context.peers()?.manifests(name)).await.ok()?;
    let manifests = found
        .into_iter()
        .filter_map(|found| Some((found.peer, Manifest::parse(found.bytes).ok()?)));
    usual(manifests.collect())
}

fn note(name: &ModelRef, peer: &str, why: &Why) -> String {
    let what = match why {
        Why::Late | Why::Failed(RegistryError::Silent { .. }) => "did not answer in time",
        Why::Failed(_) => "cannot be reached",
    };
    let (host, id) = (&name.host, name.id());
    format!("{host} {what}, so {peer} said what {id} is made of. Pull it again later to compare.")
}

/// How long a registry may be quiet. It is not while it answers or sends, however slowly.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until peers are asked beside it.
    quiet_after: Duration,
    /// Until what they said is taken.
    take_after: Duration,
}

/// Whose answer is taken.
#[derive(Debug)]
enum Told<R, P> {
    Registry(R),
    Peers(P, Why),
}

/// Why not the registry's.
#[derive(Debug)]
enum Why {
    Late,
    Failed(RegistryError),
}

/// What the registry answers; what the peers have, if it is out of reach or quiet for too long.
/// Peers are asked at most once, and not at all if the registry is never quiet. `heard`: when the
/// registry was heard last; at first, when it was asked.
///
/// # Errors
/// The registry's, if peers cannot help.
async fn beside<R, P>(
    registry: impl Future<Output = Result<R, RegistryError>>,
    heard: watch::Receiver<Instant>,
    peers: impl Future<Output = Option<P>>,
    patience: Patience,
) -> Result<Told<R, P>, RegistryError> {
    let Patience { quiet_after, take_after } = patience;
    tokio::pin!(registry, peers);
    let mut asks_peers = false;
    let mut said: Option<Option<P>> = None;
    let error = loop {
        let last = *heard.borrow();
        // It may be heard while its silence is waited for.
        let is_quiet_for = |time: Duration| heard.borrow().elapsed() >= time;
        let may_take = matches!(said, Some(Some(_)));
        tokio::select! {
            biased;
            answer = &mut registry => match answer {
                Ok(answer) => return Ok(Told::Registry(answer)),
                Err(error) => break error,
            },
            found = &mut peers, if asks_peers && said.is_none() => said = Some(found),
            () = sleep_until(last + quiet_after), if !asks_peers => {
                asks_peers = is_quiet_for(quiet_after);
            }
            () = sleep_until(last + take_after), if may_take => {
                if is_quiet_for(take_after) && let Some(Some(found)) = said.take() {
                    return Ok(Told::Peers(found, Why::Late));
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
    match found {
        Some(found) => Ok(Told::Peers(found, Why::Failed(error))),
        None => Err(error),
    }
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
        let (heard, hears) = watch::channel(Instant::now());
        let remote = self.remote(layer).heard_by(heard);
        let quiet_after = self.context.tuning.quiet_after;
        let patience = Patience { quiet_after, take_after: quiet_after };
        let peers = self.small_from_peers(manifest, layer);
        let sources = &self.progress.sources;
        Ok(match beside(remote.whole(limit), hears, peers, patience).await? {
            Told::Registry(bytes) => {
                sources.registry(&self.source.host(), bytes.len() as u64);
                bytes
            }
            Told::Peers((bytes, holder), _) => {
                sources.peer(layer.digest, &*holder, bytes.len() as u64);
                bytes
            }
        })
    }

    async fn small_from_peers(
        &self,
        manifest: &Manifest,
        layer: &Layer,
    ) -> Option<(Bytes, Arc<dyn Holder>)> {
        let wanted = wanted(manifest, layer)?;
        let holders = timeout(FIRST_LOOK, self.context.peers()?.holders(wanted)).await.ok()?;
        let distrusted = self.progress.sources.distrusted();
        for holder in holders.into_iter().filter(|holder| !distrusted.contains(holder.id())) {
            if let Some(bytes) = whole(&*holder, wanted).await {
                return Some((bytes, holder));
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
        future::{pending, poll_fn, ready},
        sync::atomic::{AtomicBool, Ordering},
        task::Poll,
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

    /// Asks a registry that is heard with its answer only.
    async fn ask<T>(
        registry: impl Future<Output = Result<T, RegistryError>>,
        peers: impl Future<Output = Option<T>>,
    ) -> Result<Told<T, T>, RegistryError> {
        beside(registry, watch::channel(Instant::now()).1, peers, PATIENCE).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_answers_soon_costs_no_question_to_peers() {
        let asked = AtomicBool::new(false);
        let peers = async {
            asked.store(true, Ordering::Relaxed);
            Some("a peer's")
        };
        let answer = ask(after(1, Ok("the registry's")), peers).await;
        assert!(matches!(answer, Ok(Told::Registry("the registry's"))));
        assert!(!asked.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_swallows_packets_is_not_waited_for() {
        let begun = Instant::now();
        let answer = ask(pending(), after(1, Some("a peer's"))).await;
        assert!(matches!(answer, Ok(Told::Peers("a peer's", Why::Late))));
        assert_eq!(begun.elapsed().as_secs(), 6, "virtual time, so this is no race");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_registrys_word_counts_more_than_a_peers() {
        let answer = ask(after(5, Ok("the registry's")), ready(Some("a peer's"))).await;
        assert!(matches!(answer, Ok(Told::Registry("the registry's"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_goes_on_sending_is_not_quiet() {
        let (heard, hears) = watch::channel(Instant::now());
        let registry = async {
            for _ in 0..20 {
                sleep(Duration::from_secs(1)).await;
                heard.send_replace(Instant::now());
            }
            Ok("the registry's")
        };
        let peers = poll_fn(|_| -> Poll<Option<&str>> { panic!("peers are asked") });
        let answer = beside(registry, hears, peers, PATIENCE).await;
        assert!(matches!(answer, Ok(Told::Registry("the registry's"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_falls_silent_is_left_after_that_silence() {
        let begun = Instant::now();
        let (heard, hears) = watch::channel(begun);
        let registry = async {
            sleep(Duration::from_secs(5)).await;
            heard.send_replace(Instant::now());
            pending::<Result<&str, _>>().await
        };
        let answer = beside(registry, hears, ready(Some("a peer's")), PATIENCE).await;
        assert!(matches!(answer, Ok(Told::Peers("a peer's", Why::Late))));
        assert_eq!(begun.elapsed().as_secs(), 5 + 6, "virtual time, so this is no race");
    }

    #[tokio::test(start_paused = true)]
    async fn what_peers_said_meanwhile_is_taken_when_the_registry_fails() {
        let begun = Instant::now();
        let answer = ask(after(3, Err(down())), ready(Some("a peer's"))).await;
        assert!(matches!(answer, Ok(Told::Peers("a peer's", Why::Failed(_)))));
        assert_eq!(begun.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn where_peers_cannot_help_the_registrys_error_is_told() {
        let answer = ask(after(15, Err(down())), ready(None::<()>)).await;
        assert!(matches!(answer, Err(RegistryError::Silent { .. })));
        let answer = ask(after(1, Err(down())), after(1, Some("a peer's"))).await;
        let asked_late = matches!(answer, Ok(Told::Peers("a peer's", Why::Failed(_))));
        assert!(asked_late, "asked when it has failed");
    }

    #[test]
    fn the_note_tells_a_slow_registry_from_one_out_of_reach() {
        let name = ModelRef::parse("registry.example/library/demo", "registry.example");
        let name = name.expect("a name");
        let (host, why) = (name.host.clone(), "no route".to_owned());
        for (why, told) in [
            (Why::Late, "did not answer in time"),
            (Why::Failed(down()), "did not answer in time"),
            (Why::Failed(RegistryError::Unreachable { host, why }), "cannot be reached"),
        ] {
            let note = note(&name, "attic-mini", &why);
            assert!(note.starts_with(&format!("registry.example {told}, so attic-mini")), "{note}");
        }
    }
}
