//! What each kind accepts, and that everything wrong is named.

use agent_api::{
    runner::{Constraint, Prompt, TextInput},
    tasks::{Language, Webhook},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use proptest::prelude::*;
use serde_json::json;
use sha2::Digest as _;

use super::*;
use crate::tasks::placement::{Wanted, prompt_bytes};

fn problems(body: &Value) -> Vec<String> {
    check_body(body).expect_err("not valid").0
}

fn checked(kind: &str, input: &Value) -> Checked {
    let body = json!({"kind": kind, "input": input});
    match check_body(&body) {
        Ok((task, checked)) => {
            assert_eq!(check(&task), Ok(checked.clone()), "both ways say the same");
            checked
        }
        Err(e) => panic!("{body}: {e}"),
    }
}

/// The only problem of an input.
fn problem(kind: &str, input: &Value) -> String {
    let mut all = problems(&json!({"kind": kind, "input": input}));
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn a_chat_becomes_a_job_with_the_runners_defaults() {
    let input = json!({
        "model": "llama3.2:1b@kanal",
        "messages": [{"role": "developer", "content": "brief"}, {"role": "user", "content": "hi"}],
        "max_tokens": 7, "temperature": 0, "seed": 3, "stop": ["END"],
        "json_schema": {"type": "object"}, "top_p": null,
    });
    let Checked { job: Job::Chat(job), node, module: None } = checked("chat", &input) else {
        panic!("a chat");
    };
    assert_eq!((job.model.as_str(), node.as_deref()), ("llama3.2:1b", Some("kanal")));
    let generate = *job.generate;
    let Prompt::Chat { messages, tools } = &generate.prompt else { panic!("messages") };
    assert_eq!((messages[0]["role"].as_str(), tools.len()), (Some("system"), 0));
    assert_eq!((generate.max_tokens, generate.sampling.seed), (Some(7), Some(3)));
    assert!(generate.sampling.temperature.abs() < f32::EPSILON);
    let default = agent_api::runner::Sampling::default();
    assert!((generate.sampling.top_p - default.top_p).abs() < f32::EPSILON);
    let schema = Constraint::JsonSchema {
        schema: json!({"type": "object"}),
        before: String::new(),
        after: String::new(),
    };
    assert_eq!(generate.constraint, Some(schema));
}

#[test]
fn completions_and_embeddings_become_jobs() {
    let done = checked("completion", &json!({"prompt": "once", "model": "m@sha256:00"}));
    let Job::Completion(job) = done.job else { panic!("a completion") };
    assert_eq!((job.model.as_str(), done.node), ("m@sha256:00", None));
    assert_eq!(job.generate.prompt, Prompt::Text(TextInput::Text { text: "once".into() }));
    let done = checked("embedding", &json!({"version": 1, "input": ["a", "b"]}));
    let Job::Embedding { model, inputs } = done.job else { panic!("an embedding") };
    assert_eq!((model.as_str(), inputs.len()), ("", 2));
}

#[test]
fn everything_that_is_wrong_is_told_at_once_by_name() {
    let all = problems(&json!({
        "kind": "chat", "priority": 10, "idempotency_key": "", "expires_in_s": 0,
        "max_attempts": 11, "replicas": 3, "label": "a\nb", "colour": "red", "privacy": "secret",
        "webhook": {"url": "ftp://x", "secret": 4},
        "input": {
            "messages": [{"role": "user"}, {"role": "boss", "content": "secret words"}, 5],
            "temperature": 2.5, "top_p": -1, "top_k": 1.5, "seed": -1, "max_tokens": 0,
            "stop": ["", "x"], "json_schema": true, "model": 5, "temprature": 1,
        },
    }));
    for name in [
        "priority",
        "idempotency_key",
        "expires_in_s",
        "max_attempts",
        "replicas",
        "label",
        "\"colour\"",
        "privacy",
        "webhook.url",
        "webhook.secret",
        "input.messages[0]",
        "input.messages[1]",
        "input.messages[2]",
        "input.temperature",
        "input.top_p",
        "input.top_k",
        "input.seed",
        "input.max_tokens",
        "input.stop[0]",
        "input.json_schema",
        "input.model",
        "input.\"temprature\"",
    ] {
        let named = all.iter().filter(|line| line.starts_with(&format!("{name}:"))).count();
        assert_eq!(named, 1, "{name} in {all:#?}");
    }
    assert_eq!(all.len(), 22, "{all:#?}");
    let text = Problems(all).to_string();
    assert!(!text.contains("secret words"), "words are not repeated");
}

#[test]
fn what_is_missing_is_told() {
    let missing = |kind: &str, name: &str| {
        let all = problems(&json!({"kind": kind, "input": {}}));
        let line = format!("input.{name}: is missing");
        assert!(all.iter().any(|problem| problem.starts_with(&line)), "{line}: {all:?}");
    };
    missing("chat", "messages");
    missing("completion", "prompt");
    missing("embedding", "input");
    missing("wasm", "module");
    missing("code", "language");
    missing("code", "prompt");
    missing("code", "tests");
    assert_eq!(problems(&json!([])), ["the body is not a JSON object"]);
    assert!(problems(&json!({"input": {}}))[0].starts_with("kind: is missing"));
    assert!(problems(&json!({"kind": "dance"}))[0].contains("chat, completion, embedding"));
    let all = problems(&json!({"kind": "chat"}));
    assert_eq!(all, ["input: a JSON object is expected, not nothing"]);
}

#[test]
fn a_version_that_is_not_known_is_told_with_those_that_are() {
    for kind in TaskKind::ALL {
        for version in [json!(2), json!(0), json!("1"), json!(1.5), json!(-1)] {
            let input = json!({"version": version, "of": "the future"});
            let problem = problem(kind.as_str(), &input);
            assert!(problem.starts_with("input.version: "), "{problem}");
            assert!(problem.ends_with("this node knows version 1"), "{problem}");
        }
    }
}

const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

#[test]
fn a_module_is_named_by_its_hash_and_its_bytes_come_along() {
    let module = BASE64_STANDARD.encode(EMPTY_MODULE);
    let sha = hex::encode(sha2::Sha256::digest(EMPTY_MODULE));
    let input = json!({"module": module, "input_text": "bars", "name": "rsi 1.0"});
    let done = checked("wasm", &input);
    assert_eq!(done.module.as_deref(), Some(EMPTY_MODULE));
    let Job::Wasm(job) = done.job else { panic!("a module") };
    assert_eq!((job.module.as_str(), job.name.as_deref()), (sha.as_str(), Some("rsi 1.0")));
    assert_eq!(job.input, BASE64_STANDARD.encode("bars"));
    let limits = (job.fuel, job.memory_bytes, job.wall_ms);
    assert_eq!(limits, (1_000_000_000, 64 << 20, 10_000));
    let by_name = checked("wasm", &json!({"module_sha256": sha.to_uppercase(), "fuel": 5}));
    assert_eq!(by_name.module, None);
    let Job::Wasm(job) = by_name.job else { panic!("a module") };
    assert_eq!((job.module, job.fuel, job.input.as_str()), (sha.clone(), 5, ""));
    checked("wasm", &json!({"module": BASE64_STANDARD.encode(EMPTY_MODULE), "module_sha256": sha}));
}

#[test]
fn a_wrong_module_or_limit_is_refused_by_name() {
    let sha = "ab".repeat(32);
    let with = |name: &str, value: Value| {
        let mut input = json!({"module_sha256": sha});
        input[name] = value;
        problem("wasm", &input)
    };
    assert!(with("fuel", json!(100_000_000_001_u64)).starts_with("input.fuel"));
    assert!(with("memory_bytes", json!(2_u64 << 30)).starts_with("input.memory_bytes"));
    assert!(with("wall_ms", json!(0)).starts_with("input.wall_ms"));
    assert!(with("input", json!("!")).contains("not base64"));
    assert!(with("name", json!("x".repeat(81))).starts_with("input.name"));
    assert!(with("module_sha256", json!("zz".repeat(32))).contains("64 hexadecimal digits"));
    let elf = json!({"module": BASE64_STANDARD.encode("ELF")});
    assert!(problem("wasm", &elf).contains("no WebAssembly"));
    let other = json!({"module_sha256": sha, "module": BASE64_STANDARD.encode(EMPTY_MODULE)});
    assert!(problem("wasm", &other).contains("another SHA-256"));
    let large = json!({"module_sha256": sha, "input_text": "x".repeat((1 << 20) + 1)});
    assert!(problem("wasm", &large).starts_with("input.input_text"));
    let both = json!({"module_sha256": sha, "input": "", "input_text": ""});
    assert!(problem("wasm", &both).contains("only one of them"));
    let huge = "A".repeat(7 << 20);
    let all = problems(&json!({"kind": "wasm", "input": {"module": huge}}));
    assert!(all[0].starts_with("input.module"), "{all:?}");
}

#[test]
fn code_needs_a_language_a_prompt_and_tests_within_their_bounds() {
    let input = json!({
        "language": "python", "prompt": "add", "tests": "assert 1", "model": "m@ab12cd",
        "max_iterations": 2,
    });
    let done = checked("code", &input);
    let Job::Code(code) = done.job else { panic!("code") };
    assert_eq!((code.language, code.max_iterations), (Language::Python, Some(2)));
    assert_eq!((code.model.as_str(), done.node.as_deref()), ("m", Some("ab12cd")));
    let with = |name: &str, value: Value| {
        let mut input = input.clone();
        input[name] = value;
        let problem = problem("code", &input);
        assert!(problem.starts_with(&format!("input.{name}: ")), "{problem}");
    };
    with("language", json!("cobol"));
    with("prompt", json!("x".repeat((32 << 10) + 1)));
    with("tests", json!(""));
    with("max_iterations", json!(11));
    with("run_s", json!(0));
}

#[test]
fn results_go_over_the_internet_encrypted_only() {
    let all = |url: &str| {
        let input = json!({"input": ["x"]});
        let body = json!({"kind": "embedding", "input": input, "webhook": {"url": url}});
        check_body(&body).map(|_| ()).map_err(|e| e.to_string())
    };
    for good in [
        "https://hooks.example/x?y=1",
        "http://127.0.0.1:8080/",
        "http://[::1]/",
        "http://192.168.1.5/x",
        "http://nas/x",
        "http://nas.local/x",
        "http://localhost:9",
    ] {
        assert_eq!(all(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "nonsense",
        "http://hooks.example/x",
        "http://8.8.8.8/",
        "file:///etc/passwd",
        "https://",
    ] {
        let error = all(bad).expect_err(bad);
        assert!(error.contains("webhook.url: "), "{bad}: {error}");
    }
}

#[test]
fn the_node_of_the_name_and_the_field_may_not_differ() {
    let body = |node: &str| json!({"kind": "embedding", "node": node, "input": {"input": ["x"], "model": "m@kanal"}});
    let (task, checked) = check_body(&body("kanal")).expect("the same");
    assert_eq!(checked.node.as_deref(), Some("kanal"));
    assert_eq!(task.node.as_deref(), Some("kanal"));
    assert!(problems(&body("desk"))[0].starts_with("input.model: "));
    let field =
        json!({"kind": "embedding", "node": "desk", "input": {"input": ["x"], "model": "m"}});
    assert_eq!(check_body(&field).expect("valid").1.node.as_deref(), Some("desk"));
}

#[test]
fn a_typed_submission_is_checked_like_a_body() {
    let task = SubmitTask {
        kind: TaskKind::Chat,
        input: json!({"messages": []}),
        privacy: None,
        priority: Some(12),
        node: None,
        idempotency_key: Some("k".repeat(201)),
        expires_in_s: Some(31 * 24 * 60 * 60),
        max_attempts: Some(0),
        replicas: Some(9),
        label: Some("x".repeat(81)),
        webhook: Some(Webhook { url: "http://example.org".into(), secret: None }),
    };
    let all = check(&task).expect_err("much is wrong").0;
    assert_eq!(all.len(), 8, "{all:#?}");
}

#[test]
fn thousands_of_problems_are_cut() {
    let messages = vec![json!({}); 4_000];
    let all = problems(&json!({"kind": "chat", "input": {"messages": messages}}));
    assert_eq!((all.len(), all[PROBLEMS].as_str()), (PROBLEMS + 1, "and 3950 more"));
}

#[test]
fn the_size_of_a_job_is_guessed_from_its_texts() {
    let text = "x".repeat(400);
    let done = checked("completion", &json!({"prompt": text, "max_tokens": 9}));
    assert_eq!(prompt_bytes(&done.job), 400);
    let wanted = Wanted::of(&done.job);
    assert_eq!((wanted.prompt_tokens, wanted.answer_tokens), (100, 9));
    assert_eq!((wanted.kind, wanted.model.as_deref()), (Some(TaskKind::Completion), Some("")));
    let sha = "ab".repeat(32);
    let module = Wanted::of(&checked("wasm", &json!({"module_sha256": sha})).job);
    assert_eq!((module.model, module.prompt_tokens), (None, 0));
    let chat = checked("chat", &json!({"messages": [{"role": "user", "content": text}]}));
    assert!((400..430).contains(&prompt_bytes(&chat.job)));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let names = prop::sample::select(vec![
        "version",
        "model",
        "messages",
        "role",
        "content",
        "prompt",
        "input",
        "module",
        "stop",
        "module_sha256",
        "input_text",
        "fuel",
        "wall_ms",
        "language",
        "tests",
        "seed",
        "top_k",
        "temperature",
        "json_schema",
        "max_tokens",
        "max_iterations",
        "url",
        "x",
    ]);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(names.clone().prop_map(ToOwned::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_comes_is_understood_or_refused_with_reasons(
        kind in 0_usize..5, input in any_json(), webhook in any_json(), node in any_json(),
    ) {
        let kind = TaskKind::ALL[kind];
        let body = json!({"kind": kind.as_str(), "input": input});
        if let Err(Problems(all)) = check_body(&body) {
            prop_assert!(!all.is_empty() && all.len() <= PROBLEMS + 1);
        }
        let body = json!({"kind": kind.as_str(), "input": input, "webhook": webhook, "node": node});
        match check_body(&body) {
            Ok((task, checked)) => {
                prop_assert_eq!(checked.job.kind(), kind);
                prop_assert_eq!(check(&task), Ok(checked));
            }
            Err(Problems(all)) => prop_assert!(!all.is_empty()),
        }
        let _ = check_body(&input);
    }
}
