//! How fast this computer's memory can be read: it decides how fast models answer.

use std::{
    hint::black_box,
    sync::{Barrier, OnceLock},
    thread,
    time::{Duration, Instant},
};

/// Bytes that are read over and over: more than the caches of desktop processors hold. Servers
/// with more cache are overestimated somewhat.
const BUFFER_BYTES: usize = 256 << 20;
/// Part of the free memory that a measurement may take at most.
const MEMORY_SHARE: u64 = 8;
/// How long is read, after the buffers are filled.
const READING: Duration = Duration::from_millis(60);
/// Threads that read; more do not make memory faster.
const MAX_THREADS: usize = 16;
/// Read between two looks at the clock.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes per second that all cores together read from memory.
///
/// The first call measures, which takes up to 150 ms of all cores: call it off the async threads.
/// Later ones remember. `None` where there is too little memory to measure with.
pub fn memory_bandwidth() -> Option<f64> {
    static MEASURED: OnceLock<Option<f64>> = OnceLock::new();
    *MEASURED.get_or_init(measure)
}

fn measure() -> Option<f64> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let free = super::available_memory().unwrap_or(u64::MAX) / MEMORY_SHARE;
    let bytes = BUFFER_BYTES.min(usize::try_from(free).unwrap_or(usize::MAX));
    // Two halves of whole pieces per thread.
    let pieces = bytes / threads / 2 / PIECE_BYTES;
    if pieces == 0 {
        return None;
    }
    let filled = Barrier::new(threads);
    let speeds: Vec<f64> = thread::scope(|scope| {
        let readers: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| read_speed(pieces, &filled))).collect();
        readers.into_iter().filter_map(|reader| reader.join().ok()).collect()
    });
    Some(speeds.iter().sum()).filter(|speed: &f64| *speed > 0.0)
}

/// Bytes per second that this thread reads while it runs: the median of many pieces, because other
/// programs take the processor away in between. Comparing two equal buffers is `memcmp`, which
/// does nothing but read, as fast as the processor can, in debug builds too.
fn read_speed(pieces: usize, filled: &Barrier) -> f64 {
    let first = vec![1_u8; pieces * PIECE_BYTES];
    let second = first.clone();
    // A piece takes 20 µs or more.
    let mut seconds = Vec::with_capacity(READING.as_micros() as usize / 20);
    filled.wait();
    let started = Instant::now();
    let halves = || first.chunks_exact(PIECE_BYTES).zip(second.chunks_exact(PIECE_BYTES));
    while started.elapsed() < READING {
        for (a, b) in halves().take_while(|_| started.elapsed() < READING) {
            let piece = Instant::now();
            black_box(black_box(a) == black_box(b));
            seconds.push(piece.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or(0.0);
    if median > 0.0 { 2.0 * PIECE_BYTES as f64 / median } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_plausible_speed_that_is_measured_once() {
        let speed = memory_bandwidth().expect("there is memory to measure with");
        // From a tenth of the slowest memory sold (a busy machine) to ten times the fastest.
        assert!((1e8..1e13).contains(&speed), "{speed}");
        assert_eq!(memory_bandwidth(), Some(speed));
    }
}
