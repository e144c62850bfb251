//! WebAssembly: metered and deterministic.
//!
//! Nothing that a module can see differs between two runs or two computers: there are no threads,
//! no files and no network, clocks stand still, randomness is fixed and every NaN has the same
//! bits. Fuel counts instructions of the module, not of the processor, so that it is the same
//! everywhere too. Only the wall clock may end a module early, and then there is no result at all.

mod cache;
mod module;
mod state;
mod ticker;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use agent_api::sandbox::Reply;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::sync::Semaphore;
use wasmtime::{Config, Engine, Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use self::{
    cache::Cache,
    module::{Compiled, Linkers},
    state::State,
    ticker::Ticker,
};

/// Largest compiled stack of a module, wasmtime's own default.
const STACK_BYTES: usize = 512 << 10;

/// The fiber that a module runs on: its stack and what the host needs below it.
const FIBER_BYTES: usize = 2 << 20;

/// Memory of all running modules together, in MiB: twice what the contract allows one of them.
const MEMORY_MIB: u32 = 2_048;

/// Address space set aside for each memory of a module, so that it never has to move: what the
/// contract allows one.
const RESERVED_BYTES: u64 = 1 << 30;

/// A module of 5 MiB takes some seconds on a slow computer.
const COMPILE_LIMIT: Duration = Duration::from_secs(60);

/// One job as the node sent it.
#[derive(Debug)]
pub(crate) struct Job {
    /// SHA-256, hexadecimal.
    pub(crate) module: String,
    pub(crate) bytes: Option<String>,
    pub(crate) input: String,
    pub(crate) fuel: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) wall_ms: u64,
}

/// What became of it.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Done {
        output: Vec<u8>,
        fuel_used: u64,
    },
    NeedModule,
    /// It would fail on any node.
    Refused(String),
    /// It failed here and now.
    Broke(String),
}

impl Outcome {
    pub(crate) fn reply(self, id: u64) -> Reply {
        match self {
            Self::Done { output, fuel_used } => {
                Reply::Done { id, output: BASE64_STANDARD.encode(output), fuel_used }
            }
            Self::NeedModule => Reply::NeedModule { id },
            Self::Refused(message) => Reply::Failed { id, lasting: true, message },
            Self::Broke(message) => Reply::Failed { id, lasting: false, message },
        }
    }
}

/// The wall clock ran out while the module computed.
#[derive(Debug, thiserror::Error)]
#[error("the time is over")]
struct TimeIsOver;

/// What a call of a module asks for and gets.
#[derive(Clone, Copy, Debug)]
struct Limits {
    fuel: u64,
    memory_bytes: u64,
    wall: Duration,
}

/// Everything that jobs share.
#[derive(Debug)]
pub(crate) struct Workshop {
    engine: Engine,
    linkers: Arc<Linkers>,
    cache: Cache,
    ticker: Arc<Ticker>,
    /// Jobs that compute: as many as there are cores.
    places: Arc<Semaphore>,
    memory: Semaphore,
}

impl Workshop {
    pub(crate) fn new(cores: usize) -> anyhow::Result<Self> {
        let engine = Engine::new(&config()).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let linkers = Linkers::new(&engine).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        Ok(Self {
            ticker: Ticker::start(engine.clone())?,
            linkers: Arc::new(linkers),
            cache: Cache::default(),
            places: Arc::new(Semaphore::new(cores)),
            memory: Semaphore::new(MEMORY_MIB as usize),
            engine,
        })
    }

    /// Runs a job to its end. Dropping the future ends it too.
    pub(crate) async fn run(&self, job: Job) -> Outcome {
        self.try_run(job).await.unwrap_or_else(|outcome| outcome)
    }

