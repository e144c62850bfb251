//! `GET /tasks/{id}/follow`: lines of JSON about one task until it ends.

use agent_api::tasks::{Task, TaskEvent, TaskNews, TaskOutput};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::backend;

/// Longest line, 24 MiB: an output with its largest embedding. A longer one is dropped, so that a
/// broken stream cannot eat the page's memory.
const MAX_LINE: usize = 24 << 20;
/// Longest text that is shown while it is written, as for the answers of the Ask box.
const MAX_TEXT: usize = 1 << 20;

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub struct Lines {
    rest: String,
    too_long: bool,
}

impl Lines {
    /// Takes the next piece; gives the lines that it completes, without empty ones.
    pub fn push(&mut self, piece: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut parts = piece.split('\n').peekable();
        while let Some(part) = parts.next() {
            if self.rest.len() + part.len() > MAX_LINE {
                self.too_long = true;
                self.rest.clear();
            } else if !self.too_long {
                self.rest.push_str(part);
            }
            if parts.peek().is_some() {
                let line = std::mem::take(&mut self.rest);
                let whole = !std::mem::take(&mut self.too_long);
                if whole && !line.trim().is_empty() {
                    lines.push(line);
                }
            }
        }
        lines
    }
}

/// What a followed task has said so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    pub task: Option<Task>,
    pub events: Vec<TaskEvent>,
    pub text: String,
    pub output: Option<TaskOutput>,
    /// The last line came.
    pub ended: bool,
}

impl Live {
    pub fn take(&mut self, news: TaskNews) {
        match news {
            TaskNews::Task { task } => self.task = Some(*task),
            TaskNews::Event { event } => {
                if let Some(task) = &mut self.task {
                    task.state = event.state;
                }
                self.events.push(event);
            }
            TaskNews::Text { text } => {
                let room = MAX_TEXT.saturating_sub(self.text.len());
                self.text.push_str(&text[..text.floor_char_boundary(room)]);
            }
            TaskNews::Restart {} => self.text.clear(),
            TaskNews::End { output } => {
                self.output = Some(*output);
                self.ended = true;
            }
        }
    }
}

/// Reads a line; `None` for what this page does not know. By hand, because the derived reader of a
/// tagged enum compiles everything in it once more.
pub fn news(line: &str) -> Option<TaskNews> {
    let mut fields = match serde_json::from_str(line).ok()? {
        Value::Object(fields) => fields,
        _ => return None,
    };
    let kind = fields.remove("type")?;
    let mut field = |name| fields.remove(name);
    Some(match kind.as_str()? {
        "task" => TaskNews::Task { task: Box::new(read(field("task")?)?) },
        "event" => TaskNews::Event { event: read(field("event")?)? },
        "text" => TaskNews::Text { text: read(field("text")?)? },
        "restart" => TaskNews::Restart {},
        "end" => TaskNews::End { output: Box::new(read(field("output")?)?) },
        _ => return None,
    })
}

fn read<T: DeserializeOwned>(value: Value) -> Option<T> {
    backend::read(Ok(value)).ok()
}

#[cfg(test)]
mod tests {
    use agent_api::tasks::TaskState;

    use super::*;
    use crate::words::task::tests::task;

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_lines() {
        let stream = "{\"a\":1}\n\n{\"b\":\"grün\"}\r\n{\"half";
        let mut whole = Lines::default();
        let lines = whole.push(stream);
        assert_eq!(lines.len(), 2);
        let mut cut = Lines::default();
        let pieces: Vec<_> = stream.chars().flat_map(|c| cut.push(&c.to_string())).collect();
        assert_eq!(pieces, lines);
        assert_eq!(cut.push("\":2}\n"), ["{\"half\":2}"]);
    }

    #[test]
    fn an_endless_line_is_dropped_and_the_next_one_read() {
        let mut lines = Lines::default();
        let piece = "x".repeat(10 << 20);
        for _ in 0..4 {
            assert!(lines.push(&piece).is_empty());
        }
        assert!(lines.rest.len() <= MAX_LINE);
        assert_eq!(lines.push("\nok\n"), ["ok"]);
    }

    #[test]
    fn every_line_is_read_as_it_was_written() {
        let it = task(1, TaskState::Running);
        let event = TaskEvent {
            at_ms: 5,
            state: TaskState::Running,
            attempt: 1,
            node: None,
            node_name: Some("kanal".into()),
            text: "Began.".into(),
        };
        let output = TaskOutput {
            id: it.id.clone(),
            state: TaskState::Done,
            output: Some(serde_json::json!({"text": "Hi"})),
            partial: None,
        };
        for written in [
            TaskNews::Task { task: Box::new(it) },
            TaskNews::Event { event },
            TaskNews::Text { text: "Hi".into() },
            TaskNews::Restart {},
            TaskNews::End { output: Box::new(output) },
        ] {
            let line = serde_json::to_string(&written).expect("news is JSON");
            assert_eq!(news(&line), Some(written));
        }
        assert_eq!(news(r#"{"type":"from the future"}"#), None);
        assert_eq!(news("[]"), None);
    }

    #[test]
    fn text_grows_and_the_last_line_ends_it() {
        let mut live = Live::default();
        live.take(TaskNews::Task { task: Box::new(task(1, TaskState::Running)) });
        live.take(TaskNews::Text { text: "A hoax".into() });
        live.take(TaskNews::Restart {});
        live.take(TaskNews::Text { text: "A lease".into() });
        live.take(TaskNews::Text { text: " gives".into() });
        assert_eq!((live.text.as_str(), live.ended), ("A lease gives", false));
        let output = TaskOutput {
            id: task(1, TaskState::Done).id,
            state: TaskState::Done,
            output: None,
            partial: None,
        };
        live.take(TaskNews::End { output: Box::new(output) });
        assert!(live.ended);
    }
}
