//! `cargo xtask test`: every check that CI runs, cheapest first, and the test runner last.
//!
//! Cold on two cores this has to stay well under an hour, so nothing may be built twice: `compile` says
//! how.

use std::{fs, io::Write, path::PathBuf};

use anyhow::Result;

use crate::{
    bundle,
    compile::{self, SELECTION},
    examples, page,
    program::{Program, Stream},
    setup::{self, SetupOptions},
    steps::{AlreadyReported, Steps, note},
    workspace::{Profile, Workspace},
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TestOptions {
    /// Also the tests that take minutes (those marked `#[ignore]`), and the package in a clean system
    #[arg(long)]
    long: bool,
    /// Only the tests whose name contains this; leaves out formatting, lints and documentation
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &TestOptions) -> Result<()> {
    let all = options.only.is_none();
    let package = cfg!(target_os = "linux");
    let mut steps = Steps::new(4 + usize::from(package) + if all { 3 } else { 0 });
    let setup = SetupOptions { headless: false, tests: true, long: options.long };
    steps.step("Setting up", || setup::ensure(workspace, &setup))?;
    if all {
        steps.step("Checking the formatting", || formatting(workspace))?;
    }
    steps.step("Building the page and the example modules", || {
        page::build(workspace, page::Kind::Release)?;
        examples::build(workspace)
    })?;
    if all {
        steps.step("Checking with clippy", || clippy(workspace))?;
    }
    steps.step("Building all programs and tests", || compile::programs_and_tests(workspace))?;
    if package {
        steps.step("Packing the .deb", || bundle::pack(workspace, Profile::Dev).map(|_| ()))?;
    }
    if all {
        steps.step("Running the examples in the documentation", || documentation(workspace))?;
    }
    steps.announce("Running the tests");
    run_tests(workspace, options)
}

fn formatting(workspace: &Workspace) -> Result<()> {
    Program::cargo(workspace).args(["fmt", "--all", "--check"]).fix("cargo fmt --all").run()
}

fn clippy(workspace: &Workspace) -> Result<()> {
    Program::cargo(workspace)
        .arg("clippy")
        .args(SELECTION)
        .args(["--all-targets", "--", "--deny", "warnings"])
        .fix("correct what clippy names above")
        .run()
}

fn documentation(workspace: &Workspace) -> Result<()> {
    Program::cargo(workspace)
        .args(["test", "--doc", "--quiet"])
        .args(SELECTION)
        .fix("correct the example that failed above")
        .run()
}

/// Which program runs the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runner {
    Nextest,
    /// Where cargo-nextest is not installed. Building it would take longer than the tests.
    Cargo,
}

impl Runner {
    fn find(workspace: &Workspace) -> Self {
        if Program::cargo(workspace).args(["nextest", "--version"]).succeeds() {
            Self::Nextest
        } else {
            Self::Cargo
        }
    }

    /// The stream on which the closing line comes.
    fn stream(self) -> Stream {
        match self {
            Self::Nextest => Stream::Stderr,
            Self::Cargo => Stream::Stdout,
        }
    }

    fn closes(self, line: &str) -> bool {
        match self {
            Self::Nextest => line.trim_start().starts_with("Summary ["),
            Self::Cargo => line.trim_start().starts_with("test result:"),
        }
    }
}

/// The last line printed is the test runner's closing line, whether tests pass or fail: scripts and
/// people look for it there.
fn run_tests(workspace: &Workspace, options: &TestOptions) -> Result<()> {
    let runner = Runner::find(workspace);
    let mut program = Program::cargo(workspace);
    program = match runner {
        Runner::Nextest => program
            .args(["nextest", "run", "--no-tests", "fail"])
            .args(long_switch(runner, options.long))
            .args(SELECTION)
            .args(&options.only),
        Runner::Cargo => {
            note(
                "cargo-nextest is not installed: using cargo test, one test at a time (`cargo install cargo-nextest --locked` is quicker in the long run)",
            );
            // Tests that share a display, a browser or the tray must not run at once.
            program
                .args(["test", "--bins", "--lib", "--tests"])
                .args(SELECTION)
                .arg("--no-fail-fast")
                .args(&options.only)
                .args(["--", "--test-threads", "1"])
                .args(long_switch(runner, options.long))
        }
    };
    let program = with_test_environment(workspace, options, program)
        .fix("correct the tests that failed above; to run one again: cargo xtask test --only NAME");
    let mut closing = Closing::new(runner);
    let skipped = skipped_tests(workspace);
    // Of an earlier run; there may be none.
    let _ = fs::remove_file(&skipped);
    let mut out = std::io::stdout();
    let outcome = program.run_reading(runner.stream(), |line| {
        closing.read(line);
        // A terminal that went away is no reason to stop the tests.
        let _ = writeln!(out, "{line}");
    });
    if let Err(error) = &outcome {
        let _ = writeln!(out, "\nerror: {error:#}");
    }
    let skipped = skipped_lines(&fs::read_to_string(&skipped).unwrap_or_default());
    for line in &skipped {
        let _ = writeln!(out, "{line}");
    }
    if let Some(line) = closing.to_repeat(outcome.is_err() || !skipped.is_empty()) {
        let _ = writeln!(out, "{line}");
    }
    outcome.map_err(|_| AlreadyReported.into())
}

