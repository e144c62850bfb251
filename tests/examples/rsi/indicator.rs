//! The relative strength index of a series of bars, and what it says.
//!
//! RSI after J. Welles Wilder, "New Concepts in Technical Trading Systems" (1978): the average gain
//! and the average loss of the first `PERIOD` closes, then smoothed by `(previous * (n - 1) + new) / n`.
//! Only additions, multiplications and divisions of doubles: every machine gets the same bits.

use core::fmt::{self, Write};

/// Wilder's choice.
const PERIOD: usize = 14;
/// Below it a price has fallen too fast, above [`OVERBOUGHT`] it has risen too fast.
const OVERSOLD: f64 = 30.0;
const OVERBOUGHT: f64 = 70.0;
/// Halfway between the two.
const MIDDLE: f64 = 50.0;

/// What is wrong with the bars.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wrong {
    /// A line that is not `time,open,high,low,close,volume`; from 1.
    Line(usize),
    /// Fewer than `PERIOD + 1` bars.
    TooFew(usize),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(n) => write!(f, "line {n} is not time,open,high,low,close,volume"),
            Self::TooFew(n) => write!(f, "{n} bars; {} are needed", PERIOD + 1),
        }
    }
}

/// Writes the answer for bars in CSV, oldest first, as one line of JSON.
pub fn answer(bars: &str, out: &mut impl Write) -> fmt::Result {
    match rsi(bars) {
        Ok((time, rsi)) => {
            let (signal, confidence) = signal(rsi);
            write!(
                out,
                "{{\"indicator\":\"RSI\",\"period\":{PERIOD},\"bar\":\"{time}\",\"rsi\":{rsi:.4},\
                 \"signal\":\"{signal}\",\"confidence\":{confidence:.4}}}"
            )
        }
        Err(wrong) => write!(out, "{{\"error\":\"{wrong}\"}}"),
    }
}

/// The last bar's time and the index there, 0 to 100.
pub fn rsi(bars: &str) -> Result<(&str, f64), Wrong> {
    let mut last = None;
    let (mut gain, mut loss) = (0.0, 0.0);
    let mut count = 0;
    for (n, line) in bars.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (time, close) = read(line).ok_or(Wrong::Line(n + 1))?;
        if let Some((_, before)) = last {
            let change: f64 = close - before;
            let (up, down) = if change > 0.0 { (change, 0.0) } else { (0.0, -change) };
            if count <= PERIOD {
                gain += up / PERIOD as f64;
                loss += down / PERIOD as f64;
            } else {
                gain = (gain * (PERIOD - 1) as f64 + up) / PERIOD as f64;
                loss = (loss * (PERIOD - 1) as f64 + down) / PERIOD as f64;
            }
        }
        count += 1;
        last = Some((time, close));
    }
    match last {
        Some((time, _)) if count > PERIOD => Ok((time, index(gain, loss))),
        _ => Err(Wrong::TooFew(count)),
    }
}

fn index(gain: f64, loss: f64) -> f64 {
    match (gain > 0.0, loss > 0.0) {
        (_, true) => 100.0 - 100.0 / (1.0 + gain / loss),
        (true, false) => 100.0,
        // A price that does not move is neither.
        (false, false) => MIDDLE,
    }
}

/// What to do, and how sure that is: 0 at a threshold, 1 at the end of the scale (or, for neutral,
/// in the middle).
fn signal(rsi: f64) -> (&'static str, f64) {
    if rsi < OVERSOLD {
        ("BUY", (OVERSOLD - rsi) / OVERSOLD)
    } else if rsi > OVERBOUGHT {
        ("SELL", (rsi - OVERBOUGHT) / (100.0 - OVERBOUGHT))
    } else {
        let off = if rsi > MIDDLE { rsi - MIDDLE } else { MIDDLE - rsi };
        ("NEUTRAL", 1.0 - off / (OVERBOUGHT - MIDDLE))
    }
}

/// Time and close of `time,open,high,low,close,volume`.
fn read(line: &str) -> Option<(&str, f64)> {
    let mut fields = line.trim().split(',');
    let time = fields.next().filter(|time| !time.is_empty() && !time.contains(['"', '\\']))?;
    let mut number = || fields.next()?.trim().parse::<f64>().ok().filter(|n| n.is_finite());
    let [_open, _high, _low, close, _volume] =
        [number()?, number()?, number()?, number()?, number()?];
    fields.next().is_none().then_some((time, close))
}
