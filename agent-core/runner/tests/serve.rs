//! The real runner with the demo model, over its protocol.

use std::{
    collections::HashMap,
    io::{BufReader, BufWriter, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio},
};

use agent_api::runner::{
    Command, Constraint, Device, FinishReason, Generate, LoadModel, Loaded, PROTOCOL, Prompt,
    Reply, RunnerError, RunnerErrorKind, Sampling, TextInput, Timings, TokenLogprob, Usage,
    read_frame, write_frame,
};
use serde_json::{Value, json};

const CODE: &str = "# Return the path of the file.\ndef get_path(";

/// A started runner; dropping it ends its input, and so the process.
struct Runner {
    child: Child,
    input: Option<BufWriter<ChildStdin>>,
    output: BufReader<ChildStdout>,
    devices: Vec<Device>,
}

/// What became of a request for text.
#[derive(Debug, Default)]
struct Outcome {
    prompt_tokens: u32,
    cached_tokens: u32,
    text: String,
    logprobs: Vec<TokenLogprob>,
    pieces: usize,
    end: Option<Result<(FinishReason, Usage, Timings), RunnerError>>,
}

impl Outcome {
    fn done(&self) -> (FinishReason, Usage) {
        match &self.end {
            Some(Ok((finish, usage, _))) => (*finish, *usage),
            other => panic!("the request did not end well: {other:?}"),
        }
    }

    fn error(&self) -> &RunnerError {
        match &self.end {
            Some(Err(error)) => error,
            other => panic!("the request did not fail: {other:?}"),
        }
    }
}

impl Runner {
    /// A runner that has said hello.
    fn start() -> Self {
        let mut child = Process::new(env!("CARGO_BIN_EXE_edgecoder-runner"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the runner starts");
        let input = child.stdin.take().map(BufWriter::new);
        let output = BufReader::new(child.stdout.take().expect("output is piped"));
        let mut runner = Self { child, input, output, devices: Vec::new() };
        match runner.read() {
            Reply::Hello { protocol, engine, devices } => {
                assert_eq!(protocol, PROTOCOL);
                assert!(engine.contains("llama.cpp"));
                runner.devices = devices;
            }
            other => panic!("the first frame is {other:?}"),
        }
        runner
    }

    /// A runner with the demo model in 8 slots.
    fn with_model() -> Self {
        let mut runner = Self::start();
        runner.load(demo(), 512, 8).expect("the demo model loads");
        runner
    }

    fn load(&mut self, path: PathBuf, context: u32, slots: u32) -> Result<Loaded, String> {
        self.load_as(on_processor(path, context, slots))
    }

    fn load_as(&mut self, model: LoadModel) -> Result<Loaded, String> {
        self.send(&Command::Load(model));
        match self.read() {
            Reply::Loaded(loaded) => Ok(loaded),
            Reply::LoadFailed { message } => Err(message),
            other => panic!("loading is answered with {other:?}"),
        }
    }

    fn send(&mut self, command: &Command) {
        let input = self.input.as_mut().expect("the input is open");
        write_frame(input, command).expect("writes");
        input.flush().expect("flushes");
    }

    fn read(&mut self) -> Reply {
        read_frame(&mut self.output).expect("a frame").expect("a reply before the end")
    }

    fn generate(&mut self, request: Generate) -> Outcome {
        self.generate_all(vec![request]).remove(0)
    }

    /// Sends all requests at once and waits for all of them; request `i` has id `i`.
    fn generate_all(&mut self, requests: Vec<Generate>) -> Vec<Outcome> {
        let count = requests.len();
        for (id, request) in (0..).zip(requests) {
            self.send(&Command::Generate { id, request: Box::new(request) });
        }
        let mut outcomes: Vec<Outcome> = (0..count).map(|_| Outcome::default()).collect();
        while outcomes.iter().any(|outcome| outcome.end.is_none()) {
            let reply = self.read();
            note(&mut outcomes, reply);
        }
        outcomes
    }

    fn embed(&mut self, inputs: &[&str]) -> Result<(Vec<Vec<f32>>, u32), RunnerError> {
        let inputs = inputs.iter().map(|&t| TextInput::Text { text: t.to_owned() }).collect();
        self.send(&Command::Embed { id: 1, inputs });
        match self.read() {
            Reply::Embedded { id: 1, vectors, prompt_tokens } => Ok((vectors, prompt_tokens)),
            Reply::Failed { id: 1, error } => Err(error),
            other => panic!("embedding is answered with {other:?}"),
        }
    }

    /// Ends the input and waits for the process.
    fn close(mut self) -> std::process::ExitStatus {
        self.input = None;
        self.child.wait().expect("the runner ends")
    }
}

fn note(outcomes: &mut [Outcome], reply: Reply) {
    let at = |id: u64| usize::try_from(id).expect("an index");
    match reply {
        Reply::Started { id, prompt_tokens, cached_tokens } => {
            let outcome = &mut outcomes[at(id)];
            assert!(outcome.prompt_tokens == 0 && outcome.pieces == 0, "started once, and first");
            (outcome.prompt_tokens, outcome.cached_tokens) = (prompt_tokens, cached_tokens);
        }
        Reply::Text { id, text, logprobs } => {
            let outcome = &mut outcomes[at(id)];
            assert!(outcome.end.is_none(), "text after the end");
            outcome.text += &text;
            outcome.logprobs.extend(logprobs);
            outcome.pieces += 1;
        }
        Reply::Done { id, finish, usage, timings } => {
            outcomes[at(id)].end = Some(Ok((finish, usage, timings)));
        }
        Reply::Failed { id, error } => outcomes[at(id)].end = Some(Err(error)),
        other => panic!("unexpected reply {other:?}"),
    }
}

fn on_processor(path: PathBuf, context: u32, slots: u32) -> LoadModel {
    let path = path.to_str().expect("a readable path").to_owned();
    LoadModel { path, context, slots, threads: Some(1), gpu_layers: 0 }
}

fn demo() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "assets", "edgecoder-demo-4m-q8_0.gguf"].iter().collect()
}

