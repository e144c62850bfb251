//! Builds everything as it is handed out and runs the benchmark program of the tests crate on it.

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    compile, examples, page,
    program::Program,
    setup::{self, SetupOptions},
    steps::{Steps, note},
    workspace::{Profile, Workspace, size_of, size_text},
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchOptions {
    /// Leave out the desktop app
    #[arg(long)]
    headless: bool,
    /// Passed on to the benchmark program
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, options: &BenchOptions) -> Result<()> {
    let mut steps = Steps::new(5);
    let setup = SetupOptions { headless: options.headless, ..SetupOptions::default() };
    steps.step("Setting up", || setup::ensure(workspace, &setup))?;
    steps.step("Building the page and the example modules", || {
        page::build(workspace, page::Kind::Release)?;
        examples::build(workspace)
    })?;
    steps.step("Building release programs (about 20 minutes the first time)", || {
        compile::benchmarks(workspace, options.headless)
    })?;
    steps.step("Sizes", || sizes(workspace, options.headless))?;
    steps.announce("Measuring");
    let programs = workspace.programs(Profile::Release);
    let bench = programs.join("bench");
    Program::new(bench)
        .dir(&workspace.root)
        .args(&options.arguments)
        .env("EDGECODER_NODE_BIN", programs.join("edgecoder-node"))
        .env("EDGECODER_RUNNER_BIN", programs.join("edgecoder-runner"))
        .env("EDGECODER_SANDBOX_BIN", programs.join("edgecoder-sandbox"))
        .env("EDGECODER_DESKTOP_BIN", programs.join("edgecoder"))
        .env("EDGECODER_DIRECT_BIN", programs.join("examples/direct"))
        .env("EDGECODER_SANDBOX_BIN", programs.join("edgecoder-sandbox"))
        .env("EDGECODER_EXAMPLES_DIR", examples::folder(workspace))
        .env("EDGECODER_UI_DIR", workspace.page())
        .env("EDGECODER_ASSETS_DIR", workspace.assets())
        .run()
}

fn sizes(workspace: &Workspace, headless: bool) -> Result<()> {
    let programs = workspace.programs(Profile::Release);
    let mut files = vec![
        ("edgecoder-node", programs.join("edgecoder-node")),
        ("edgecoder-runner", programs.join("edgecoder-runner")),
        ("edgecoder-sandbox", programs.join("edgecoder-sandbox")),
        ("the page's code", workspace.page().join("ui_bg.wasm")),
    ];
    if !headless {
        files.insert(0, ("edgecoder", programs.join("edgecoder")));
    }
    for (name, path) in files {
        note(&format!("{name:<17} {}", size_text(size_of(&path)?)));
    }
    Ok(())
}
