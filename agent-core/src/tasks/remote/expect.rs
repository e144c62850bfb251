//! What a worker may say next. Every frame of a stream goes through here before it counts. Pure.

use agent_api::TaskId;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::tasks::{
    job::{Job, JobError, JobPiece, JobResult, Offer},
    wire::{self, Failure, FromWorker, Said},
};

/// Text of one answer: what a worker keeps at most.
const ANSWER_BYTES: usize = 8 << 20;
/// Output of a module: 1 MiB in base64.
const OUTPUT_BYTES: usize = (1 << 20) / 3 * 4 + 8;
/// Bytes of text that one token can be at most, generously: the longest runs of blanks in a
/// vocabulary are half of it.
const TOKEN_BYTES: usize = 512;
/// Rounds of a `code` job; its input allows ten.
const CODE_ROUNDS: usize = 16;

/// How far a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Offered,
    Waiting,
    Running,
    Started,
    Over,
}

/// What is asked, which bounds what may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text { max_tokens: Option<u32> },
    Vectors { inputs: usize },
    Wasm { fuel: u64 },
    Code,
}

/// What a frame means.
#[derive(Debug)]
pub(super) enum Means {
    /// It is there.
    Nothing,
    Module,
    Piece(JobPiece),
    /// The last one.
    Result(JobResult),
}

/// The rules for one stream.
#[derive(Debug)]
pub(super) struct Expect {
    task: TaskId,
    fence: u64,
    kind: Kind,
    module: Option<String>,
    stage: Stage,
    text_bytes: usize,
}

impl Expect {
    pub(super) fn new(offer: &Offer) -> Self {
        let (kind, module) = match &offer.job {
            Job::Chat(job) | Job::Completion(job) => {
                (Kind::Text { max_tokens: job.generate.max_tokens }, None)
            }
            Job::Embedding { inputs, .. } => (Kind::Vectors { inputs: inputs.len() }, None),
            Job::Wasm(job) => (Kind::Wasm { fuel: job.fuel }, Some(job.module.clone())),
            Job::Code(_) => (Kind::Code, None),
        };
        let (task, fence) = (offer.task.clone(), offer.fence);
        Self { task, fence, kind, module, stage: Stage::Offered, text_bytes: 0 }
    }

    /// Bytes of the largest frame that may come now.
    pub(super) fn limit(&self) -> usize {
        if self.stage < Stage::Running { wire::PIECE_BYTES } else { wire::RESULT_BYTES }
    }

    /// An error is the end of the stream.
    pub(super) fn take(&mut self, frame: FromWorker) -> Result<Means, JobError> {
        if frame.task != self.task || frame.fence != self.fence {
            return misbehaved("it sent frames of another task");
        }
        if self.stage == Stage::Over {
            return misbehaved("it went on after the end");
        }
        let runs = self.stage >= Stage::Running;
        match frame.said {
            Said::Alive => Ok(Means::Nothing),
            Said::Refused { reason, retry_after_ms } if !runs => Err(JobError::Refused {
                reason: wire::cut(&reason),
                retry_after: retry_after_ms.map(std::time::Duration::from_millis),
            }),
            Said::Failed { how, reason } => {
                self.stage = Stage::Over;
                let reason = wire::cut(&reason);
                Err(match how {
                    Failure::Failed => JobError::Failed(reason),
                    Failure::Broke => JobError::Broke(reason),
                })
            }
            Said::NeedModule { sha256 }
                if self.stage == Stage::Offered && self.module.as_ref() == Some(&sha256) =>
            {
                // Once is enough.
                self.module = None;
                Ok(Means::Module)
            }
            Said::Waiting { position, reason } if !runs => {
                self.stage = Stage::Waiting;
                Ok(Means::Piece(JobPiece::Waiting { position, reason: wire::cut(&reason) }))
            }
            Said::Running if !runs => {
                self.stage = Stage::Running;
                Ok(Means::Piece(JobPiece::Running))
            }
            Said::Started { usage } if self.stage == Stage::Running => {
                self.stage = Stage::Started;
                Ok(Means::Piece(JobPiece::Started { usage }))
            }
            Said::Text { text, logprobs } if runs => {
                self.count_text(text.len())?;
                Ok(Means::Piece(JobPiece::Text { text, logprobs }))
            }
            Said::Note { text } if runs && self.kind == Kind::Code => {
                Ok(Means::Piece(JobPiece::Note { text: wire::cut(&text) }))
            }
            Said::Result(outcome) if runs => {
                self.stage = Stage::Over;
                let result = outcome.read().map_err(|what| lie(&format!("it sent {what}")))?;
                self.check_result(&result)?;
                Ok(Means::Result(result))
            }
            _ => misbehaved("it sent a frame that does not belong there"),
        }
    }

