//! Pulls that are interrupted: what is on disk is neither fetched nor hashed again.

use std::{
    process::{Command, Stdio},
    sync::atomic::Ordering,
};

use agent_api::{pull::PullState, settings::Settings};

use super::{
    Bench, MIB, Tuning,
    mock::{Act, Mock, Seen},
    model_bytes, tuning,
};
use crate::models::{
    manifest::Digest,
    pull::{extent::PART_BYTES, record::Record},
    store::Store,
};

const TOTAL: usize = 60 * MIB;

/// The first three parts come, the fourth comes by half, others not at all.
fn half_way(seen: &Seen) -> Act {
    match seen.range.map(|(start, _)| start / PART_BYTES) {
        Some(0..3) => Act::Serve,
        Some(3) => Act::Stall(4 * MIB),
        Some(_) => Act::Stall(0),
        None => Act::Serve,
    }
}

const HALF: u64 = 28 << 20;

/// After an interruption: goes on, and nothing that the record claims is asked for or hashed again.
async fn check_resumed(bench: &Bench, mock: &Mock, record: &Record, model: &str) {
    let list = bench.pulls.list();
    let id = match list.first() {
        Some(pull) => pull.id.clone(),
        None => bench.add(&mock.name(model)).await.id,
    };
    let done = bench.end(&id).await;
    assert_eq!(done.state, PullState::Done, "{}", done.reason);
    for (start, end) in mock.take_seen().iter().filter_map(|seen| seen.range) {
        let part = start / PART_BYTES;
        let here = record.extent.start(part) + record.extent.got(part);
        assert!(start >= here && start < end, "asked for {start} again, and has up to {here}");
    }
    let counters = bench.pulls.counters();
    let total = TOTAL as u64;
    assert_eq!(counters.received.load(Ordering::Relaxed), total - record.extent.done());
    assert_eq!(counters.hashed.load(Ordering::Relaxed), total - record.extent.hashed());
}

