//! What servers do wrong, and what becomes of the pull.

use std::time::Duration;

use agent_api::pull::PullState;

use super::{
    Bench, MIB,
    mock::{Act, Mock, Seen, layer_json},
    model_bytes, tuning,
};
use crate::models::{
    manifest::Digest,
    pull::{Tuning, extent::PART_BYTES},
    registry::credentials::Login,
};

/// Lets the first so many requests for weights go wrong.
fn first(count: usize, act: Act) -> impl FnMut(&Seen) -> Act + Send {
    let mut left = count;
    move |seen| {
        if seen.range.is_none() || left == 0 {
            return Act::Serve;
        }
        left -= 1;
        act.clone()
    }
}

/// What came of it; the folder last, so that it goes last.
type Faulty = (Bench, u64, PullState, String, tempfile::TempDir);

async fn faulty(script: impl FnMut(&Seen) -> Act + Send + 'static) -> Faulty {
    faulty_with(tuning(), script).await
}

async fn faulty_with(tuning: Tuning, script: impl FnMut(&Seen) -> Act + Send + 'static) -> Faulty {
    let dir = tempfile::tempdir().expect("temp dir");
    let models = dir.path().join("models");
    let bench = Bench::open_with(dir.path(), models, tuning, Default::default()).await;
    let mock = Mock::start().await;
    let weights = model_bytes(20 * MIB);
    mock.add("demo", &[("model", &weights)]);
    mock.script(script);
    let pull = bench.pull(&mock.name("demo")).await;
    if pull.state == PullState::Done {
        assert!(bench.blob(&weights) == weights);
    }
    let received = bench.received();
    (bench, received, pull.state, pull.reason, dir)
}

