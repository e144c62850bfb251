//! What can be wrong with a data directory or a port, and that nothing is lost by it.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Command};

use agent_api::node::ActivityList;
use anyhow::Result;
use edgecoder_tests::node::Options;
use serde_json::{Value, json};

#[tokio::test]
async fn a_second_start_names_the_first() -> Result<()> {
    let node = Options::default().without_model().start()?;
    let second = Command::new(edgecoder_tests::programs::node())
        .args(["run", "--json", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(node.options.data_dir())
        .output()?;
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&node.pid().to_string()), "the pid of the first: {said}");
    assert!(said.contains(&node.http.url), "the address of the first: {said}");
    node.status().await?;
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let listen = taken.local_addr()?.to_string();
    let said = Options::default().listen(&listen).start_refused()?;
    let port = taken.local_addr()?.port().to_string();
    assert!(said.contains(&port) && said.contains("in use") && said.contains("--listen"), "{said}");
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_written_is_named() -> Result<()> {
    // Root may write anywhere, so a file stands in the way instead of a permission.
    let options = Options::default();
    fs::write(options.data_dir(), b"a file, not a folder")?;
    let said = options.start_refused()?;
    assert!(said.contains("data directory") && said.contains("--data-dir"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_damaged_database_is_kept_and_said_so() -> Result<()> {
    let junk = b"this is not a database".repeat(100);
    let node = Options::default().without_model().file("edgecoder.db", &junk).start()?;
    let status = node.status().await?;
    let notice = status.notices.iter().find(|n| n.id == "database_set_aside");
    assert!(notice.is_some_and(|n| n.message.contains("damaged")), "{:?}", status.notices);
    let kept = fs::read_dir(node.options.data_dir())?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().contains(".damaged-"))
        .expect("the old file is still there");
    assert_eq!(fs::read(kept.path())?, junk);
    Ok(())
}

#[test]
fn settings_of_a_newer_version_are_refused_and_left_alone() -> Result<()> {
    let text = br#"{"version": 99, "warp": true}"#;
    let options = Options::default().file("settings.json", text);
    let said = options.start_refused()?;
    assert!(said.contains("newer") && said.contains("settings.json"), "{said}");
    assert_eq!(fs::read(options.data_dir().join("settings.json"))?, text);
    Ok(())
}

#[tokio::test]
async fn identity_settings_pause_and_activity_survive_kill_9() -> Result<()> {
    let node = Options::default().without_model().start()?;
    let id = node.node_id.clone();
    node.http.patch::<Value>("/settings", &json!({"node_name": "Werkbank Ünïcode"})).await?;
    node.http.post::<Value>("/orchestration/pause", &json!({})).await?;
    let options = node.kill()?;

    let node = options.start()?;
    assert_eq!(node.node_id, id, "the same identity");
    let status = node.status().await?;
    assert_eq!(status.node.name, "Werkbank Ünïcode");
    assert_eq!(status.serving.state, agent_api::node::ServingState::Paused);
    let activity: ActivityList = node.http.get("/activity").await?;
    let texts: Vec<&str> = activity.items.iter().map(|line| line.text.as_str()).collect();
    assert!(texts.contains(&"Paused by you"), "{texts:?}");
    Ok(())
}

#[tokio::test]
async fn secrets_are_private_and_the_key_is_not_replaced_when_damaged() -> Result<()> {
    let node = Options::default().without_model().start()?;
    for name in ["node.key", "token"] {
        let mode = fs::metadata(node.options.data_dir().join(name))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let (_, options) = node.stop()?;
    let options = options.file("node.key", b"garbage");
    let said = options.start_refused()?;
    assert!(said.contains("node.key"), "{said}");
    assert_eq!(fs::read(options.data_dir().join("node.key"))?, b"garbage");
    Ok(())
}

#[tokio::test]
async fn a_bad_setting_is_refused_and_the_old_one_stays() -> Result<()> {
    let node = Options::default().without_model().start()?;
    for (bad, word) in [
        (json!({"listen": "0.0.0.0:4301"}), "api_key"),
        (json!({"parallel": 0}), "parallel"),
        (json!({"no_such_setting": 1}), "no_such_setting"),
        (json!({"context_length": -5}), "context_length"),
        (json!("text"), "PATCH"),
    ] {
        let response = node.http.request("PATCH", "/settings").json(&bad).send().await?;
        assert_eq!(response.status(), 400, "{bad}");
        let text = response.text().await?;
        assert!(text.contains(word) || bad.is_string(), "{bad}: {text}");
    }
    let view: Value = node.http.get("/settings").await?;
    assert_eq!(view["settings"]["parallel"], 4);
    Ok(())
}
