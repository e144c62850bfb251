//! One question and its streamed answer, as a pure state machine over the stream's pieces; and
//! what is sent to the node for a conversation.

use agent_api::openai::{
    ChatChunk, ChatRequest, CommonParameters, ErrorBody, StreamOptions, Timings, Usage,
};
use serde_json::{Value, json};

use crate::{
    backend::{self, ServedBy},
    sse,
};

/// Questions kept on the page and sent along: more than a context of any size holds in practice.
pub const TURNS_KEPT: usize = 40;

/// Longest answer that is kept, 1 MiB: far above what a context of 128k tokens can produce.
const MAX_ANSWER: usize = 1 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Sent; no text yet.
    #[default]
    Waiting,
    Writing,
    Done,
    /// The owner stopped it; the text so far stays.
    Stopped,
    Failed,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub text: String,
    pub phase: Phase,
    /// Why it failed.
    pub error: Option<String>,
    /// `length`: the answer was cut at the limit.
    pub cut: bool,
    pub first_token_ms: Option<f64>,
    pub usage: Option<Usage>,
    pub timings: Option<Timings>,
    /// As the answer's headers say; the desktop window does not see them.
    pub served_by: Option<ServedBy>,
    /// Milliseconds from the question to the last piece.
    elapsed_ms: f64,
    pieces: u32,
}

impl Answer {
    pub fn running(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Writing)
    }

    /// Takes one event of the stream, `elapsed_ms` after the question was sent.
    pub fn take(&mut self, frame: &sse::Frame, elapsed_ms: f64) {
        if !self.running() {
            return;
        }
        self.elapsed_ms = elapsed_ms;
        if frame.data == "[DONE]" {
            self.phase = Phase::Done;
        } else if let Ok(chunk) = backend::answer::<ChatChunk>(&frame.data) {
            self.chunk(chunk);
        } else if let Ok(body) = backend::answer::<ErrorBody>(&frame.data) {
            self.fail(body.error.message);
        } else {
            self.fail("The node sent something this page cannot read. Page and node may be of different versions; reload the page.".into());
        }
    }

    fn chunk(&mut self, chunk: ChatChunk) {
        for choice in chunk.choices {
            if let Some(text) = choice.delta.content.filter(|t| !t.is_empty()) {
                self.first_token_ms.get_or_insert(self.elapsed_ms);
                self.phase = Phase::Writing;
                self.pieces += 1;
                let room = MAX_ANSWER.saturating_sub(self.text.len());
                self.text.push_str(&text[..text.floor_char_boundary(room)]);
            }
            self.cut |= choice.finish_reason.as_deref() == Some("length");
        }
        self.usage = chunk.usage.or(self.usage.take());
        self.timings = chunk.timings.or(self.timings.take());
    }

    /// The stream ended; without `[DONE]` it broke off.
    pub fn end(&mut self, error: Option<String>) {
        if self.running() {
            let message = "The answer broke off: the node closed the connection. Ask again.";
            self.fail(error.unwrap_or_else(|| message.into()));
        }
    }

    pub fn fail(&mut self, message: String) {
        self.phase = Phase::Failed;
        self.error = Some(message);
    }

    pub fn stop(&mut self) {
        if self.running() {
            self.phase = Phase::Stopped;
        }
    }

    /// Tokens of the answer; for an answer that was stopped, the pieces that arrived are the best
    /// that is known, and a node sends one token per piece or a few.
    pub fn tokens(&self) -> Option<u32> {
        self.usage
            .as_ref()
            .map(|u| u.completion_tokens)
            .or((self.pieces > 0).then_some(self.pieces))
    }

    /// Tokens per second: as the node measured it, else as it looks from here.
    pub fn tokens_per_s(&self) -> Option<f64> {
        if let Some(timings) = self.timings.filter(|t| t.predicted_per_second > 0.0) {
            return Some(timings.predicted_per_second);
        }
        let span = self.elapsed_ms - self.first_token_ms?;
        // The first piece starts the clock, so it is not counted; shorter spans say nothing.
        (span > 200.0 && self.pieces > 2).then(|| f64::from(self.pieces - 1) / span * 1_000.0)
    }
}

