//! The process, and models that come and go.

use std::{collections::HashMap, io::Write as _};

use agent_api::runner::{Command, Generate, LoadModel, Reply, RunnerErrorKind, Sampling};

use super::{
    CODE,
    client::{Runner, demo, on_processor, text},
};

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
