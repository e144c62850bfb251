//! Runs a job on this node, for its owner or for a peer.

use agent_api::{
    runner::{Generate, Prompt, Sampling, TextInput, Usage},
    tasks::{CodeInput, TaskPath},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    code,
    job::{
        BoxFuture, GenerateJob, JOB_PIECES, Job, JobError, JobPiece, JobResult, JobStream,
        SharedHost, WasmJob, from_piece,
    },
    kinds::check_job,
    modules::Modules,
    sandbox::{Sandbox, SandboxError},
};
use crate::{
    inference::{Answer, SubmitOptions, Work},
    storage::RequestKind,
};

/// What jobs run with.
#[derive(Clone, Debug)]
pub struct Here {
    pub host: SharedHost,
    pub sandbox: Sandbox,
    /// The owner's.
    pub modules: Modules,
    /// Those that other nodes sent.
    pub others: Modules,
}

/// Where a job's pieces go.
type Out = mpsc::Sender<Result<JobPiece, JobError>>;

impl Here {
    /// Begins at once; inference queues by itself. The error is one from before the beginning.
    pub async fn run(&self, job: Job) -> Result<JobStream, JobError> {
        check_job(&job).map_err(JobError::Failed)?;
        let (out, pieces) = mpsc::channel(JOB_PIECES);
        let cancel = CancellationToken::new();
        let stream =
            JobStream { pieces, path: TaskPath::Local, cancel: cancel.clone().drop_guard() };
        match job {
            Job::Chat(job) => self.generate(RequestKind::Chat, job, out, cancel).await?,
            Job::Completion(job) => {
                self.generate(RequestKind::Completion, job, out, cancel).await?;
            }
            Job::Embedding { model, inputs } => {
                let work = embed(inputs)?;
                let options = SubmitOptions::default();
                let asked = self.host.infer(RequestKind::Embedding, model, work, options);
                start(pump(asked.await?, out.clone()), out, cancel);
            }
            Job::Wasm(job) => {
                let module = self.module(&job).await?;
                start(wasm(self.sandbox.clone(), module, job, out.clone()), out, cancel);
            }
            Job::Code(input) => start(write_code(self.clone(), input, out.clone()), out, cancel),
        }
        Ok(stream)
    }

    async fn generate(
        &self,
        kind: RequestKind,
        job: GenerateJob,
        out: Out,
        cancel: CancellationToken,
    ) -> Result<(), JobError> {
        let GenerateJob { model, mut generate, context, left_out } = job;
        let defaults = self.host.defaults(model.clone()).await;
        left_out.fill(&mut generate, defaults.as_ref());
        let options = SubmitOptions { context, ..SubmitOptions::default() };
        let answer = self.host.infer(kind, model, Work::Generate(generate), options).await?;
        start(pump(answer, out.clone()), out, cancel);
        Ok(())
    }

    async fn module(&self, job: &WasmJob) -> Result<Vec<u8>, JobError> {
        let missing = || JobError::Refused {
            reason: format!("the module {} is not here", job.module),
            retry_after: None,
        };
        self.find_module(&job.module).await.ok_or_else(missing)
    }

    /// Bytes of a module, whoever brought it.
    pub async fn find_module(&self, sha256: &str) -> Option<Vec<u8>> {
        match self.modules.get(sha256).await {
            Some(own) => Some(own),
            None => self.others.get(sha256).await,
        }
    }

    /// One answer of a model of this node, whole: for jobs that ask it several times.
    pub async fn ask(&self, model: String, generate: Generate) -> Result<Asked, JobError> {
        let work = Work::Generate(Box::new(generate));
        let options = SubmitOptions::default();
        let mut answer = self.host.infer(RequestKind::Chat, model, work, options).await?;
        let mut text = String::new();
        while let Some(piece) = answer.next().await {
            match from_piece(piece)? {
                JobPiece::Text { text: more, .. } => text.push_str(&more),
                JobPiece::Result(result) => return Ok(Asked { text, result: *result }),
                _ => {}
            }
        }
        Err(JobError::Broke("the answer ended without a last word".to_owned()))
    }
}

