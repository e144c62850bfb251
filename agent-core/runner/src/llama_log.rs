//! The runner's log, and the reasons llama.cpp gives only there.
//!
//! llama.cpp returns a null pointer and writes the reason to its log. The log is sent through
//! `tracing` to standard error, and the last errors are kept for the answer to the node.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use llama_cpp_2::{LogOptions, send_logs_to_tracing};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::LevelFilter,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

/// Errors kept: one failed load writes fewer than this.
const KEPT: usize = 8;
/// Longest error kept; some quote the whole input.
const KEPT_CHARS: usize = 300;

/// The last errors llama.cpp logged.
#[derive(Clone, Debug, Default)]
pub(crate) struct LlamaErrors(Arc<Mutex<VecDeque<String>>>);

impl LlamaErrors {
    /// Forgets what was logged before the call about to be made.
    pub(crate) fn clear(&self) {
        self.lines(VecDeque::clear);
    }

    /// The first error since [`clear`](Self::clear): later ones only report its consequences.
    pub(crate) fn first(&self) -> Option<String> {
        self.lines(|lines| lines.pop_front())
    }

    fn lines<T>(&self, f: impl FnOnce(&mut VecDeque<String>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, line: &str) {
        let line: String = line.trim().chars().take(KEPT_CHARS).collect();
        self.lines(|lines| {
            if lines.len() < KEPT && !line.is_empty() {
                lines.push_back(line);
            }
        });
    }
}

impl<S: Subscriber> Layer<S> for LlamaErrors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target() == "llama-cpp-2" && *metadata.level() == Level::ERROR {
            event.record(&mut Message(self));
        }
    }
}

struct Message<'a>(&'a LlamaErrors);

impl Visit for Message<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.0.push(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// Sends this process's and llama.cpp's log to standard error, warnings and above unless
/// `RUST_LOG` says otherwise.
pub(crate) fn install() -> LlamaErrors {
    let errors = LlamaErrors::default();
    // The binding warns about the progress dots that llama.cpp prints while loading.
    let quiet = "llama_cpp_2::log=error".parse().expect("a valid directive");
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .from_env_lossy()
        .add_directive(quiet);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_filter(filter);
    let kept = errors.clone().with_filter(LevelFilter::ERROR);
    tracing_subscriber::registry().with(lines).with(kept).init();
    send_logs_to_tracing(LogOptions::default());
    errors
}
