//! The sandbox programs: `edgecoder-sandbox` runs WebAssembly and, inside the operating system's
//! own sandbox, Python and JavaScript. A crash costs the jobs in flight and never the node.

mod link;
mod once;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use agent_api::{
    sandbox::{Abilities, Exec, ExecReply, Interpreter, PROTOCOL},
    tasks::{KindAbility, Language, TaskKind},
};
use tokio::{
    sync::{Mutex, OnceCell, Semaphore},
    time::Instant,
};

use self::link::{Answer, Link};
use super::job::WasmJob;
use crate::backoff::Backoff;

/// WebAssembly jobs after which a process is replaced: whatever it may have leaked goes with it.
const JOBS_PER_PROCESS: u64 = 10_000;

/// WebAssembly jobs handed to the process per core: enough that it never waits for the node, few
/// enough that a job does not wait there for long.
const JOBS_PER_CORE: usize = 4;

/// How often a job is given to a process. Another job may have ended the first one.
const TRIES: u32 = 2;

/// Waits between processes that ended unexpectedly.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(10);

/// A handle to the programs. Clones share them.
#[derive(Clone, Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    program: Option<PathBuf>,
    jobs_per_process: u64,
    server: Mutex<Server>,
    probed: OnceCell<Result<Abilities, String>>,
    /// Jobs that a process has; the others wait here.
    wasm_places: Semaphore,
    /// Programs at the same time: one per core.
    run_places: Semaphore,
    closed: AtomicBool,
}

/// The process of WebAssembly jobs.
#[derive(Debug)]
struct Server {
    link: Option<Arc<Link>>,
    backoff: Backoff,
    /// Not before this the next process starts.
    not_before: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WasmDone {
    pub output: Vec<u8>,
    pub fuel_used: u64,
}

/// Files beside each other in the folder of one run, the first of which is started.
#[derive(Clone, Debug)]
pub struct Program {
    pub language: Language,
    pub files: Vec<(String, String)>,
    pub wall: Duration,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    /// `None`: it was stopped.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// Why it was stopped: a sentence.
    pub problem: Option<String>,
    pub took: Duration,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SandboxError {
    /// This computer cannot run it at all.
    #[error("{0}")]
    Unable(String),
    /// The module is wrong or went over its limits: it would on any node.
    #[error("{0}")]
    Refused(String),
    /// The program ended unexpectedly.
    #[error("{0}")]
    Broke(String),
}

impl Sandbox {
    /// `program`: where `edgecoder-sandbox` is. Processes start when they are needed.
    pub fn new(program: Option<PathBuf>) -> Self {
        Self::replacing_after(program, JOBS_PER_PROCESS)
    }

    fn replacing_after(program: Option<PathBuf>, jobs_per_process: u64) -> Self {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        let server =
            Server { link: None, backoff: Backoff::new(FIRST_WAIT, LAST_WAIT), not_before: None };
        Self {
            shared: Arc::new(Shared {
                program,
                jobs_per_process,
                server: Mutex::new(server),
                probed: OnceCell::new(),
                wasm_places: Semaphore::new(cores * JOBS_PER_CORE),
                run_places: Semaphore::new(cores),
                closed: AtomicBool::new(false),
            }),
        }
    }

    /// What this computer can contain. Looked at once.
    pub async fn abilities(&self) -> Vec<KindAbility> {
        let (wasm, code) = match self.probed().await {
            Ok(abilities) => (Ok("WebAssembly, metered".to_owned()), code_ability(abilities)),
            Err(why) => (Err(why.clone()), Err(why.clone())),
        };
        [(TaskKind::Wasm, wasm), (TaskKind::Code, code)]
            .into_iter()
            .map(|(kind, able)| KindAbility {
                kind,
                able: able.is_ok(),
                reason: able.unwrap_or_else(|why| why),
            })
            .collect()
    }

    /// Whether programs of a language can run here: known before a model is asked for one.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Unable`] with the reason.
    pub async fn check(&self, language: Language) -> Result<(), SandboxError> {
        self.interpreter(language).await.map(|_| ())
    }

    /// Dropping the future stops it.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn wasm(&self, module: Vec<u8>, job: &WasmJob) -> Result<WasmDone, SandboxError> {
        let _place = self.shared.wasm_places.acquire().await;
        for _ in 0..TRIES {
            match self.link().await?.run(&module, job).await {
                Answer::Done(done) => return Ok(done),
                Answer::Refused(why) => return Err(SandboxError::Refused(why)),
                Answer::Broke(why) => return Err(SandboxError::Broke(why)),
                Answer::ProcessGone => {}
            }
        }
        Err(SandboxError::Broke(
            "the sandbox process ended unexpectedly while the module ran, twice".to_owned(),
        ))
    }