/// Answer of [`Here::ask`].
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub text: String,
    pub result: JobResult,
}

fn embed(inputs: Vec<TextInput>) -> Result<Work, JobError> {
    if inputs.is_empty() {
        return Err(JobError::Failed("there is no text to make a vector of".to_owned()));
    }
    Ok(Work::Embed(inputs))
}

/// Works until it is done or cancelled. What it works with is dropped with it, which stops it.
fn start(work: impl Future<Output = ()> + Send + 'static, out: Out, cancel: CancellationToken) {
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            () = cancel.cancelled() => {}
            () = out.closed() => {}
        }
    });
}

/// Waits for whoever reads the pieces; the pool keeps a whole context's worth of them meanwhile.
async fn pump(mut answer: Answer, out: Out) {
    if out.send(Ok(JobPiece::Running)).await.is_err() {
        return;
    }
    while let Some(piece) = answer.next().await {
        if out.send(from_piece(piece)).await.is_err() {
            return;
        }
    }
}

async fn wasm(sandbox: Sandbox, module: Vec<u8>, job: WasmJob, out: Out) {
    if out.send(Ok(JobPiece::Running)).await.is_err() {
        return;
    }
    let done = sandbox.wasm(module, &job).await;
    let last = match done {
        Ok(done) => Ok(JobPiece::Result(Box::new(JobResult::Wasm {
            output: STANDARD.encode(done.output),
            fuel_used: done.fuel_used,
        }))),
        Err(SandboxError::Unable(reason)) => Err(JobError::Refused { reason, retry_after: None }),
        Err(SandboxError::Refused(reason)) => Err(JobError::Failed(reason)),
        Err(SandboxError::Broke(reason)) => Err(JobError::Broke(reason)),
    };
    // Who asked may be gone.
    let _ = out.send(last).await;
}

/// Tokens of one program with its plan: more than the sandbox takes as source.
const PROGRAM_TOKENS: u32 = 4_096;
/// Notes that wait for their reader.
const NOTES: usize = 16;

/// The model of this node writes, the sandbox tests.
async fn write_code(here: Here, input: CodeInput, out: Out) {
    if out.send(Ok(JobPiece::Running)).await.is_err() {
        return;
    }
    let (notes, mut noted) = mpsc::channel(NOTES);
    let (asked, model) = (here.clone(), input.model.clone());
    let generate = move |messages| -> BoxFuture<'static, Result<(String, Usage), JobError>> {
        Box::pin(program(asked.clone(), model.clone(), messages))
    };
    let writing = code::run(input, generate, &here.sandbox, notes);
    tokio::pin!(writing);
    let done = loop {
        tokio::select! {
            done = &mut writing => break done,
            Some(text) = noted.recv() => {
                if out.send(Ok(JobPiece::Note { text })).await.is_err() {
                    return;
                }
            }
        }
    };
    let last = done.map(|output| JobPiece::Result(Box::new(JobResult::Code { output })));
    // Who asked may be gone.
    let _ = out.send(last).await;
}

async fn program(
    here: Here,
    model: String,
    messages: Vec<Value>,
) -> Result<(String, Usage), JobError> {
    let generate = Generate {
        prompt: Prompt::Chat { messages, tools: Vec::new() },
        max_tokens: Some(PROGRAM_TOKENS),
        sampling: Sampling::default(),
        stop: Vec::new(),
        constraint: None,
        logprobs: None,
        continue_from: String::new(),
    };
    let Asked { text, result } = here.ask(model, generate).await?;
    match result {
        JobResult::Text { usage, .. } => Ok((text, usage)),
        _ => Err(JobError::Broke("the model gave something else than text".to_owned())),
    }
}
