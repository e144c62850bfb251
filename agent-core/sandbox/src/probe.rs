//! `probe`: which interpreters this computer has, and whether they can be contained. Nothing is
//! taken from a table of systems: each interpreter has to run a program inside.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use agent_api::{
    sandbox::{Abilities, Exec, ExecReply, Interpreter, PROTOCOL},
    tasks::Language,
};
use serde::Deserialize;

use crate::{exec, say};

/// For a program that does nothing, on a computer that is busy.
const TRIAL_MS: u64 = 20_000;

/// What an interpreter says of itself; links and version managers are behind it then.
const PYTHON_ASKED: &str = "import json, os, sys, sysconfig; print(json.dumps({
'path': os.path.realpath(sys.executable), 'version': sys.version.split()[0],
'libraries': [sysconfig.get_path('stdlib'), sysconfig.get_path('platstdlib'),
sysconfig.get_config_var('LIBDIR') or '']}))";
const NODE_ASKED: &str = "console.log(JSON.stringify({
path: require('fs').realpathSync(process.execPath), version: process.versions.node,
libraries: []}))";

#[derive(Debug, Deserialize)]
struct Answer {
    path: String,
    version: String,
    libraries: Vec<String>,
}

/// Prints [`Abilities`] as a line of JSON.
pub(crate) fn print() -> anyhow::Result<()> {
    let line = serde_json::to_string(&abilities())?;
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn abilities() -> Abilities {
    let mut interpreters = Vec::new();
    let mut confinement = Err("neither Python nor Node.js was found".to_owned());
    for language in [Language::Python, Language::Javascript] {
        let Some(interpreter) = candidates(language).iter().find_map(|path| ask(language, path))
        else {
            continue;
        };
        match trial(&interpreter) {
            Ok(how) => {
                interpreters.push(interpreter);
                confinement = Ok(how);
            }
            Err(why) => {
                say(&format!("{why:#}"));
                confinement = confinement.map_err(|_| format!("{why:#}"));
            }
        }
    }
    Abilities { protocol: PROTOCOL, interpreters, confinement }
}

/// The first of them in `PATH`, then usual places: services get a short `PATH`.
fn candidates(language: Language) -> Vec<PathBuf> {
    let name = match language {
        Language::Python => "python3",
        Language::Javascript => "node",
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        // There it is a stub that asks its user to install developer tools.
        .filter(|dir| !(cfg!(target_os = "macos") && dir == Path::new("/usr/bin")))
        .map(|dir| dir.join(name))
        .filter(|program| program.is_file())
        .collect()
}

fn ask(language: Language, program: &Path) -> Option<Interpreter> {
    let arguments = match language {
        Language::Python => ["-c", PYTHON_ASKED],
        Language::Javascript => ["-e", NODE_ASKED],
    };
    let asked = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let Answer { path, version, mut libraries } = serde_json::from_slice(&asked.stdout).ok()?;
    // A folder as high as this would open the whole computer to it.
    libraries.retain(|library| Path::new(library).components().count() > 2);
    libraries.sort();
    libraries.dedup();
    Some(Interpreter { language, path, version, libraries })
}

fn trial(interpreter: &Interpreter) -> anyhow::Result<String> {
    let (name, text) = match interpreter.language {
        Language::Python => ("trial.py", "print('contained')\n"),
        Language::Javascript => ("trial.js", "console.log('contained')\n"),
    };
    let dir = tempfile::Builder::new().prefix("edgecoder-trial-").tempdir()?;
    let program = Exec {
        interpreter: interpreter.clone(),
        dir: dir.path().to_string_lossy().into_owned(),
        files: vec![(name.to_owned(), text.to_owned())],
        wall_ms: TRIAL_MS,
    };
    match exec::run(&program)? {
        (ExecReply::Ran { status: Some(0), stdout, .. }, how) if stdout == "contained\n" => Ok(how),
        (ExecReply::Ran { stderr, problem, .. }, _) => {
            let why = problem.unwrap_or_else(|| stderr.trim().to_owned());
            anyhow::bail!("{} does not run in the sandbox: {why}", interpreter.path)
        }
        (ExecReply::Unable { message }, _) => anyhow::bail!(message),
    }
}