fn request(prompt: Prompt) -> Generate {
    Generate {
        prompt,
        max_tokens: Some(24),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        constraint: None,
        logprobs: None,
    }
}

fn text(prompt: &str) -> Generate {
    request(Prompt::Text(TextInput::Text { text: prompt.to_owned() }))
}

fn chat(message: &str) -> Generate {
    let messages = vec![json!({ "role": "user", "content": message })];
    request(Prompt::Chat { messages, tools: Vec::new() })
}

fn sampled(prompt: &str, seed: u32) -> Generate {
    let sampling = Sampling { temperature: 1.0, seed: Some(seed), ..Sampling::default() };
    Generate { sampling, ..text(prompt) }
}

#[test]
fn layers_go_to_a_gpu_only_where_hello_named_one() {
    let mut runner = Runner::start();
    let model = LoadModel { gpu_layers: 99, ..on_processor(demo(), 512, 1) };
    let loaded = runner.load_as(model).expect("loads");
    // Four layers and the output matrix.
    assert_eq!(loaded.gpu_layers, if runner.devices.is_empty() { 0 } else { 5 });
    runner.generate(text(CODE)).done();
}

#[test]
fn a_model_is_loaded_described_and_freed() {
    let mut runner = Runner::start();
    assert_eq!(runner.generate(text("x")).error().kind, RunnerErrorKind::NoModel);
    let loaded = runner.load(demo(), 1 << 20, 2).expect("loads");
    assert_eq!(loaded.architecture, "llama");
    assert_eq!(loaded.parameters, 4_196_608);
    assert_eq!((loaded.context, loaded.context_train), (1_024, 1_024));
    assert_eq!((loaded.slots, loaded.embedding_width), (2, 256));
    assert!(loaded.size_bytes > 4_000_000 && loaded.load_ms > 0.0);
    assert!(!loaded.name.is_empty() && !loaded.bos.is_empty() && !loaded.eos.is_empty());
    assert!(loaded.chat_template.expect("a template").contains("add_generation_prompt"));
    runner.send(&Command::Unload);
    assert_eq!(runner.read(), Reply::Unloaded);
    assert_eq!(runner.generate(text("x")).error().kind, RunnerErrorKind::NoModel);
}

