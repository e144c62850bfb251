//! One pull in the list.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use agent_api::pull::{Pull, PullLayer, PullState};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{fetch::Tuning, progress::Progress, queue::PullFacts, rate::RateMeter};
use crate::{
    backoff::Backoff,
    clock::now_ms,
    models::{manifest::Manifest, registry::Source},
    storage::{PullRow, Wanted},
};

/// An attempt that brought so much was worth it: the next wait is short again.
const WORTHWHILE_BYTES: u64 = 1 << 20;

pub(super) struct Entry {
    /// As it is shown; numbers are filled in when it is.
    pub pull: Pull,
    pub source: Source,
    pub manifest: Option<Arc<Manifest>>,
    pub progress: Arc<Progress>,
    /// Present while an attempt runs, also while it is stopping.
    pub attempt: Option<RunningAttempt>,
    pub retry_at: Option<Instant>,
    pub done_at: Option<Instant>,
    /// The feed was told that it began.
    pub announced: bool,
    backoff: Backoff,
    meter: RateMeter,
    ran: Duration,
}

pub(super) struct RunningAttempt {
    pub stop: CancellationToken,
    started: Instant,
    received_before: u64,
}

impl Entry {
    pub(super) fn new(id: String, source: Source, swap_when_done: bool, tuning: &Tuning) -> Self {
        let now = now_ms();
        let pull = Pull {
            id,
            model: source.name().id(),
            source: source.host(),
            state: PullState::Queued,
            reason: String::new(),
            size_bytes: None,
            done_bytes: 0,
            bytes_per_s: None,
            eta_s: None,
            retry_at_ms: None,
            layers: Vec::new(),
            sources: Vec::new(),
            fit: None,
            swap_when_done,
            created_at_ms: now,
            changed_at_ms: now,
        };
        Self {
            pull,
            source,
            manifest: None,
            progress: Arc::default(),
            attempt: None,
            retry_at: None,
            done_at: None,
            announced: false,
            backoff: Backoff::new(tuning.retry.0, tuning.retry.1),
            meter: RateMeter::default(),
            ran: Duration::ZERO,
        }
    }

    /// From a row of an earlier run.
    pub(super) fn restore(row: PullRow, source: Source, tuning: &Tuning) -> Self {
        let mut entry = Self::new(row.id, source, row.swap_when_done, tuning);
        entry.pull.created_at_ms = row.created_at_ms;
        entry.pull.reason = row.reason;
        entry.pull.state = match row.wanted {
            Wanted::Running => PullState::Queued,
            Wanted::Paused => PullState::Paused,
            Wanted::Failed => PullState::Failed,
        };
        entry.announced = true;
        let manifest = row.manifest.and_then(|bytes| Manifest::parse(bytes).ok());
        if let Some(manifest) = manifest {
            entry.resolved(Arc::new(manifest));
        }
        entry
    }

    pub(super) fn row(&self) -> PullRow {
        PullRow {
            id: self.pull.id.clone(),
            source: self.source.to_string(),
            wanted: match self.pull.state {
                PullState::Paused => Wanted::Paused,
                PullState::Failed => Wanted::Failed,
                _ => Wanted::Running,
            },
            reason: self.pull.reason.clone(),
            created_at_ms: self.pull.created_at_ms,
            swap_when_done: self.pull.swap_when_done,
            manifest: self.manifest.as_ref().map(|manifest| manifest.bytes.clone()),
        }
    }

    pub(super) fn resolved(&mut self, manifest: Arc<Manifest>) {
        self.pull.size_bytes = Some(manifest.size());
        let layers = manifest.layers.iter().map(|layer| PullLayer {
            digest: layer.digest.to_string(),
            kind: layer.kind.as_str().to_owned(),
            size_bytes: layer.size,
            done_bytes: 0,
        });
        self.pull.layers = layers.collect();
        self.manifest = Some(manifest);
    }

    pub(super) fn set(&mut self, state: PullState, reason: impl Into<String>) {
        self.pull.state = state;
        self.pull.reason = reason.into();
        self.pull.changed_at_ms = now_ms();
        self.pull.retry_at_ms = None;
        self.retry_at = None;
        if state != PullState::Verifying {
            self.meter.reset();
        }
    }

    /// Whether an attempt should begin now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let due = match self.pull.state {
            PullState::Queued => true,
            PullState::Retrying => self.retry_at.is_none_or(|at| at <= now),
            _ => false,
        };
        due && self.attempt.is_none()
    }

    pub(super) fn begin(&mut self) -> CancellationToken {
        let stop = CancellationToken::new();
        self.attempt = Some(RunningAttempt {
            stop: stop.clone(),
            started: Instant::now(),
            received_before: self.received(),
        });
        self.set(PullState::Resolving, "");
        stop
    }

    pub(super) fn stop(&self) {
        if let Some(attempt) = &self.attempt {
            attempt.stop.cancel();
        }
    }

    /// The attempt is over; its time counts, and what it brought decides about the next wait.
    pub(super) fn ended(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        self.ran += attempt.started.elapsed();
        if self.received() - attempt.received_before >= WORTHWHILE_BYTES {
            self.backoff.reset();
        }
    }

    /// Goes on by itself after a while, but not before `at_least`.
    pub(super) fn retry(&mut self, reason: String, at_least: Option<Duration>) {
        let wait = self.backoff.next_wait().max(at_least.unwrap_or_default());
        self.set(PullState::Retrying, reason);
        self.retry_at = Some(Instant::now() + wait);
        let millis = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        self.pull.retry_at_ms = Some(now_ms().saturating_add(millis));
    }

    /// The owner is here: the next failure waits a short time again.
    pub(super) fn encourage(&mut self) {
        self.backoff.reset();
    }

    pub(super) fn received(&self) -> u64 {
        self.progress.received.load(Ordering::Relaxed)
    }

    pub(super) fn seconds(&self) -> f64 {
        self.ran.as_secs_f64()
    }

    /// Takes a sample of the counter of received bytes.
    pub(super) fn sample(&mut self, since_start: Duration) {
        if self.pull.state == PullState::Downloading {
            self.meter.push(since_start, self.received());
        }
    }

    /// As it is now.
    pub(super) fn show(&self) -> Pull {
        let mut pull = self.pull.clone();
        let Some(manifest) = &self.manifest else { return pull };
        for (layer, shown) in manifest.layers.iter().zip(&mut pull.layers) {
            shown.done_bytes = self.progress.done(layer.digest).min(layer.size);
        }
        pull.done_bytes = self.progress.total_done(manifest);
        pull.sources = self.progress.sources.list();
        if pull.state == PullState::Downloading {
            pull.reason = self.progress.note();
            pull.bytes_per_s = self.meter.bytes_per_s();
            pull.eta_s = self.meter.eta_s(manifest.size().saturating_sub(pull.done_bytes));
        }
        pull
    }

    pub(super) fn facts(&self) -> Option<Arc<PullFacts>> {
        let manifest = Arc::clone(self.manifest.as_ref()?);
        Some(Arc::new(PullFacts { manifest, info: self.progress.head.info() }))
    }
}
