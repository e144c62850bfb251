//! Answers of `chat` and `generate`: one line of JSON after the other, or all in one document.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use agent_api::{
    openai::ChatTokenLogprob,
    runner::{FinishReason, Timings, Usage},
};
use axum::{
    Json,
    body::{Body, Bytes},
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    error::OllamaError,
    nanoseconds,
    reader::{Reader, Said},
    time,
};
use crate::{
    api::openai::chat_logprob,
    clock::now_ms,
    inference::{Answer, InferenceError, Piece},
};

/// The one difference between the two calls' answers: where the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// In `message`.
    Chat,
    /// In `response`.
    Generate,
}

/// A line of the stream, or the whole answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    model: String,
    created_at: String,
    #[serde(flatten)]
    text: Text,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<ChatTokenLogprob>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(flatten)]
    totals: Option<Totals>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Text {
    Chat {
        message: Message,
    },
    Generate {
        response: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        thinking: String,
    },
}

#[derive(Clone, Debug, Serialize)]
struct Message {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    thinking: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Clone, Debug, Serialize)]
struct ToolCall {
    id: String,
    function: Called,
}

#[derive(Clone, Debug, Serialize)]
struct Called {
    index: u32,
    name: String,
    /// An object, where OpenAI's API has a text.
    arguments: Map<String, Value>,
}

/// Counts, and durations in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Totals {
    total_duration: u64,
    /// Before the prompt was begun: loading the model, waiting for a slot.
    load_duration: u64,
    prompt_eval_count: u32,
    prompt_eval_duration: u64,
    eval_count: u32,
    eval_duration: u64,
}

impl Text {
    fn new(shape: Shape, said: Option<Said>, index: u32) -> Self {
        let (mut content, mut thinking, mut tool_calls) =
            (String::new(), String::new(), Vec::new());
        match said {
            None => {}
            Some(Said::Text(text)) => content = text,
            Some(Said::Thinking(thoughts)) => thinking = thoughts,
            Some(Said::Call { name, arguments }) => tool_calls.push(ToolCall {
                id: format!("call_{}", uuid::Uuid::now_v7().simple()),
                function: Called { index, name, arguments },
            }),
        }
        match shape {
            Shape::Chat => {
                let message = Message { role: "assistant", content, thinking, tool_calls };
                Self::Chat { message }
            }
            Shape::Generate => Self::Generate { response: content, thinking },
        }
    }

    fn add(&mut self, more: Self) {
        match (self, more) {
            (Self::Chat { message }, Self::Chat { message: more }) => {
                message.content.push_str(&more.content);
                message.thinking.push_str(&more.thinking);
                message.tool_calls.extend(more.tool_calls);
            }
            (
                Self::Generate { response, thinking },
                Self::Generate { response: more, thinking: more_thinking },
            ) => {
                response.push_str(&more);
                thinking.push_str(&more_thinking);
            }
            // One answer has one shape.
            (Self::Chat { .. }, Self::Generate { .. })
            | (Self::Generate { .. }, Self::Chat { .. }) => {}
        }
    }
}

impl Line {
    fn new(model: &str, text: Text) -> Self {
        Self {
            model: model.to_owned(),
            created_at: time(now_ms()).unwrap_or_default(),
            text,
            logprobs: Vec::new(),
            done: false,
            done_reason: None,
            totals: None,
        }
    }

    /// The whole answer to a request that only loads or unloads.
    pub(super) fn without_text(model: &str, shape: Shape, reason: &'static str) -> Self {
        let mut line = Self::new(model, Text::new(shape, None, 0));
        line.done = true;
        line.done_reason = Some(reason);
        line
    }

    /// Goes on with the next line of the same answer.
    fn add(&mut self, more: Self) {
        self.text.add(more.text);
        self.logprobs.extend(more.logprobs);
        self.created_at = more.created_at;
        self.done = more.done;
        self.done_reason = more.done_reason;
        self.totals = more.totals;
    }
}

/// From an answer's pieces to its lines.
#[derive(Debug)]
pub(super) struct Telling {
    model: String,
    shape: Shape,
    reader: Reader,
    asked: Instant,
    /// From the request to the end of the prompt.
    began_after: Duration,
    calls: u32,
    /// Of text that the reader still holds.
    logprobs: Vec<ChatTokenLogprob>,
}

impl Telling {
    /// `model` is the name as the request wrote it, `asked` when the request came.
    pub(super) fn new(model: String, shape: Shape, reader: Reader, asked: Instant) -> Self {
        let began_after = Duration::ZERO;
        Self { model, shape, reader, asked, began_after, calls: 0, logprobs: Vec::new() }
    }

    /// The lines of one piece; the last line of the answer is `done`.
    fn lines(&mut self, piece: Piece) -> Result<Vec<Line>, InferenceError> {
        match piece {
            Piece::Started { .. } => {
                self.began_after = self.asked.elapsed();
                Ok(Vec::new())
            }
            Piece::Text { text, logprobs } => {
                self.logprobs.extend(logprobs.into_iter().map(chat_logprob));
                let said = self.reader.push(&text);
                Ok(said.into_iter().map(|said| self.line(Some(said))).collect())
            }
            Piece::Done { finish, usage, timings } => {
                let said = self.reader.finish();
                let mut lines: Vec<Line> =
                    said.into_iter().map(|said| self.line(Some(said))).collect();
                lines.push(self.last(finish, &usage, &timings));
                Ok(lines)
            }
            Piece::Failed(error) => Err(error),
            Piece::Embedded { .. } => Ok(Vec::new()),
        }
    }

