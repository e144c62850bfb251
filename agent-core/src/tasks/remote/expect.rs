//! What a worker may say next. Every frame of a stream goes through here before it counts. Pure.

use agent_api::{TaskId, runner::TokenLogprob};
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
/// Bytes of a token as text: one that is no whole character is written in three.
const TOKEN_TEXT_BYTES: usize = 3 * TOKEN_BYTES;
/// Tokens of an answer without a limit whose probabilities are taken: the longest usual context.
const MOST_TOKENS: usize = 128 << 10;
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
    Text { max_tokens: Option<u32>, logprobs: Option<u32> },
    Vectors { inputs: usize },
    Wasm { fuel: u64 },
    Code,
}

/// What a frame means.
#[derive(Debug)]
pub(super) enum Means {
    /// It is there.
    Nothing,
    /// It would take the job.
    Job,
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
    /// There is a job that was not sent.
    has_job: bool,
    module: Option<String>,
    stage: Stage,
    text_bytes: usize,
    /// Tokens whose probabilities came.
    tokens: usize,
}

impl Expect {
    pub(super) fn new(offer: &Offer) -> Self {
        let (kind, module) = match &offer.job {
            Job::Chat(job) | Job::Completion(job) => {
                let (max_tokens, logprobs) = (job.generate.max_tokens, job.generate.logprobs);
                (Kind::Text { max_tokens, logprobs }, None)
            }
            Job::Embedding { inputs, .. } => (Kind::Vectors { inputs: inputs.len() }, None),
            Job::Wasm(job) => (Kind::Wasm { fuel: job.fuel }, Some(job.module.clone())),
            Job::Code(_) => (Kind::Code, None),
        };
        let (task, fence) = (offer.task.clone(), offer.fence);
        Self {
            task,
            fence,
            kind,
            has_job: true,
            module,
            stage: Stage::Offered,
            text_bytes: 0,
            tokens: 0,
        }
    }

    /// For a task that the worker has already.
    pub(super) fn again(offer: &Offer) -> Self {
        Self { has_job: false, module: None, ..Self::new(offer) }
    }

    /// Bytes of the largest frame that may come now.
    pub(super) fn limit(&self) -> usize {
        let is_large = self.stage >= Stage::Running && !matches!(self.kind, Kind::Text { .. });
        if is_large { wire::RESULT_BYTES } else { wire::PIECE_BYTES }
    }

