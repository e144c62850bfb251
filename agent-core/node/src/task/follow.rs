//! A task as it goes: `/tasks/{id}/follow`, one JSON document per line.

use std::{
    collections::VecDeque,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use agent_api::{
    TaskId,
    tasks::{TaskNews, TaskOutput, TaskState},
};
use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::text;
use crate::{client::Client, words::printable};

/// Longest line: the output of the largest embedding request has about half of that.
const MAX_LINE: usize = 256 << 20;

/// Prints the text to stdout as it comes and notes to stderr, until the task ends. `json` prints
/// the lines as they come instead.
///
/// # Errors
/// The task did not end well, or the node went away.
pub(super) async fn follow(client: &Client, id: &TaskId, json: bool) -> anyhow::Result<()> {
    let response = client.get(&format!("/tasks/{id}/follow")).await?;
    let mut chunks = response.bytes_stream();
    let mut lines = Lines::default();
    let mut shown = Shown::default();
    loop {
        let chunk = match shown.standing {
            None => chunks.next().await,
            Some(_) => match timeout(SETTLED, chunks.next()).await {
                Ok(chunk) => chunk,
                Err(_) => {
                    shown.settle();
                    continue;
                }
            },
        };
        let Some(chunk) = chunk else { break };
        lines.push(&chunk.context("the node went away; the task goes on with its next start")?)?;
        while let Some(line) = lines.next() {
            if json {
                let mut out = std::io::stdout().lock();
                out.write_all(&line)?;
                out.write_all(b"\n")?;
                out.flush()?;
            }
            let news: TaskNews =
                serde_json::from_slice(&line).context("the node's answer makes no sense")?;
            if let Some(end) = shown.show(news, json)? {
                return ended(&end);
            }
        }
    }
    bail!("the node went away; the task goes on with its next start");
}

/// The status of the program is the task's.
pub(super) fn ended(end: &TaskOutput) -> anyhow::Result<()> {
    let passed = end.output.as_ref().and_then(|output| output.get("passed")?.as_bool());
    match end.state {
        TaskState::Done if passed == Some(false) => bail!(
            "no program of the task {} passed its tests. What was tried: edgecoder-node task output {} --json",
            end.id.fmt_short(),
            end.id.fmt_short(),
        ),
        TaskState::Done => Ok(()),
        state => bail!(
            "the task {} {}. More: edgecoder-node task show {}",
            end.id.fmt_short(),
            match state {
                TaskState::Cancelled => "was cancelled",
                TaskState::Expired => "expired",
                _ => "failed",
            },
            end.id.fmt_short(),
        ),
    }
}

/// What was printed so far.
#[derive(Default)]
struct Shown {
    text: bool,
    /// The first standing, which an event may still say.
    standing: Option<(TaskState, String)>,
    /// The last ones: a standing repeats what an event said, and the other way round.
    notes: VecDeque<String>,
}

/// After the first standing its events come at once, if there are any.
const SETTLED: Duration = Duration::from_millis(200);
/// Notes that are compared with the next one.
const NOTES: usize = 4;

impl Shown {
    /// Returns the end when that is the news.
    fn show(&mut self, news: TaskNews, json: bool) -> anyhow::Result<Option<TaskOutput>> {
        match news {
            TaskNews::End { output } => {
                if !json {
                    self.settle();
                    self.end(&output)?;
                }
                return Ok(Some(*output));
            }
            _ if json => {}
            // The first one comes before the events that led to it.
            TaskNews::Task { task } if self.notes.is_empty() && self.standing.is_none() => {
                self.standing = Some((task.state, text::note(&task)));
            }
            TaskNews::Task { task } => {
                self.settle();
                let text = text::note(&task);
                self.note((text.clone(), text));
            }
            TaskNews::Event { event } => {
                let what = text::happened(&event);
                self.standing.take_if(|(_, standing)| *standing == what);
                // It goes on from there; events that are older come before it.
                if self.standing.as_ref().is_some_and(|(state, _)| *state < event.state) {
                    self.settle();
                }
                self.note((what, text::event(&event)));
            }
            TaskNews::Text { text } => {
                self.settle();
                self.text = true;
                print(&text)?;
            }
            TaskNews::Restart {} => {
                if std::mem::take(&mut self.text) {
                    print("\n")?;
                }
                let text = "Another node begins the answer again; the text so far does not count";
                self.note((text.to_owned(), text.to_owned()));
            }
        }
        Ok(None)
    }

    /// Text that came is not printed again.
    fn end(&mut self, output: &TaskOutput) -> anyhow::Result<()> {
        let rest = if self.text { None } else { text::result(output) };
        if let Some(rest) = &rest {
            print(rest)?;
        }
        if self.text || rest.is_some_and(|rest| !rest.ends_with('\n')) {
            print("\n")?;
        }
        Ok(())
    }

    /// The events so far are over: what they did not say is shown.
    fn settle(&mut self) {
        if let Some((_, standing)) = self.standing.take() {
            self.note((standing.clone(), standing));
        }
    }

    /// `what` is the same for a standing and an event of one thing; `line` is shown.
    fn note(&mut self, (what, line): (String, String)) {
        if self.notes.contains(&what) {
            return;
        }
        eprintln!("[{}]", printable(&line));
        self.notes.push_back(what);
        if self.notes.len() > NOTES {
            self.notes.pop_front();
        }
    }
}

/// The words are another computer's: a terminal does not get to obey them, a file gets them as they
/// are.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        out.write_all(printable(text).as_bytes())?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    out.flush()?;
    Ok(())
}

