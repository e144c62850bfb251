//! Jobs of kind `code`: the model plans and writes, the sandbox runs the tests, what went wrong goes
//! back to the model.

mod extract;
mod prompt;

use std::time::Duration;

use agent_api::{
    runner::Usage,
    tasks::{CodeInput, CodeIteration, CodeOutput, Language},
};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    job::{BoxFuture, JobError},
    sandbox::{Program, Ran, Sandbox, SandboxError},
};

/// Attempts where the input does not say, and the most it may say.
const ITERATIONS: u32 = 4;
const MAX_ITERATIONS: u32 = 10;

/// Seconds for one run of the tests where the input does not say, and the most it may say.
const RUN_S: u32 = 20;
const MAX_RUN_S: u32 = 120;

/// Works until the tests pass or the attempts are used up; both are a result. `generate` asks the
/// model with OpenAI-shaped messages; `notes` gets a line for people at each step.
///
/// # Errors
///
/// [`JobError::Refused`] where programs of the language cannot be contained, before the model is
/// asked; what `generate` returns; [`JobError::Broke`] when the sandbox fails.
pub async fn run<'g>(
    input: CodeInput,
    generate: impl FnMut(Vec<Value>) -> BoxFuture<'g, Result<(String, Usage), JobError>>,
    sandbox: &Sandbox,
    notes: mpsc::Sender<String>,
) -> Result<CodeOutput, JobError> {
    sandbox.check(input.language).await.map_err(from_sandbox)?;
    let test = |program| -> BoxFuture<'_, _> { Box::pin(sandbox.run(program)) };
    improve(input, generate, test, notes).await
}

/// The loop itself, whoever writes and tests.
async fn improve<'g, 't>(
    input: CodeInput,
    mut generate: impl FnMut(Vec<Value>) -> BoxFuture<'g, Result<(String, Usage), JobError>>,
    mut test: impl FnMut(Program) -> BoxFuture<'t, Result<Ran, SandboxError>>,
    notes: mpsc::Sender<String>,
) -> Result<CodeOutput, JobError> {
    let attempts = input.max_iterations.unwrap_or(ITERATIONS).clamp(1, MAX_ITERATIONS);
    let wall = Duration::from_secs(input.run_s.unwrap_or(RUN_S).clamp(1, MAX_RUN_S).into());
    let mut iterations: Vec<CodeIteration> = Vec::new();
    let (mut prompt_tokens, mut completion_tokens) = (0_u32, 0_u32);
    for attempt in 1..=attempts {
        note(&notes, format!("attempt {attempt} of {attempts}: the model writes")).await;
        let messages = prompt::messages(&input, iterations.last());
        let (answer, usage) = generate(messages).await?;
        prompt_tokens = prompt_tokens.saturating_add(usage.prompt_tokens);
        completion_tokens = completion_tokens.saturating_add(usage.completion_tokens);
        let iteration = match extract::code(&answer, input.language) {
            None => without_code(answer),
            Some(code) => {
                note(&notes, format!("attempt {attempt} of {attempts}: the tests run")).await;
                let program = program(&input, &code, wall);
                tested(code, test(program).await.map_err(from_sandbox)?)
            }
        };
        note(&notes, format!("attempt {attempt} of {attempts}: {}", outcome(&iteration))).await;
        let passed = iteration.status == Some(0);
        iterations.push(iteration);
        if passed {
            break;
        }
    }
    let last = iterations.last();
    Ok(CodeOutput {
        code: last.map(|last| last.code.clone()).unwrap_or_default(),
        passed: last.is_some_and(|last| last.status == Some(0)),
        iterations,
        prompt_tokens,
        completion_tokens,
    })
}

/// The tests are started; they import the solution that lies beside them.
fn program(input: &CodeInput, code: &str, wall: Duration) -> Program {
    let (tests, solution) = match input.language {
        Language::Python => ("test.py", "solution.py"),
        Language::Javascript => ("test.js", "solution.js"),
    };
    let files =
        vec![(tests.to_owned(), input.tests.clone()), (solution.to_owned(), code.to_owned())];
    Program { language: input.language, files, wall }
}

