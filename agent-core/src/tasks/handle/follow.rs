//! A task as it happens.

use std::collections::VecDeque;

use agent_api::{
    TaskId,
    tasks::{TaskEvent, TaskNews},
};
use async_stream::stream;
use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;

use super::{TaskError, Tasks};
use crate::tasks::origin::News;

/// Events that a follower remembers, to tell none twice.
const REMEMBERED: usize = 256;

impl Tasks {
    /// The task as it is, its events and text so far, then what happens to it until it ends.
    pub async fn follow(
        &self,
        id: TaskId,
    ) -> Result<impl Stream<Item = TaskNews> + Send + use<>, TaskError> {
        // Heard before it is looked at: what happens in between comes twice, not never.
        let mut heard = self.origin.follow(&id).ok_or(TaskError::TooManyFollowers)?;
        let details = self.get(&id).await?;
        let tasks = self.clone();
        Ok(stream! {
            let mut told: VecDeque<TaskEvent> = details.events.iter().cloned().collect();
            let mut over = details.task.state.is_final();
            yield TaskNews::Task { task: Box::new(details.task) };
            for event in details.events {
                yield TaskNews::Event { event };
            }
            let mut seen = 0;
            if let Some(text) = tasks.origin.partial(&id) {
                seen = text.len();
                yield TaskNews::Text { text };
            }
            while !over {
                let news = tokio::select! {
                    news = heard.recv() => news,
                    () = tasks.shared.stop.cancelled() => return,
                };
                match news {
                    Ok(News::Task(task)) => yield TaskNews::Task { task },
                    Ok(News::Event(event)) => {
                        if told.contains(&event) {
                            continue;
                        }
                        told.push_back(event.clone());
                        if told.len() > REMEMBERED {
                            told.pop_front();
                        }
                        yield TaskNews::Event { event };
                    }
                    Ok(News::Text { at, text }) => {
                        let known = match at {
                            0 => 0,
                            at => seen.saturating_sub(at).min(text.len()),
                        };
                        seen = at + text.len();
                        if let Some(text) = text.get(known..).filter(|text| !text.is_empty()) {
                            yield TaskNews::Text { text: text.to_owned() };
                        }
                    }
                    Ok(News::End) => over = true,
                    // What was missed is looked up: the text from where it was, and the state.
                    Err(RecvError::Lagged(_)) => {
                        let Ok(task) = tasks.known(&id).await else { return };
                        over = task.state.is_final();
                        let text = tasks.origin.partial(&id).unwrap_or_default();
                        if let Some(text) = text.get(seen..).filter(|text| !text.is_empty()) {
                            seen += text.len();
                            yield TaskNews::Text { text: text.to_owned() };
                        }
                        yield TaskNews::Task { task: Box::new(task) };
                    }
                    Err(RecvError::Closed) => return,
                }
            }
            if let Ok(task) = tasks.known(&id).await {
                yield TaskNews::Task { task: Box::new(task) };
            }
            if let Ok(output) = tasks.output(&id).await {
                yield TaskNews::End { output: Box::new(output) };
            }
        })
    }
}