/// Where tests write that they were skipped and why.
fn skipped_tests(workspace: &Workspace) -> PathBuf {
    workspace.target.join("skipped-tests.txt")
}

/// What to print of it. Such tests pass, so the test runner's own count of skipped ones is without
/// them.
fn skipped_lines(text: &str) -> Vec<String> {
    let mut tests: Vec<&str> = text.lines().collect();
    tests.sort_unstable();
    tests.dedup();
    if tests.is_empty() {
        return Vec::new();
    }
    let title = format!("\n{} counted as passed, but could not run here:", tests.len());
    [title].into_iter().chain(tests.into_iter().map(|test| format!("    {test}"))).collect()
}

/// What makes the test runner include the tests that are marked `#[ignore]` because they take long.
fn long_switch(runner: Runner, long: bool) -> &'static [&'static str] {
    match runner {
        _ if !long => &[],
        Runner::Nextest => &["--run-ignored", "all"],
        Runner::Cargo => &["--include-ignored"],
    }
}

/// Where the tests find what was built.
fn with_test_environment(
    workspace: &Workspace,
    options: &TestOptions,
    program: Program,
) -> Program {
    let programs = workspace.programs(Profile::Dev);
    let mut program = program
        .env("EDGECODER_NODE_BIN", programs.join("edgecoder-node"))
        .env("EDGECODER_DESKTOP_BIN", programs.join("edgecoder"))
        .env("EDGECODER_RUNNER_BIN", programs.join("edgecoder-runner"))
        .env("EDGECODER_SANDBOX_BIN", programs.join("edgecoder-sandbox"))
        .env("EDGECODER_EXAMPLES_DIR", examples::folder(workspace))
        .env("EDGECODER_UI_DIR", workspace.page())
        .env("EDGECODER_ASSETS_DIR", workspace.assets())
        .env("EDGECODER_TEST_PYTHON", setup::test_python(workspace))
        .env("EDGECODER_SCREENSHOT_DIR", workspace.target.join("screenshots"))
        .env("EDGECODER_SKIPPED", skipped_tests(workspace))
        .env_remove("EDGECODER_LONG")
        .env_remove("EDGECODER_DEB");
    if let Ok(deb) = bundle::packed(workspace, Profile::Dev) {
        program = program.env("EDGECODER_DEB", deb);
    }
    if options.long {
        program = program.env("EDGECODER_LONG", "1");
    }
    program
}

/// Remembers the closing line and whether something was printed after it.
struct Closing {
    runner: Runner,
    line: Option<String>,
    is_last: bool,
}

impl Closing {
    fn new(runner: Runner) -> Self {
        Self { runner, line: None, is_last: false }
    }

    fn read(&mut self, line: &str) {
        if self.runner.closes(line) {
            self.line = Some(line.into());
            self.is_last = true;
        } else if !line.trim().is_empty() {
            self.is_last = false;
        }
    }

    /// The closing line, if it is not what was printed last.
    fn to_repeat(&self, something_followed: bool) -> Option<&str> {
        if self.is_last && !something_followed { None } else { self.line.as_deref() }
    }
}

#[cfg(test)]
mod tests {
    use super::{Closing, Runner, long_switch, skipped_lines};

    #[test]
    fn only_long_runs_include_what_is_ignored() {
        for runner in [Runner::Nextest, Runner::Cargo] {
            assert!(long_switch(runner, false).is_empty());
            assert!(!long_switch(runner, true).is_empty());
        }
    }

    #[test]
    fn tests_that_could_not_run_are_named_once_in_order() {
        let lines =
            skipped_lines("tray::b: no display\nbrowser::a: no browser\ntray::b: no display\n");
        assert_eq!(lines[1..], ["    browser::a: no browser", "    tray::b: no display"]);
        assert!(lines[0].contains('2'));
        assert!(skipped_lines("").is_empty());
    }

    #[test]
    fn the_closing_line_is_repeated_only_if_something_followed() {
        let mut closing = Closing::new(Runner::Nextest);
        closing.read("        PASS [   0.005s] xtask tests::a");
        assert_eq!(closing.to_repeat(false), None, "nothing to repeat before there is one");
        closing.read("     Summary [   1.2s] 3 tests run: 3 passed, 0 skipped");
        closing.read("");
        assert_eq!(closing.to_repeat(false), None);
        assert!(closing.to_repeat(true).is_some());
        closing.read("error: test run failed");
        assert_eq!(
            closing.to_repeat(false),
            Some("     Summary [   1.2s] 3 tests run: 3 passed, 0 skipped")
        );
    }

    #[test]
    fn with_cargo_test_the_last_result_counts() {
        let mut closing = Closing::new(Runner::Cargo);
        closing.read("test result: FAILED. 1 passed; 1 failed");
        closing.read("     Running tests/it/main.rs");
        closing.read("test result: ok. 5 passed; 0 failed");
        closing.read("error: 1 target failed:");
        assert_eq!(closing.to_repeat(true), Some("test result: ok. 5 passed; 0 failed"));
    }
}
