//! The node's clock: schedules, results on their way to webhooks, and their news.

use std::{sync::Arc, time::Duration};

use agent_api::Event;

use super::Node;
use crate::{
    storage::StorageError,
    tasks::{
        outbox::Outbox,
        schedule::{Schedules, Submit},
    },
};

/// Changes within this time are one event: listeners ask for everything again.
const GATHERED: Duration = Duration::from_millis(250);

/// Both handles, once they are open.
#[derive(Debug)]
pub(super) struct Clock {
    schedules: Schedules,
    outbox: Outbox,
}

impl Node {
    /// Reads the schedules and begins: tasks are submitted at their times, results posted. Once per
    /// node; `outbox` is the one that those who end tasks wake.
    pub async fn start_clock(
        &self,
        outbox: Outbox,
        submit: Arc<dyn Submit>,
    ) -> Result<(), StorageError> {
        let schedules = Schedules::open(self.inner.storage.clone(), submit).await?;
        let clock = Clock { schedules: schedules.clone(), outbox: outbox.clone() };
        if self.inner.clock.set(clock).is_err() {
            return Ok(());
        }
        let news = self.clone().announce_clock(schedules.clone(), outbox.clone());
        self.spawn_critical("schedule news", news);
        self.spawn_critical("schedules", schedules.drive(self.stop_token()));
        self.spawn_critical("outbox", outbox.drive(self.stop_token()));
        Ok(())
    }

    /// `None` while the node starts.
    pub fn schedules(&self) -> Option<&Schedules> {
        self.inner.clock.get().map(|clock| &clock.schedules)
    }

    /// `None` while the node starts.
    pub fn outbox(&self) -> Option<&Outbox> {
        self.inner.clock.get().map(|clock| &clock.outbox)
    }

    /// Says to whoever listens that a schedule or a delivery changed.
    async fn announce_clock(self, schedules: Schedules, outbox: Outbox) {
        let (mut planned, mut posted) = (schedules.changes(), outbox.changes());
        loop {
            tokio::select! {
                changed = planned.changed() => if changed.is_err() { return },
                changed = posted.changed() => if changed.is_err() { return },
                () = self.inner.stop.cancelled() => return,
            }
            planned.mark_unchanged();
            posted.mark_unchanged();
            if self.inner.bus.listeners() > 0 {
                self.inner.bus.send(Event::Schedules);
            }
            tokio::select! {
                () = tokio::time::sleep(GATHERED) => {}
                () = self.inner.stop.cancelled() => return,
            }
        }
    }
}
