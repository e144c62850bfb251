//! The contract of each kind: from the input as it was submitted to a [`Job`], or the list of what
//! is wrong with it. Pure.
//!
//! Every problem is told at once and names its field. Texts of the submission are never repeated in
//! a problem: they are the owner's words, and problems are logged.

mod bounds;
mod fields;
mod program;
mod submission;
#[cfg(test)]
mod tests;
mod text;

use std::fmt::Write as _;

use agent_api::tasks::{SubmitTask, TaskKind};
pub use bounds::check_job;
use fields::Fields;
use serde_json::{Map, Value};

use super::job::Job;

/// Problems that are told of one submission: more would not be read.
const PROBLEMS: usize = 50;

/// Everything that is wrong with a submission; each line names the field.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("The task is not valid: {}.", .0.join("; "))]
pub struct Problems(pub Vec<String>);

/// An input that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// Its model's name is without `@node`.
    pub job: Job,
    /// The only node that may do it: from `model@node`, else the submission's field `node`.
    pub node: Option<String>,
    /// Bytes of a module that came along; the job names it by its SHA-256.
    pub module: Option<Vec<u8>>,
}

/// Checks the whole submission, not only the input.
pub fn check(task: &SubmitTask) -> Result<Checked, Problems> {
    // Without the input, which may be megabytes.
    let own = serde_json::to_value(SubmitTask {
        kind: task.kind,
        input: Value::Null,
        privacy: task.privacy,
        priority: task.priority,
        node: task.node.clone(),
        idempotency_key: task.idempotency_key.clone(),
        expires_in_s: task.expires_in_s,
        max_attempts: task.max_attempts,
        replicas: task.replicas,
        label: task.label.clone(),
        webhook: task.webhook.clone(),
    });
    let own = own.map_err(|e| Problems(vec![format!("the task cannot be read: {e}")]))?;
    let mut problems = Vec::new();
    let own = own.as_object().cloned().unwrap_or_default();
    let _ = submission::check(&own, &mut problems);
    finish(task.kind, &task.input, task.node.as_deref(), problems)
}

/// The same for a body that nobody has read yet: fields that are unknown, missing or of the wrong
/// type are told together with everything else.
pub fn check_body(body: &Value) -> Result<(SubmitTask, Checked), Problems> {
    let Some(own) = body.as_object() else {
        return Err(Problems(vec!["the body is not a JSON object".to_owned()]));
    };
    let mut problems = Vec::new();
    let kind = submission::check(own, &mut problems);
    let input = own.get("input").unwrap_or(&Value::Null);
    let Some(kind) = kind else {
        return Err(bounded(problems));
    };
    let node = own.get("node").and_then(Value::as_str);
    let checked = finish(kind, input, node, problems)?;
    // What serde might still find is told by it alone.
    let task = serde_json::from_value(body.clone());
    let task = task.map_err(|e| Problems(vec![format!("the task cannot be read: {e}")]))?;
    Ok((task, checked))
}

fn finish(
    kind: TaskKind,
    input: &Value,
    node: Option<&str>,
    mut problems: Vec<String>,
) -> Result<Checked, Problems> {
    let read = match input.as_object() {
        Some(input) => read(kind, input, &mut problems),
        None => {
            problems.push(format!("input: a JSON object is expected, not {}", name_of(input)));
            None
        }
    };
    if let Some(found) = read.as_ref().and_then(|read| read.node.as_deref())
        && let Some(node) = node
        && found != node
    {
        problems.push("input.model: it names another node than the field node".to_owned());
    }
    match read {
        Some(mut checked) if problems.is_empty() => {
            checked.node = checked.node.or_else(|| node.map(ToOwned::to_owned));
            Ok(checked)
        }
        _ => Err(bounded(problems)),
    }
}

/// `None`: there is a problem.
fn read(kind: TaskKind, input: &Map<String, Value>, problems: &mut Vec<String>) -> Option<Checked> {
    let before = problems.len();
    let mut fields = Fields::new("input.", input, problems);
    // The rest of an input of another version means something else.
    if !fields.version(program::version_of(kind)) {
        return None;
    }
    let checked = match kind {
        TaskKind::Chat => text::chat(&mut fields),
        TaskKind::Completion => text::completion(&mut fields),
        TaskKind::Embedding => text::embedding(&mut fields),
        TaskKind::Wasm => program::wasm(&mut fields),
        TaskKind::Code => program::code(&mut fields),
    };
    fields.finish();
    checked.filter(|_| problems.len() == before)
}

fn bounded(mut problems: Vec<String>) -> Problems {
    let more = problems.len().saturating_sub(PROBLEMS);
    problems.truncate(PROBLEMS);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    Problems(problems)
}

/// What a value is, without repeating it.
fn name_of(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) => "true or false".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a text".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// A field's name from outside, short and on one line.
fn quoted(name: &str) -> String {
    let mut text = String::new();
    let _ = write!(text, "{:?}", name.chars().take(40).collect::<String>());
    text
}
