//! A model that a peer has comes from the peer, as whole as from its registry.

use agent_api::{
    models::{Removed, Verified},
    pull::{Pull, PullSourceKind},
};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::{Cluster, View},
    node::TestNode,
    pulls,
    registry::{Content, Pushed, Registry},
};
use serde_json::json;

/// Two nodes of a mesh, of which the first has pulled the model; the second sees that it offers it.
async fn one_has_it(registry: &Registry) -> Result<(Cluster, Pushed)> {
    let folder = tempfile::tempdir()?;
    let file = pulls::medium_model(folder.path())?;
    let layers = [("model", Content::File(file))];
    let pushed = registry.push_model("shared", "latest", &layers).await?;
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

async fn pulled(node: &TestNode, model: &str) -> Result<Pull> {
    let begun = pulls::start(node, model).await?;
    pulls::done(node, &begun.id).await
}

#[tokio::test]
async fn a_model_that_a_peer_has_is_fetched_from_it_and_is_the_same() -> Result<()> {
    let registry = Registry::start().await?;
    let (cluster, pushed) = one_has_it(&registry).await?;
    let weights = &pushed.layers[0];
    let pull = pulled(cluster.node(1), &pushed.model).await?;
    assert!(by_peers(&pull) > weights.size / 2, "{:#?}", pull.sources);
    let peer = pull.sources.iter().find(|source| source.kind == PullSourceKind::Peer);
    let peer = peer.context("a peer")?;
    assert_eq!((peer.name.as_str(), peer.lan), (cluster.name(0), true));
    assert_eq!(peer.node_id.as_ref(), Some(&cluster.id(0)));
    let verified: Verified =
        cluster.http(1).post("/model/verify", &json!({"model": pushed.model})).await?;
    assert!(verified.damaged.is_empty(), "{verified:?}");
    Ok(())
}

#[tokio::test]
async fn a_peers_model_can_be_had_when_its_registry_is_gone() -> Result<()> {
    let registry = Registry::start().await?;
    let (cluster, pushed) = one_has_it(&registry).await?;
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

#[tokio::test]
async fn an_owner_who_shares_nothing_is_not_asked() -> Result<()> {
    let registry = Registry::start().await?;
    let (cluster, pushed) = one_has_it(&registry).await?;
    let off = json!({"mesh": {"share_models": false}});
    cluster.http(0).patch::<serde_json::Value>("/settings", &off).await?;
    let pull = pulled(cluster.node(1), &pushed.model).await?;
    assert_eq!(by_peers(&pull), 0, "{:#?}", pull.sources);
    Ok(())
}