fn record(store: &Store, digest: Digest) -> Option<Record> {
    Record::load(store, digest, TOTAL as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mock = Mock::start().await;
    let weights = model_bytes(TOTAL);
    mock.add("demo", &[("model", &weights)]);
    mock.script(half_way);
    let bench = Bench::open(dir.path()).await;
    let pull = bench.add(&mock.name("demo")).await;
    bench.until(&pull.id, |pull| pull.done_bytes >= HALF).await;
    bench.pulls.shutdown().await;
    bench.storage.close().await;
    let record = record(&bench.store, Digest::of(&weights)).expect("a record");
    assert_eq!((record.extent.done(), record.extent.hashed()), (HALF, HALF));
    mock.take_seen();
    mock.behave();
    let bench = Bench::open(dir.path()).await;
    bench.until(&pull.id, |_| true).await;
    check_resumed(&bench, &mock, &record, "demo").await;
    assert!(bench.blob(&weights) == weights);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_paused_stays_paused_after_a_restart() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mock = Mock::start().await;
    let weights = model_bytes(TOTAL);
    mock.add("demo", &[("model", &weights)]);
    mock.script(half_way);
    let bench = Bench::open(dir.path()).await;
    let pull = bench.add(&mock.name("demo")).await;
    bench.until(&pull.id, |pull| pull.done_bytes >= HALF).await;
    bench.pulls.pause(&pull.id).await.expect("pauses");
    bench.pulls.shutdown().await;
    bench.storage.close().await;
    let bench = Bench::open(dir.path()).await;
    let kept = bench.until(&pull.id, |pull| pull.done_bytes == HALF).await;
    assert_eq!((kept.state, kept.reason.as_str()), (PullState::Paused, "You paused it."));
    assert_eq!((kept.bytes_per_s, kept.size_bytes), (None, Some(TOTAL as u64)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_costs_the_layer_and_nothing_else() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mock = Mock::start().await;
    let weights = model_bytes(TOTAL);
    mock.add("demo", &[("model", &weights)]);
    mock.script(half_way);
    let bench = Bench::open(dir.path()).await;
    let pull = bench.add(&mock.name("demo")).await;
    bench.until(&pull.id, |pull| pull.done_bytes >= HALF).await;
    bench.pulls.pause(&pull.id).await.expect("pauses");
    bench.pulls.shutdown().await;
    bench.storage.close().await;
    std::fs::write(bench.store.state_path(Digest::of(&weights)), "?").expect("damages");
    mock.behave();
    let bench = Bench::open(dir.path()).await;
    bench.until(&pull.id, |_| true).await;
    bench.pulls.resume(&pull.id).await.expect("resumes");
    bench.until(&pull.id, |pull| pull.state == PullState::Done).await;
    assert!(bench.blob(&weights) == weights);
    assert_eq!(bench.received(), TOTAL as u64);
}

/// In a process of its own, so that it can be killed: pulls what the environment says.
#[test]
#[ignore = "the child of the next test"]
fn child_that_pulls() {
    let Ok(model) = std::env::var("EDGECODER_TEST_PULL") else { return };
    let dir = std::env::var("EDGECODER_TEST_DIR").expect("a folder");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let bench = Bench::open(dir.as_ref()).await;
        bench.add(&model).await;
        std::future::pending::<()>().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_nothing_that_was_saved_is_fetched_or_hashed_again() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mock = Mock::start().await;
    let weights = model_bytes(TOTAL);
    mock.add("demo", &[("model", &weights)]);
    mock.script(half_way);
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "models::pull::tests::resume::child_that_pulls", "--ignored"])
        .env("EDGECODER_TEST_PULL", mock.name("demo"))
        .env("EDGECODER_TEST_DIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let (store, digest) = (dir.path().join("models"), Digest::of(&weights));
    let saved = tokio::task::spawn_blocking(move || {
        let store = Store::open(store).expect("opens");
        let deadline = std::time::Instant::now() + super::PATIENCE;
        while record(&store, digest).is_none_or(|record| record.extent.hashed() < HALF) {
            assert!(std::time::Instant::now() < deadline, "the child saves nothing");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    saved.await.expect("was saved");
    child.kill().expect("kills");
    child.wait().expect("is gone");
    mock.take_seen();
    mock.behave();
    let bench = Bench::open(dir.path()).await;
    let record = record(&bench.store, digest).expect("a record");
    let mut watching = bench.pulls.watch();
    watching.wait_for(|list| !list.is_empty()).await.expect("the pull is known");
    check_resumed(&bench, &mock, &record, "demo").await;
    assert!(bench.blob(&weights) == weights);
}

/// A file system of its own that goes away with the test.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: std::path::PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&path).expect("a folder");
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "edgecoder-test"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_pauses_and_keeps_what_is_here() {
    let dir = tempfile::tempdir().expect("temp dir");
    let Some(disk) = SmallDisk::mount(dir.path().join("models"), "30m") else {
        println!("skipped: mounting a small disk needs root");
        return;
    };
    let mock = Mock::start().await;
    let weights = model_bytes(TOTAL);
    mock.add("demo", &[("model", &weights)]);
    let models = disk.0.clone();
    let tuning = Tuning { headroom: 1 << 20, ..tuning() };
    let bench =
        Bench::open_with(dir.path(), models.clone(), tuning.clone(), Settings::default()).await;
    let early = bench.pull(&mock.name("demo")).await;
    assert_eq!(early.state, PullState::Paused);
    assert!(early.reason.contains("free") && bench.received() == 0, "{}", early.reason);

    // Room at first, and then another program takes it.
    remount(&models, "80m");
    mock.script(half_way);
    bench.pulls.resume(&early.id).await.expect("resumes");
    bench.until(&early.id, |pull| pull.done_bytes >= HALF).await;
    std::fs::write(models.join("other"), vec![0; 45 * MIB]).expect("takes room");
    mock.behave();
    bench.pulls.pause(&early.id).await.expect("pauses");
    bench.add(&mock.name("demo")).await;
    let full = bench
        .until(&early.id, |pull| pull.state == PullState::Paused && pull.reason != "You paused it.")
        .await;
    assert!(full.reason.contains("Free some space"), "{}", full.reason);
    assert!(full.done_bytes >= HALF);

    std::fs::remove_file(models.join("other")).expect("frees room");
    bench.pulls.resume(&early.id).await.expect("resumes");
    bench.until(&early.id, |pull| pull.state == PullState::Done).await;
    assert!(bench.blob(&weights) == weights);
    assert_eq!(bench.received(), TOTAL as u64);
}

fn remount(path: &std::path::Path, size: &str) {
    let options = format!("remount,size={size}");
    let status = Command::new("mount").args(["-o", &options]).arg(path).status();
    assert!(status.is_ok_and(|status| status.success()), "remounts");
}
