//! The list as a file of comma-separated values (RFC 4180).

use agent_api::tasks::{Role, Task};

use crate::words::task as words;

/// Rows of one file at most: more than a spreadsheet is of use for, and a few MB.
pub const MAX_ROWS: usize = 10_000;

const HEAD: &str = "id,kind,state,reason,role,label,model_or_module,asked_by,run_by,route,created,started,ended,attempts,prompt_tokens,completion_tokens,tokens_per_s,first_token_ms";

/// A cell, in quotes where it needs them. A text that a spreadsheet would take for a formula gets
/// an apostrophe before it.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

fn number(value: Option<impl ToString>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

/// `time` writes a moment in milliseconds as text.
fn row(task: &Task, time: &dyn Fn(i64) -> String) -> String {
    let text = |text: &Option<String>| cell(text.as_deref().unwrap_or_default());
    let moment = |at: Option<i64>| at.map(time).unwrap_or_default();
    let route = task.path.map(|p| words::route(Some(p))).unwrap_or_default();
    [
        cell(&task.id.0),
        task.kind.as_str().to_owned(),
        task.state.as_str().to_owned(),
        cell(&task.reason),
        if task.role == Role::Asked { "asked" } else { "served" }.to_owned(),
        text(&task.label),
        text(&task.subject),
        cell(&task.origin_name),
        text(&task.worker_name),
        route.to_owned(),
        moment(Some(task.created_ms)),
        moment(task.started_ms),
        moment(task.ended_ms),
        task.attempts.to_string(),
        number(task.prompt_tokens),
        number(task.completion_tokens),
        number(task.tokens_per_s),
        number(task.first_token_ms),
    ]
    .join(",")
}

/// The whole file; lines end with CR LF.
pub fn file(tasks: &[Task], time: &dyn Fn(i64) -> String) -> String {
    let mut out = format!("{HEAD}\r\n");
    for task in tasks.iter().take(MAX_ROWS) {
        out.push_str(&row(task, time));
        out.push_str("\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use agent_api::tasks::TaskState;

    use super::*;
    use crate::words::task::tests::task;

    #[test]
    fn cells_are_quoted_where_the_format_asks_for_it() {
        assert_eq!(cell("plain text"), "plain text");
        assert_eq!(cell("a, b"), "\"a, b\"");
        assert_eq!(cell("say \"hi\""), "\"say \"\"hi\"\"\"");
        assert_eq!(cell("two\nlines"), "\"two\nlines\"");
        assert_eq!(cell("=HYPERLINK(1)"), "'=HYPERLINK(1)");
        assert_eq!(cell("-2,5"), "\"'-2,5\"");
    }

    #[test]
    fn every_row_has_the_columns_of_the_head() {
        let mut one = task(1, TaskState::Failed);
        one.reason = "No answer, \"kanal\" is gone.".into();
        one.ended_ms = Some(5_000);
        let text = file(&[one, task(2, TaskState::Done)], &|at| at.to_string());
        let lines: Vec<_> = text.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 3);
        let columns = |line: &str| {
            let mut quoted = false;
            let comma = |c: char| {
                quoted ^= c == '"';
                c == ',' && !quoted
            };
            line.chars().map(comma).filter(|comma| *comma).count()
        };
        for line in &lines {
            assert_eq!(columns(line), columns(HEAD), "{line}");
        }
        assert!(lines[1].contains("\"No answer, \"\"kanal\"\" is gone.\""), "{}", lines[1]);
        assert!(lines[1].contains(",1000,,5000,"), "{}", lines[1]);
    }
}
