//! Builds the page: cargo for wasm, then wasm-bindgen as a library, then the files of `ui/static`.
//!
//! The page has its own target directory, because another compiler may build it. No wasm-opt: the one
//! that Debian ships emits a module that fails at start-up, and a good one saves 7 %.

#[cfg(feature = "page")]
pub(crate) mod bindgen;

use std::{
    collections::BTreeMap,
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};

use crate::{
    program::Program,
    setup::{self, WasmToolchain},
    steps::{Steps, note},
    workspace::{Workspace, size_of, size_text},
};

pub(crate) const TARGET: &str = "wasm32-unknown-unknown";
/// The page is loaded on every start, from the disk: this is the limit that the project set itself (2.0 MB with four
/// panels, 2.4 with the Mesh panel, 2.8 with Tasks).
const MAX_RELEASE_BYTES: u64 = 2_800_000;
/// How often `--watch` looks for changes: below what a person notices, and no load to speak of.
const WATCH_INTERVAL: Duration = Duration::from_millis(400);
/// Bump when the steps after cargo change what comes out.
const RECIPE: u32 = 1;

#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct PageOptions {
    /// Build again whenever a source changes (implies --dev)
    #[arg(long)]
    watch: bool,
    /// Quick to build and larger: for working on the page
    #[arg(long)]
    dev: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// What ships: small
    Release,
    /// For working on it: quick to build
    Dev,
}

impl Kind {
    fn profile(self) -> &'static str {
        match self {
            Self::Release => "wasm-release",
            Self::Dev => "wasm-dev",
        }
    }
}

pub(crate) fn run(workspace: &Workspace, options: &PageOptions) -> Result<()> {
    let kind = if options.dev || options.watch { Kind::Dev } else { Kind::Release };
    let mut steps = Steps::new(1);
    let built =
        steps.step("Building the page (a few minutes the first time)", || build(workspace, kind));
    if options.watch { watch(workspace, built) } else { built }
}

/// Builds the page into `ui/dist`; quick when nothing changed.
pub(crate) fn build(workspace: &Workspace, kind: Kind) -> Result<()> {
    let static_files = workspace.root.join("ui/static");
    if !static_files.join("index.html").exists() {
        bail!("{} has no index.html: the checkout is not complete", static_files.display());
    }
    let wasm = compile(workspace, kind)?;
    let fingerprint = fingerprint(workspace, kind, &wasm, &static_files)?;
    let stamp = workspace.remembered("page");
    let dist = workspace.page();
    let unchanged = fs::read_to_string(&stamp).is_ok_and(|known| known == fingerprint);
    if unchanged && dist.join("index.html").exists() && dist.join("ui_bg.wasm").exists() {
        note("the page is up to date");
        return Ok(());
    }
    bind_and_place(workspace, kind, &wasm, &static_files)?;
    fs::create_dir_all(stamp.parent().context("the stamp lies in a folder")?)?;
    fs::write(&stamp, fingerprint).with_context(|| format!("writing {}", stamp.display()))?;
    let size = size_of(&dist.join("ui_bg.wasm"))?;
    note(&format!("the page is in ui/dist; its code is {}", size_text(size)));
    Ok(())
}

/// cargo build for wasm; returns the module.
fn compile(workspace: &Workspace, kind: Kind) -> Result<PathBuf> {
    let target = workspace.target.join("ui");
    wasm_program(workspace, "cargo")?
        // Leptos then gives every view one type: a third less code, and quicker to build.
        .env("CARGO_ENCODED_RUSTFLAGS", "--cfg\u{1f}erase_components")
        .args(["build", "--package", "edgecoder-ui", "--bin", "edgecoder-ui", "--target", TARGET])
        .args(["--profile", kind.profile(), "--target-dir"])
        .arg(&target)
        .fix("correct the error above; if it is about the wasm target or the toolchain: cargo xtask setup")
        .run()?;
    let folder = target.join(TARGET).join(kind.profile());
    // Cargo has named the file of a program both ways.
    ["edgecoder-ui.wasm", "edgecoder_ui.wasm"]
        .into_iter()
        .map(|name| folder.join(name))
        .find(|path| path.exists())
        .with_context(|| format!("cargo left no page in {}", folder.display()))
}