    async fn try_run(&self, job: Job) -> Result<Outcome, Outcome> {
        let input = BASE64_STANDARD
            .decode(&job.input)
            .map_err(|error| Outcome::Refused(format!("the input is not base64: {error}")))?;
        let limits = Limits {
            fuel: job.fuel,
            memory_bytes: job.memory_bytes,
            wall: Duration::from_millis(job.wall_ms),
        };
        let compiled = self.compiled(job.module, job.bytes).await?;
        let mib = u32::try_from(limits.memory_bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        let memory = self.memory.acquire_many(mib.clamp(1, MEMORY_MIB)).await;
        let place = self.places.acquire().await;
        let outcome = self.call(&compiled, input, limits).await;
        drop((memory, place));
        Ok(outcome)
    }

    /// The module, compiled now or before.
    async fn compiled(
        &self,
        sha256: String,
        bytes: Option<String>,
    ) -> Result<Arc<Compiled>, Outcome> {
        let entry = match &bytes {
            Some(_) => self.cache.entry(&sha256),
            None => self.cache.known(&sha256).ok_or(Outcome::NeedModule)?,
        };
        let compile = || async {
            let Some(bytes) = bytes else { return Err(Outcome::NeedModule) };
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return Err(Outcome::Broke("the sandbox is ending".to_owned()));
            };
            let (engine, linkers) = (self.engine.clone(), Arc::clone(&self.linkers));
            // The place is held by the thread: a compilation cannot be stopped.
            let work = tokio::task::spawn_blocking(move || {
                let _place = place;
                let bytes = module::checked(&bytes, &sha256)?;
                let compiled = Compiled::new(&engine, &linkers, &bytes);
                compiled.map(Arc::new).map_err(Outcome::Refused)
            });
            match tokio::time::timeout(COMPILE_LIMIT, work).await {
                Ok(Ok(compiled)) => compiled,
                Ok(Err(defect)) => {
                    Err(Outcome::Refused(format!("the module cannot be compiled: {defect}")))
                }
                Err(_) => Err(Outcome::Refused(format!(
                    "compiling the module took more than {} seconds, so it was given up",
                    COMPILE_LIMIT.as_secs()
                ))),
            }
        };
        entry.get_or_try_init(compile).await.map(Arc::clone)
    }

    async fn call(&self, compiled: &Compiled, input: Vec<u8>, limits: Limits) -> Outcome {
        let state = State::new(input.clone(), limits.memory_bytes);
        let mut store = Store::new(&self.engine, state);
        store.limiter(State::bounds);
        if let Err(error) = store.set_fuel(limits.fuel) {
            return Outcome::Broke(format!("{error:#}"));
        }
        let deadline = Instant::now() + limits.wall;
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if Instant::now() >= deadline {
                return Err(wasmtime::Error::new(TimeIsOver));
            }
            Ok(UpdateDeadline::Yield(1))
        });
        let _ticks = self.ticker.keep_ticking();
        // The callback ends a module that computes; this ends one that sleeps.
        let answer = tokio::time::timeout(limits.wall, compiled.call(&mut store, &input)).await;
        let answer = answer.unwrap_or_else(|_| Err(wasmtime::Error::new(TimeIsOver)));
        let fuel_used = limits.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
        let state = store.into_data();
        match answer {
            Ok(output) => match output.or_else(|| state.output()) {
                Some(output) => Outcome::Done { output, fuel_used },
                None => Outcome::Refused(state::TOO_MUCH_OUTPUT.to_owned()),
            },
            Err(error) => ended_badly(&error, &state, fuel_used, limits),
        }
    }
}

/// A command may end itself with `exit(0)`; everything else is why there is no result.
fn ended_badly(error: &wasmtime::Error, state: &State, fuel_used: u64, limits: Limits) -> Outcome {
    let exit = error.downcast_ref::<I32Exit>().map(|exit| exit.0);
    if exit == Some(0) {
        return match state.output() {
            Some(output) => Outcome::Done { output, fuel_used },
            None => Outcome::Refused(state::TOO_MUCH_OUTPUT.to_owned()),
        };
    }
    if error.is::<TimeIsOver>() {
        return Outcome::Refused(format!(
            "the module was stopped after {} ms, the time that it was given",
            limits.wall.as_millis()
        ));
    }
    if state.output().is_none() {
        return Outcome::Refused(state::TOO_MUCH_OUTPUT.to_owned());
    }
    let mut why = match (exit, error.downcast_ref::<Trap>()) {
        (_, Some(Trap::OutOfFuel)) => {
            return Outcome::Refused(format!(
                "the module used up its fuel of {} units before it was done; give it more fuel or less to do",
                limits.fuel
            ));
        }
        (Some(status), _) => format!("the module ended itself with status {status}"),
        (None, Some(trap)) => {
            let text = trap.to_string();
            format!("the module trapped: {}", text.strip_prefix("wasm trap: ").unwrap_or(&text))
        }
        (None, None) => format!("the module failed: {}", error.root_cause()),
    };
    if state.was_refused_memory() {
        why = format!(
            "the module wanted more than its {} bytes of memory; then {why}",
            limits.memory_bytes
        );
    }
    match state.last_words() {
        words if words.is_empty() => Outcome::Refused(why),
        words => Outcome::Refused(format!("{why}. It said: {words}")),
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(FIBER_BYTES)
        .memory_reservation(RESERVED_BYTES)
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false);
    config
}