    fn count_text(&mut self, bytes: usize) -> Result<(), JobError> {
        let Kind::Text { max_tokens } = self.kind else {
            return misbehaved("it sent text where none was asked for");
        };
        self.text_bytes += bytes;
        let asked = max_tokens.and_then(|tokens| usize::try_from(tokens).ok());
        let most = asked.map_or(ANSWER_BYTES, |n| n.saturating_mul(TOKEN_BYTES).min(ANSWER_BYTES));
        if self.text_bytes > most {
            return misbehaved("it sent more text than was asked for");
        }
        Ok(())
    }

    fn check_result(&self, result: &JobResult) -> Result<(), JobError> {
        match (result, self.kind) {
            (JobResult::Text { .. }, Kind::Text { .. }) => Ok(()),
            (JobResult::Embedded { vectors, .. }, Kind::Vectors { inputs }) => {
                if vectors.len() == inputs {
                    return Ok(());
                }
                let came = vectors.len();
                misbehaved(&format!("it sent {came} vectors for {inputs} texts"))
            }
            (JobResult::Wasm { output, fuel_used }, Kind::Wasm { fuel }) => {
                if *fuel_used > fuel {
                    return misbehaved("it says that more fuel was used than it was given");
                }
                if output.len() > OUTPUT_BYTES || STANDARD.decode(output).is_err() {
                    return misbehaved("it sent an output that is too long or not base64");
                }
                Ok(())
            }
            (JobResult::Code { output }, Kind::Code) => {
                if output.iterations.len() > CODE_ROUNDS {
                    return misbehaved("it sent more rounds than were asked for");
                }
                Ok(())
            }
            _ => misbehaved("it sent the result of another kind of task"),
        }
    }
}

fn lie(what: &str) -> JobError {
    JobError::Misbehaved(format!("the node broke the rules: {what}"))
}

