//! A ticket as QR code on the terminal.

use std::io::Write as _;

use console::{Term, style};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

use crate::terminal::say;

/// Draws the ticket, two modules to a character, if the terminal is wide enough.
pub(super) fn draw(ticket: &str) -> anyhow::Result<()> {
    let Some(image) = image(ticket) else {
        return say("The ticket is too long for a QR code.\n");
    };
    let needed = image.lines().next().map_or(0, |line| line.chars().count());
    let (_, columns) = Term::stdout().size();
    if usize::from(columns) < needed {
        return say(&format!(
            "For the QR code the terminal has to be {needed} columns wide; it has {columns}.\n"
        ));
    }
    let mut out = std::io::stdout().lock();
    for line in image.lines() {
        // Dark on light whatever the terminal's own colours are; cameras expect it.
        writeln!(out, "{}", style(line).black().on_color256(231))?;
    }
    Ok(())
}

fn image(ticket: &str) -> Option<String> {
    // Capitals are read as well and make the code a third smaller (ISO/IEC 18004, alphanumeric
    // mode); a screen has no scratches, so little correction is enough.
    let code = QrCode::with_error_correction_level(ticket.to_uppercase(), EcLevel::L).ok()?;
    Some(code.render::<Dense1x2>().build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_a_square_that_a_usual_terminal_holds() {
        let ticket = format!("ec1{}", "a2b3c4d5".repeat(50));
        let image = image(&ticket).expect("fits");
        let widths: Vec<_> = image.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{widths:?}");
        assert_eq!(widths.len(), widths[0].div_ceil(2));
        assert!(widths[0] <= 100, "{} columns", widths[0]);
        assert_eq!(super::image(&"a".repeat(10_000)), None);
    }
}
