//! A Python of our own with the packages that tests use, in the target directory: the official
//! `openai` and `ollama` clients, and `gguf` to write model files that are broken on purpose.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    program::{Program, is_on_path},
    steps::note,
    workspace::Workspace,
};

const REQUIREMENTS: &str = include_str!("../../python-requirements.txt");

/// The interpreter that has the packages.
pub(crate) fn interpreter(workspace: &Workspace) -> PathBuf {
    workspace.target.join("python/bin/python")
}

pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    let home = workspace.target.join("python");
    let stamp = home.join("requirements.installed");
    let python = interpreter(workspace);
    let complete = fs::read_to_string(&stamp).is_ok_and(|done| done == REQUIREMENTS);
    // The system's Python may have moved on since; then the environment's link leads nowhere.
    if complete && python.exists() {
        note("Python packages for the tests: installed");
        return Ok(());
    }
    note("Python packages for the tests: installing into the target directory");
    create(&home)?;
    let list = workspace.root.join("xtask/python-requirements.txt");
    Program::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
        .arg(&list)
        .fix("check that pip reaches the Python package index, then run this again")
        .run()?;
    fs::write(&stamp, REQUIREMENTS).with_context(|| format!("writing {}", stamp.display()))
}

/// The system's own Python first: one that a version switcher put on PATH may be gone tomorrow.
fn create(home: &std::path::Path) -> Result<()> {
    for python in ["/usr/bin/python3", "python3"] {
        if !(python.starts_with('/') || is_on_path(python)) {
            continue;
        }
        if Program::new(python).args(["-m", "venv", "--clear"]).arg(home).succeeds() {
            return Ok(());
        }
    }
    bail!(
        "no python3 here can make a virtual environment\n  fix: sudo apt-get install python3-venv"
    )
}
