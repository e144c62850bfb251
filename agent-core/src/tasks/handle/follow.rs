//! A task as it happens.

use std::collections::VecDeque;

use agent_api::{
    TaskId,
    tasks::{Role, Task, TaskEvent, TaskNews, TaskOutput},
};
use async_stream::stream;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use tokio::sync::broadcast::{self, error::RecvError};

use super::{TaskError, Tasks};
use crate::tasks::origin::News;

/// Events that a follower remembers, to tell none twice.
const REMEMBERED: usize = 256;

impl Tasks {
    /// The task as it is, its events and text so far, then what happens to it until it ends.
    pub async fn follow(&self, id: TaskId) -> Result<BoxStream<'static, TaskNews>, TaskError> {
        // Before it is looked up, so that no change is missed.
        let changes = self.shared.board.changes();
        let task = self.known(&id).await?;
        if task.interactive || task.role == Role::Served {
            return Ok(self.follow_board(task, changes).boxed());
        }
        // Heard before it is looked at: what happens in between comes twice, not never.
        let mut heard = self.origin.follow(&id).ok_or(TaskError::TooManyFollowers)?;
        let details = self.get(&id).await?;
        let tasks = self.clone();
        let news = stream! {
            let mut told: VecDeque<TaskEvent> = details.events.iter().cloned().collect();
            let mut over = details.task.state.is_final();
            yield TaskNews::Task { task: Box::new(details.task) };
            for event in details.events {
                yield TaskNews::Event { event };
            }
            let mut told_text = Told::default();
            let so_far = tasks.origin.partial(&id).unwrap_or_default();
            if let Some(text) = told_text.add(0, &so_far) {
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
                        if let Some(text) = told_text.add(at, &text) {
                            yield TaskNews::Text { text };
                        }
                    }
                    Ok(News::Restart) => {
                        told_text = Told::default();
                        yield TaskNews::Restart {};
                    }
                    Ok(News::End) => over = true,
                    // What was missed is looked up: the text from where it was, and the state.
                    Err(RecvError::Lagged(_)) => {
                        let Ok(task) = tasks.known(&id).await else { return };
                        over = task.state.is_final();
                        if let Some(so_far) = tasks.origin.partial(&id) {
                            if so_far.len() < told_text.bytes {
                                // That it began again was among what was missed.
                                told_text = Told::default();
                                yield TaskNews::Restart {};
                            }
                            if let Some(text) = told_text.add(0, &so_far) {
                                yield TaskNews::Text { text };
                            }
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
        };
        Ok(news.boxed())
    }

    /// A task whose words are not this node's to keep: how it stands, until it ends.
    fn follow_board(
        &self,
        task: Task,
        mut changes: broadcast::Receiver<Task>,
    ) -> impl Stream<Item = TaskNews> + Send + use<> {
        let tasks = self.clone();
        stream! {
            let id = task.id.clone();
            let mut task = task;
            loop {
                let state = task.state;
                yield TaskNews::Task { task: Box::new(task) };
                if state.is_final() {
                    let output = TaskOutput { id, state, output: None, partial: None };
                    yield TaskNews::End { output: Box::new(output) };
                    return;
                }
                task = loop {
                    let changed = tokio::select! {
                        changed = changes.recv() => changed,
                        () = tasks.shared.stop.cancelled() => return,
                    };
                    match changed {
                        Ok(changed) if changed.id == id => break changed,
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => match tasks.known(&id).await {
                            Ok(task) => break task,
                            Err(_) => return,
                        },
                        Err(RecvError::Closed) => return,
                    }
                };
            }
        }
    }
}

/// How much of an answer a follower was told.
#[derive(Debug, Default)]
struct Told {
    bytes: usize,
}

impl Told {
    /// What of this text, which begins at byte `at` of the answer, is new.
    fn add(&mut self, at: usize, text: &str) -> Option<String> {
        let known = self.bytes.saturating_sub(at);
        self.bytes = self.bytes.max(at + text.len());
        text.get(known..).filter(|text| !text.is_empty()).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_was_told_is_not_told_again() {
        let mut told = Told::default();
        assert_eq!(told.add(0, "One lease").as_deref(), Some("One lease"));
        // These waited in the queue while the text so far was looked up.
        for (at, text) in [(0, "One"), (3, " le"), (6, "ase")] {
            assert_eq!(told.add(at, text), None, "{text}");
        }
        assert_eq!(told.add(7, "se, one fence").as_deref(), Some(", one fence"));
        assert_eq!(told.add(20, ".").as_deref(), Some("."));
    }
}
