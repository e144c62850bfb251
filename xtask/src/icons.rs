//! Renders the PNG icons from the drawings in `icons/`. The results are committed; run this after a
//! drawing changes.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    program::Program,
    setup::{Packages, ensure_packages},
    steps::Steps,
    workspace::Workspace,
};

/// File and width in pixels, from `app-icon.svg`.
const APP: [(&str, u32); 4] =
    [("32x32.png", 32), ("128x128.png", 128), ("128x128@2x.png", 256), ("icon.png", 512)];
const TRAY: [&str; 5] = ["idle", "serving", "paused", "error", "offline"];
/// Panels show 22 px; twice that for dense displays.
const TRAY_PIXELS: u32 = 44;
/// The drawings are black, and a panel may be dark or light without telling us which. One grey that
/// stands out from both (see the test); macOS tints the shape itself.
const TRAY_COLOUR: &str = "#8c9290";

pub(crate) fn render(workspace: &Workspace) -> Result<()> {
    let icons = workspace.root.join("icons");
    let mut steps = Steps::new(3);
    let packages = Packages { required: vec!["librsvg2-bin"], optional: Vec::new() };
    steps.step("Setting up", || ensure_packages(&packages))?;
    steps.step("Rendering the app icons", || {
        APP.iter().try_for_each(|(name, pixels)| {
            png(&icons.join("app-icon.svg"), &icons.join(name), *pixels)
        })
    })?;
    steps.step("Rendering the tray icons", || {
        fs::create_dir_all(workspace.target.join("xtask"))?;
        TRAY.iter().try_for_each(|state| {
            let drawing = icons.join(format!("tray-{state}.svg"));
            let svg = fs::read_to_string(&drawing)
                .with_context(|| format!("reading {}", drawing.display()))?;
            ensure!(
                svg.contains("#000"),
                "{} is not drawn in #000, so it cannot be coloured",
                drawing.display()
            );
            let coloured = workspace.remembered("tray.svg");
            fs::write(&coloured, svg.replace("#000", TRAY_COLOUR))?;
            png(&coloured, &icons.join(format!("tray-{state}.png")), TRAY_PIXELS)
        })
    })
}

fn png(svg: &Path, png: &Path, pixels: u32) -> Result<()> {
    let pixels = pixels.to_string();
    Program::new("rsvg-convert")
        .args(["--width", &pixels, "--height", &pixels, "--output"])
        .arg(png)
        .arg(svg)
        .run()
}

#[cfg(test)]
mod tests {
    use super::TRAY_COLOUR;

    /// Relative luminance as WCAG defines it.
    fn luminance(colour: &str) -> f64 {
        let channel = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    fn contrast(a: &str, b: &str) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn the_tray_icon_can_be_seen_on_dark_and_light_panels() {
        // White, GNOME's black, and the dark panels of KDE, Cinnamon and Xfce.
        for panel in ["#ffffff", "#000000", "#2a2e32", "#2f2f2f", "#31363b"] {
            assert!(
                contrast(TRAY_COLOUR, panel) >= 3.0,
                "{panel}: {:.2}",
                contrast(TRAY_COLOUR, panel)
            );
        }
    }
}
