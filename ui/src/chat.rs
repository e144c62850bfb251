//! The conversation of the Ask box. It belongs to the page, not to the Dashboard: going to another
//! panel does not stop an answer.

use std::{cell::Cell, rc::Rc};

use agent_api::models::InstalledModel;
use futures_util::{
    StreamExt,
    future::{AbortHandle, Abortable},
};
use leptos::{prelude::*, task::spawn_local};

use crate::{
    backend,
    conversation::{self, Answer, TURNS_KEPT},
    sse,
    tasks::offers::Offer,
};

/// Who is asked: a model here, or `model@node` of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub model: String,
    /// Continues code instead of answering.
    pub demo: bool,
    /// The node that was chosen.
    pub node: Option<String>,
}

impl From<&InstalledModel> for Asked {
    fn from(model: &InstalledModel) -> Self {
        Self { model: model.id.clone(), demo: model.demo, node: None }
    }
}

impl From<Offer> for Asked {
    fn from(offer: Offer) -> Self {
        Self { model: offer.model, demo: false, node: Some(offer.node) }
    }
}

/// A question, and its answer as it comes.
#[derive(Clone, Debug)]
pub struct Turn {
    pub id: u32,
    pub question: String,
    /// True if the demo model answers.
    pub demo: bool,
    /// The node that was chosen, if not this one.
    pub node: Option<String>,
    pub answer: ArcRwSignal<Answer>,
}

#[derive(Clone, Copy, Debug)]
pub struct Chat {
    pub turns: RwSignal<Vec<Turn>>,
    pub draft: RwSignal<String>,
    /// A model of another node, chosen in the place of the active one.
    pub elsewhere: RwSignal<Option<Offer>>,
    /// Ends the answer that is being written.
    running: RwSignal<Option<AbortHandle>>,
    next: StoredValue<u32>,
}

impl Default for Chat {
    fn default() -> Self {
        Self {
            turns: RwSignal::default(),
            draft: RwSignal::default(),
            elsewhere: RwSignal::new(None),
            running: RwSignal::new(None),
            next: StoredValue::new(0),
        }
    }
}

impl Chat {
    pub fn busy(self) -> bool {
        self.running.with(Option::is_some)
    }

    /// Sends the draft, unless it is empty or an answer is being written.
    pub fn send(self, asked: &Asked) {
        let question = self.draft.get_untracked().trim().to_owned();
        if question.is_empty() || self.running.with_untracked(Option::is_some) {
            return;
        }
        self.draft.set(String::new());
        self.ask(question, asked);
    }

    /// Asks the last question again, in its place.
    pub fn retry(self, asked: &Asked) {
        if self.running.with_untracked(Option::is_some) {
            return;
        }
        let last = self.turns.try_update(Vec::pop).flatten();
        if let Some(turn) = last {
            self.ask(turn.question, asked);
        }
    }

    /// Ends the answer that is being written; its text stays.
    pub fn stop(self) {
        if let Some(handle) = self.running.get_untracked() {
            handle.abort();
            self.running.set(None);
            if let Some(turn) = self.turns.with_untracked(|t| t.last().cloned()) {
                turn.answer.update(Answer::stop);
            }
        }
    }

    pub fn forget(self) {
        self.stop();
        self.turns.set(Vec::new());
    }

    fn ask(self, question: String, asked: &Asked) {
        let earlier: Vec<_> = self.turns.with_untracked(|turns| {
            turns
                .iter()
                .map(|t| (t.question.clone(), t.answer.with_untracked(|a| a.text.clone())))
                .collect()
        });
        let request = conversation::request(&asked.model, &earlier, &question);
        let id = self.next.get_value();
        self.next.set_value(id + 1);
        let answer = ArcRwSignal::new(Answer::default());
        let turn = Turn {
            id,
            question,
            demo: asked.demo,
            node: asked.node.clone(),
            answer: answer.clone(),
        };
        self.turns.update(|turns| {
            turns.push(turn);
            let surplus = turns.len().saturating_sub(TURNS_KEPT);
            turns.drain(..surplus);
        });
        let (handle, registration) = AbortHandle::new_pair();
        self.running.set(Some(handle));
        spawn_local(async move {
            let body = serde_json::to_string(&request).unwrap_or_default();
            // Dropping the stream, which aborting does, cancels the request in the node.
            if Abortable::new(receive(body, answer), registration).await.is_ok() {
                self.running.set(None);
            }
        });
    }
}

async fn receive(body: String, answer: ArcRwSignal<Answer>) {
    let started = backend::monotonic_ms();
    let mut pieces = match backend::stream("POST", "/v1/chat/completions", Some(&body)).await {
        Ok(opened) => {
            answer.update_untracked(|a| a.served_by = opened.served_by);
            opened.pieces
        }
        Err(error) => return answer.update(|a| a.fail(error.to_string())),
    };
    let mut parser = sse::Parser::default();
    let mut broken = None;
    let drawing = Rc::new(Cell::new(false));
    while let Some(piece) = pieces.next().await {
        let text = match piece {
            Ok(text) => text,
            Err(why) => {
                broken = Some(format!("The answer broke off ({why}). Ask again."));
                break;
            }
        };
        let elapsed = backend::monotonic_ms() - started;
        let frames = parser.push(&text);
        answer.update_untracked(|a| frames.iter().for_each(|f| a.take(f, elapsed)));
        draw_soon(&answer, &drawing);
    }
    answer.update(|a| a.end(broken));
}

/// Many tokens may come in one frame: draw once.
fn draw_soon(answer: &ArcRwSignal<Answer>, drawing: &Rc<Cell<bool>>) {
    if !drawing.replace(true) {
        let (answer, drawing) = (answer.clone(), Rc::clone(drawing));
        request_animation_frame(move || {
            drawing.set(false);
            answer.notify();
        });
    }
}
