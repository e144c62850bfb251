//! A seed helps nodes to meet. When it is gone, nothing that they have stops.

use agent_api::mesh::{Coordinators, DhtStats, SourceKind, SourceState};
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::{Cluster, SEED, member},
    http::client,
};
use serde_json::{Value, json};

/// A mesh whose node 0 is a seed.
async fn with_seed(count: usize) -> Result<Cluster> {
    let cluster =
        Cluster::started(count, |n, options| if n == 0 { options.args(SEED) } else { options })
            .await?;
    cluster.form().await?;
    Ok(cluster)
}

/// The list that a seed serves, asked at its relay.
async fn at_relay(cluster: &Cluster) -> Result<Coordinators> {
    let own: Coordinators = cluster.http(0).get("/network/coordinators").await?;
    let relay = own.coordinators.first().and_then(|c| c.relay.clone()).context("a relay")?;
    let url = format!("{relay}/network/coordinators");
    Ok(client().get(url).send().await?.error_for_status()?.json().await?)
}

#[tokio::test]
async fn a_seed_lists_itself_and_counts_its_dht() -> Result<()> {
    let cluster = with_seed(3).await?;
    let seed = cluster.id(0);
    // Without the token: others have none.
    let url = format!("{}/network/coordinators", cluster.http(0).url);
    let list: Coordinators = client().get(url).send().await?.error_for_status()?.json().await?;
    let own = list.coordinators.iter().find(|c| c.node_id == seed).context("lists itself")?;
    let view = cluster.view(0).await?;
    assert!(!own.addresses.is_empty());
    assert!(own.addresses.iter().all(|a| view.mesh.own.addresses.contains(a)), "{own:?}");
    assert!(own.relay.as_ref().is_some_and(|url| url.starts_with("http://127.0.0.1:")), "{own:?}");
    assert!(own.dht.as_ref().is_some_and(|a| a.starts_with("127.0.0.1:")), "{own:?}");
    assert!(list.coordinators.iter().all(|c| c.node_id == seed), "others are no seeds: {list:?}");
    assert!(view.mesh.own.seed);
    // Its API is for its owner; the relay's port is the one that everybody reaches.
    let again: Coordinators = at_relay(&cluster).await?;
    let own_again = again.coordinators.iter().find(|c| c.node_id == seed).context("itself")?;
    assert_eq!((&own_again.relay, &own_again.addresses), (&own.relay, &own.addresses));

    cluster
        .eventually("the seed's DHT node is up", async || {
            let stats: DhtStats = cluster.http(0).get("/dht/stats").await?;
            Ok(stats.server && stats.state == SourceState::Working)
        })
        .await?;
    let stats: DhtStats = cluster.http(0).get("/dht/stats").await?;
    assert_eq!(stats.address, own.dht, "one DHT node, one address");
    cluster
        .eventually("the others announce themselves in the seed's DHT", async || {
            let stats: DhtStats = cluster.http(1).get("/dht/stats").await?;
            Ok(!stats.server && stats.state == SourceState::Working && stats.announcements > 0)
        })
        .await
}

#[tokio::test]
async fn a_seeds_url_in_the_settings_finds_the_mesh_again() -> Result<()> {
    let mut cluster = with_seed(2).await?;
    let list = at_relay(&cluster).await?;
    let url = list.coordinators[0].relay.clone().context("a relay")?;
    // All that node 1 knows of the mesh is its card: no saved peers, only the seed's URL.
    cluster.kill(1)?;
    let card = "mesh.json";
    cluster
        .restart_with(1, |old| {
            let kept = |name: &str| std::fs::read(old.data_dir().join(name)).expect("its file");
            let new = member("node-1", json!({ "seeds": [url], "dht": "off" }));
            let new = new.file(card, &kept(card)).file("node.key", &kept("node.key"));
            for name in [card, "node.key"] {
                let permissions =
                    std::fs::metadata(old.data_dir().join(name)).expect("its file").permissions();
                std::fs::set_permissions(new.data_dir().join(name), permissions).expect("sets");
            }
            new
        })
        .await?;
    cluster.until_whole().await?;
    let view = cluster.view(1).await?;
    let source = view.mesh.sources.iter().find(|s| s.kind == SourceKind::Seed).context("a row")?;
    assert!(source.state == SourceState::Working && source.found > 0, "{source:?}");
    Ok(())
}

#[tokio::test]
async fn nothing_stops_when_the_seed_dies() -> Result<()> {
    let mut cluster = with_seed(4).await?;
    let since = |view: &edgecoder_tests::cluster::View, id| {
        view.peer(id).and_then(|peer| peer.connected_since_ms)
    };
    let [seed, other] = [cluster.id(0), cluster.id(2)];
    cluster.until_settled().await?;
    let before = since(&cluster.view(1).await?, &other).context("connected")?;
    cluster.kill(0)?;
    cluster.until_each("the seed is missed", |view| !view.is_connected(&seed)).await?;
    let after = since(&cluster.view(1).await?, &other);
    assert_eq!(after, Some(before), "the other connections were not touched");
    // News travel, newcomers come in, and who restarts finds the others by itself.
    cluster.http(1).post::<Value>("/orchestration/pause", &json!({})).await?;
    cluster.add_with_ticket(1).await?;
    cluster.until_whole().await?;
    cluster.kill(3)?;
    cluster.restart(3).await?;
    cluster.until_whole().await?;
    let view = cluster.view(3).await?;
    let saved = view.mesh.sources.iter().find(|s| s.kind == SourceKind::Saved).context("a row")?;
    assert!(saved.found > 0, "it found them in its own table: {saved:?}");
    Ok(())
}