#[test]
fn chat_and_text_are_answered_with_exact_usage() {
    let mut runner = Runner::with_model();
    let answer = runner.generate(text(CODE));
    let (finish, usage) = answer.done();
    assert!(!answer.text.is_empty());
    assert_eq!(usage.prompt_tokens, answer.prompt_tokens);
    assert!(usage.prompt_tokens > 3 && usage.completion_tokens > 0);
    assert!(finish == FinishReason::Stop || usage.completion_tokens == 24);

    let parts = json!([{ "type": "text", "text": "add two numbers" }]);
    let messages = vec![json!({ "role": "user", "content": parts })];
    let in_parts = request(Prompt::Chat { messages, tools: Vec::new() });
    let answers = runner.generate_all(vec![chat("add two numbers"), in_parts]);
    assert!(!answers[0].text.is_empty());
    assert_eq!(answers[0].text, answers[1].text, "parts are the same conversation");

    let image = json!([{ "type": "image_url", "image_url": { "url": "data:," } }]);
    let messages = vec![json!({ "role": "user", "content": image })];
    let refused = runner.generate(request(Prompt::Chat { messages, tools: Vec::new() }));
    assert_eq!(refused.error().kind, RunnerErrorKind::BadRequest);
}

#[test]
fn a_text_and_its_tokens_are_the_same_prompt() {
    let mut runner = Runner::with_model();
    let prompt = Prompt::Text(TextInput::Tokens { tokens: vec![300, 301, 302] });
    let answer = runner.generate(request(prompt));
    assert_eq!(answer.prompt_tokens, 3, "nothing is added to given tokens");
    let unknown = Prompt::Text(TextInput::Tokens { tokens: vec![1, 4_096] });
    let refused = runner.generate(request(unknown));
    assert_eq!(refused.error().kind, RunnerErrorKind::BadRequest);
    assert!(refused.error().message.contains("4096"));
}

#[test]
fn code_is_filled_in() {
    let mut runner = Runner::with_model();
    let prompt = Prompt::Infill { prefix: "fn len(&self)".into(), suffix: "self.len\n}".into() };
    let (_, usage) = runner.generate(request(prompt)).done();
    assert!(usage.prompt_tokens > 6);
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let mut runner = Runner::with_model();
    let first = runner.generate(sampled(CODE, 7)).text;
    assert_eq!(runner.generate(sampled(CODE, 7)).text, first);
    let others: Vec<String> = (8..13).map(|s| runner.generate(sampled(CODE, s)).text).collect();
    assert!(others.iter().any(|other| *other != first), "seeds matter");
}

#[test]
fn a_greedy_answer_does_not_depend_on_what_runs_beside_it() {
    let mut runner = Runner::with_model();
    let alone = runner.generate(text(CODE));
    let mut requests = vec![text(CODE)];
    requests.extend((0..7).map(|i| sampled(&format!("/// Returns {i}.\npub fn"), i)));
    // More than there are slots: some wait.
    requests.extend((0..4).map(|i| chat(&format!("question {i}"))));
    let beside = runner.generate_all(requests);
    assert_eq!(beside[0].text, alone.text);
    assert_eq!(beside[0].done().1.completion_tokens, alone.done().1.completion_tokens);
    for outcome in &beside {
        outcome.done();
    }
}

