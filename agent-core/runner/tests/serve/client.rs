//! A runner in a process of its own, and requests to it.

use std::{
    io::{BufReader, BufWriter, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio},
};

use agent_api::runner::{
    Command, Device, FinishReason, Generate, LoadModel, Loaded, PROTOCOL, Prompt, Reply,
    RunnerError, Sampling, TextInput, Timings, TokenLogprob, Usage, read_frame, write_frame,
};
use serde_json::json;

/// A started runner; dropping it ends its input, and so the process.
pub(super) struct Runner {
    pub(super) child: Child,
    pub(super) input: Option<BufWriter<ChildStdin>>,
    pub(super) output: BufReader<ChildStdout>,
    pub(super) devices: Vec<Device>,
}

/// What became of a request for text.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) prompt_tokens: u32,
    pub(super) cached_tokens: u32,
    pub(super) text: String,
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) pieces: usize,
    pub(super) end: Option<Result<(FinishReason, Usage, Timings), RunnerError>>,
}

impl Outcome {
    pub(super) fn done(&self) -> (FinishReason, Usage) {
        match &self.end {
            Some(Ok((finish, usage, _))) => (*finish, *usage),
            other => panic!("the request did not end well: {other:?}"),
        }
    }

    pub(super) fn error(&self) -> &RunnerError {
        match &self.end {
            Some(Err(error)) => error,
            other => panic!("the request did not fail: {other:?}"),
        }
    }
}

impl Runner {
    /// A runner that has said hello.
    pub(super) fn start() -> Self {
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
    pub(super) fn with_model() -> Self {
        let mut runner = Self::start();
        runner.load(demo(), 512, 8).expect("the demo model loads");
        runner
    }

    pub(super) fn load(
        &mut self,
        path: PathBuf,
        context: u32,
        slots: u32,
    ) -> Result<Loaded, String> {
        self.load_as(on_processor(path, context, slots))
    }

    pub(super) fn load_as(&mut self, model: LoadModel) -> Result<Loaded, String> {
        self.send(&Command::Load(model));
        match self.read() {
            Reply::Loaded(loaded) => Ok(loaded),
            Reply::LoadFailed { message } => Err(message),
            other => panic!("loading is answered with {other:?}"),
        }
    }

    pub(super) fn send(&mut self, command: &Command) {
        let input = self.input.as_mut().expect("the input is open");
        write_frame(input, command).expect("writes");
        input.flush().expect("flushes");
    }

    pub(super) fn read(&mut self) -> Reply {
        read_frame(&mut self.output).expect("a frame").expect("a reply before the end")
    }

    pub(super) fn generate(&mut self, request: Generate) -> Outcome {
        self.generate_all(vec![request]).remove(0)
    }

    /// Sends all requests at once and waits for all of them; request `i` has id `i`.
    pub(super) fn generate_all(&mut self, requests: Vec<Generate>) -> Vec<Outcome> {
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

    pub(super) fn embed(&mut self, inputs: &[&str]) -> Result<(Vec<Vec<f32>>, u32), RunnerError> {
        let inputs = inputs.iter().map(|&t| TextInput::Text { text: t.to_owned() }).collect();
        self.send(&Command::Embed { id: 1, inputs });
        match self.read() {
            Reply::Embedded { id: 1, vectors, prompt_tokens } => Ok((vectors, prompt_tokens)),
            Reply::Failed { id: 1, error } => Err(error),
            other => panic!("embedding is answered with {other:?}"),
        }
    }

    /// Ends the input and waits for the process.
    pub(super) fn close(mut self) -> std::process::ExitStatus {
        self.input = None;
        self.child.wait().expect("the runner ends")
    }
}

pub(super) fn note(outcomes: &mut [Outcome], reply: Reply) {
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

pub(super) fn on_processor(path: PathBuf, context: u32, slots: u32) -> LoadModel {
    let path = path.to_str().expect("a readable path").to_owned();
    LoadModel { path, context, slots, threads: Some(1), gpu_layers: 0 }
}

pub(super) fn demo() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "assets", "edgecoder-demo-4m-q8_0.gguf"].iter().collect()
}

pub(super) fn request(prompt: Prompt) -> Generate {
    Generate {
        prompt,
        max_tokens: Some(24),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        constraint: None,
        logprobs: None,
        continue_from: String::new(),
    }
}

pub(super) fn text(prompt: &str) -> Generate {
    request(Prompt::Text(TextInput::Text { text: prompt.to_owned() }))
}

pub(super) fn chat(message: &str) -> Generate {
    let messages = vec![json!({ "role": "user", "content": message })];
    request(Prompt::Chat { messages, tools: Vec::new() })
}

pub(super) fn sampled(prompt: &str, seed: u32) -> Generate {
    let sampling = Sampling { temperature: 1.0, seed: Some(seed), ..Sampling::default() };
    Generate { sampling, ..text(prompt) }
}
