//! Nodes on one network find each other with no configuration. Each test has a network of its own,
//! so that nodes of other tests are not found.

use agent_api::mesh::PathKind;
use anyhow::{Context as _, Result};
use edgecoder_tests::{
    cluster::{Cluster, View, with_settings},
    netlab::{self, Host, Lab, Link, Nat, Needs, Site},
    node::Options,
};
use serde_json::{Value, json};

/// A home with these computers.
fn home(lab: &Lab, names: &[&str]) -> Result<(Site, Vec<Host>)> {
    let home = lab.site("home", Nat::PortRestricted, Link::PLAIN)?;
    let hosts = names.iter().map(|name| home.host(name)).collect::<Result<_>>()?;
    Ok((home, hosts))
}

/// A node as its owner starts it for the first time: no settings at all.
fn untouched(host: &Host) -> Options {
    Options::default().without_model().place(host.place())
}

#[test]
fn two_new_nodes_find_each_other_with_no_configuration() -> Result<()> {
    let name = "mesh::lan::two_new_nodes_find_each_other_with_no_configuration";
    netlab::test(name, Needs::Namespaces, async |lab| {
        let (_home, hosts) = home(&lab, &["desktop", "laptop", "tower"])?;
        let mut cluster = Cluster::new();
        cluster.add(untouched(&hosts[0])).await?;
        cluster.add(untouched(&hosts[1])).await?;
        cluster.until_whole().await?;
        // The third finds a mesh of two.
        cluster.add(untouched(&hosts[2])).await?;
        cluster.until_whole().await?;
        let mesh = cluster.view(0).await?.mesh.mesh_id;
        for at in 0..3 {
            let view = cluster.view(at).await?;
            assert_eq!(view.mesh.mesh_id, mesh, "one mesh");
            assert!(!view.mesh.settled, "nobody was invited");
            assert!(view.peers.iter().all(|peer| peer.path == Some(PathKind::Lan)));
        }
        // Nodes that merged by themselves are still together after a restart.
        cluster.kill(0)?;
        cluster.restart(0).await?;
        cluster.until_whole().await
    })
}

#[test]
fn a_new_node_asks_a_settled_mesh_and_the_owner_lets_it_in() -> Result<()> {
    let name = "mesh::lan::a_new_node_asks_a_settled_mesh_and_the_owner_lets_it_in";
    netlab::test(name, Needs::Namespaces, async |lab| {
        let (_home, hosts) = home(&lab, &["desktop", "laptop"])?;
        let mut cluster = Cluster::new();
        cluster.add(untouched(&hosts[0])).await?;
        cluster.invite(0).await?;
        let mesh = cluster.view(0).await?.mesh;
        assert!(mesh.settled, "an invitation settles it");
        cluster.add(untouched(&hosts[1])).await?;
        let guest = cluster.id(1);
        let asks = |view: &View| {
            view.mesh.nearby.iter().any(|near| near.node_id == guest && near.asks_to_join)
        };
        let view = cluster.until(0, "the new node asks", asks).await?;
        assert!(!view.is_connected(&guest), "nobody is in before the owner says so");
        let answer = json!({ "node_id": guest.0, "admit": true });
        cluster.http(0).post::<Value>("/mesh/admit", &answer).await?;
        cluster.until_whole().await?;
        assert_eq!(cluster.view(1).await?.mesh.mesh_id, mesh.mesh_id);
        Ok(())
    })
}

#[test]
fn an_owner_who_wants_no_company_gets_none() -> Result<()> {
    let name = "mesh::lan::an_owner_who_wants_no_company_gets_none";
    netlab::test(name, Needs::Namespaces, async |lab| {
        let (_home, hosts) = home(&lab, &["hermit", "left", "right"])?;
        let mut cluster = Cluster::new();
        let hermit = Options::default().without_model();
        let hermit = with_settings(hermit, "hermit", json!({ "lan": true, "lan_join": "never" }));
        cluster.add(hermit.place(hosts[0].place())).await?;
        cluster.add(untouched(&hosts[1])).await?;
        cluster.add(untouched(&hosts[2])).await?;
        let [left, right] = [cluster.id(1), cluster.id(2)];
        cluster.until(1, "the others find each other", |view| view.is_connected(&right)).await?;
        let near = |view: &View| {
            [&left, &right]
                .iter()
                .all(|id| view.mesh.nearby.iter().any(|near| near.node_id == **id))
        };
        let view = cluster.until(0, "the hermit sees who is near", near).await?;
        assert!(view.peers.iter().all(|peer| !peer.connected), "{:?}", view.peers);
        let meshes = [cluster.view(1).await?.mesh.mesh_id, view.mesh.mesh_id];
        assert_ne!(meshes[0], meshes[1]);
        Ok(())
    })
}

#[test]
fn two_homes_do_not_see_each_other() -> Result<()> {
    netlab::test("mesh::lan::two_homes_do_not_see_each_other", Needs::Namespaces, async |lab| {
        let left = lab.site("left", Nat::FirewallOnly, Link::PLAIN)?;
        let right = lab.site("right", Nat::FirewallOnly, Link::PLAIN)?;
        let hosts = [left.host("a")?, left.host("b")?, right.host("c")?, right.host("d")?];
        let mut cluster = Cluster::new();
        for host in &hosts {
            cluster.add(untouched(host)).await?;
        }
        for (at, with) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
            let id = cluster.id(with);
            cluster.until(at, "the home's own nodes", |view| view.is_connected(&id)).await?;
        }
        let view = cluster.view(0).await?;
        let stranger = view.peer(&cluster.id(2));
        assert!(stranger.is_none() && view.mesh.nearby.is_empty(), "{:?}", view.mesh.nearby);
        view.peer(&cluster.id(1)).context("its own")?;
        Ok(())
    })
}