#[test]
fn an_answer_ends_before_a_stop_string() {
    let mut runner = Runner::with_model();
    let whole = runner.generate(Generate { max_tokens: Some(60), ..text(CODE) }).text;
    // A stop string that surely comes, and begins inside the text.
    let cut = whole.char_indices().nth(10).expect("long enough").0;
    let stop: String = whole[cut..].chars().take(5).collect();
    let request = Generate { max_tokens: Some(60), stop: vec![stop.clone()], ..text(CODE) };
    let stopped = runner.generate(request);
    assert_eq!(stopped.done().0, FinishReason::Stop);
    assert_eq!(stopped.text, whole[..whole.find(&stop).expect("is there")]);
}

#[test]
fn an_answer_ends_at_its_limit_and_at_the_context() {
    let mut runner = Runner::start();
    runner.load(demo(), 64, 2).expect("loads");
    // The model's end-of-text tokens are forbidden, as a benchmark does.
    let endless = Sampling {
        temperature: 0.0,
        logit_bias: (0..8).map(|token| (token, -100.0)).collect(),
        ..Sampling::default()
    };
    let limited = Generate { max_tokens: Some(5), sampling: endless.clone(), ..text(CODE) };
    let (finish, usage) = runner.generate(limited).done();
    assert_eq!((finish, usage.completion_tokens), (FinishReason::Length, 5));

    let unlimited = Generate { max_tokens: None, sampling: endless, ..text(CODE) };
    let (finish, usage) = runner.generate(unlimited).done();
    assert_eq!(finish, FinishReason::Length);
    assert_eq!(usage.prompt_tokens + usage.completion_tokens, 64, "the context is full");

    let none = Generate { max_tokens: Some(0), ..text(CODE) };
    let outcome = runner.generate(none);
    assert_eq!(outcome.done().0, FinishReason::Length);
    assert_eq!((outcome.text.as_str(), outcome.done().1.completion_tokens), ("", 0));
}

#[test]
fn a_prompt_larger_than_the_context_is_refused_with_both_numbers() {
    let mut runner = Runner::start();
    runner.load(demo(), 64, 1).expect("loads");
    let tokens = |count: i32| {
        let tokens = (0..count).map(|i| 300 + i).collect();
        request(Prompt::Text(TextInput::Tokens { tokens }))
    };
    let outcome = runner.generate(tokens(64));
    let error = outcome.error();
    assert_eq!(error.kind, RunnerErrorKind::ContextOverflow);
    assert!(error.message.contains("64 tokens") && error.message.contains("holds 64"));
    let (_, usage) = runner.generate(tokens(63)).done();
    assert_eq!(usage.completion_tokens, 1);
}

#[test]
fn a_request_is_cancelled_running_and_waiting() {
    let mut runner = Runner::start();
    runner.load(demo(), 1_024, 1).expect("loads");
    let endless = Sampling {
        logit_bias: (0..8).map(|token| (token, -100.0)).collect(),
        ..Sampling::default()
    };
    let long = Generate { max_tokens: None, sampling: endless, ..text(CODE) };
    for id in 0..2 {
        runner.send(&Command::Generate { id, request: Box::new(long.clone()) });
    }
    assert!(matches!(runner.read(), Reply::Started { id: 0, .. }));
    runner.send(&Command::Cancel { id: 1 });
    runner.send(&Command::Cancel { id: 0 });
    // Unknown and ended requests are none of the runner's business.
    runner.send(&Command::Cancel { id: 99 });
    let mut outcomes = [Outcome::default(), Outcome::default()];
    while outcomes.iter().any(|outcome| outcome.end.is_none()) {
        let reply = runner.read();
        note(&mut outcomes, reply);
    }
    assert_eq!(outcomes[0].done().0, FinishReason::Cancelled);
    assert_eq!(outcomes[1].done().0, FinishReason::Cancelled);
    assert_eq!(outcomes[1].done().1.completion_tokens, 0, "it never ran");
    runner.generate(text(CODE)).done();
}