fn tested(code: String, ran: Ran) -> CodeIteration {
    CodeIteration {
        code,
        status: ran.status,
        stdout: ran.stdout,
        stderr: ran.stderr,
        problem: ran.problem,
        run_ms: u64::try_from(ran.took.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Most of such an answer is of no use; its start tells people what the model did instead.
fn without_code(answer: String) -> CodeIteration {
    CodeIteration {
        code: String::new(),
        status: None,
        stdout: answer.chars().take(1_000).collect(),
        stderr: String::new(),
        problem: Some("The model answered without a program.".to_owned()),
        run_ms: 0,
    }
}

fn outcome(iteration: &CodeIteration) -> String {
    match (iteration.status, &iteration.problem) {
        (Some(0), _) => "the tests passed".to_owned(),
        (Some(status), _) => format!("the tests ended with status {status}"),
        (None, Some(problem)) => problem.clone(),
        (None, None) => "the tests were stopped".to_owned(),
    }
}

/// Nobody may be listening; the work goes on.
async fn note(notes: &mpsc::Sender<String>, text: String) {
    let _ = notes.send(text).await;
}

fn from_sandbox(error: SandboxError) -> JobError {
    match error {
        SandboxError::Unable(reason) => JobError::Refused { reason, retry_after: None },
        SandboxError::Refused(why) => JobError::Failed(why),
        SandboxError::Broke(why) => JobError::Broke(why),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn input() -> CodeInput {
        CodeInput {
            version: 1,
            model: String::new(),
            language: Language::Python,
            prompt: "Write add(a, b).".to_owned(),
            tests: "from solution import add\nassert add(1, 2) == 3\n".to_owned(),
            max_iterations: Some(3),
            run_s: None,
        }
    }

    fn ran(status: i32, stderr: &str) -> Ran {
        Ran {
            status: Some(status),
            stdout: String::new(),
            stderr: stderr.to_owned(),
            problem: None,
            took: Duration::from_millis(5),
        }
    }

    /// Runs the loop over prepared answers and outcomes; returns what the model was sent too.
    async fn play(
        answers: &[&str],
        outcomes: Vec<Ran>,
    ) -> (Result<CodeOutput, JobError>, Vec<Vec<Value>>, Vec<Program>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let run = Arc::new(Mutex::new(Vec::new()));
        let mut answers: Vec<String> = answers.iter().rev().map(ToString::to_string).collect();
        let mut outcomes: Vec<Ran> = outcomes.into_iter().rev().collect();
        let generate = {
            let asked = Arc::clone(&asked);
            move |messages| {
                asked.lock().expect("not poisoned").push(messages);
                let answer = answers.pop().expect("no more answers than prepared");
                let usage = Usage { prompt_tokens: 10, cached_tokens: 0, completion_tokens: 5 };
                let made: BoxFuture<'static, _> = Box::pin(async move { Ok((answer, usage)) });
                made
            }
        };
        let test = {
            let run = Arc::clone(&run);
            move |program| {
                run.lock().expect("not poisoned").push(program);
                let outcome = outcomes.pop().expect("no more runs than prepared");
                let made: BoxFuture<'static, _> = Box::pin(async move { Ok(outcome) });
                made
            }
        };
        let (notes, kept) = mpsc::channel(64);
        let output = improve(input(), generate, test, notes).await;
        drop(kept);
        let asked = asked.lock().expect("not poisoned").clone();
        let run = run.lock().expect("not poisoned").clone();
        (output, asked, run)
    }

    const WRONG: &str = "Plan: subtract.\n```python\ndef add(a, b):\n    return a - b\n```";
    const RIGHT: &str = "```python\ndef add(a, b):\n    return a + b\n```";

    #[tokio::test]
    async fn a_failed_test_goes_back_to_the_model_and_its_next_try_passes() {
        let outcomes = vec![ran(1, "AssertionError: add(1, 2)"), ran(0, "")];
        let (output, asked, run) = play(&[WRONG, RIGHT], outcomes).await;
        let output = output.expect("has a result");
        assert!(output.passed);
        assert_eq!(output.code, "def add(a, b):\n    return a + b\n");
        assert_eq!(output.iterations.len(), 2);
        assert_eq!((output.prompt_tokens, output.completion_tokens), (20, 10));
        let second = serde_json::to_string(&asked[1]).expect("is JSON");
        assert!(second.contains("AssertionError: add(1, 2)"), "{second}");
        assert!(second.contains("return a - b"), "{second}");
        let files: Vec<&str> = run[0].files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(files, ["test.py", "solution.py"]);
    }

    #[tokio::test]
    async fn when_the_attempts_are_used_up_the_last_program_is_the_result() {
        let outcomes = vec![ran(1, "no"), ran(1, "no"), ran(2, "still no")];
        let (output, ..) = play(&[WRONG, WRONG, WRONG], outcomes).await;
        let output = output.expect("has a result");
        assert!(!output.passed);
        assert_eq!(output.iterations.len(), 3);
        assert_eq!(output.iterations[2].status, Some(2));
    }

    #[tokio::test]
    async fn an_answer_without_a_program_is_an_attempt_that_is_told_so() {
        let (output, asked, run) = play(&["I would rather not.", RIGHT], vec![ran(0, "")]).await;
        let output = output.expect("has a result");
        assert!(output.passed);
        assert_eq!(run.len(), 1);
        let problem = output.iterations[0].problem.as_deref().expect("says why");
        assert!(problem.contains("without a program"), "{problem}");
        let second = serde_json::to_string(&asked[1]).expect("is JSON");
        assert!(second.contains("code block"), "{second}");
    }

    #[tokio::test]
    async fn without_a_sandbox_the_model_is_not_even_asked() {
        let (notes, _kept) = mpsc::channel(8);
        let never = |_| -> BoxFuture<'static, _> { panic!("the model was asked") };
        let refused = run(input(), never, &Sandbox::new(None), notes).await;
        assert!(matches!(refused, Err(JobError::Refused { .. })), "{refused:?}");
    }
}