/// `cargo` or `rustc` of the toolchain that has the wasm target.
pub(crate) fn wasm_program(workspace: &Workspace, name: &str) -> Result<Program> {
    let mut program = Program::new(name).dir(&workspace.root);
    // Flags and pins meant for the host's compiler would be wrong, or unknown, for this one.
    for variable in [
        "RUSTUP_TOOLCHAIN",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
    ] {
        program = program.env_remove(variable);
    }
    Ok(match setup::wasm_toolchain(workspace)? {
        WasmToolchain::Default => program,
        WasmToolchain::Rustup { name, .. } => program.env("RUSTUP_TOOLCHAIN", name),
        WasmToolchain::OnPath { bin } => program.env("PATH", first_on_path(&bin)?),
    })
}

/// wasm-bindgen and the static files, into a new folder that takes the old one's place at once: a node
/// that serves the page while it is being built never sees half of it.
fn bind_and_place(
    workspace: &Workspace,
    kind: Kind,
    wasm: &Path,
    static_files: &Path,
) -> Result<()> {
    let dist = workspace.page();
    let new = dist.with_file_name("dist.new");
    let old = dist.with_file_name("dist.old");
    remove(&new)?;
    fs::create_dir_all(&new).with_context(|| format!("creating {}", new.display()))?;
    let mut bindgen = Program::xtask_with(workspace, "page")
        .arg("bindgen")
        .arg("--wasm")
        .arg(wasm)
        .arg("--out")
        .arg(&new);
    if kind == Kind::Dev {
        bindgen = bindgen.arg("--keep-names");
    }
    bindgen.fix("if it says that versions differ: wasm-bindgen and wasm-bindgen-cli-support in Cargo.toml must be the same").run()?;
    let size = size_of(&new.join("ui_bg.wasm"))?;
    if kind == Kind::Release && size > MAX_RELEASE_BYTES {
        bail!(
            "the page's code is {}, over its limit of {}\n  fix: find what grew (a new dependency, large constants) and take it out",
            size_text(size),
            size_text(MAX_RELEASE_BYTES)
        );
    }
    copy_tree(static_files, &new)?;
    remove(&old)?;
    if dist.exists() {
        fs::rename(&dist, &old).with_context(|| format!("moving {} away", dist.display()))?;
    }
    fs::rename(&new, &dist)
        .with_context(|| format!("moving the new page to {}", dist.display()))?;
    remove(&old)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for path in files_below(from)? {
        let target = to.join(path.strip_prefix(from)?);
        fs::create_dir_all(target.parent().context("a file lies in a folder")?)?;
        fs::copy(&path, &target)
            .with_context(|| format!("copying {} to {}", path.display(), target.display()))?;
    }
    Ok(())
}

/// Every file below a folder, in a stable order.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("reading {}", next.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Changes whenever the page would come out differently.
fn fingerprint(
    workspace: &Workspace,
    kind: Kind,
    wasm: &Path,
    static_files: &Path,
) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    // The target directory may be shared by several checkouts.
    (RECIPE, kind, &workspace.root).hash(&mut hasher);
    let mut read = |path: &Path| -> Result<()> {
        fs::read(path).with_context(|| format!("reading {}", path.display()))?.hash(&mut hasher);
        Ok(())
    };
    read(wasm)?;
    // The lock file names the version of wasm-bindgen.
    read(&workspace.root.join("Cargo.lock"))?;
    let files = files_below(static_files)?;
    for file in &files {
        read(file)?;
    }
    files.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

fn first_on_path(dir: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(std::iter::once(dir.to_path_buf()).chain(env::split_paths(&path)))?)
}

/// Rebuilds on every change, until interrupted. A source that does not compile is reported and waited on.
fn watch(workspace: &Workspace, mut last: Result<()>) -> Result<()> {
    let mut seen = modification_times(workspace);
    loop {
        if let Err(error) = &last {
            println!("\nerror: {error:#}");
        }
        println!("==> Waiting for changes in ui/ and agent-core/agent-api/ (Ctrl+C ends this)");
        loop {
            thread::sleep(WATCH_INTERVAL);
            let now = modification_times(workspace);
            if now != seen {
                seen = now;
                break;
            }
        }
        last = Steps::new(1).step("Building the page", || build(workspace, Kind::Dev));
    }
}

fn modification_times(workspace: &Workspace) -> BTreeMap<PathBuf, SystemTime> {
    let folders = ["ui/src", "ui/static", "agent-core/agent-api/src"];
    let files = folders
        .iter()
        .filter_map(|folder| files_below(&workspace.root.join(folder)).ok())
        .flatten();
    files
        .chain(std::iter::once(workspace.root.join("ui/Cargo.toml")))
        .filter_map(|path| {
            // A file that disappears between listing and looking is a change as well.
            let modified = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
            Some((path, modified))
        })
        .collect()
}
