//! Printing and asking on the terminal.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::words::printable;

/// Prints text; names and licences in it come from strangers.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(printable(text).as_bytes())?;
    out.flush()?;
    Ok(())
}

pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirm {
    Yes,
    No,
    /// There is nobody to ask.
    NoTerminal,
}

/// Asks on the terminal. Anything but a yes is a no.
pub(crate) fn ask(question: &str) -> anyhow::Result<Confirm> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(Confirm::NoTerminal);
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{} [y/N] ", printable(question))?;
    err.flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let yes = matches!(line.trim().to_lowercase().as_str(), "y" | "yes");
    Ok(if yes { Confirm::Yes } else { Confirm::No })
}
