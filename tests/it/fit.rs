//! The estimate of a model's memory against the real runner's: models of many shapes, whose
//! weights are zero so that they cost no disk, read a prompt and write an answer.
//!
//! Measured is `Rss` of `/proc/PID/smaps_rollup`: everything of the process that is in memory,
//! mapped weights included. `Pss` would count a file's pages by half while another process maps
//! the same model.

#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio},
};

use agent_api::runner::{
    Command, Generate, LoadModel, Prompt, Reply, Sampling, TextInput, read_frame, write_frame,
};
use agent_core::models::{fit::need, gguf::read_gguf};
use edgecoder_tests::{
    gguf::{Shape, Weights, write_zero_model},
    programs,
};

/// How far the estimate may be from the truth.
const TOLERANCE: f64 = 0.10;

/// A model, how it is loaded, and how much of a slot the prompt fills.
struct Case {
    name: &'static str,
    shape: Shape,
    slots: u32,
    fill: f64,
}

const fn case(name: &'static str, slots: u32, fill: f64, shape: Shape) -> Case {
    Case { name, shape, slots, fill }
}

const CASES: [Case; 10] = [
    case("Q8_0, all heads have keys", 1, 0.8, shape([12, 1024, 2816, 16, 16, 512], Weights::Q8_0)),
    case("F16, 8 heads share keys", 2, 0.7, shape([5, 2048, 5632, 32, 4, 512], Weights::F16)),
    case(
        "Q4_0, output of its own",
        4,
        0.7,
        Shape { output: true, ..shape([16, 1024, 4096, 16, 4, 512], Weights::Q4_0) },
    ),
    case(
        "Q4_K, large vocabulary",
        1,
        0.8,
        Shape {
            vocabulary: 128_256,
            merges: 200_000,
            ..shape([6, 1024, 2816, 16, 8, 512], Weights::Q4K)
        },
    ),
    case("Q8_0, context of 16k", 1, 0.6, shape([4, 512, 512, 8, 8, 16_384], Weights::Q8_0)),
    case(
        "Q8_0, 8 slots, wide heads",
        8,
        0.9,
        Shape { head: Some(128), ..shape([8, 512, 1408, 8, 4, 2048], Weights::Q8_0) },
    ),
    case(
        "Q8_0, one KV head, 4 x 4k",
        4,
        0.6,
        Shape { vocabulary: 65_536, ..shape([24, 256, 1024, 4, 1, 4096], Weights::Q8_0) },
    ),
    case("Q8_0, wide feed forward", 1, 0.75, shape([3, 1536, 12_288, 12, 6, 512], Weights::Q8_0)),
    case("F16, 8k", 1, 0.6, shape([6, 768, 2048, 12, 6, 8192], Weights::F16)),
    case(
        "Q8_0 with matrices in Q4_K",
        1,
        0.8,
        Shape { down: Some(Weights::Q4K), ..shape([10, 1024, 4096, 16, 4, 512], Weights::Q8_0) },
    ),
];

/// Layers, width, feed forward, heads, KV heads, context.
const fn shape(numbers: [u32; 6], weights: Weights) -> Shape {
    let [layers, width, feed_forward, heads, kv_heads, context] = numbers;
    Shape { layers, width, feed_forward, heads, kv_heads, context, weights, ..Shape::LLAMA }
}

#[test]
fn the_estimate_is_what_the_runner_takes() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("model.gguf");
    println!("{:28} {:>10} {:>10} {:>7}", "shape", "estimate", "real", "error");
    let mut wrong = Vec::new();
    for case in &CASES {
        write_zero_model(&path, case.shape).expect("writes the model");
        let info = read_gguf(&path).expect("the head is good");
        let need = need(&info, case.shape.context, case.slots);
        let real = memory_after_an_answer(&path, case);
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let error = megabytes(need.total()) / megabytes(real) - 1.0;
        println!(
            "{:28} {:>7.1} MB {:>7.1} MB {:>+6.1} %",
            case.name,
            megabytes(need.total()),
            megabytes(real),
            error * 100.0,
        );
        if error.abs() > TOLERANCE {
            wrong.push(format!("{}: {need:?}, really {real}", case.name));
        }
    }
    assert!(wrong.is_empty(), "off by more than 10 %: {wrong:#?}");
}

/// Resident memory of a runner of its own, in bytes.
fn memory_after_an_answer(path: &Path, case: &Case) -> u64 {
    let mut runner = Runner::start();
    runner.send(&Command::Load(LoadModel {
        path: path.to_str().expect("a readable path").to_owned(),
        context: case.shape.context,
        slots: case.slots,
        // Two would wait for each other at every layer on a machine that runs other tests.
        threads: Some(1),
        gpu_layers: 0,
    }));
    match runner.read() {
        Reply::Loaded(loaded) => assert_eq!(loaded.context, case.shape.context),
        other => panic!("{}: {other:?}", case.name),
    }
    let length = (f64::from(case.shape.context) * case.fill) as i32;
    let tokens = (0..length).map(|n| 300 + n * 7 % 700).collect();
    // Without the control tokens, so that the answer does not end at once.
    let logit_bias = (0..8).map(|token| (token, -100.0)).collect();
    let request = Generate {
        prompt: Prompt::Text(TextInput::Tokens { tokens }),
        max_tokens: Some(8),
        sampling: Sampling { logit_bias, ..Sampling::default() },
        stop: Vec::new(),
        constraint: None,
        logprobs: None,
        continue_from: String::new(),
    };
    runner.send(&Command::Generate { id: 1, request: Box::new(request) });
    loop {
        match runner.read() {
            Reply::Done { usage, .. } => {
                assert_eq!(usage.completion_tokens, 8, "{}", case.name);
                return runner.resident();
            }
            Reply::Started { .. } | Reply::Text { .. } => {}
            other => panic!("{}: {other:?}", case.name),
        }
    }
}

/// A runner process; dropping it ends its input, and so the process.
struct Runner {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Runner {
    fn start() -> Self {
        let mut child = Process::new(programs::runner())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the runner starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("output is piped"));
        let mut runner = Self { child, input, output };
        assert!(matches!(runner.read(), Reply::Hello { .. }));
        runner
    }

    fn send(&mut self, command: &Command) {
        let input = self.input.as_mut().expect("the input is open");
        write_frame(input, command).expect("writes");
        input.flush().expect("flushes");
    }

    fn read(&mut self) -> Reply {
        read_frame(&mut self.output).expect("a frame").expect("a reply before the end")
    }

    fn resident(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(path).expect("the process runs");
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("has Rss");
        let kilobytes = line.trim().trim_end_matches("kB").trim();
        kilobytes.parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}