    /// Dropping the future kills it with everything that it started.
    ///
    /// # Errors
    ///
    /// See [`SandboxError`].
    pub async fn run(&self, program: Program) -> Result<Ran, SandboxError> {
        let interpreter = self.interpreter(program.language).await?;
        let binary = self.program()?;
        let _place = self.shared.run_places.acquire().await;
        self.still_open()?;
        let broke = |error: std::io::Error| {
            SandboxError::Broke(format!("The program could not be run: {error}."))
        };
        let dir = tempfile::Builder::new().prefix("edgecoder-run-").tempdir().map_err(broke)?;
        let exec = Exec {
            interpreter,
            dir: dir.path().to_string_lossy().into_owned(),
            files: program.files,
            wall_ms: u64::try_from(program.wall.as_millis()).unwrap_or(u64::MAX),
        };
        match once::exec(&binary, &exec, program.wall, dir).await.map_err(broke)? {
            ExecReply::Ran { status, stdout, stderr, problem, took_ms } => {
                Ok(Ran { status, stdout, stderr, problem, took: Duration::from_millis(took_ms) })
            }
            ExecReply::Unable { message } => Err(SandboxError::Unable(message)),
        }
    }

    /// Ends the processes; jobs in flight fail, and no new ones are taken.
    pub async fn shutdown(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.run_places.close();
        if let Some(link) = self.shared.server.lock().await.link.take() {
            link.kill();
        }
    }

    fn program(&self) -> Result<PathBuf, SandboxError> {
        self.shared.program.clone().ok_or_else(|| SandboxError::Unable(NOT_FOUND.to_owned()))
    }

    fn still_open(&self) -> Result<(), SandboxError> {
        if self.shared.closed.load(Ordering::SeqCst) {
            return Err(SandboxError::Broke("The node is shutting down.".to_owned()));
        }
        Ok(())
    }

    async fn probed(&self) -> &Result<Abilities, String> {
        let probe = || async {
            let program = self.program().map_err(|error| error.to_string())?;
            let abilities = once::probe(&program)
                .await
                .map_err(|error| format!("{} cannot be used: {error}.", program.display()))?;
            if abilities.protocol != PROTOCOL {
                return Err(link::other_version(abilities.protocol));
            }
            Ok(abilities)
        };
        self.shared.probed.get_or_init(probe).await
    }

    async fn interpreter(&self, language: Language) -> Result<Interpreter, SandboxError> {
        let abilities =
            self.probed().await.as_ref().map_err(|why| SandboxError::Unable(why.clone()))?;
        let found = abilities.interpreters.iter().find(|found| found.language == language);
        found.cloned().ok_or_else(|| {
            SandboxError::Unable(match &abilities.confinement {
                Err(why) => format!("Programs cannot be run here: {why}."),
                Ok(_) => format!("{} is not on this computer.", language_name(language)),
            })
        })
    }

    /// The process, started if there is none, replaced if it has done enough.
    async fn link(&self) -> Result<Arc<Link>, SandboxError> {
        let program = self.program()?;
        let mut server = self.shared.server.lock().await;
        self.still_open()?;
        if let Some(link) = server.link.take() {
            let replaced = link.is_retired() || link.taken() >= self.shared.jobs_per_process;
            if link.is_alive() && !replaced {
                server.link = Some(Arc::clone(&link));
                return Ok(link);
            }
            // One that did enough finishes what it has, and ends with its last job.
            if !replaced {
                if link.was_of_use() {
                    server.backoff.reset();
                }
                let wait = server.backoff.next_wait();
                server.not_before = Some(Instant::now() + wait);
            }
        }
        if let Some(not_before) = server.not_before.take() {
            tokio::time::sleep_until(not_before).await;
        }
        match Link::start(&program).await {
            Ok(link) => {
                let link = Arc::new(link);
                server.link = Some(Arc::clone(&link));
                Ok(link)
            }
            Err(why) => {
                let wait = server.backoff.next_wait();
                server.not_before = Some(Instant::now() + wait);
                Err(SandboxError::Broke(format!("{} {why}", program.display())))
            }
        }
    }
}

const NOT_FOUND: &str = "The program edgecoder-sandbox was not found. Install EdgeCoder again.";

fn language_name(language: Language) -> &'static str {
    match language {
        Language::Python => "Python",
        Language::Javascript => "Node.js",
    }
}

/// Which languages and how they are contained, or why not.
fn code_ability(abilities: &Abilities) -> Result<String, String> {
    let walls = abilities.confinement.as_ref().map_err(|why| format!("{why}."))?;
    let languages: Vec<String> = abilities
        .interpreters
        .iter()
        .map(|found| format!("{} {}", language_name(found.language), found.version))
        .collect();
    Ok(format!("{}; contained by {walls}", languages.join(", ")))
}
