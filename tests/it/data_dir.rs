//! What can be wrong with a data directory or a port, and that nothing is lost by it.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Command};

use agent_api::node::ActivityList;
use anyhow::Result;
use edgecoder_tests::{node::Options, skipped};
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

/// A small file system of its own under a data directory; gone when dropped.
struct SmallDisk {
    at: std::path::PathBuf,
}

impl SmallDisk {
    /// `None` where mounting is not allowed.
    fn mount(options: &Options, flags: &str) -> Option<Self> {
        let at = options.data_dir();
        fs::create_dir_all(&at).ok()?;
        let mount = ["-t", "tmpfs", "-o", flags, "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(&at).output().ok()?;
        if !mounted.status.success() {
            skipped("mounting is not allowed here (it needs root)");
            return None;
        }
        Some(Self { at })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

#[test]
fn a_read_only_disk_is_named_with_what_to_do() -> Result<()> {
    let options = Options::default();
    let Some(_disk) = SmallDisk::mount(&options, "size=4m,ro") else { return Ok(()) };
    let said = options.start_refused()?;
    assert!(said.contains("Read-only") && said.contains("--data-dir"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_stops_no_answers_and_is_said_until_there_is_room() -> Result<()> {
    let options = Options::default();
    let Some(disk) = SmallDisk::mount(&options, "size=4m") else { return Ok(()) };
    let node = options.start()?;
    let model = node.model().await?;
    let filler = disk.at.join("filler");
    // As many bytes as there is room for.
    let _ = fs::write(&filler, vec![1; 8 << 20]);

    let ask = json!({"model": model, "prompt": "def ", "max_tokens": 3});
    node.http.post::<Value>("/v1/completions", &ask).await?;
    let full = |status: &agent_api::Status| status.notices.iter().any(|n| n.id == "database_write");
    let status = node.status_when("the owner is told", full).await?;
    let notice = status.notices.iter().find(|n| n.id == "database_write").expect("a notice");
    assert!(notice.message.contains("Free some disk space"), "{}", notice.message);
    let serving: agent_api::node::Serving =
        node.http.post("/orchestration/pause", &json!({})).await?;
    assert_eq!(serving.state, agent_api::node::ServingState::Paused, "the owner's word counts");

    fs::remove_file(&filler)?;
    node.http.post::<Value>("/orchestration/resume", &json!({})).await?;
    node.status_when("the notice is gone", |status| !full(status)).await?;
    // The file system goes after the node.
    let (exit, _options) = node.stop()?;
    assert!(exit.success());
    drop(disk);
    Ok(())
}
