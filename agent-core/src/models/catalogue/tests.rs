//! Tests of the catalogue.

use agent_api::fit::Verdict;
use serde_json::{Value, json};

use super::*;

fn entry(id: &str, title: &str, pull: &str) -> Value {
    json!({
        "id": id, "title": title, "summary": "Answers questions.", "uses": ["general"],
        "family": "llama", "parameters": 1_000, "license": "MIT", "context": 4_096, "shape": null,
        "capabilities": ["completion"], "sources": [],
        "variants": [{"quantization": "Q8_0", "pull": pull, "size_bytes": 1_000,
                      "size_exact": true, "digest": null}]
    })
}

fn file(updated: &str, entries: &[Value]) -> Vec<u8> {
    let data = json!({"version": 1, "updated": updated, "entries": entries});
    serde_json::to_vec(&data).expect("writes")
}

fn catalogue(entries: &[Value]) -> Catalogue {
    let data = check::read(&file("2026-11-20", entries)).expect("valid");
    Catalogue { data: Arc::new(data), origin: "a test".to_owned() }
}

fn ids(entries: Vec<&Entry>) -> Vec<&str> {
    entries.into_iter().map(|entry| entry.id.as_str()).collect()
}

fn no_fit(_: &Entry, _: &Variant) -> Fit {
    Fit {
        verdict: Verdict::FitsRam,
        reason: "a test".into(),
        context: 1,
        parallel: 1,
        weights_bytes: 0,
        cache_bytes: 0,
        overhead_bytes: 0,
        total_bytes: 0,
        gpu_bytes: 0,
        gpu_layers: 0,
        gpu_limit_bytes: 0,
        ram_limit_bytes: 0,
        tokens_per_s: None,
        exact: false,
    }
}

#[test]
fn the_catalogue_that_ships_is_valid_and_not_empty() {
    check::read(BUILT_IN.as_bytes()).expect("valid");
    let catalogue = Catalogue::built_in();
    assert_eq!(catalogue.origin(), "built in");
    assert!(!catalogue.search("").is_empty());
}

#[test]
fn every_word_must_occur_and_titles_come_first() {
    let mut small = entry("small", "Tiny One", "tiny:1b");
    small["summary"] = json!("A coder for weak machines.");
    let entries = [small, entry("coder-7b", "Good Coder", "coder:7b"), entry("x", "Other", "x:q4")];
    let catalogue = catalogue(&entries);
    assert_eq!(ids(catalogue.search("")), ["small", "coder-7b", "x"]);
    assert_eq!(ids(catalogue.search("  CODER ")), ["coder-7b", "small"]);
    assert_eq!(ids(catalogue.search("coder weak")), ["small"]);
    assert_eq!(ids(catalogue.search("mit general x:q4")), ["x"]);
    assert!(catalogue.search("coder spaceship").is_empty());
    for name in ["coder:7b", "registry.ollama.ai/library/coder:7b"] {
        assert_eq!(catalogue.by_pull_name(name).expect("known").0.id, "coder-7b");
    }
    assert!(catalogue.by_pull_name("coder").is_none());
}

#[test]
fn the_api_gets_a_fit_per_variant_and_knows_what_is_installed() {
    let mut one = entry("m", "M", "m:1b");
    one["variants"][0]["digest"] = json!("ab".repeat(32));
    let found = catalogue(&[one]).describe("", no_fit, |pull| pull == "m:1b");
    let variant = &found.entries[0].variants[0];
    assert!(variant.installed && variant.fit.reason == "a test");
    assert_eq!(variant.digest, Some(format!("sha256:{}", "ab".repeat(32))));
}

#[test]
fn what_is_wrong_is_named_with_its_entry() {
    let mut cases = Vec::new();
    let mut case = |field: &str, value: Value, why: &'static str| {
        let mut wrong = entry("bad", "Bad", "bad:1");
        *wrong.pointer_mut(field).expect("a field") = value;
        cases.push((file("2026-11-20", &[wrong]), why));
    };
    case("/title", json!(""), "the title is empty");
    case("/summary", json!("\u{1b}[31mred"), "control character");
    case("/variants", json!([]), "0 variants");
    case("/variants/0/pull", json!("../../etc"), "is not a model's name");
    case("/variants/0/size_bytes", json!(0), "which cannot be");
    case("/variants/0/size_bytes", json!(100_u64 << 40), "which cannot be");
    case("/variants/0/digest", json!("beef"), "sha256 digest");
    case("/parameters", json!(-1), "invalid value");
    for (bytes, why) in cases {
        let error = check::read(&bytes).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    let twice = [entry("a", "A", "a:1"), entry("a", "B", "b:1")];
    for (bytes, why) in [
        (file("soon", &[entry("a", "A", "a:1")]), "its date"),
        (file("2026-11-20", &[]), "0 entries"),
        (file("2026-11-20", &twice), "two entries"),
        (br#"{"version":2}"#.to_vec(), "Update EdgeCoder"),
        (b"[]".to_vec(), "cannot be read"),
        (vec![b' '; 5 << 20], "larger than"),
    ] {
        let error = check::read(&bytes).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_newer_file_replaces_what_ships_and_a_bad_or_older_one_does_not() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join(CATALOGUE_FILE);
    let origin = |dir: &Path| Catalogue::load(dir).origin().to_owned();
    assert_eq!(origin(dir.path()), "built in");
    for bad in [b"{".to_vec(), file("1999-01-01", &[entry("old", "Old", "old:1")])] {
        fs::write(&path, bad).expect("writes");
        assert_eq!(origin(dir.path()), "built in");
    }
    let newer = file("2999-01-01", &[entry("new", "New", "new:1")]);
    let updated = Catalogue::built_in().install_update(dir.path(), &newer).expect("installs");
    assert_eq!(ids(updated.search("")), ["new"]);
    assert_eq!(ids(Catalogue::load(dir.path()).search("")), ["new"]);
    let error = updated.install_update(dir.path(), &newer).expect_err("the same again");
    assert!(error.to_string().contains("was not replaced"), "{error}");
    updated.install_update(dir.path(), b"nonsense").expect_err("refused");
    assert_eq!(fs::read(&path).expect("reads"), newer);
}