#[test]
fn more_requests_than_can_wait_are_refused_at_once() {
    let mut runner = Runner::start();
    runner.load(demo(), 1_024, 1).expect("loads");
    let endless = Sampling {
        logit_bias: (0..8).map(|token| (token, -100.0)).collect(),
        ..Sampling::default()
    };
    let long = Generate { max_tokens: None, sampling: endless, ..text(CODE) };
    for id in 0..300 {
        runner.send(&Command::Generate { id, request: Box::new(long.clone()) });
    }
    let mut refused = Vec::new();
    while refused.last() != Some(&299) {
        match runner.read() {
            Reply::Failed { id, error } => {
                assert_eq!(error.kind, RunnerErrorKind::Busy);
                refused.push(id);
            }
            Reply::Started { .. } | Reply::Text { .. } | Reply::Done { .. } => {}
            other => panic!("unexpected reply {other:?}"),
        }
    }
    assert!(refused.iter().all(|&id| id >= 256), "{refused:?}");
}

#[test]
fn json_is_generated_as_a_schema_wants_it() {
    let mut runner = Runner::with_model();
    let schema = json!({
        "type": "object",
        "properties": {
            "unit": { "enum": ["celsius", "fahrenheit"] },
            "degrees": { "type": "integer", "minimum": -9, "maximum": 40 },
            "windy": { "type": "boolean" },
        },
        "required": ["unit", "degrees", "windy"],
        "additionalProperties": false,
    });
    let constrained = |before: &str, after: &str, seed: u32| {
        let constraint = Constraint::JsonSchema {
            schema: schema.clone(),
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let request = sampled("The weather:", seed);
        Generate { constraint: Some(constraint), max_tokens: Some(300), ..request }
    };
    let mut requests: Vec<_> = (0..4).map(|seed| constrained("", "", seed)).collect();
    requests.push(constrained("<call>\n\"", "</call>", 9));
    let outcomes = runner.generate_all(requests);
    for (index, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.done().0, FinishReason::Stop, "it stops when it is complete");
        let mut json = outcome.text.as_str();
        if index == 4 {
            json = json.strip_prefix("<call>\n\"").expect("begins as wanted");
            json = json.strip_suffix("</call>").expect("ends as wanted");
        }
        let value: Value = serde_json::from_str(json).expect("is JSON");
        let object = value.as_object().expect("is an object");
        assert_eq!(object.len(), 3, "{value}");
        assert!(["celsius", "fahrenheit"].contains(&value["unit"].as_str().expect("text")));
        assert!((-9..=40).contains(&value["degrees"].as_i64().expect("a number")));
        assert!(value["windy"].is_boolean());
    }
}

#[test]
fn a_grammar_is_kept_greedily_and_with_penalties() {
    let mut runner = Runner::with_model();
    let constraint = Some(Constraint::Grammar { gbnf: "root ::= (\"yes\" | \"no\") \"!\"".into() });
    let greedy = Generate { constraint: constraint.clone(), ..text("Is it?") };
    let penalised = Sampling { repeat_penalty: 1.3, ..greedy.sampling.clone() };
    let penalised = Generate { sampling: penalised, ..greedy.clone() };
    let sampled = Generate { constraint, ..sampled("Is it?", 3) };
    for outcome in runner.generate_all(vec![greedy, penalised, sampled]) {
        assert_eq!(outcome.done().0, FinishReason::Stop);
        assert!(["yes!", "no!"].contains(&outcome.text.as_str()), "{}", outcome.text);
    }
    let any = Generate { constraint: Some(Constraint::JsonObject), ..text("{") };
    let outcome = runner.generate(any);
    outcome.done();
    assert!(outcome.text.starts_with('{'), "{}", outcome.text);
}

