//! A laptop gets another address, and is carried to another network.

use agent_api::mesh::AnnouncedServing;
use anyhow::Result;
use edgecoder_tests::{
    cluster::{Cluster, View},
    netlab::{self, Link, Nat, Needs},
};
use serde_json::{Value, json};

use super::nat::{at, seed_at};

#[test]
fn a_laptop_survives_a_new_address_and_a_new_place() -> Result<()> {
    let name = "mesh::moves::a_laptop_survives_a_new_address_and_a_new_place";
    netlab::test(name, Needs::Namespaces, async |lab| {
        let seed = lab.public_host("seed", Link::PLAIN)?;
        let server = lab.public_host("server", Link::PLAIN)?;
        let home = lab.site("home", Nat::PortRestricted, Link::PLAIN)?;
        let cafe = lab.site("cafe", Nat::PortRestricted, Link::PLAIN)?;
        let mut laptop = home.host("laptop")?;
        let mut cluster = Cluster::new();
        cluster.add(seed_at(&seed, "seed")).await?;
        cluster.add(at(&server, "server")).await?;
        cluster.add(at(&laptop, "laptop")).await?;
        cluster.form().await?;

        laptop.readdress(77)?;
        works(&cluster, "/orchestration/pause", AnnouncedServing::Paused).await?;
        cafe.take(&mut laptop)?;
        works(&cluster, "/orchestration/resume", AnnouncedServing::Unable).await?;
        let id = cluster.id(2);
        let ip = format!("{}:", cafe.public);
        cluster
            .until(1, "the server speaks with the cafe", |view: &View| {
                let peer = view.peer(&id).filter(|peer| peer.connected);
                let address = peer.and_then(|peer| peer.address.as_deref());
                address.is_some_and(|address| address.starts_with(&ip))
            })
            .await?;
        cluster.until_whole().await
    })
}

/// What the laptop does now is seen at the server: its connections are alive, not just not missed.
async fn works(cluster: &Cluster, path: &str, serving: AnnouncedServing) -> Result<()> {
    cluster.http(2).post::<Value>(path, &json!({})).await?;
    let id = cluster.id(2);
    let seen = |view: &View| {
        let said = view.peer(&id).and_then(|peer| peer.announcement.as_ref());
        said.is_some_and(|said| said.serving == serving)
    };
    cluster.until(1, &format!("{path} is seen at the server"), seen).await.map(|_| ())
}
