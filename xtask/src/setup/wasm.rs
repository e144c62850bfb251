//! A Rust toolchain that can build the page. The work is in `setup-wasm.sh`; its answer is remembered,
//! so that it runs again only when the compiler or the script changes.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{program::Program, steps::note, workspace::Workspace};

const SCRIPT: &str = include_str!("../../setup-wasm.sh");

/// Which toolchain builds the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WasmToolchain {
    /// The one that builds everything else.
    Default,
    /// Another one that rustup knows by name; it lies in `dir`.
    Rustup { name: String, dir: PathBuf },
    /// One without rustup: its `bin` folder has to come first on PATH.
    OnPath { bin: PathBuf },
}

impl WasmToolchain {
    /// Reads the last line that the script printed.
    fn parse(line: &str) -> Option<Self> {
        match line.splitn(3, ' ').collect::<Vec<_>>()[..] {
            ["default"] => Some(Self::Default),
            ["rustup", name, dir] => Some(Self::Rustup { name: name.into(), dir: dir.into() }),
            ["path", ..] => line.strip_prefix("path ").map(|bin| Self::OnPath { bin: bin.into() }),
            _ => None,
        }
    }

    fn is_still_there(&self) -> bool {
        match self {
            Self::Default => true,
            Self::Rustup { dir, .. } => dir.join("bin/rustc").exists(),
            Self::OnPath { bin } => bin.join("rustc").exists(),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Default => "the default Rust toolchain".into(),
            Self::Rustup { name, .. } => format!("the toolchain {name}"),
            Self::OnPath { bin } => format!("the toolchain in {}", bin.display()),
        }
    }
}

pub(crate) fn ensure(workspace: &Workspace) -> Result<WasmToolchain> {
    let memory = workspace.remembered("wasm-toolchain");
    let key = key();
    if let Some(known) = recall(&memory, &key) {
        note(&format!("wasm target: built with {}", known.describe()));
        return Ok(known);
    }
    note("wasm target: looking for a toolchain that has it");
    let script = workspace.remembered("setup-wasm.sh");
    fs::create_dir_all(script.parent().context("the script lies in a folder")?)?;
    fs::write(&script, SCRIPT).with_context(|| format!("writing {}", script.display()))?;
    let answer = Program::new("bash")
        .arg(&script)
        .dir(&workspace.root)
        .fix("rustup target add wasm32-unknown-unknown; where rustup cannot download: EDGECODER_WASM_FALLBACK=1 cargo xtask setup")
        .output()?;
    let line = answer.lines().last().unwrap_or_default();
    let Some(toolchain) = WasmToolchain::parse(line) else {
        bail!("setup-wasm.sh ended with {line:?}, which names no toolchain");
    };
    fs::write(&memory, format!("{key}\n{line}\n"))
        .with_context(|| format!("writing {}", memory.display()))?;
    note(&format!("wasm target: built with {}", toolchain.describe()));
    Ok(toolchain)
}

/// Changes when the answer may change: with the script, its switches, and the compiler in use.
fn key() -> String {
    let mut hasher = DefaultHasher::new();
    SCRIPT.hash(&mut hasher);
    for variable in ["EDGECODER_WASM_FALLBACK", "EDGECODER_WASM_PREFIX", "EDGECODER_WASM_NAME"] {
        std::env::var_os(variable).hash(&mut hasher);
    }
    Program::new("rustc")
        .env_remove("RUSTUP_TOOLCHAIN")
        .arg("-vV")
        .quiet_output()
        .hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn recall(memory: &Path, key: &str) -> Option<WasmToolchain> {
    let text = fs::read_to_string(memory).ok()?;
    let (known_key, line) = text.trim_end().split_once('\n')?;
    let toolchain = WasmToolchain::parse(line)?;
    (known_key == key && toolchain.is_still_there()).then_some(toolchain)
}

#[cfg(test)]
mod tests {
    use super::WasmToolchain;

    #[test]
    fn the_scripts_answers_are_understood() {
        assert_eq!(WasmToolchain::parse("default"), Some(WasmToolchain::Default));
        assert_eq!(
            WasmToolchain::parse("rustup edgecoder-wasm /cache/with space/1.96"),
            Some(WasmToolchain::Rustup {
                name: "edgecoder-wasm".into(),
                dir: "/cache/with space/1.96".into()
            })
        );
        assert_eq!(
            WasmToolchain::parse("path /cache/with two spaces/bin"),
            Some(WasmToolchain::OnPath { bin: "/cache/with two spaces/bin".into() })
        );
        assert_eq!(WasmToolchain::parse(""), None);
        assert_eq!(WasmToolchain::parse("rustup only-a-name"), None);
    }
}
