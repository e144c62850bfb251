//! A real node in a process of its own, on a data directory of its own.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_api::{models::ModelState, node::Status};
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::Http,
    programs::{self, PATIENCE},
};

/// How often a condition is looked at again.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// How a node is started.
#[derive(Debug)]
pub struct Options {
    home: TempDir,
    listen: String,
    runner: PathBuf,
    assets: Option<PathBuf>,
    ui: Option<PathBuf>,
    arguments: Vec<String>,
    place: Option<Arc<dyn Place>>,
}

/// Where a node runs, if it is not the test's own network.
pub trait Place: std::fmt::Debug + Send + Sync {
    /// What the node's command line begins with; it has to become the node (`exec`), so that
    /// signals reach it.
    fn prefix(&self) -> Vec<String>;

    /// From the address at which the node serves there to one that reaches it from here.
    ///
    /// # Errors
    /// There is no way there.
    fn door(&self, inside: SocketAddr) -> Result<SocketAddr>;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            home: TempDir::with_prefix("edgecoder-test-").expect("a temporary folder"),
            listen: "127.0.0.1:0".into(),
            runner: programs::runner(),
            assets: Some(programs::assets()),
            ui: None,
            arguments: Vec::new(),
            place: None,
        }
    }
}

impl Options {
    pub fn without_model(mut self) -> Self {
        self.assets = None;
        self
    }

    /// With the model that ships.
    pub fn with_model(mut self) -> Self {
        self.assets = Some(programs::assets());
        self
    }

    pub fn with_page(mut self) -> Self {
        self.ui = Some(programs::ui());
        self
    }

    pub fn listen(mut self, listen: &str) -> Self {
        listen.clone_into(&mut self.listen);
        self
    }

    pub fn runner(mut self, runner: PathBuf) -> Self {
        self.runner = runner;
        self
    }

    /// More for the command line of `run`.
    pub fn args<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Takes back what [`Options::args`] added.
    pub fn without_args(mut self) -> Self {
        self.arguments.clear();
        self
    }

    /// Runs the node in another network.
    pub fn place(mut self, place: Arc<dyn Place>) -> Self {
        self.place = Some(place);
        self
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Puts a file into the data directory before the start.
    pub fn file(self, name: &str, bytes: &[u8]) -> Self {
        let path = self.data_dir().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes the folder");
        std::fs::write(path, bytes).expect("writes the file");
        self
    }

    /// Tests run side by side on one network: their nodes must not find each other there and give
    /// each other work. In a network of its own a node is started as its owner would start it.
    fn keep_to_itself(&self) -> Result<()> {
        let path = self.data_dir().join("settings.json");
        let written = std::fs::read(&path).ok();
        let settings = written.as_deref().map_or_else(
            || Some(json!({ "version": 1 })),
            |bytes| serde_json::from_slice::<Value>(bytes).ok(),
        );
        // What the test says itself stays, also what a node has to refuse.
        if let Some(mut settings) = settings
            && self.place.is_none()
            && (settings["version"].is_null() || settings["version"] == 1)
            && settings["mesh"].is_null()
        {
            settings["mesh"] = json!({ "lan": false, "port_mapping": false });
            std::fs::create_dir_all(self.data_dir())?;
            std::fs::write(&path, settings.to_string())?;
        }
        Ok(())
    }

    fn command(&self) -> Command {
        let mut line = self.place.as_ref().map(|place| place.prefix()).unwrap_or_default();
        line.push(programs::node().display().to_string());
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]);
        command
            .args(["run", "--json", "--listen", &self.listen, "--data-dir"])
            .arg(self.data_dir())
            .args(&self.arguments)
            .env("EDGECODER_RUNNER_BIN", &self.runner)
            .env("EDGECODER_SANDBOX_BIN", programs::sandbox())
            .env("EDGECODER_LOG", "info")
            .env("HOME", self.home.path())
            .env_remove("EDGECODER_DATA_DIR")
            .stdin(Stdio::null());
        for (name, value) in
            [("EDGECODER_ASSETS_DIR", &self.assets), ("EDGECODER_UI_DIR", &self.ui)]
        {
            // An empty folder rather than nothing: else the node would look beside itself.
            command.env(name, value.as_deref().unwrap_or(&self.home.path().join("none")));
        }
        command
    }

    /// Starts a node that is expected to refuse; gives what it says.
    pub fn start_refused(&self) -> Result<String> {
        let output = self.command().output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
        Ok(said)
    }

    /// Starts a node and waits until it is ready.
    pub fn start(self) -> Result<TestNode> {
        TestNode::start(self)
    }
}

