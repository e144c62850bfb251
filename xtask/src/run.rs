//! Builds what is needed and becomes the program: the desktop app, or the headless node.

use std::{env, ffi::OsString};

use anyhow::Result;

use crate::{
    compile, page,
    program::Program,
    setup::{self, SetupOptions},
    steps::{Steps, note},
    workspace::{Profile, Workspace},
};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RunOptions {
    /// Start the headless node even if there is a display
    #[arg(long)]
    headless: bool,
    /// Passed on to the program
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(workspace: &Workspace, options: &RunOptions) -> Result<()> {
    let headless =
        options.headless || !has_display(cfg!(target_os = "macos"), |name| env::var_os(name));
    let mut steps = Steps::new(4);
    steps.step("Setting up", || {
        setup::ensure(workspace, &SetupOptions { headless, ..SetupOptions::default() })
    })?;
    steps.step("Building the page (about 3 minutes the first time)", || {
        page::build(workspace, page::Kind::Release)
    })?;
    let what = if headless {
        "Building the node and the runner"
    } else {
        "Building the desktop app and the runner"
    };
    steps.step(&format!("{what} (about 10 minutes the first time)"), || {
        compile::programs(workspace, Profile::Dev, headless)
    })?;
    if headless {
        steps.announce("Starting the headless node (Ctrl+C stops it)");
        if !options.headless {
            note(
                "there is no display here (neither DISPLAY nor WAYLAND_DISPLAY is set), hence no window",
            );
        }
    } else {
        steps.announce("Starting the desktop app (Quit in its tray menu or Ctrl+C stops it)");
    }
    start(workspace, headless, &options.arguments)
}

fn start(workspace: &Workspace, headless: bool, arguments: &[OsString]) -> Result<()> {
    let programs = workspace.programs(Profile::Dev);
    let program = if headless {
        Program::new(programs.join("edgecoder-node")).arg("run")
    } else {
        Program::new(programs.join("edgecoder"))
    };
    // The runner lies beside the program; page and model are where the checkout has them.
    program
        .args(arguments)
        .env("EDGECODER_UI_DIR", workspace.page())
        .env("EDGECODER_ASSETS_DIR", workspace.assets())
        .become_it()
}

/// macOS always has one; elsewhere X11 or Wayland say so.
fn has_display(always: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    always
        || ["DISPLAY", "WAYLAND_DISPLAY"]
            .iter()
            .any(|name| variable(name).is_some_and(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::has_display;

    #[test]
    fn a_display_is_x11_or_wayland() {
        let only = |set: &'static str| move |name: &str| (name == set).then(|| ":0".into());
        assert!(has_display(false, only("DISPLAY")));
        assert!(has_display(false, only("WAYLAND_DISPLAY")));
        assert!(!has_display(false, only("HOME")));
        assert!(!has_display(false, |_| Some("".into())));
        assert!(has_display(true, |_| None));
    }
}
