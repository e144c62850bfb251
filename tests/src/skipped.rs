//! A test that cannot run here says so where people look: the test runner keeps to itself what
//! passing tests print.

use std::{env, fs::OpenOptions, io::Write as _, thread};

/// The file that collects the lines; `cargo xtask test` names it and prints it at the end.
const FILE: &str = "EDGECODER_SKIPPED";

/// Says that the running test, or a part of it, is skipped, and why. Call it on the test's own
/// thread: that has the test's name.
pub fn skipped(why: &str) {
    let thread = thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
    eprint!("skipped: {line}");
    let Some(path) = env::var_os(FILE) else { return };
    // In one write, because other tests add theirs at the same time.
    let file = OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("{}: {error}", path.display());
    }
}
