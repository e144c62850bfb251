//! The clock that interrupts modules: it ticks only while one runs.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use wasmtime::Engine;

/// How long a module computes before it makes way and its time is looked at.
const TICK: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct Ticker {
    running: Mutex<usize>,
    woken: Condvar,
}

/// The clock ticks as long as one of these lives.
#[derive(Debug)]
pub(super) struct Ticks {
    ticker: Arc<Ticker>,
}

impl Ticker {
    /// Starts its thread, which lives as long as the process.
    pub(super) fn start(engine: Engine) -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self::default());
        let clock = Arc::clone(&ticker);
        thread::Builder::new().name("ticker".into()).spawn(move || {
            loop {
                clock.wait_for_work();
                thread::sleep(TICK);
                engine.increment_epoch();
            }
        })?;
        Ok(ticker)
    }

    fn wait_for_work(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.woken.wait_while(running, |running| *running == 0);
        drop(waited);
    }

    pub(super) fn keep_ticking(self: &Arc<Self>) -> Ticks {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.woken.notify_one();
        Ticks { ticker: Arc::clone(self) }
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        *self.ticker.running.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}
