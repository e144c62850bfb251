//! One bus for what the node announces.
//!
//! The bus may drop: a listener that falls behind is told to ask again. What must not be lost is
//! a row in the database first and an event second.

use agent_api::Event;
use tokio::sync::broadcast;

use crate::config::limits;

/// Sends [`Event`]s to everyone who listens.
#[derive(Clone, Debug)]
pub struct EventBus {
    sender: broadcast::Sender<Event>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(limits::EVENT_BACKLOG) }
    }
}

impl EventBus {
    /// Nobody listening is fine.
    pub fn send(&self, event: Event) {
        let _ = self.sender.send(event);
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }

    pub fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }
}
