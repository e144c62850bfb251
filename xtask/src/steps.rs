//! Tells what is being done, step by step, and how long each step took.

use std::{fmt, time::Instant};

use anyhow::Result;

/// Numbered steps: `==> [2/6] Building the page`.
pub(crate) struct Steps {
    total: usize,
    begun: usize,
}

impl Steps {
    pub(crate) fn new(total: usize) -> Self {
        Self { total, begun: 0 }
    }

    /// Announces a step, does it, and says how long it took.
    pub(crate) fn step<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.announce(what);
        let started = Instant::now();
        let outcome = work();
        let seconds = started.elapsed().as_secs_f64();
        match &outcome {
            Ok(_) => println!("    done in {}", duration_text(seconds)),
            Err(_) => println!("    failed after {}", duration_text(seconds)),
        }
        outcome
    }

    /// Announces a step that is the last thing to print (a program that takes over the terminal).
    pub(crate) fn announce(&mut self, what: &str) {
        self.begun += 1;
        println!("==> [{}/{}] {what}", self.begun, self.total);
    }
}

/// A line below a step.
pub(crate) fn note(text: &str) {
    println!("    {text}");
}

fn duration_text(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let minutes = (seconds / 60.0).floor();
    format!("{minutes:.0} min {:.0} s", (seconds - minutes * 60.0).floor())
}

/// The failure has been explained on the terminal already; only the exit code is left to give.
#[derive(Debug)]
pub(crate) struct AlreadyReported;

impl fmt::Display for AlreadyReported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("see above")
    }
}

impl std::error::Error for AlreadyReported {}

#[cfg(test)]
mod tests {
    use super::duration_text;

    #[test]
    fn durations_are_short_to_read() {
        assert_eq!(duration_text(0.42), "0.4 s");
        assert_eq!(duration_text(59.94), "59.9 s");
        assert_eq!(duration_text(185.0), "3 min 5 s");
    }
}
