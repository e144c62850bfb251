//! Disks that fill up and budgets that are reached.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use agent_api::pull::{Pull, PullPreview, PullState};
use anyhow::Result;
use edgecoder_tests::{node::Options, pulls, skipped};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Bench, installed_whole};

/// A file system of its own; root only.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None` where nothing may be mounted.
    fn mount(megabytes: u32) -> Result<Option<Self>> {
        let folder = TempDir::with_prefix("edgecoder-disk-")?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "edgecoder-test"])
            .arg(folder.path())
            .output();
        Ok(mounted.is_ok_and(|output| output.status.success()).then_some(Self { folder }))
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes what is free. Gives the file that holds it.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.path().join("filler");
        let mut file = File::create(&path)?;
        // Ever smaller pieces, until not one byte fits.
        let mut piece = vec![1_u8; 1 << 20];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}

#[tokio::test]
async fn a_disk_that_fills_half_way_pauses_the_pull_and_nothing_else() -> Result<()> {
    let Some(disk) = SmallDisk::mount(640)? else {
        skipped("this user may not mount a small disk");
        return Ok(());
    };
    let bench = Bench::new().await?;
    let settings = json!({"version": 1, "models_dir": disk.path()}).to_string();
    let node = Options::default().file("settings.json", settings.as_bytes()).start()?;
    let demo = node.model().await?;
    let half = bench.half_way(&node).await?;
    assert!(!half.state.is_settled(), "{}", half.reason);
    let filler = disk.fill()?;
    bench.go_on();
    let paused = pulls::settled(&node, &half.id).await?;
    assert_eq!(paused.state, PullState::Paused, "{}", paused.reason);
    let reason = paused.reason.to_lowercase();
    assert!(reason.contains("full") || reason.contains("space"), "{reason}");
    let answer = pulls::chat(&node, &demo).await?;
    assert!(answer["choices"][0].is_object(), "the node still answers: {answer}");

    std::fs::remove_file(filler)?;
    node.http.post::<Pull>("/model/pull/resume", &json!({"id": half.id})).await?;
    pulls::when(&node, &half.id, "it is done", |pull| pull.state == PullState::Done).await?;
    installed_whole(&node, &bench.model, &bench.digest).await?;
    // Its files lie on the disk that goes away with this test.
    node.stop()?;
    Ok(())
}

#[tokio::test]
async fn a_model_larger_than_the_free_disk_is_said_so_before_it_is_fetched() -> Result<()> {
    let Some(disk) = SmallDisk::mount(16)? else {
        skipped("this user may not mount a small disk");
        return Ok(());
    };
    let bench = Bench::new().await?;
    let settings = json!({"version": 1, "models_dir": disk.path()}).to_string();
    let node =
        Options::default().without_model().file("settings.json", settings.as_bytes()).start()?;
    let preview: PullPreview =
        node.http.post("/model/pull/preview", &json!({"model": bench.model})).await?;
    let problem = preview.problem.unwrap_or_default();
    assert!(problem.contains("MB"), "says how much: {problem:?}");
    bench.proxy.forget();
    let why = pulls::refused(&node, &bench.model).await?;
    assert!(why.contains("MB"), "says how much: {why:?}");
    assert!(bench.proxy.blob_bytes() <= pulls::HEAD);
    node.stop()?;
    Ok(())
}

#[tokio::test]
async fn a_budget_that_is_reached_pauses_the_pull_until_there_is_more() -> Result<()> {
    let bench = Bench::new().await?;
    let settings = json!({"version": 1, "disk_budget_bytes": bench.pushed.size() / 2}).to_string();
    let node =
        Options::default().without_model().file("settings.json", settings.as_bytes()).start()?;
    let preview: PullPreview =
        node.http.post("/model/pull/preview", &json!({"model": bench.model})).await?;
    assert!(preview.problem.is_some_and(|why| why.contains("budget")));
    let begun = pulls::start(&node, &bench.model).await?;
    let paused = pulls::settled(&node, &begun.id).await?;
    assert_eq!(paused.state, PullState::Paused);
    assert!(paused.reason.contains("budget"), "{}", paused.reason);

    node.http.patch::<Value>("/settings", &json!({"disk_budget_bytes": 0})).await?;
    node.http.post::<Pull>("/model/pull/resume", &json!({"id": begun.id})).await?;
    pulls::when(&node, &begun.id, "it is done", |pull| pull.state == PullState::Done).await?;
    installed_whole(&node, &bench.model, &bench.digest).await?;
    Ok(())
}