#[test]
fn bad_grammars_and_schemas_are_refused_and_the_runner_lives_on() {
    let mut runner = Runner::with_model();
    let grammar = |gbnf: &str| Constraint::Grammar { gbnf: gbnf.to_owned() };
    let schema = |schema: Value| {
        let (before, after) = (String::new(), String::new());
        Constraint::JsonSchema { schema, before, after }
    };
    let deep = format!("root ::= {}", "(".repeat(200_000));
    let bad = [
        (grammar("root ::= missing"), "missing"),
        (grammar("root ::= \"open"), "not closed"),
        (grammar("root ::= root \"a\" | \"a\""), "left recursion"),
        (grammar("root ::= * \"a\""), "parse"),
        (grammar("other ::= \"a\""), "root"),
        (grammar(""), "root"),
        (grammar(&deep), "nests"),
        (schema(json!({ "type": "nonsense" })), "schema"),
        (schema(json!({ "$ref": "#/nowhere" })), "#/nowhere"),
        (schema(json!("text")), "object"),
    ];
    for (constraint, reason) in bad {
        let outcome = runner.generate(Generate { constraint: Some(constraint), ..text("x") });
        assert_eq!(outcome.error().kind, RunnerErrorKind::BadRequest);
        assert!(outcome.error().message.contains(reason), "{}", outcome.error().message);
    }
    runner.generate(text(CODE)).done();
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let mut runner = Runner::with_model();
    let bad = Sampling { top_p: 7.0, ..Sampling::default() };
    let outcome = runner.generate(Generate { sampling: bad, ..text("x") });
    assert_eq!(outcome.error().kind, RunnerErrorKind::BadRequest);
    assert!(outcome.error().message.contains("top_p"));
    let many = runner.generate(Generate { logprobs: Some(1_000), ..text("x") });
    assert_eq!(many.error().kind, RunnerErrorKind::BadRequest);
}

#[test]
fn a_prompt_that_was_there_before_is_not_processed_again() {
    let mut runner = Runner::with_model();
    let first = runner.generate(text(CODE));
    assert_eq!(first.cached_tokens, 0);
    let second = runner.generate(text(CODE));
    assert_eq!(second.cached_tokens, second.prompt_tokens - 1);
    assert_eq!(second.done().1.cached_tokens, second.cached_tokens);
    assert_eq!(second.text, first.text, "from the cache as well as without it");
    let longer = runner.generate(text(&format!("{CODE}{}", first.text)));
    assert!(longer.cached_tokens > second.cached_tokens, "the answer is in the cache, too");
}

#[test]
fn probabilities_come_with_the_tokens_they_belong_to() {
    let mut runner = Runner::with_model();
    let plain = runner.generate(text(CODE));
    let outcome = runner.generate(Generate { logprobs: Some(3), ..text(CODE) });
    assert_eq!(outcome.text, plain.text);
    let bytes: Vec<u8> = outcome.logprobs.iter().flat_map(|entry| entry.bytes.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), outcome.text);
    assert_eq!(outcome.logprobs.len(), outcome.done().1.completion_tokens as usize);
    for entry in &outcome.logprobs {
        assert_eq!(entry.top.len(), 3);
        assert_eq!(entry.logprob, entry.top[0].logprob, "greedy takes the most probable");
        assert!(entry.top[0].logprob >= entry.top[1].logprob && entry.logprob <= 0.0);
        let sum: f32 = entry.top.iter().map(|top| top.logprob.exp()).sum();
        assert!(sum <= 1.001, "probabilities add up to at most one");
    }
}

#[test]
fn embeddings_have_length_one_and_depend_on_the_text_only() {
    let mut runner = Runner::with_model();
    let long = "fn main() { println!(\"hello\"); }\n".repeat(20);
    let inputs = ["fn main() {}", "def main():", "fn main() {}", long.as_str()];
    let (vectors, tokens) = runner.embed(&inputs).expect("embeds");
    assert_eq!(vectors.len(), inputs.len());
    assert!(tokens > 200, "the long one alone has more than one batch");
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for vector in &vectors {
        assert_eq!(vector.len(), 256);
        assert!((product(vector, vector) - 1.0).abs() < 1e-4);
    }
    assert!(product(&vectors[0], &vectors[2]) > 0.9999);
    assert!(product(&vectors[0], &vectors[1]) < 0.9999);
    let (alone, _) = runner.embed(&[inputs[3]]).expect("embeds");
    assert!(product(&alone[0], &vectors[3]) > 0.999);
    let too_long = "x ".repeat(4_000);
    let error = runner.embed(&[&too_long]).expect_err("does not fit");
    assert_eq!(error.kind, RunnerErrorKind::ContextOverflow);
}

