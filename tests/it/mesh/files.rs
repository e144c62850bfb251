//! A model that a peer has comes from the peer, as whole as from its registry.

use agent_api::{
    models::{Removed, Verified},
    pull::{Pull, PullSourceKind},
    settings::SettingsView,
};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::{Cluster, View},
    fault_proxy::{Fault, FaultProxy, Rule},
    node::{TestNode, eventually},
    pulls::{self, HEAD, PART},
    registry::{Content, Pushed, Registry},
};
use serde_json::{Value, json};

/// Two nodes of a mesh, of which the first has pulled the model; the second sees that it offers it.
/// `host` is where they know the registry to be.
async fn one_has_it(registry: &Registry, host: &str) -> Result<(Cluster, Pushed)> {
    let folder = tempfile::tempdir()?;
    let file = pulls::medium_model(folder.path())?;
    let layers = [("model", Content::File(file))];
    let mut pushed = registry.push_model("shared", "latest", &layers).await?;
    pushed.model = pushed.at(host);
    let cluster = Cluster::of(2).await?;
    pulls::pull(cluster.node(0), &pushed.model).await?;
    let giver = cluster.id(0);
    let offers = |view: &View| {
        let said = view.peer(&giver).and_then(|peer| peer.announcement.as_ref());
        said.is_some_and(|said| said.models.iter().any(|model| model.shared))
    };
    cluster.until(1, "the first offers its model", offers).await?;
    Ok((cluster, pushed))
}

fn by_peers(pull: &Pull) -> u64 {
    let peers = pull.sources.iter().filter(|source| source.kind == PullSourceKind::Peer);
    peers.map(|source| source.bytes).sum()
}

/// Sets what the first node sends to peers per second; 0: no limit. It shows the setting from then on.
async fn limit_upload(cluster: &Cluster, bytes_per_s: u64) -> Result<()> {
    let patch = json!({"mesh": {"upload_limit": bytes_per_s}});
    let view: SettingsView = cluster.http(0).patch("/settings", &patch).await?;
    assert_eq!(view.settings.mesh.upload_limit, (bytes_per_s > 0).then_some(bytes_per_s));
    Ok(())
}

async fn verified(cluster: &Cluster, at: usize, model: &str) -> Result<()> {
    let verified: Verified =
        cluster.http(at).post("/model/verify", &json!({"model": model})).await?;
    assert!(verified.damaged.is_empty(), "{verified:?}");
    Ok(())
}

async fn pulled(node: &TestNode, model: &str) -> Result<Pull> {
    let begun = pulls::start(node, model).await?;
    pulls::done(node, &begun.id).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_a_peer_has_is_fetched_from_it_and_is_the_same() -> Result<()> {
    let registry = Registry::start().await?;
    let proxy = FaultProxy::start(&registry.origin()).await?;
    let (cluster, pushed) = one_has_it(&registry, &proxy.host).await?;
    // Else a fast registry has sent it all before the peer has hashed it for the first time.
    proxy.rule(Rule::on("/blobs/", Fault::Slow(100_000)).get());
    let weights = &pushed.layers[0];
    let pull = pulled(cluster.node(1), &pushed.model).await?;
    assert!(by_peers(&pull) > weights.size / 2, "{:#?}", pull.sources);
    let peer = pull.sources.iter().find(|source| source.kind == PullSourceKind::Peer);
    let peer = peer.context("a peer")?;
    assert_eq!((peer.name.as_str(), peer.lan), (cluster.name(0), true));
    assert_eq!(peer.node_id.as_ref(), Some(&cluster.id(0)));
    verified(&cluster, 1, &pushed.model).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peers_model_can_be_had_when_its_registry_is_gone() -> Result<()> {
    let registry = Registry::start().await?;
    let (cluster, pushed) = one_has_it(&registry, &registry.host).await?;
    drop(registry);
    let pull = pulled(cluster.node(1), &pushed.model).await?;
    assert!(by_peers(&pull) >= pushed.layers[0].size, "{:#?}", pull.sources);
    // And goes on: what was fetched from a peer is a model like any other.
    assert!(pulls::has(cluster.node(1), &pushed.model).await?);
    let removed: Removed =
        cluster.http(1).post("/model/remove", &json!({"model": pushed.model})).await?;
    assert!(removed.freed_bytes >= pushed.layers[0].size);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_who_shares_nothing_is_not_asked() -> Result<()> {
    let registry = Registry::start().await?;
    let (cluster, pushed) = one_has_it(&registry, &registry.host).await?;
    let off = json!({"mesh": {"share_models": false}});
    cluster.http(0).patch::<Value>("/settings", &off).await?;
    let pull = pulled(cluster.node(1), &pushed.model).await?;
    assert_eq!(by_peers(&pull), 0, "{:#?}", pull.sources);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_a_pull_from_a_peer_goes_on_and_fetches_nothing_twice() -> Result<()> {
    let registry = Registry::start().await?;
    let (mut cluster, pushed) = one_has_it(&registry, &registry.host).await?;
    let digest = &pushed.layers[0].digest;
    drop(registry);
    // Slow enough to be killed in the middle, fast enough not to wait for.
    limit_upload(&cluster, 3_000_000).await?;
    let begun = pulls::start(cluster.node(1), &pushed.model).await?;
    let half = pulls::when(cluster.node(1), &begun.id, "some of it is here", |pull| {
        pulls::here(pull, digest) >= PART
    })
    .await?;
    assert!(!half.state.is_settled(), "too fast to be killed in the middle: {half:#?}");
    // The rest waits, however long the disk takes to write down what is here.
    limit_upload(&cluster, 200_000).await?;
    let here = pulls::here(&half, digest);
    eventually("what is here is written down", || async {
        let folder = cluster.node(1).options.data_dir();
        pulls::written_down(&folder, digest).unwrap_or(0) >= here
    })
    .await?;
    cluster.kill(1)?;

    // The limit is followed while uploads run; with the old one the rest would take its time.
    limit_upload(&cluster, 0).await?;
    cluster.restart(1).await?;
    let pulls = pulls::all(cluster.node(1)).await?;
    assert_eq!(pulls.len(), 1, "the pull is known: {pulls:#?}");
    let done = pulls::done(cluster.node(1), &pulls[0].id).await?;
    let missing = pushed.size() - here;
    assert!(by_peers(&done) <= missing + HEAD, "{missing} missing: {:#?}", done.sources);
    verified(&cluster, 1, &pushed.model).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_limit_leaves_most_of_a_model_to_the_registry() -> Result<()> {
    let registry = Registry::start().await?;
    let (cluster, pushed) = one_has_it(&registry, &registry.host).await?;
    // Of 26 MB, without a limit, the peer brings more than half: see above.
    limit_upload(&cluster, 50_000).await?;
    let pull = pulled(cluster.node(1), &pushed.model).await?;
    let brought = by_peers(&pull);
    assert!(brought < pushed.layers[0].size / 4, "{:#?}", pull.sources);
    verified(&cluster, 1, &pushed.model).await
}
