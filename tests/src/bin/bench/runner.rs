//! The runner process, spoken to directly.

use std::{
    io::{BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use agent_api::runner::{self, Command as ToRunner, LoadModel, Reply};
use anyhow::{Context as _, Result, bail};
use edgecoder_tests::programs;

pub(super) struct Runner {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Runner {
    pub(super) fn start(model: LoadModel) -> Result<Self> {
        let mut child = Command::new(programs::runner())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the runner")?;
        let stdin = child.stdin.take().context("stdin")?;
        let stdout = BufReader::with_capacity(1 << 16, child.stdout.take().context("stdout")?);
        let mut this = Self { child, stdin, stdout };
        this.send(&ToRunner::Load(model))?;
        loop {
            match this.receive()? {
                Reply::Loaded(_) => return Ok(this),
                Reply::LoadFailed { message } => bail!("{message}"),
                _ => {}
            }
        }
    }

    pub(super) fn send(&mut self, command: &ToRunner) -> Result<()> {
        runner::write_frame(&mut self.stdin, command)?;
        Ok(self.stdin.flush()?)
    }

    pub(super) fn receive(&mut self) -> Result<Reply> {
        runner::read_frame(&mut self.stdout)?.context("the runner is gone")
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