    fn line(&mut self, said: Option<Said>) -> Line {
        let index = self.calls;
        self.calls += u32::from(matches!(said, Some(Said::Call { .. })));
        let mut line = Line::new(&self.model, Text::new(self.shape, said, index));
        line.logprobs = std::mem::take(&mut self.logprobs);
        line
    }

    fn last(&mut self, finish: FinishReason, usage: &Usage, timings: &Timings) -> Line {
        let spent = |ms: f64| Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default();
        let prompt = spent(timings.prompt_ms);
        let mut line = self.line(None);
        line.done = true;
        line.done_reason = Some(match finish {
            FinishReason::Stop | FinishReason::Cancelled => "stop",
            FinishReason::Length => "length",
        });
        line.totals = Some(Totals {
            total_duration: nanoseconds(self.asked.elapsed()),
            load_duration: nanoseconds(self.began_after.saturating_sub(prompt)),
            prompt_eval_count: usage.prompt_tokens,
            prompt_eval_duration: nanoseconds(prompt),
            eval_count: usage.completion_tokens,
            eval_duration: nanoseconds(spent(timings.generate_ms)),
        });
        line
    }
}

/// Sends an answer. The first piece is waited for before the headers go out, so that a request that
/// fails at once has a proper status. Dropping the response cancels the answer.
pub(super) async fn respond(
    mut telling: Telling,
    mut answer: Answer,
    stream: bool,
) -> Result<Response, OllamaError> {
    let mut lines = telling.lines(next(&mut answer).await)?;
    if !stream {
        let mut whole: Option<Line> = None;
        loop {
            for line in lines {
                match &mut whole {
                    None => whole = Some(line),
                    Some(whole) => whole.add(line),
                }
            }
            match whole {
                Some(whole) if whole.done => return Ok(Json(whole).into_response()),
                _ => lines = telling.lines(next(&mut answer).await)?,
            }
        }
    }
    Ok(ndjson(async_stream::stream! {
        loop {
            for line in lines {
                yield json_line(&line);
                if line.done {
                    return;
                }
            }
            lines = match telling.lines(next(&mut answer).await) {
                Ok(lines) => lines,
                Err(error) => {
                    yield OllamaError::from(error).line();
                    return;
                }
            };
        }
    }))
}

/// The next piece; an answer that ends without a last one has lost its runner.
async fn next(answer: &mut Answer) -> Piece {
    answer.next().await.unwrap_or(Piece::Failed(InferenceError::RunnerLost))
}

/// A response of lines made by [`json_line`].
pub(super) fn ndjson(lines: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

pub(super) fn json_line<T: Serialize>(value: &T) -> Bytes {
    // Texts, numbers and maps with text keys can always be written.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::tools::ToolFormat;

    fn tell(shape: Shape, reader: Reader, texts: &[&str]) -> Vec<Value> {
        let mut telling = Telling::new("m".into(), shape, reader, Instant::now());
        let usage = Usage { prompt_tokens: 5, cached_tokens: 2, completion_tokens: 3 };
        let timings = Timings { queue_ms: 0.0, prompt_ms: 1.5, generate_ms: 2.0 };
        let mut pieces = vec![Piece::Started { usage: Usage::default() }];
        let text = |text: &&str| Piece::Text { text: (*text).to_owned(), logprobs: Vec::new() };
        pieces.extend(texts.iter().map(text));
        pieces.push(Piece::Done { finish: FinishReason::Length, usage, timings });
        let lines = pieces.into_iter().flat_map(|piece| telling.lines(piece).expect("lines"));
        lines.map(|line| serde_json::to_value(line).expect("JSON")).collect()
    }

    #[test]
    fn a_chat_streams_its_text_and_ends_with_totals() {
        let lines = tell(Shape::Chat, Reader::default(), &["Hel", "lo"]);
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["message"]["content"], "Hel");
        assert_eq!(lines[0]["done"], false);
        assert!(lines[0].get("total_duration").is_none());
        let last = &lines[2];
        assert_eq!((&last["done"], &last["done_reason"]), (&true.into(), &"length".into()));
        assert_eq!(last["message"]["content"], "");
        assert_eq!(last["prompt_eval_count"], 5);
        assert_eq!(last["prompt_eval_duration"], 1_500_000, "nanoseconds");
        assert_eq!(last["eval_duration"], 2_000_000);
    }

    #[test]
    fn generate_has_its_text_in_response() {
        let lines = tell(Shape::Generate, Reader::default(), &["Hello"]);
        assert_eq!(lines[0]["response"], "Hello");
        assert!(lines[0].get("message").is_none());
    }

    #[test]
    fn calls_are_counted_and_carry_objects() {
        let call = "<tool_call>{\"name\": \"ls\", \"arguments\": {\"path\": \"/\"}}</tool_call>";
        let reader = Reader::new(None, Some(ToolFormat::Hermes));
        let lines = tell(Shape::Chat, reader, &["<tool", &call[5..], call]);
        let call = |line: &Value| line["message"]["tool_calls"][0]["function"].clone();
        assert_eq!(call(&lines[0])["arguments"]["path"], "/");
        assert_eq!(call(&lines[1])["index"], 1);
    }
}
