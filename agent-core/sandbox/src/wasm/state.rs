//! What a running module holds: its WASI world, its bounds, and what they had to refuse.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use agent_api::sandbox::MAX_OUTPUT_BYTES;
use bytes::Bytes;
use rand_chacha::{ChaCha12Rng, rand_core::SeedableRng as _};
use tokio::io::AsyncWrite;
use wasmtime::ResourceLimiter;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtxBuilder, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream},
    p1::WasiP1Ctx,
    p2::{OutputStream, Pollable, StreamError, StreamResult, pipe::MemoryInputPipe},
};

/// Elements of all tables of a module together: far above what compilers emit.
const MAX_TABLE_ELEMENTS: usize = 1 << 20;

/// Instances, memories and tables each. A component made of a command has three or four.
const MAX_PARTS: usize = 64;

/// Of what a module writes to stderr; quoted when it fails.
const KEPT_WORDS_BYTES: usize = 2 << 10;

/// The start of all randomness in modules. Any number would do; it must be the same everywhere.
const SEED: u64 = 0;

pub(super) const TOO_MUCH_OUTPUT: &str = "the module gave more than 1 MiB of output";

pub(super) struct State {
    pub(super) wasi: WasiP1Ctx,
    stdout: Sink,
    stderr: Sink,
    bounds: Bounds,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl State {
    pub(super) fn new(input: Vec<u8>, memory_bytes: u64) -> Self {
        let stdout = Sink { most: MAX_OUTPUT_BYTES, more_is_an_error: true, ..Sink::default() };
        let stderr = Sink { most: KEPT_WORDS_BYTES, ..Sink::default() };
        let wasi = WasiCtxBuilder::new()
            .stdin(MemoryInputPipe::new(input))
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .secure_random(ChaCha12Rng::seed_from_u64(SEED))
            .insecure_random(ChaCha12Rng::seed_from_u64(SEED))
            .insecure_random_seed(u128::from(SEED))
            .wall_clock(Still)
            .monotonic_clock(Still)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build_p1();
        let memory_left = usize::try_from(memory_bytes).unwrap_or(usize::MAX);
        Self { wasi, stdout, stderr, bounds: Bounds { memory_left, ..Bounds::default() } }
    }

    pub(super) fn bounds(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.bounds
    }

    /// What it wrote to stdout; `None`: more than it may.
    pub(super) fn output(&self) -> Option<Vec<u8>> {
        let kept = self.stdout.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (!kept.too_much).then(|| kept.bytes.clone())
    }

    pub(super) fn was_refused_memory(&self) -> bool {
        self.bounds.refused_memory
    }

    /// The start of what it wrote to stderr.
    pub(super) fn last_words(&self) -> String {
        let kept = self.stderr.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept.bytes).trim().to_owned()
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// Bounds over all memories and tables of a module together.
#[derive(Debug, Default)]
struct Bounds {
    memory_left: usize,
    table_elements: usize,
    refused_memory: bool,
}

impl ResourceLimiter for Bounds {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let Some(left) = self.memory_left.checked_sub(desired.saturating_sub(current)) else {
            self.refused_memory = true;
            return Ok(false);
        };
        self.memory_left = left;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self.table_elements.saturating_add(desired.saturating_sub(current));
        if elements > MAX_TABLE_ELEMENTS {
            return Ok(false);
        }
        self.table_elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_PARTS
    }

    fn memories(&self) -> usize {
        MAX_PARTS
    }

    fn tables(&self) -> usize {
        MAX_PARTS
    }
}

/// Clocks that stand at zero: time is not part of the input.
#[derive(Debug)]
struct Still;

impl HostWallClock for Still {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for Still {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}

/// Where a module writes to: the start is kept.
#[derive(Clone, Debug, Default)]
struct Sink {
    most: usize,
    /// Ends the module; or else the rest is dropped.
    more_is_an_error: bool,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    too_much: bool,
}

impl Sink {
    fn take(&self, bytes: &[u8]) -> wasmtime::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = self.most.saturating_sub(kept.bytes.len()).min(bytes.len());
        kept.bytes.extend_from_slice(&bytes[..room]);
        kept.too_much |= room < bytes.len();
        if kept.too_much && self.more_is_an_error {
            return Err(wasmtime::Error::msg(TOO_MUCH_OUTPUT));
        }
        Ok(())
    }
}

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes).map_err(StreamError::Trap)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(MAX_OUTPUT_BYTES)
    }
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(self.take(bytes).map(|()| bytes.len()).map_err(std::io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
