//! WebAssembly: metered and deterministic.
//!
//! Nothing that a module can see differs between two runs or two computers: there are no threads,
//! no files and no network, clocks stand still, randomness is fixed and every NaN has the same
//! bits. Fuel counts instructions of the module, not of the processor, so that it is the same
//! everywhere too. Only the wall clock may end a module early, and then there is no result at all.
//!
//! A compilation cannot be stopped. So it belongs to nobody: it goes on when its job is cancelled,
//! what comes of it is kept, and few run at once. If one takes too long the process is *retired*:
//! it compiles nothing more, and the node starts another and lets this one finish what runs.

mod cache;
mod module;
mod state;
mod ticker;

use std::{
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, Instant},
};

use agent_api::sandbox::{MAX_FUEL, MAX_MEMORY_BYTES, MAX_WALL_MS, Reply};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::{Config, Engine, Store, Trap, UpdateDeadline};
use wasmtime_wasi::I32Exit;

use self::{
    cache::{Cache, Entry},
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
const RESERVED_BYTES: u64 = MAX_MEMORY_BYTES;

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
#[derive(Clone, Debug, PartialEq)]
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

/// What a call of a module asks for and gets: never more than the contract allows, whatever the
/// node let pass.
#[derive(Clone, Copy, Debug)]
struct Limits {
    fuel: u64,
    memory_bytes: u64,
    wall: Duration,
}

impl Limits {
    fn of(job: &Job) -> Self {
        Self {
            fuel: job.fuel.min(MAX_FUEL),
            memory_bytes: job.memory_bytes.min(MAX_MEMORY_BYTES),
            wall: Duration::from_millis(job.wall_ms.min(MAX_WALL_MS)),
        }
    }
}

/// Everything that jobs share.
#[derive(Debug)]
pub(crate) struct Workshop {
    engine: Engine,
    linkers: Arc<Linkers>,
    cache: Cache,
    ticker: Arc<Ticker>,
    /// Jobs that compute: as many as there are cores.
    places: Semaphore,
    memory: Semaphore,
    /// Modules that are compiled: fewer than there are cores. Closed when the process is retired.
    compiling: Arc<Semaphore>,
    compile_limit: Duration,
    replies: SyncSender<Reply>,
}

impl Workshop {
    /// `compile_limit`: how long a compilation may take before the process is retired, which
    /// `replies` is told.
    pub(crate) fn new(
        cores: usize,
        compile_limit: Duration,
        replies: SyncSender<Reply>,
    ) -> anyhow::Result<Self> {
        let engine = Engine::new(&config()).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let linkers = Linkers::new(&engine).map_err(|error| anyhow::anyhow!("{error:#}"))?;
        Ok(Self {
            ticker: Ticker::start(engine.clone())?,
            linkers: Arc::new(linkers),
            cache: Cache::default(),
            places: Semaphore::new(cores),
            memory: Semaphore::new(MEMORY_MIB as usize),
            compiling: Arc::new(Semaphore::new((cores / 2).max(1))),
            compile_limit,
            replies,
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
        let limits = Limits::of(&job);
        let compiled = self.compiled(job.module, job.bytes).await?;
        let mib = u32::try_from(limits.memory_bytes.div_ceil(1 << 20)).unwrap_or(MEMORY_MIB);
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
        let entry = match (self.cache.known(&sha256), bytes) {
            (Some(entry), _) => entry,
            (None, None) => return Err(Outcome::NeedModule),
            (None, Some(bytes)) => {
                // Who is cancelled while it waits leaves nothing behind. Closed: another process
                // has to compile it.
                let place = Arc::clone(&self.compiling).acquire_owned().await;
                let place = place.map_err(|_| Outcome::NeedModule)?;
                let bytes = module::checked(&bytes, &sha256)?;
                self.cache.entry(&sha256, |entry| self.compile(entry, bytes, place))
            }
        };
        entry.wait().await.clone()
    }

    /// Compiles, whoever waits for it, and sets the entry. The thread holds the place to its end.
    fn compile(&self, entry: Entry, bytes: Vec<u8>, place: OwnedSemaphorePermit) {
        let (engine, linkers) = (self.engine.clone(), Arc::clone(&self.linkers));
        let work = tokio::task::spawn_blocking(move || {
            let _place = place;
            Compiled::new(&engine, &linkers, &bytes).map(Arc::new).map_err(Outcome::Refused)
        });
        let (limit, replies) = (self.compile_limit, self.replies.clone());
        let compiling = Arc::clone(&self.compiling);
        tokio::spawn(async move {
            let compiled = match tokio::time::timeout(limit, work).await {
                Ok(Ok(compiled)) => compiled,
                Ok(Err(defect)) => {
                    Err(Outcome::Refused(format!("the module cannot be compiled: {defect}")))
                }
                Err(_) => {
                    // Told before anybody is refused because of it.
                    let _ = replies.send(Reply::Retired);
                    compiling.close();
                    Err(Outcome::Refused(format!(
                        "compiling the module took more than {} seconds, so it was given up",
                        limit.as_secs_f64()
                    )))
                }
            };
            let _ = entry.set(compiled);
        });
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

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::sync_channel,
        task::{Context, Waker},
    };

    use sha2::{Digest as _, Sha256};

    use super::*;

    #[tokio::test]
    async fn a_compilation_goes_on_when_its_job_is_cancelled() {
        let (replies, _outbox) = sync_channel(1);
        let workshop = Workshop::new(1, Duration::from_secs(60), replies).expect("is set up");
        let module = wat::parse_str(
            "(module (memory (export \"memory\") 1)
            (func (export \"_start\")))",
        )
        .expect("is a module");
        let job = |bytes: Option<String>| Job {
            module: hex::encode(Sha256::digest(&module)),
            bytes,
            input: String::new(),
            fuel: 1_000,
            memory_bytes: 1 << 20,
            wall_ms: 60_000,
        };
        let mut cancelled = Box::pin(workshop.run(job(Some(BASE64_STANDARD.encode(&module)))));
        let polled = cancelled.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "compiling has begun");
        drop(cancelled);
        let outcome = workshop.run(job(None)).await;
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    }
}
