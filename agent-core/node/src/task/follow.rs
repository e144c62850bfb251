//! A task as it goes: `/tasks/{id}/follow`, one JSON document per line.

use std::io::{IsTerminal as _, Write as _};

use agent_api::{
    TaskId,
    tasks::{TaskNews, TaskOutput, TaskState},
};
use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;

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
    while let Some(chunk) = chunks.next().await {
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
fn ended(end: &TaskOutput) -> anyhow::Result<()> {
    match end.state {
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
    note: String,
}

impl Shown {
    /// Returns the end when that is the news.
    fn show(&mut self, news: TaskNews, json: bool) -> anyhow::Result<Option<TaskOutput>> {
        match news {
            TaskNews::End { output } => {
                if !json {
                    self.end(&output)?;
                }
                return Ok(Some(*output));
            }
            _ if json => {}
            TaskNews::Task { task } => self.note(&text::standing(&task)),
            TaskNews::Event { event } => self.note(&text::event(&event)),
            TaskNews::Text { text } => {
                self.text = true;
                print(&text)?;
            }
            TaskNews::Restart {} => {
                if std::mem::take(&mut self.text) {
                    print("\n")?;
                }
                self.note("Another node begins the answer again; the text so far does not count");
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

    fn note(&mut self, note: &str) {
        if note != self.note {
            eprintln!("[{}]", printable(note));
            note.clone_into(&mut self.note);
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
    use agent_api::tasks::TaskOutput;

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
    fn a_task_that_did_not_end_well_is_an_error() {
        let end = |state| TaskOutput {
            id: TaskId("t_00000000000000000000abcdef".to_owned()),
            state,
            output: None,
            partial: None,
        };
        assert!(ended(&end(TaskState::Done)).is_ok());
        let error = ended(&end(TaskState::Expired)).expect_err("an error").to_string();
        assert!(error.contains("t_abcdef expired"), "{error}");
    }
}