#[derive(Debug, Deserialize)]
struct Ready {
    url: String,
    token: String,
    node_id: String,
}

#[derive(Debug)]
pub struct TestNode {
    pub options: Options,
    child: Child,
    pub http: Http,
    pub node_id: String,
    /// From the start of the process to its first line.
    pub ready_after: Duration,
}

impl TestNode {
    fn start(options: Options) -> Result<Self> {
        options.keep_to_itself()?;
        let log = options.home.path().join("stderr.log");
        let started = Instant::now();
        let mut child = options
            .command()
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()
            .with_context(|| format!("starting {}", programs::node().display()))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let ready_after = started.elapsed();
        let Ok(ready) = serde_json::from_str::<Ready>(&line) else {
            let _ = child.kill();
            bail!("the node said {line:?}; its log: {}", std::fs::read_to_string(&log)?);
        };
        let url = match &options.place {
            Some(place) => {
                let inside = ready.url.strip_prefix("http://").context("an http url")?.parse()?;
                format!("http://{}", place.door(inside)?)
            }
            None => ready.url,
        };
        let http = Http::new(&url, &ready.token);
        Ok(Self { options, child, http, node_id: ready.node_id, ready_after })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.options.home.path().join("stderr.log")).unwrap_or_default()
    }

    pub async fn status(&self) -> Result<Status> {
        self.http.get("/status").await
    }

    /// Waits until the model answers; gives its id.
    pub async fn model(&self) -> Result<String> {
        let status = self
            .status_when("the model is ready", |status| {
                matches!(status.model.state, ModelState::Ready | ModelState::Failed)
            })
            .await?;
        anyhow::ensure!(status.model.state == ModelState::Ready, "{}", status.model.reason);
        Ok(status.model.active.context("an active model")?.id)
    }

    /// Waits for a status; the error shows the last one.
    pub async fn status_when(&self, what: &str, when: impl Fn(&Status) -> bool) -> Result<Status> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await?;
            if when(&status) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("waited in vain: {what}. Last: {status:#?}\nLog: {}", self.log());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks for an orderly end.
    pub fn terminate(&self) -> Result<()> {
        signal(self.pid(), "TERM")
    }

    /// Asks for an orderly end and waits for it.
    pub fn stop(mut self) -> Result<(ExitStatus, Options)> {
        self.terminate()?;
        let status = wait(&mut self.child)?;
        Ok((status, self.take_options()))
    }

    /// Waits for the end that was asked for.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        wait(&mut self.child)
    }

    /// kill -9.
    pub fn kill(mut self) -> Result<Options> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.take_options())
    }

    fn take_options(&mut self) -> Options {
        std::mem::take(&mut self.options)
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of node {} ---\n{}", self.node_id, self.log());
        }
    }
}

/// Waits for the end of a process.
pub fn wait(child: &mut Child) -> Result<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        anyhow::ensure!(Instant::now() < deadline, "process {} does not end", child.id());
        std::thread::sleep(POLL);
    }
}

/// Sends a signal by name.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let signal = match name {
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        "KILL" => Signal::KILL,
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        _ => anyhow::bail!("no signal {name} is sent here"),
    };
    let process = Pid::from_raw(i32::try_from(pid)?).context("no process has that number")?;
    kill_process(process, signal).with_context(|| format!("kill -{name} {pid}"))
}

/// Waits for a condition.
pub async fn eventually<F: Future<Output = bool>>(
    what: &str,
    mut holds: impl FnMut() -> F,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        anyhow::ensure!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Whether a process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let mut stat = String::new();
    let read = File::open(Path::new("/proc").join(pid.to_string()).join("stat"))
        .and_then(|mut file| file.read_to_string(&mut stat));
    read.is_ok() && !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
}
