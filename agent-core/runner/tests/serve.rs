//! The real runner with the demo model, over its protocol.

#[path = "serve/client.rs"]
mod client;
#[path = "serve/lifecycle.rs"]
mod lifecycle;

use agent_api::runner::{
    Command, Constraint, FinishReason, Generate, Prompt, Reply, RunnerErrorKind, Sampling,
    TextInput,
};
use client::{Outcome, Runner, chat, demo, note, request, sampled, text};
use serde_json::{Value, json};

const CODE: &str = "# Return the path of the file.\ndef get_path(";

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
fn an_answer_that_was_begun_elsewhere_goes_on() {
    let mut runner = Runner::with_model();
    let whole = runner.generate(text(CODE));
    let (_, usage) = whole.done();
    let rest_after = |runner: &mut Runner, at: usize| {
        let continue_from = whole.text[..at].to_owned();
        runner.generate(Generate { continue_from, ..text(CODE) })
    };
    let cuts: Vec<usize> = whole.text.char_indices().map(|(at, _)| at).skip(1).collect();
    let mut exact = 0;
    for at in cuts {
        let rest = rest_after(&mut runner, at);
        let (_, used) = rest.done();
        assert_eq!(used.prompt_tokens, usage.prompt_tokens, "what was begun is not counted");
        assert!(used.cached_tokens <= used.prompt_tokens);
        assert!(used.completion_tokens < 24, "but it counts towards the limit");
        exact += usize::from(whole.text[at..] == rest.text);
    }
    assert!(exact > 0, "cut between two tokens, the greedy answer is the same");

    let full = Generate { continue_from: whole.text.clone(), max_tokens: Some(1), ..text(CODE) };
    let outcome = runner.generate(full);
    assert_eq!((outcome.text.as_str(), outcome.done().0), ("", FinishReason::Length));
}

#[test]
fn a_grammar_goes_on_where_the_answer_was_cut() {
    let mut runner = Runner::with_model();
    let gbnf = "root ::= \"abc\" \"def\"".to_owned();
    let begun = |begun: &str| Generate {
        constraint: Some(Constraint::Grammar { gbnf: gbnf.clone() }),
        continue_from: begun.to_owned(),
        ..text(CODE)
    };
    assert_eq!(runner.generate(begun("")).text, "abcdef");
    assert_eq!(runner.generate(begun("ab")).text, "cdef");
    let wrong = runner.generate(begun("xyz"));
    assert_eq!(wrong.error().kind, RunnerErrorKind::BadRequest);
    assert!(wrong.error().message.contains("grammar"), "{}", wrong.error().message);
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
