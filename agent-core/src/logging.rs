//! Logs: to stderr (headless) or a file of bounded size (desktop), and the newest lines in memory
//! for `/logs`.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use agent_api::node::LogLine;
use file_rotate::{ContentLimit, FileRotate, compression::Compression, suffix::AppendCount};
use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{
    EnvFilter, Layer, layer::Context, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{clock::now_ms, config::limits};

/// The newest log lines, shared between the logger and `/logs`.
#[derive(Clone, Debug, Default)]
pub struct LogRing {
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    next_seq: u64,
    kept: VecDeque<LogLine>,
}

impl LogRing {
    /// The newest `limit` lines after `after`, oldest first.
    pub fn lines(&self, after: Option<u64>, limit: usize) -> Vec<LogLine> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let new = lines.kept.iter().filter(|line| after.is_none_or(|seq| line.seq > seq));
        let skip = new.clone().count().saturating_sub(limit);
        new.skip(skip).cloned().collect()
    }

    fn push(&self, level: &str, target: &str, mut message: String) {
        if message.len() > limits::LOG_LINE_BYTES {
            let cut = message.floor_char_boundary(limits::LOG_LINE_BYTES);
            message.truncate(cut);
            message.push('…');
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.next_seq += 1;
        let line = LogLine {
            seq: lines.next_seq,
            at_ms: now_ms(),
            level: level.to_owned(),
            target: target.to_owned(),
            message,
        };
        if lines.kept.len() == limits::LOG_LINES {
            lines.kept.pop_front();
        }
        lines.kept.push_back(line);
    }
}

impl<S: Subscriber> Layer<S> for LogRing {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = FieldText::default();
        event.record(&mut text);
        let meta = event.metadata();
        self.push(meta.level().as_str(), meta.target(), text.message + &text.fields);
    }
}

#[derive(Default)]
struct FieldText {
    message: String,
    fields: String,
}

impl Visit for FieldText {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// Where log lines go besides memory.
#[derive(Clone, Copy, Debug)]
pub enum LogOutput<'a> {
    Stderr,
    /// Two files of at most 5 MiB: this one and an older one.
    File(&'a Path),
}

/// What libraries say at these levels and below tells an owner nothing: each address of a peer that
/// does not answer, each interface that comes and goes.
const DEFAULT_FILTER: &str = "info,sqlx=warn,hyper=warn,iroh=error,iroh_relay=warn,noq=error,noq_proto=error,noq_udp=error,netwatch=error,portmapper=error,swarm_discovery=error,mainline=error";

/// Sets the process's logger up, once. `EDGECODER_LOG` chooses levels (default `info`), in
/// tracing's filter syntax. A second call changes nothing and returns an empty ring.
pub fn init(output: LogOutput<'_>) -> LogRing {
    let ring = LogRing::default();
    let filter =
        EnvFilter::try_from_env("EDGECODER_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let text = tracing_subscriber::fmt::layer().with_target(false);
    let text = match output {
        LogOutput::Stderr => {
            use std::io::IsTerminal as _;
            text.with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).boxed()
        }
        LogOutput::File(path) => {
            let file = FileRotate::new(
                path,
                AppendCount::new(1),
                ContentLimit::Bytes(limits::LOG_FILE_BYTES),
                Compression::None,
                None,
            );
            text.with_ansi(false).with_writer(Mutex::new(file)).boxed()
        }
    };
    let _ = tracing_subscriber::registry().with(filter).with(text).with(ring.clone()).try_init();
    ring
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_lines_and_answers_after() {
        let ring = LogRing::default();
        for n in 0..limits::LOG_LINES + 10 {
            ring.push("INFO", "test", format!("line {n}"));
        }
        let all = ring.lines(None, usize::MAX);
        assert_eq!(all.len(), limits::LOG_LINES);
        assert_eq!(all[0].message, "line 10");
        let newest = ring.lines(None, 2);
        assert_eq!(newest[1].message, format!("line {}", limits::LOG_LINES + 9));
        let after = ring.lines(Some(newest[0].seq), 10);
        assert_eq!(after, newest[1..]);
    }

    #[test]
    fn a_huge_line_is_cut_at_a_character() {
        let ring = LogRing::default();
        ring.push("INFO", "test", "é".repeat(limits::LOG_LINE_BYTES));
        let kept = &ring.lines(None, 1)[0].message;
        assert!(kept.len() < limits::LOG_LINE_BYTES + 8 && kept.ends_with('…'));
    }
}
