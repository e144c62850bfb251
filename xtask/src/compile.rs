//! How cargo is asked to build, so that nothing is built twice.
//!
//! Cargo compiles a dependency again when the packages named on the command line ask for other features
//! of it, and one feature of `syn` is enough to rebuild everything, llama.cpp included. So every step
//! names the same thing, the whole workspace with one feature set, and then picks targets from it: only
//! what those need is compiled. A headless build does not touch WebKit, nor a desktop build the page.

use anyhow::Result;

use crate::{
    program::Program,
    workspace::{Profile, Workspace},
};

/// What decides the features of dependencies: the same in every step.
pub(crate) const SELECTION: [&str; 3] = ["--workspace", "--features", "edgecoder/custom-protocol"];

/// The runner, the sandbox and the node, and unless headless the desktop app.
pub(crate) fn programs(workspace: &Workspace, profile: Profile, headless: bool) -> Result<()> {
    let mut cargo = Program::cargo(workspace)
        .args(["build", "--profile", profile.name()])
        .args(SELECTION)
        .args([
            "--bin",
            "edgecoder-runner",
            "--bin",
            "edgecoder-sandbox",
            "--bin",
            "edgecoder-node",
        ]);
    if !headless {
        cargo = cargo.args(["--bin", "edgecoder"]);
    }
    if profile == Profile::Dev {
        // Shares its dependencies with the tests; see the example. What is handed out does not.
        cargo = cargo.args(["--example", "dev_features"]);
    }
    cargo.fix(FIX).run()
}

/// Everything that the tests run or are.
pub(crate) fn programs_and_tests(workspace: &Workspace) -> Result<()> {
    Program::cargo(workspace)
        .arg("build")
        .args(SELECTION)
        .args(["--bins", "--tests"])
        .fix(FIX)
        .run()
}

/// Everything that the benchmarks compare.
pub(crate) fn benchmarks(workspace: &Workspace, headless: bool) -> Result<()> {
    let mut cargo = Program::cargo(workspace)
        .args(["build", "--release"])
        .args(SELECTION)
        .args([
            "--bin",
            "edgecoder-runner",
            "--bin",
            "edgecoder-sandbox",
            "--bin",
            "edgecoder-node",
        ])
        .args(["--bin", "bench"])
        .args(["--example", "direct"]);
    if !headless {
        cargo = cargo.args(["--bin", "edgecoder"]);
    }
    cargo.fix(FIX).run()
}

const FIX: &str =
    "correct the error above; if a program or system library is missing: cargo xtask setup";
