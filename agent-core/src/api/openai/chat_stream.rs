//! A chat answer as a stream of chunks.

use agent_api::{
    openai::{ChatChunk, ChatLogprobs, ChunkChoice, Delta, Timings, Usage},
    runner::TokenLogprob,
};
use axum::{body::Bytes, response::Response};
use futures_util::StreamExt as _;

use super::{
    add_usage,
    chat::{Head, chat_logprob, tool_call},
    error::OpenAiError,
    finish_text,
    stream::{self, Asking},
    timings_of,
};
use crate::inference::{
    Piece,
    tools::{Part, ToolReader},
};

pub(super) async fn respond(
    head: Head,
    answers: Vec<Asking>,
    include_usage: bool,
) -> Result<Response, OpenAiError> {
    let mut choices: Vec<Choice> =
        (0..).zip(&answers).map(|(n, _)| Choice::new(n, &head)).collect();
    let mut open = choices.len();
    let mut pieces = stream::merge(answers).await?;
    let mut usage = Usage::default();
    let frames = async_stream::stream! {
        while let Some((index, piece)) = pieces.next().await {
            let Some(choice) = choices.get_mut(index as usize) else { continue };
            match piece {
                Piece::Failed(error) => {
                    // The other choices are cancelled with the stream.
                    yield stream::failed(&error.into());
                    return;
                }
                Piece::Started { .. } => yield choice.first(&head),
                Piece::Text { text, logprobs } => {
                    for frame in choice.text(&head, &text, logprobs) {
                        yield frame;
                    }
                }
                Piece::Done { finish, usage: used, timings } => {
                    add_usage(&mut usage, &used, index == 0);
                    for frame in choice.last(&head, finish_text(finish), timings_of(&used, &timings)) {
                        yield frame;
                    }
                    open -= 1;
                    if open == 0 {
                        break;
                    }
                }
                Piece::Embedded { .. } => {}
            }
        }
        if include_usage {
            let mut chunk = head.chunk(Vec::new());
            chunk.usage = Some(usage);
            yield stream::data(&chunk);
        }
        yield stream::done();
    };
    Ok(stream::response(frames))
}

impl Head {
    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: None,
            timings: None,
        }
    }
}

/// One choice on its way.
struct Choice {
    index: u32,
    tools: Option<ToolReader>,
    n_calls: u32,
}

impl Choice {
    fn new(index: u32, head: &Head) -> Self {
        Self { index, tools: head.tools.map(ToolReader::new), n_calls: 0 }
    }

    fn chunk(&self, head: &Head, delta: Delta, logprobs: Option<ChatLogprobs>) -> ChatChunk {
        let index = self.index;
        head.chunk(vec![ChunkChoice { index, delta, finish_reason: None, logprobs }])
    }

    fn first(&self, head: &Head) -> Bytes {
        let delta = Delta {
            role: Some("assistant".into()),
            content: Some(String::new()),
            tool_calls: None,
        };
        stream::data(&self.chunk(head, delta, None))
    }

    fn text(&mut self, head: &Head, text: &str, logprobs: Vec<TokenLogprob>) -> Vec<Bytes> {
        let Some(reader) = &mut self.tools else {
            let content = logprobs.into_iter().map(chat_logprob).collect::<Vec<_>>();
            let logprobs = (!content.is_empty()).then_some(ChatLogprobs { content });
            let delta = Delta { content: Some(text.to_owned()), ..Delta::default() };
            return vec![stream::data(&self.chunk(head, delta, logprobs))];
        };
        let parts = reader.push(text);
        self.parts(head, parts)
    }

    fn parts(&mut self, head: &Head, parts: Vec<Part>) -> Vec<Bytes> {
        let mut frames = Vec::new();
        for part in parts {
            let delta = match part {
                Part::Text(text) => Delta { content: Some(text), ..Delta::default() },
                Part::Call { name, arguments } => {
                    let call = tool_call(Some(self.n_calls), name, arguments);
                    self.n_calls += 1;
                    Delta { tool_calls: Some(vec![call]), ..Delta::default() }
                }
            };
            frames.push(stream::data(&self.chunk(head, delta, None)));
        }
        frames
    }

    fn last(&mut self, head: &Head, finish: &str, timings: Timings) -> Vec<Bytes> {
        let rest = self.tools.take().map(ToolReader::finish).unwrap_or_default();
        let mut frames = self.parts(head, rest);
        let finish = if self.n_calls > 0 { "tool_calls" } else { finish };
        let mut chunk = self.chunk(head, Delta::default(), None);
        for choice in &mut chunk.choices {
            choice.finish_reason = Some(finish.into());
        }
        chunk.timings = Some(timings);
        frames.push(stream::data(&chunk));
        frames
    }
}
