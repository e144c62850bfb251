//! Builds the example modules of `tests/examples` for WebAssembly, with the compiler that builds the
//! page. They have no dependencies, so `rustc` is all it takes.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{page, steps::note, workspace::Workspace};

/// Folder and file of each module: `tests/examples/NAME/NAME.rs`.
const MODULES: [&str; 2] = ["noop", "rsi"];

/// Where the built modules are.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("examples")
}

pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let folder = folder(workspace);
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for name in MODULES {
        let source = workspace.root.join("tests/examples").join(name).join(name);
        page::wasm_program(workspace, "rustc")?
            .args(["--edition", "2024", "--crate-type", "cdylib", "--target", page::TARGET])
            .args(["-C", "opt-level=s", "-C", "strip=symbols", "-o"])
            .arg(folder.join(name).with_extension("wasm"))
            .arg(source.with_extension("rs"))
            .fix("correct the error above; if it is about the wasm target: cargo xtask setup")
            .run()?;
    }
    note(&format!("the example modules are in {}", folder.display()));
    Ok(())
}
