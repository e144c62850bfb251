//! A display and a session bus that belong to one test: Xvfb and a private dbus-daemon.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use edgecoder_tests::programs;
use tempfile::TempDir;

use super::process::{Group, first_line};

#[derive(Debug)]
pub(crate) struct Desktop {
    display: String,
    pub(crate) bus: String,
    home: TempDir,
    _xvfb: Group,
    _bus: Group,
}

/// Whether a desktop can be had here; says what is missing otherwise.
pub(crate) fn missing() -> Option<String> {
    for program in ["Xvfb", "dbus-daemon", "WebKitWebDriver"] {
        let found = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match found {
            Ok(mut child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Err(_) => {
                return Some(format!("{program} is not installed (cargo xtask setup --tests)"));
            }
        }
    }
    programs::desktop().is_none().then(|| "the desktop app is not built".to_owned())
}

impl Desktop {
    pub(crate) fn start() -> Result<Self> {
        // `-displayfd 1` lets Xvfb choose a free display and print its number once it is ready.
        let mut xvfb = Group::spawn(
            Command::new("Xvfb")
                .args(["-displayfd", "1", "-screen", "0", "1280x800x24", "-nolisten", "tcp"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
        )?;
        let display = format!(":{}", first_line(&mut xvfb)?);
        let mut bus = Group::spawn(
            Command::new("dbus-daemon")
                .args(["--session", "--nofork", "--print-address=1"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
        )?;
        let address = first_line(&mut bus)?;
        anyhow::ensure!(address.starts_with("unix:"), "the bus said {address:?}");
        let home = TempDir::with_prefix("edgecoder-desktop-")?;
        Ok(Self { display, bus: address, home, _xvfb: xvfb, _bus: bus })
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Puts a file into the app's data directory before it starts.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        std::fs::create_dir_all(self.data_dir())?;
        std::fs::write(self.data_dir().join(name), bytes).context("writing a file for the app")
    }

    /// What every program on this desktop gets.
    pub(crate) fn dress(&self, command: &mut Command) {
        command
            .env("DISPLAY", &self.display)
            .env("DBUS_SESSION_BUS_ADDRESS", &self.bus)
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path())
            .env("EDGECODER_DATA_DIR", self.data_dir())
            .env("EDGECODER_RUNNER_BIN", programs::runner())
            .env("EDGECODER_ASSETS_DIR", programs::assets())
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CONFIG_HOME");
    }

    /// The same, for a program that was installed: it has to find its own parts.
    pub(crate) fn dress_installed(&self, command: &mut Command) {
        self.dress(command);
        command.env_remove("EDGECODER_RUNNER_BIN").env_remove("EDGECODER_ASSETS_DIR");
    }

    /// The app itself, started without a driver.
    pub(crate) fn app(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        self.dress(&mut command);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}
