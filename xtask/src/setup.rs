//! Installs what building and testing need. Everything here checks first and does only what is
//! missing, so that it costs next to nothing when all is there.

mod packages;
mod python;
mod wasm;

use anyhow::Result;

pub(crate) use self::{
    packages::{Packages, ensure as ensure_packages},
    python::interpreter as test_python,
    wasm::WasmToolchain,
};
use crate::{
    program::{Program, is_on_path},
    steps::{Steps, note},
    workspace::Workspace,
};

#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct SetupOptions {
    /// Leave out what only the desktop app needs (WebKitGTK)
    #[arg(long)]
    pub(crate) headless: bool,
    /// Also what the tests need: browsers, a virtual display, Python packages
    #[arg(long)]
    pub(crate) tests: bool,
    /// Also what the long tests need; implies --tests
    #[arg(long)]
    pub(crate) long: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &SetupOptions) -> Result<()> {
    let mut steps = Steps::new(1);
    steps.step("Setting up", || ensure(workspace, options))
}

/// Makes sure that everything is there.
pub(crate) fn ensure(workspace: &Workspace, options: &SetupOptions) -> Result<()> {
    let tests = options.tests || options.long;
    packages::ensure(&Packages::wanted(options.headless, tests, options.long))?;
    wasm::ensure(workspace)?;
    if tests {
        ensure_rust_components(workspace)?;
        python::ensure(workspace)?;
    }
    Ok(())
}

/// The toolchain that builds the page, setting it up if need be.
pub(crate) fn wasm_toolchain(workspace: &Workspace) -> Result<WasmToolchain> {
    wasm::ensure(workspace)
}

/// rustfmt and clippy are missing from rustup's minimal profile.
fn ensure_rust_components(workspace: &Workspace) -> Result<()> {
    let has = |tool: &str| Program::cargo(workspace).args([tool, "--version"]).succeeds();
    let missing: Vec<_> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(tool, _)| !has(tool))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    note(&format!("adding Rust components: {}", missing.join(", ")));
    let fix = "install rustfmt and clippy for the Rust toolchain in use";
    if is_on_path("rustup") {
        Program::new("rustup").args(["component", "add"]).args(missing).fix(fix).run()
    } else {
        anyhow::bail!(
            "{} missing, and there is no rustup to add them\n  fix: {fix}",
            missing.join(" and ")
        )
    }
}
