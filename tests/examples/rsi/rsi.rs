//! A `wasm` task: bars in, BUY, SELL or NEUTRAL with a confidence out.
//!
//! It needs no imports: the node gives memory for the input (`alloc`), calls `run`, and reads the
//! answer where it says. `cargo xtask test` builds it; by hand:
//! `rustc --edition 2024 --crate-type cdylib --target wasm32-unknown-unknown -O rsi.rs`.

#![no_std]

#[path = "indicator.rs"]
mod indicator;

use core::{arch::wasm32, fmt, panic::PanicInfo, slice};

/// A page of WebAssembly memory.
const PAGE: usize = 64 << 10;
/// The answer is one short line.
const ANSWER_BYTES: usize = 512;

static mut ANSWER: Answer = Answer { text: [0; ANSWER_BYTES], len: 0 };

struct Answer {
    text: [u8; ANSWER_BYTES],
    len: usize,
}

impl fmt::Write for Answer {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let end = self.len + more.len();
        self.text.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(more.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Fresh memory of this many bytes; 0: there is no more. A task ends after one call, so nothing is
/// ever given back.
#[unsafe(no_mangle)]
pub extern "C" fn alloc(len: usize) -> usize {
    match wasm32::memory_grow(0, len.div_ceil(PAGE).max(1)) {
        usize::MAX => 0,
        page => page * PAGE,
    }
}

/// Pointer (upper half) and length of the answer for the bars at `pointer`.
#[unsafe(no_mangle)]
pub extern "C" fn run(pointer: *const u8, len: usize) -> i64 {
    // The node wrote that many bytes to what `alloc` gave; this module has one thread.
    let bars = unsafe { slice::from_raw_parts(pointer, len) };
    let answer = unsafe { &mut *(&raw mut ANSWER) };
    let bars = core::str::from_utf8(bars).unwrap_or("not UTF-8");
    if indicator::answer(bars, answer).is_err() {
        answer.len = 0;
    }
    ((answer.text.as_ptr() as i64) << 32) | answer.len as i64
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    wasm32::unreachable()
}