    /// A frame of so many bytes. An error is the end of the stream.
    pub(super) fn take(&mut self, frame: FromWorker, bytes: usize) -> Result<Means, JobError> {
        if frame.task != self.task || frame.fence != self.fence {
            return misbehaved("it sent frames of another task");
        }
        if self.stage == Stage::Over {
            return misbehaved("it went on after the end");
        }
        if bytes > wire::PIECE_BYTES && !matches!(frame.said, Said::Result(_)) {
            return misbehaved("it sent a frame as large as only a result may be");
        }
        let runs = self.stage >= Stage::Running;
        let is_unread = self.stage < Stage::Started && self.text_bytes == 0;
        match frame.said {
            Said::Alive => Ok(Means::Nothing),
            // Loading the model may fail after it began.
            Said::Refused { reason, retry_after_ms } if is_unread => Err(JobError::Refused {
                reason: wire::cut(&reason),
                retry_after: retry_after_ms.map(std::time::Duration::from_millis),
            }),
            Said::Failed { how, reason } => {
                self.stage = Stage::Over;
                let reason = wire::cut(&reason);
                Err(match how {
                    Failure::Failed => JobError::Failed(reason),
                    // It fitted where text came of it.
                    Failure::TooLong if self.text_bytes == 0 => JobError::TooLong(reason),
                    Failure::TooLong => JobError::Broke(reason),
                    Failure::Broke => JobError::Broke(reason),
                })
            }
            Said::NeedJob if self.stage == Stage::Offered && self.has_job => {
                self.has_job = false;
                Ok(Means::Job)
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
                self.count_text(text.len(), &logprobs)?;
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

    fn count_text(&mut self, bytes: usize, logprobs: &[TokenLogprob]) -> Result<(), JobError> {
        let Kind::Text { max_tokens, logprobs: wanted } = self.kind else {
            return misbehaved("it sent text where none was asked for");
        };
        if bytes == 0 && logprobs.is_empty() {
            return misbehaved("it sent text without a word");
        }
        let asked = max_tokens.and_then(|tokens| usize::try_from(tokens).ok());
        if !logprobs.is_empty() {
            let Some(top) = wanted.and_then(|top| usize::try_from(top).ok()) else {
                return misbehaved("it sent probabilities that were not asked for");
            };
            self.tokens += logprobs.len();
            let too_many = self.tokens > asked.unwrap_or(MOST_TOKENS);
            if too_many || !logprobs.iter().all(|token| is_as_asked(token, top)) {
                return misbehaved("it sent more probabilities than were asked for");
            }
        }
        self.text_bytes += bytes;
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

fn is_as_asked(token: &TokenLogprob, top: usize) -> bool {
    let is_token =
        |text: &str, bytes: &[u8]| text.len() <= TOKEN_TEXT_BYTES && bytes.len() <= TOKEN_BYTES;
    token.top.len() <= top
        && is_token(&token.token, &token.bytes)
        && token.top.iter().all(|other| is_token(&other.token, &other.bytes))
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

    use agent_api::runner::{
        FinishReason, Generate, Prompt, Sampling, TextInput, Timings, TopLogprob, Usage,
    };
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
        Job::Chat(GenerateJob {
            model,
            generate: Box::new(generate),
            context: None,
            left_out: Default::default(),
        })
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
        said.into_iter().find_map(|said| expect.take(from(said), 100).err())
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
        assert!(is_misbehaviour(expect.take(other, 100).err()));
        let other = FromWorker { task: TaskId("t_2".to_owned()), ..from(Said::Running) };
        assert!(is_misbehaviour(expect.take(other, 100).err()));
    }

    #[test]
    fn frames_out_of_order_are_refused() {
        let refused = Said::Refused { reason: "full".to_owned(), retry_after_ms: None };
        for said in [
            vec![text("a")],
            vec![done()],
            vec![Said::Running, Said::Running],
            vec![Said::Running, Said::Started { usage: Usage::default() }, refused.clone()],
            vec![Said::Running, text("a"), refused],
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

    /// Asks for the probabilities of two others per token.
    fn chat_with_logprobs(max_tokens: Option<u32>, logprobs: Option<u32>) -> Job {
        let Job::Chat(mut job) = chat(max_tokens) else { panic!("a chat") };
        job.generate.logprobs = logprobs;
        Job::Chat(job)
    }

    fn tokens(count: usize, top: usize) -> Said {
        let one = TopLogprob { token: "a".to_owned(), bytes: vec![97], logprob: -1.0 };
        let top = vec![one; top];
        let token = TokenLogprob { token: "a".to_owned(), bytes: vec![97], logprob: -1.0, top };
        Said::Text { text: "a".repeat(count), logprobs: vec![token; count] }
    }

    #[test]
    fn probabilities_come_only_as_they_were_asked_for() {
        let job = |logprobs| chat_with_logprobs(Some(4), logprobs);
        assert_eq!(run(job(Some(2)), vec![Said::Running, tokens(2, 2), tokens(2, 2)]), None);
        for (job, said) in [
            (job(None), tokens(1, 0)),
            (job(Some(2)), tokens(1, 3)),
            (job(Some(2)), tokens(5, 2)),
            (chat_with_logprobs(None, Some(0)), tokens(MOST_TOKENS + 1, 0)),
            (job(Some(2)), Said::Text { text: String::new(), logprobs: Vec::new() }),
        ] {
            assert!(is_misbehaviour(run(job, vec![Said::Running, said])));
        }
        let Said::Text { text, mut logprobs } = tokens(1, 1) else { panic!("text") };
        logprobs[0].top[0].bytes = vec![0; TOKEN_BYTES + 1];
        let said = vec![Said::Running, Said::Text { text, logprobs }];
        assert!(is_misbehaviour(run(job(Some(1)), said)));
    }

    #[test]
    fn only_a_result_may_be_large() {
        let mut expect = Expect::new(&offer(wasm()));
        assert_eq!(expect.limit(), wire::PIECE_BYTES);
        expect.take(from(Said::Running), 100).expect("in order");
        assert_eq!(expect.limit(), wire::RESULT_BYTES);
        let large = wire::PIECE_BYTES + 1;
        assert!(is_misbehaviour(expect.take(from(Said::Alive), large).err()));
        let mut expect = Expect::new(&offer(chat(None)));
        expect.take(from(Said::Running), 100).expect("in order");
        assert_eq!(expect.limit(), wire::PIECE_BYTES, "the text came before");
    }

    #[test]
    fn who_cannot_says_so_before_it_speaks_and_is_believed() {
        let refused = Said::Refused { reason: "no room".to_owned(), retry_after_ms: None };
        let error = run(chat(None), vec![Said::Running, refused]);
        assert!(matches!(error, Some(JobError::Refused { .. })), "{error:?}");
        let unable = || Said::Failed { how: Failure::TooLong, reason: "too long".to_owned() };
        let error = run(chat(None), vec![Said::Running, unable()]);
        assert_eq!(error, Some(JobError::TooLong("too long".to_owned())));
        let error = run(chat(None), vec![Said::Running, text("a"), unable()]);
        assert_eq!(error, Some(JobError::Broke("too long".to_owned())));
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
            Just(Said::Failed { how: Failure::TooLong, reason: String::new() }),
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
                match expect.take(from(said), 100) {
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
