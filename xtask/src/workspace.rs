//! Where things are: the checkout, cargo's target directory, and what lies in them.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

pub(crate) struct Workspace {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, wherever it was configured.
    pub(crate) target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root =
            manifest.parent().context("xtask lies in the root of the checkout")?.to_path_buf();
        // This program is TARGET/debug/xtask. Asking where it is gives the right answer however the
        // target directory was chosen (environment, cargo configuration or the default).
        let exe = env::current_exe().context("finding this program's own path")?;
        let target = exe
            .ancestors()
            .nth(2)
            .context("xtask runs from a cargo target directory")?
            .to_path_buf();
        Ok(Self { root, target })
    }

    /// The page, ready to be served or embedded.
    pub(crate) fn page(&self) -> PathBuf {
        self.root.join("ui/dist")
    }

    /// The model that ships.
    pub(crate) fn assets(&self) -> PathBuf {
        self.root.join("agent-core/assets")
    }

    /// What setup and the page builder remember between runs.
    pub(crate) fn remembered(&self, name: &str) -> PathBuf {
        self.target.join("xtask").join(name)
    }

    /// Built programs of a profile.
    pub(crate) fn programs(&self, profile: Profile) -> PathBuf {
        self.target.join(profile.directory())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// Quick to build, large and slow
    Dev,
    /// Release code without link-time optimisation
    E2e,
    /// What is handed out
    Release,
}

impl Profile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::E2e => "e2e",
            Self::Release => "release",
        }
    }

    /// Cargo calls the folder of its `dev` profile `debug`.
    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            other => other.name(),
        }
    }
}

/// `1 234 567` bytes as `1.2 MB`, as file managers count.
pub(crate) fn size_text(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let megabytes = bytes as f64 / 1e6;
    if megabytes < 1.0 {
        format!("{} kB", bytes.div_ceil(1000))
    } else {
        format!("{megabytes:.1} MB")
    }
}

pub(crate) fn size_of(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len())
}

#[cfg(test)]
mod tests {
    use super::{Profile, size_text};

    #[test]
    fn sizes_read_like_a_file_manager() {
        assert_eq!(size_text(900), "1 kB");
        assert_eq!(size_text(999_999), "1000 kB");
        assert_eq!(size_text(1_550_000), "1.6 MB");
    }

    #[test]
    fn dev_programs_lie_in_debug() {
        assert_eq!(Profile::Dev.directory(), "debug");
        assert_eq!(Profile::E2e.directory(), "e2e");
    }
}
