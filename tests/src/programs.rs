//! Where the programs under test are: `cargo xtask test` says so in the environment; a plain
//! `cargo test` finds what was built beside the test itself.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest wait for anything a test waits for. Generous, because CI machines are slow; a test that
/// passes never waits this long.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn node() -> PathBuf {
    program("EDGECODER_NODE_BIN", "edgecoder-node")
}

pub fn runner() -> PathBuf {
    program("EDGECODER_RUNNER_BIN", "edgecoder-runner")
}

/// Runs untrusted programs.
pub fn sandbox() -> PathBuf {
    program("EDGECODER_SANDBOX_BIN", "edgecoder-sandbox")
}

/// A module of `tests/examples`, built by `cargo xtask test`.
pub fn example_module(name: &str) -> PathBuf {
    let dir = env::var_os("EDGECODER_EXAMPLES_DIR").map_or_else(
        || {
            let exe = env::current_exe().unwrap_or_default();
            exe.ancestors().nth(3).unwrap_or(Path::new(".")).join("examples")
        },
        PathBuf::from,
    );
    dir.join(name).with_extension("wasm")
}

/// The desktop app; `None` where it was not built (it needs WebKit).
pub fn desktop() -> Option<PathBuf> {
    let path = program("EDGECODER_DESKTOP_BIN", "edgecoder");
    path.exists().then_some(path)
}

/// The folder with the model that ships.
pub fn assets() -> PathBuf {
    match env::var_os("EDGECODER_ASSETS_DIR") {
        Some(dir) => dir.into(),
        None => root().join("agent-core/assets"),
    }
}

/// The model that ships.
pub fn demo_model() -> PathBuf {
    assets().join("edgecoder-demo-4m-q8_0.gguf")
}

/// The built page.
pub fn ui() -> PathBuf {
    match env::var_os("EDGECODER_UI_DIR") {
        Some(dir) => dir.into(),
        None => root().join("ui/dist"),
    }
}

/// A Python with the clients that the tests use.
pub fn python() -> Option<PathBuf> {
    env::var_os("EDGECODER_TEST_PYTHON").map(PathBuf::from).filter(|path| path.exists())
}

/// Where screenshots are left to be looked at.
pub fn screenshots() -> PathBuf {
    let dir = env::var_os("EDGECODER_SCREENSHOT_DIR")
        .map_or_else(|| env::temp_dir().join("edgecoder-screenshots"), PathBuf::from);
    let _ = std::fs::create_dir_all(&dir);
    dir
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf()
}

fn program(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return path.into();
    }
    // The test is TARGET/PROFILE/deps/it-HASH.
    let exe = env::current_exe().unwrap_or_default();
    exe.ancestors().nth(2).unwrap_or(Path::new(".")).join(name)
}
