//! Runs other programs: their output goes to the terminal as it comes, and when one fails the message
//! names the exact command and what would fix it.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Variables that `cargo run` sets for xtask itself. Handed on, they would pin a child's cargo to the
/// toolchain that built xtask.
const SET_BY_CARGO_RUN: [&str; 3] = ["CARGO", "RUSTC", "RUSTDOC"];

pub(crate) struct Program {
    command: Command,
    fix: Option<String>,
}

impl Program {
    pub(crate) fn new(name: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(name);
        for variable in SET_BY_CARGO_RUN {
            command.env_remove(variable);
        }
        if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
            match without_toolchain(&path) {
                Some(rest) => command.env("LD_LIBRARY_PATH", rest),
                None => command.env_remove("LD_LIBRARY_PATH"),
            };
        }
        Self { command, fix: None }
    }

    /// Cargo in the checkout, with the target directory this xtask was built into.
    pub(crate) fn cargo(workspace: &Workspace) -> Self {
        let mut program = Self::new("cargo");
        program.command.current_dir(&workspace.root).env("CARGO_TARGET_DIR", &workspace.target);
        program
    }

    /// This xtask again, with a heavy library compiled in.
    pub(crate) fn xtask_with(workspace: &Workspace, feature: &str) -> Self {
        Self::cargo(workspace).args(["run", "--package", "xtask", "--features", feature, "--"])
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(key);
        self
    }

    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What the person should do if this fails.
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// The command as one could type it.
    pub(crate) fn line(&self) -> String {
        let mut line = String::new();
        for part in std::iter::once(self.command.get_program()).chain(self.command.get_args()) {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&quoted(&part.to_string_lossy()));
        }
        line
    }

    /// Runs it; its output goes to the terminal.
    pub(crate) fn run(mut self) -> Result<()> {
        let status = self.command.status();
        self.judge(status)
    }

    /// Runs it and hands its output to `lines` instead of the terminal, line by line.
    ///
    /// Standard output and standard error are merged only as far as `stream` says: the one that is
    /// not captured still goes to the terminal.
    pub(crate) fn run_reading(mut self, stream: Stream, mut lines: impl FnMut(&str)) -> Result<()> {
        use std::io::{BufRead, BufReader, Read};
        match stream {
            Stream::Stdout => self.command.stdout(Stdio::piped()),
            Stream::Stderr => self.command.stderr(Stdio::piped()),
        };
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => return self.judge(Err(error)),
        };
        let pipe: Box<dyn Read> = match stream {
            Stream::Stdout => Box::new(child.stdout.take().context("the output was piped")?),
            Stream::Stderr => Box::new(child.stderr.take().context("the output was piped")?),
        };
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            lines(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
            line.clear();
        }
        let status = child.wait();
        self.judge(status)
    }

    /// Runs it and returns its standard output; its standard error goes to the terminal.
    pub(crate) fn output(mut self) -> Result<String> {
        let output = self.command.stderr(Stdio::inherit()).output();
        match output {
            Ok(output) => {
                self.judge(Ok(output.status))?;
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Err(error) => self.judge(Err(error)).map(|()| String::new()),
        }
    }

    /// Whether it can be started and succeeds, without showing anything.
    pub(crate) fn succeeds(mut self) -> bool {
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    }

    /// Its standard output whatever its exit status, nothing shown; `None` if it cannot be started.
    pub(crate) fn quiet_output(mut self) -> Option<String> {
        let output = self.command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Becomes the program: signals reach it directly, and its exit status is ours.
    #[cfg(unix)]
    pub(crate) fn become_it(mut self) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let error = self.command.exec();
        self.judge(Err(error))
    }

    #[cfg(not(unix))]
    pub(crate) fn become_it(self) -> Result<()> {
        self.run()
    }

    fn judge(&self, status: std::io::Result<ExitStatus>) -> Result<()> {
        let line = self.line();
        let fix = self.fix.as_ref().map(|fix| format!("\n  fix: {fix}")).unwrap_or_default();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => bail!("a command failed ({status})\n  command: {line}{fix}"),
            Err(error) => bail!("a command could not be started ({error})\n  command: {line}{fix}"),
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Whether a program of this name is on PATH.
pub(crate) fn is_on_path(name: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(name).is_file()))
}

/// `LD_LIBRARY_PATH` without what cargo and rustup put there to run xtask: programs started from here
/// should find the libraries that they would find without us.
fn without_toolchain(path: &OsStr) -> Option<OsString> {
    let kept: Vec<_> = env::split_paths(path)
        .filter(|dir| {
            let toolchain = dir
                .components()
                .any(|part| part.as_os_str() == "toolchains" || part.as_os_str() == "rustlib");
            let cargo_output = dir.join(".cargo-lock").exists() || dir.ends_with("deps");
            !toolchain && !cargo_output && !dir.as_os_str().is_empty()
        })
        .collect();
    if kept.is_empty() { None } else { env::join_paths(kept).ok() }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{Program, quoted, without_toolchain};

    #[test]
    fn a_failure_names_the_command_and_the_fix() {
        let error = Program::new("false")
            .arg("a b")
            .fix("turn it off and on")
            .run()
            .unwrap_err()
            .to_string();
        assert!(error.contains("command: false 'a b'"), "{error}");
        assert!(error.contains("fix: turn it off and on"), "{error}");
    }

    #[test]
    fn a_missing_program_is_said_to_be_missing() {
        let error = Program::new("no-such-program-here").run().unwrap_err().to_string();
        assert!(error.contains("could not be started"), "{error}");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("--profile"), "--profile");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_toolchain_is_taken_out_of_the_library_path() {
        let path =
            OsStr::new("/x/target/debug/deps:/h/.rustup/toolchains/stable/lib:/opt/cuda/lib64");
        assert_eq!(without_toolchain(path).as_deref(), Some(OsStr::new("/opt/cuda/lib64")));
        assert_eq!(without_toolchain(OsStr::new("/h/.rustup/toolchains/stable/lib")), None);
    }
}
