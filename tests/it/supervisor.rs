//! The supervisor around a node, in this process: restart, failure, stop.

use std::net::TcpListener;

use agent_api::{Event, host::HostState};
use agent_core::{config::Config, supervisor::Supervisor};
use anyhow::Result;
use futures_util::StreamExt as _;
use serde_json::json;

fn config(dir: &std::path::Path, listen: &str) -> Result<Config> {
    // It keeps to itself: other tests run on the same network.
    let settings = json!({"version": 1, "mesh": {"lan": false, "port_mapping": false}});
    std::fs::create_dir_all(dir.join("data"))?;
    std::fs::write(dir.join("data/settings.json"), settings.to_string())?;
    let mut config = Config::resolve(Some(dir.join("data")), Some(listen.parse()?))?;
    // No model, no runner: this is about the node's lives.
    (config.assets_dir, config.runner) = (None, None);
    Ok(config)
}

async fn state_when(
    supervisor: &Supervisor,
    wanted: impl Fn(&HostState) -> bool,
) -> Result<HostState> {
    let mut state = supervisor.state();
    let patience = edgecoder_tests::programs::PATIENCE;
    let found = tokio::time::timeout(patience, state.wait_for(|s| wanted(s))).await??.clone();
    Ok(found)
}

#[tokio::test]
async fn a_restart_gives_a_new_node_and_events_go_on() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Handle::current();
    let supervisor = Supervisor::start(config(dir.path(), "127.0.0.1:0")?, &runtime);
    let mut events = Box::pin(supervisor.subscribe());
    let mut lives = Vec::new();
    while let Some(event) = events.next().await {
        let Event::Snapshot { status, .. } = event else { continue };
        lives.push(status.node.url);
        if lives.len() == 3 {
            break;
        }
        supervisor.restart_now();
    }
    assert_eq!(lives.len(), 3, "each life begins with a snapshot: {lives:?}");
    supervisor.shutdown().await;
    assert_eq!(*supervisor.state().borrow(), HostState::Stopped);
    assert!(supervisor.router().is_none());
    // Everything is let go: the same directory can be used again at once.
    let again = Supervisor::start(config(dir.path(), "127.0.0.1:0")?, &runtime);
    state_when(&again, |state| *state == HostState::Running).await?;
    again.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn a_node_that_cannot_start_is_tried_again_with_the_reason() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let listen = taken.local_addr()?.to_string();
    let runtime = tokio::runtime::Handle::current();
    let supervisor = Supervisor::start(config(dir.path(), &listen)?, &runtime);
    let down =
        state_when(&supervisor, |state| matches!(state, HostState::Restarting { .. })).await?;
    let HostState::Restarting { reason, .. } = down else { panic!("{down:?}") };
    assert!(reason.starts_with("Port") && reason.contains("in use"), "{reason}");
    drop(taken);
    supervisor.restart_now();
    state_when(&supervisor, |state| *state == HostState::Running).await?;
    supervisor.shutdown().await;
    Ok(())
}