#[test]
fn embedding_beside_an_answer_does_not_change_it() {
    let mut runner = Runner::with_model();
    let alone = runner.generate(Generate { max_tokens: Some(200), ..text(CODE) }).text;
    let request = Box::new(Generate { max_tokens: Some(200), ..text(CODE) });
    runner.send(&Command::Generate { id: 0, request });
    let inputs = vec![TextInput::Text { text: "some text ".repeat(60) }; 4];
    runner.send(&Command::Embed { id: 1, inputs });
    let (mut outcomes, mut embedded) = ([Outcome::default()], false);
    while outcomes[0].end.is_none() || !embedded {
        match runner.read() {
            Reply::Embedded { id: 1, vectors, .. } => embedded = vectors.len() == 4,
            reply => note(&mut outcomes, reply),
        }
    }
    assert_eq!(outcomes[0].text, alone);
}

#[test]
fn a_file_that_is_no_model_does_not_load_and_the_runner_lives_on() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("writes");
        path
    };
    let whole = std::fs::read(demo()).expect("reads");
    let bad = [
        file("text.gguf", b"this is not a model"),
        file("begins.gguf", b"GGUF\x03\x00\x00\x00\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7Fgarbage"),
        file("cut.gguf", &whole[..whole.len() / 2]),
        folder.path().join("missing.gguf"),
    ];
    let mut runner = Runner::start();
    for path in bad {
        let message = runner.load(path.clone(), 512, 1).expect_err("does not load");
        assert!(message.len() > 20, "{path:?}: {message}");
    }
    runner.load(demo(), 512, 1).expect("loads");
    runner.generate(text(CODE)).done();
}

#[test]
fn requests_that_run_when_the_model_is_replaced_fail_with_the_reason() {
    let mut runner = Runner::start();
    runner.load(demo(), 1_024, 1).expect("loads");
    let endless = Sampling {
        logit_bias: (0..8).map(|token| (token, -100.0)).collect(),
        ..Sampling::default()
    };
    let long = Generate { max_tokens: None, sampling: endless, ..text(CODE) };
    for id in 0..2 {
        runner.send(&Command::Generate { id, request: Box::new(long.clone()) });
    }
    assert!(matches!(runner.read(), Reply::Started { id: 0, .. }));
    runner.send(&Command::Load(on_processor(demo(), 256, 1)));
    let mut failed = HashMap::new();
    let loaded = loop {
        match runner.read() {
            Reply::Failed { id, error } => drop(failed.insert(id, error)),
            Reply::Loaded(loaded) => break loaded,
            Reply::Text { id: 0, .. } => {}
            other => panic!("unexpected reply {other:?}"),
        }
    };
    assert_eq!((failed.len(), loaded.context), (2, 256));
    assert!(failed[&0].message.contains("replaced") && failed[&1].message.contains("replaced"));
}

#[test]
fn the_runner_ends_with_its_input_even_in_the_middle_of_an_answer() {
    assert!(Runner::start().close().success());
    let mut runner = Runner::with_model();
    let request = Box::new(Generate { max_tokens: None, ..text(CODE) });
    runner.send(&Command::Generate { id: 0, request });
    assert!(matches!(runner.read(), Reply::Started { .. }));
    assert!(runner.close().success());
}

#[test]
fn input_that_is_not_the_protocol_ends_the_runner_with_an_error() {
    let mut runner = Runner::start();
    let input = runner.input.as_mut().expect("the input is open");
    input.write_all(b"\xFF\xFF\xFF\xFFthis is no frame").expect("writes");
    input.flush().expect("flushes");
    assert_eq!(runner.close().code(), Some(2));
}