fn misbehaved<T>(what: &str) -> Result<T, JobError> {
    Err(lie(what))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_api::runner::{FinishReason, Generate, Prompt, Sampling, TextInput, Timings, Usage};
    use proptest::prelude::*;

    use super::*;
    use crate::tasks::{
        job::{GenerateJob, WasmJob},
        wire::Outcome,
    };

    fn offer(job: Job) -> Offer {
        let task = TaskId("t_1".to_owned());
        Offer { task, attempt: 1, fence: 3, job, priority: 5, lease: Duration::from_secs(30) }
    }

    fn chat(max_tokens: Option<u32>) -> Job {
        let generate = Generate {
            prompt: Prompt::Text(TextInput::Text { text: "hi".to_owned() }),
            max_tokens,
            sampling: Sampling::default(),
            stop: Vec::new(),
            constraint: None,
            logprobs: None,
            continue_from: String::new(),
        };
        let model = "demo".to_owned();
        Job::Chat(GenerateJob { model, generate: Box::new(generate), context: None })
    }

    fn wasm() -> Job {
        Job::Wasm(WasmJob {
            module: "ab".to_owned(),
            name: None,
            input: String::new(),
            fuel: 100,
            memory_bytes: 1,
            wall_ms: 1,
        })
    }

    fn from(said: Said) -> FromWorker {
        FromWorker { task: TaskId("t_1".to_owned()), fence: 3, said }
    }

    fn text(text: &str) -> Said {
        Said::Text { text: text.to_owned(), logprobs: Vec::new() }
    }

    fn done() -> Said {
        let (usage, timings) = (Usage::default(), Timings::default());
        Said::Result(Box::new(Outcome::Text { finish: FinishReason::Stop, usage, timings }))
    }

    /// The first error of these frames, if there is one.
    fn run(job: Job, said: Vec<Said>) -> Option<JobError> {
        let mut expect = Expect::new(&offer(job));
        said.into_iter().find_map(|said| expect.take(from(said)).err())
    }

    fn is_misbehaviour(error: Option<JobError>) -> bool {
        matches!(error, Some(JobError::Misbehaved(_)))
    }

    #[test]
    fn an_answer_in_order_is_taken() {
        let waiting = Said::Waiting { position: 2, reason: "others".to_owned() };
        let started = Said::Started { usage: Usage::default() };
        let said = vec![
            waiting.clone(),
            waiting,
            Said::Alive,
            Said::Running,
            started,
            text("a"),
            Said::Alive,
            text("b"),
            done(),
        ];
        assert_eq!(run(chat(None), said), None);
    }

    #[test]
    fn frames_of_another_task_or_lease_are_refused() {
        let mut expect = Expect::new(&offer(chat(None)));
        let other = FromWorker { fence: 2, ..from(Said::Running) };
        assert!(is_misbehaviour(expect.take(other).err()));
        let other = FromWorker { task: TaskId("t_2".to_owned()), ..from(Said::Running) };
        assert!(is_misbehaviour(expect.take(other).err()));
    }

    #[test]
    fn frames_out_of_order_are_refused() {
        let refused = Said::Refused { reason: "full".to_owned(), retry_after_ms: None };
        for said in [
            vec![text("a")],
            vec![done()],
            vec![Said::Running, Said::Running],
            vec![Said::Running, refused],
            vec![Said::Running, Said::Waiting { position: 1, reason: String::new() }],
            vec![Said::Running, done(), text("more")],
            vec![Said::Running, done(), done()],
            vec![Said::NeedModule { sha256: "ab".to_owned() }],
            vec![Said::Running, Said::Note { text: "for code only".to_owned() }],
        ] {
            let last = said.last().cloned();
            assert!(is_misbehaviour(run(chat(None), said)), "{last:?}");
        }
    }

    #[test]
    fn too_much_is_refused() {
        let long = "x".repeat(2 * TOKEN_BYTES);
        assert!(is_misbehaviour(run(chat(Some(1)), vec![Said::Running, text(&long)])));
        let mut said = vec![Said::Running];
        said.extend((0..=ANSWER_BYTES / (128 << 10)).map(|_| text(&"x".repeat(128 << 10))));
        assert!(is_misbehaviour(run(chat(None), said)));
        let output = "A".repeat(OUTPUT_BYTES + 4);
        let said = Said::Result(Box::new(Outcome::Wasm { output, fuel_used: 1 }));
        assert!(is_misbehaviour(run(wasm(), vec![Said::Running, said])));
        let said = Said::Result(Box::new(Outcome::Wasm { output: String::new(), fuel_used: 101 }));
        assert!(is_misbehaviour(run(wasm(), vec![Said::Running, said])));
    }

    #[test]
    fn a_module_is_given_once_and_only_the_one_that_is_meant() {
        let need = |sha: &str| Said::NeedModule { sha256: sha.to_owned() };
        assert_eq!(run(wasm(), vec![need("ab"), Said::Running]), None);
        assert!(is_misbehaviour(run(wasm(), vec![need("ab"), need("ab")])));
        assert!(is_misbehaviour(run(wasm(), vec![need("cd")])));
    }

    #[test]
    fn vectors_that_are_missing_are_noticed() {
        let inputs = vec![TextInput::Text { text: "a".to_owned() }; 2];
        let job = Job::Embedding { model: "demo".to_owned(), inputs };
        let result = JobResult::Embedded { vectors: vec![vec![1.0]], prompt_tokens: 2 };
        let said = Said::Result(Box::new(Outcome::from(result)));
        let error = run(job, vec![Said::Running, said]).expect("refused").to_string();
        assert!(error.contains("1 vectors for 2 texts"), "{error}");
    }

    fn any_said() -> impl Strategy<Value = Said> {
        prop_oneof![
            Just(Said::Alive),
            Just(Said::Running),
            Just(done()),
            "[a-z]{0,9}".prop_map(|t| text(&t)),
            "[a-z]{0,9}".prop_map(|text| Said::Note { text }),
            (0..3_u32).prop_map(|position| Said::Waiting { position, reason: String::new() }),
            Just(Said::Started { usage: Usage::default() }),
            Just(Said::NeedModule { sha256: "ab".to_owned() }),
            Just(Said::Failed { how: Failure::Broke, reason: String::new() }),
            Just(Said::Described { tools: None }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_text_never_comes_before_running_nor_after_the_end(
            said in prop::collection::vec(any_said(), 0..12),
        ) {
            let mut expect = Expect::new(&offer(chat(None)));
            let (mut runs, mut over) = (false, false);
            for said in said {
                match expect.take(from(said)) {
                    Ok(Means::Piece(JobPiece::Running)) => runs = true,
                    Ok(Means::Piece(JobPiece::Text { .. })) => prop_assert!(runs && !over),
                    Ok(Means::Result(_)) => {
                        prop_assert!(runs && !over);
                        over = true;
                    }
                    Ok(_) => prop_assert!(!over),
                    Err(_) => break,
                }
            }
        }
    }
}
