//! Two computers with one identity: somebody copied a home.

use anyhow::Result;
use edgecoder_tests::cluster::{Cluster, member};
use serde_json::json;

#[tokio::test]
async fn two_nodes_with_one_key_are_both_told() -> Result<()> {
    let mut cluster = Cluster::of(2).await?;
    let key = std::fs::read(cluster.node(1).options.data_dir().join("node.key"))?;
    let ticket = cluster.invite(0).await?;
    let twin = member("twin", json!({})).file("node.key", &key);
    use_only_by_owner(&twin.data_dir().join("node.key"))?;
    let twin = cluster.add(twin).await?;
    assert_eq!(cluster.id(twin), cluster.id(1), "the same key is the same node");
    cluster.join(twin, &ticket).await?;
    for at in [1, twin] {
        cluster.until(at, "it knows of its twin", |view| view.mesh.duplicate_identity).await?;
        let noticed = |status: &agent_api::Status| {
            status.notices.iter().any(|notice| notice.id == "duplicate_identity")
        };
        let status = cluster.node(at).status_when("its owner is told", noticed).await?;
        let notice = status.notices.iter().find(|notice| notice.id == "duplicate_identity");
        assert!(notice.is_some_and(|notice| notice.message.contains("key")), "{notice:?}");
    }
    let bystander = cluster.view(0).await?;
    assert!(!bystander.mesh.duplicate_identity);
    Ok(())
}

#[cfg(unix)]
fn use_only_by_owner(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}

#[cfg(not(unix))]
fn use_only_by_owner(_path: &std::path::Path) -> Result<()> {
    Ok(())
}