/// Bytes to lines.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// No line ends before this.
    searched: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.bytes.len() + bytes.len() > MAX_LINE {
            bail!("a line of the node's answer is longer than {} MiB", MAX_LINE >> 20);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole line that is not empty, without its end.
    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let rest = self.bytes.get(self.searched..)?;
            let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.bytes.len();
                return None;
            };
            let mut line: Vec<u8> = self.bytes.drain(..=self.searched + at).collect();
            self.searched = 0;
            line.truncate(line.trim_ascii_end().len());
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_api::tasks::{TaskEvent, TaskOutput};

    use super::*;

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let mut lines = Lines::default();
        lines.push(b"{\"a\"").expect("short");
        assert_eq!(lines.next(), None);
        lines.push(b":1}\n\n{}\r\n{").expect("short");
        assert_eq!(lines.next().as_deref(), Some(&b"{\"a\":1}"[..]));
        assert_eq!(lines.next().as_deref(), Some(&b"{}"[..]));
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn what_a_standing_and_an_event_both_say_is_shown_once() {
        let note = |what: &str| (what.to_owned(), format!("{what} (somewhere)"));
        let mut shown = Shown::default();
        for what in ["queued: Submitted.", "placed: Offered.", "placed: Offered.", "running: Runs."]
        {
            shown.note(note(what));
        }
        assert_eq!(shown.notes, ["queued: Submitted.", "placed: Offered.", "running: Runs."]);
        let standing = Some((TaskState::Queued, "queued: No node has it.".to_owned()));
        let mut waiting = Shown { standing, ..Shown::default() };
        waiting.note(note("queued: Submitted."));
        waiting.settle();
        assert_eq!(waiting.notes, ["queued: Submitted.", "queued: No node has it."]);
    }

    #[test]
    fn the_first_standing_stands_between_what_led_to_it_and_what_came_of_it() {
        let event = |state, text: &str| TaskNews::Event {
            event: TaskEvent {
                at_ms: 0,
                state,
                attempt: 1,
                node: None,
                node_name: None,
                text: text.to_owned(),
            },
        };
        let standing = Some((TaskState::Placed, "placed: Offered.".to_owned()));
        let mut shown = Shown { standing, ..Shown::default() };
        for news in [event(TaskState::Queued, "Submitted."), event(TaskState::Running, "Runs.")] {
            assert!(shown.show(news, false).is_ok_and(|end| end.is_none()));
        }
        assert_eq!(shown.notes, ["queued: Submitted.", "placed: Offered.", "running: Runs."]);
    }

    #[test]
    fn a_task_that_did_not_end_well_is_an_error() {
        let end = |state| TaskOutput {
            id: TaskId("t_00000000000000000000abcdef".to_owned()),
            state,
            output: None,
            partial: None,
        };
        assert!(ended(&end(TaskState::Done)).is_ok());
        let failing = TaskOutput {
            output: Some(serde_json::json!({"code": "", "passed": false})),
            ..end(TaskState::Done)
        };
        let error = ended(&failing).expect_err("an error").to_string();
        assert!(error.contains("no program"), "{error}");
        let error = ended(&end(TaskState::Expired)).expect_err("an error").to_string();
        assert!(error.contains("t_abcdef expired"), "{error}");
    }
}