const TOTAL: u64 = 20 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_goes_on_where_it_broke() {
    let (_, received, state, reason, _dir) = faulty(first(7, Act::Cut(100_000))).await;
    assert_eq!((state, received), (PullState::Done, TOTAL), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_stalls_is_dropped_and_goes_on() {
    let tuning = Tuning { stall: Duration::from_millis(300), ..tuning() };
    let stalls = first(4, Act::Stall(100_000));
    let (_, received, state, reason, _dir) = faulty_with(tuning, stalls).await;
    assert_eq!((state, received), (PullState::Done, TOTAL), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_trouble_is_asked_again() {
    let error = Act::Status(503, vec![]);
    let (_, received, state, reason, _dir) = faulty(first(4, error)).await;
    assert_eq!((state, received), (PullState::Done, TOTAL), "{reason}");
    let busy = Act::Status(429, vec![("retry-after", "1".into())]);
    let (_, received, state, reason, _dir) = faulty(first(2, busy)).await;
    assert_eq!((state, received), (PullState::Done, TOTAL), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_down_is_waited_for_and_the_reason_is_shown() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bench = Bench::open(dir.path()).await;
    let mock = Mock::start().await;
    let weights = model_bytes(9 * MIB);
    mock.add("demo", &[("model", &weights)]);
    mock.script(|_| Act::Status(500, vec![]));
    let pull = bench.add(&mock.name("demo")).await;
    let waits = bench.until(&pull.id, |pull| pull.state == PullState::Retrying).await;
    assert!(waits.reason.contains("500") && waits.retry_at_ms.is_some(), "{waits:?}");
    mock.behave();
    bench.until(&pull.id, |pull| pull.state == PullState::Done).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_fetched_once_more_and_then_the_host_is_named() {
    let (_, received, state, reason, _dir) = faulty(first(1, Act::Flip)).await;
    assert_eq!((state, received), (PullState::Done, 2 * TOTAL), "{reason}");
    let last_part = |seen: &Seen| match seen.range {
        Some((start, _)) if start >= PART_BYTES => Act::Flip,
        _ => Act::Serve,
    };
    let (bench, _, state, reason, _dir) = faulty(last_part).await;
    assert_eq!(state, PullState::Failed);
    assert!(reason.contains("127.0.0.1") && reason.contains("wrong bytes"), "{reason}");
    assert!(!bench.leftovers().iter().any(|name| name.ends_with(".partial")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_without_ranges_and_with_wrong_ones_still_deliver() {
    let (_, received, state, reason, _dir) = faulty(|_| Act::Whole).await;
    assert_eq!(state, PullState::Done, "{reason}");
    assert!(received >= TOTAL);
    let (_, _, state, reason, _dir) = faulty(first(3, Act::LieRange)).await;
    assert_eq!(state, PullState::Done, "{reason}");
    let (_, _, state, reason, _dir) = faulty(first(3, Act::TooMuch)).await;
    assert_eq!(state, PullState::Done, "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_to_other_schemes_end_the_pull() {
    let (_, received, state, reason, _dir) =
        faulty(|_| Act::Redirect("file:///etc/passwd".into())).await;
    assert_eq!((state, received), (PullState::Failed, 0));
    assert!(reason.contains("only http and https"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirected_pull_sends_the_login_only_to_the_registry_and_renews_the_address() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bench = Bench::open(dir.path()).await;
    let (registry, storage) = (Mock::start().await, Mock::start().await);
    let weights = model_bytes(40 * MIB);
    let manifest = registry.add("demo", &[("model", &weights)]);
    let digest = manifest.layers[0].digest;
    let path = format!("/v2/any/thing/blobs/{digest}");
    storage.add("x", &[("model", &weights)]);
    let challenge = format!(
        r#"Bearer realm="http://{}/token",service="r",scope="repository:library/demo:pull""#,
        registry.address
    );
    let target = format!("http://{}{path}", storage.address);
    registry.script(move |seen| match seen.authorization.as_deref() {
        Some("Bearer t0ken") if seen.path.contains("/blobs/") => Act::Redirect(target.clone()),
        Some("Bearer t0ken") => Act::Serve,
        _ => Act::Status(401, vec![("www-authenticate", challenge.clone())]),
    });
    let mut served = 0;
    storage.script(move |_| {
        served += 1;
        // The signed address is over after two ranges.
        if served == 3 { Act::Status(403, vec![]) } else { Act::Serve }
    });
    let login = Login { username: "me".into(), secret: "pw".into() };
    bench.credentials.set(&registry.address.to_string(), login).expect("keeps");
    let pull = bench.pull(&registry.name("demo")).await;
    assert_eq!(pull.state, PullState::Done, "{}", pull.reason);
    let at_storage = storage.take_seen();
    assert!(at_storage.len() >= 6 && at_storage.iter().all(|seen| seen.authorization.is_none()));
    let at_registry = registry.take_seen();
    assert_eq!(at_registry.len(), 2, "asked once, and once more: {at_registry:?}");
    assert_eq!(bench.received(), weights.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_pulled_says_why() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bench = Bench::open(dir.path()).await;
    let mock = Mock::start().await;
    let weights = model_bytes(9 * MIB);
    let digest = Digest::of(&weights).to_string();
    mock.add("demo", &[("model", &weights)]);
    let manifest = |layers: &str| format!(r#"{{"schemaVersion":2,"layers":[{layers}]}}"#);
    let size = weights.len() as u64;
    mock.add_manifest("larger", &manifest(&layer_json("model", &digest, size + PART_BYTES)));
    mock.add_manifest("smaller", &manifest(&layer_json("model", &digest, size - 9)));
    mock.add_manifest("huge", &manifest(&layer_json("model", &digest, 100_000_000_000_000)));
    mock.add_manifest("empty", &manifest(&layer_json("model", &digest, 0)));
    let text = layer_json("license", &digest, 5_000_000);
    mock.add_manifest(
        "text",
        &manifest(&format!("{},{text}", layer_json("model", &Digest::of(b"x").to_string(), 9))),
    );
    let zip = bytes::Bytes::from(vec![b'P'; 9 * MIB]);
    mock.add("zip", &[("model", &zip)]);
    for (model, why) in [
        ("missing", "has no"),
        ("larger", "where the manifest says"),
        ("smaller", "where the manifest says"),
        ("huge", "cannot be"),
        ("empty", "0 bytes"),
        ("text", "the most there can be"),
        ("zip", "not a GGUF file"),
    ] {
        let pull = bench.pull(&mock.name(model)).await;
        assert_eq!(pull.state, PullState::Failed, "{model}: {pull:?}");
        assert!(pull.reason.contains(why), "{model}: {}", pull.reason);
    }
    mock.script(|_| Act::Status(401, vec![]));
    let pull = bench.pull(&mock.name("demo")).await;
    assert!(pull.state == PullState::Failed && pull.reason.contains("Log in"), "{pull:?}");
    for text in ["file:///etc/passwd.gguf", "../../etc", "модель", "local/a/b:c"] {
        let request = agent_api::pull::PullRequest { model: text.into(), swap_when_done: false };
        let refused = bench.pulls.add(request).await;
        assert!(refused.is_err() || text.starts_with("local/"), "{text}");
    }
    // A name that nobody resolves, and a port that nobody listens on: it waits, and says for whom.
    let pull = bench.add("127.0.0.1:1/library/x").await;
    let waits = bench.until(&pull.id, |pull| pull.state == PullState::Retrying).await;
    assert!(waits.reason.contains("annot reach 127.0.0.1:1"), "{}", waits.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_without_tls_is_named_with_the_setting_that_helps() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mock = Mock::start().await;
    let mirrored = agent_api::settings::Registry {
        host: "r.example".into(),
        mirror: Some(format!("https://{}", mock.address)),
        ..Default::default()
    };
    let missing = agent_api::settings::Registry {
        host: "ca.example".into(),
        ca_file: Some("/nowhere/ca.pem".into()),
        ..Default::default()
    };
    let registries = vec![mirrored, missing];
    let settings = agent_api::settings::Settings { registries, ..Default::default() };
    let models = dir.path().join("models");
    let bench = Bench::open_with(dir.path(), models, tuning(), settings).await;
    let pull = bench.pull("r.example/library/x").await;
    assert_eq!(pull.state, PullState::Failed);
    assert!(pull.reason.contains("set plain_http"), "{}", pull.reason);
    let pull = bench.pull("ca.example/library/x").await;
    assert!(pull.reason.contains("/nowhere/ca.pem cannot be used"), "{}", pull.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_hears_the_login_of_the_registry_it_stands_for_and_no_other() {
    let dir = tempfile::tempdir().expect("temp dir");
    let bench = Bench::open(dir.path()).await;
    let mock = Mock::start().await;
    let weights = model_bytes(6 * MIB);
    mock.add("demo", &[("model", &weights)]);
    mock.script(|seen| match seen.authorization.as_deref() {
        Some("Bearer secret") => Act::Serve,
        Some(other) => panic!("{other} was for another registry"),
        None => Act::Status(401, vec![]),
    });
    let mirrored = |host: &str| agent_api::settings::Registry {
        host: host.into(),
        mirror: Some(format!("http://{}", mock.address)),
        ..Default::default()
    };
    let registries = vec![mirrored("r.example"), mirrored("other.example")];
    bench.settings.send_modify(|settings| settings.registries = registries);
    let login = Login { username: String::new(), secret: "secret".into() };
    bench.credentials.set("R.example:443", login).expect("keeps");
    let refused = bench.pull("other.example/library/demo:latest").await;
    assert!(refused.reason.contains("Log in"), "{refused:?}");
    let pull = bench.pull("r.example/library/demo:latest").await;
    assert_eq!(pull.state, PullState::Done, "{}", pull.reason);
}