/// The request for the next answer: earlier questions with their answers, then `question`.
pub fn request(model: &str, earlier: &[(String, String)], question: &str) -> ChatRequest {
    let mut messages: Vec<Value> = Vec::with_capacity(2 * earlier.len() + 1);
    for (question, answer) in earlier.iter().filter(|(_, answer)| !answer.is_empty()) {
        messages.push(json!({"role": "user", "content": question}));
        messages.push(json!({"role": "assistant", "content": answer}));
    }
    messages.push(json!({"role": "user", "content": question}));
    ChatRequest {
        model: model.into(),
        messages,
        common: CommonParameters {
            stream: Some(true),
            stream_options: Some(StreamOptions { include_usage: true }),
            ..CommonParameters::default()
        },
        ..ChatRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(data: &str) -> sse::Frame {
        sse::Frame { event: String::new(), data: data.into() }
    }

    fn piece(text: &str) -> sse::Frame {
        let choice = json!({"index": 0, "delta": {"content": text}, "finish_reason": null});
        frame(&json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}).to_string())
    }

    fn last(finish: &str) -> sse::Frame {
        let choice = json!({"index": 0, "delta": {}, "finish_reason": finish});
        let timings = json!({"queue_ms": 0.0, "prompt_ms": 5.0, "prompt_per_second": 800.0,
            "predicted_n": 2, "predicted_ms": 50.0, "predicted_per_second": 40.0});
        frame(
            &json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [choice], "timings": timings})
            .to_string(),
        )
    }

    #[test]
    fn an_answer_grows_and_ends_with_what_the_node_measured() {
        let mut answer = Answer::default();
        answer.take(&piece(""), 10.0);
        assert_eq!(answer.phase, Phase::Waiting);
        answer.take(&piece("Hel"), 210.0);
        answer.take(&piece("lo"), 230.0);
        assert_eq!((answer.text.as_str(), answer.phase), ("Hello", Phase::Writing));
        answer.take(&last("stop"), 240.0);
        answer.take(
            &frame(&json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
                "usage": {"prompt_tokens": 9, "completion_tokens": 74, "total_tokens": 83,
                    "prompt_tokens_details": {"cached_tokens": 0}}}).to_string()),
            241.0,
        );
        answer.take(&frame("[DONE]"), 242.0);
        answer.end(None);
        assert_eq!((answer.phase, answer.cut), (Phase::Done, false));
        assert_eq!(answer.first_token_ms, Some(210.0));
        assert_eq!((answer.tokens(), answer.tokens_per_s()), (Some(74), Some(40.0)));
    }

    #[test]
    fn a_stopped_answer_keeps_its_text_and_takes_no_more() {
        let mut answer = Answer::default();
        answer.take(&piece("half"), 5.0);
        answer.stop();
        answer.take(&piece(" more"), 6.0);
        answer.end(Some("aborted".into()));
        assert_eq!(
            (answer.text.as_str(), answer.phase, answer.error),
            ("half", Phase::Stopped, None)
        );
    }

    #[test]
    fn failures_carry_the_message_of_the_node() {
        let mut answer = Answer::default();
        answer.take(&piece("some"), 5.0);
        let error = json!({"error": {"message": "The runner ended.", "type": "server_error", "param": null, "code": null}});
        answer.take(&frame(&error.to_string()), 6.0);
        assert_eq!(
            (answer.phase, answer.error.as_deref()),
            (Phase::Failed, Some("The runner ended."))
        );
        assert_eq!(answer.text, "some");

        let mut answer = Answer::default();
        answer.end(None);
        assert!(answer.error.is_some_and(|e| e.contains("broke off")));
        let mut answer = Answer::default();
        answer.take(&frame("<html>"), 1.0);
        assert_eq!(answer.phase, Phase::Failed);
    }

    #[test]
    fn speed_without_timings_needs_enough_pieces() {
        let mut answer = Answer::default();
        answer.take(&piece("a"), 100.0);
        answer.take(&piece("b"), 150.0);
        assert_eq!(answer.tokens_per_s(), None);
        for i in 0..9 {
            answer.take(&piece("c"), 200.0 + f64::from(i) * 100.0);
        }
        assert_eq!(answer.tokens_per_s().map(f64::round), Some(11.0));
    }

    #[test]
    fn the_conversation_is_sent_without_unanswered_questions() {
        let earlier = [("one".into(), "1".into()), ("broken".into(), String::new())];
        let body = serde_json::to_value(request("demo", &earlier, "two")).expect("serializes");
        let messages: Vec<_> = body["messages"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|m| {
                (m["role"].as_str().unwrap_or_default(), m["content"].as_str().unwrap_or_default())
            })
            .collect();
        assert_eq!(messages, [("user", "one"), ("assistant", "1"), ("user", "two")]);
        assert_eq!(body["stream_options"]["include_usage"], true);
        assert_eq!((&body["stream"], &body["model"]), (&json!(true), &json!("demo")));
    }
}
