//! System packages, through the system's package manager.

use std::{fs, path::Path};

use anyhow::{Result, bail};

use crate::{
    program::{Program, is_on_path},
    steps::note,
};

/// Compilers and what builds llama.cpp and its bindings (libclang is for bindgen).
const BUILD: [&str; 5] = ["build-essential", "pkg-config", "cmake", "clang", "libclang-dev"];
/// The desktop app: WebKitGTK (which brings GTK 3), D-Bus, and the tray library, loaded at run time.
const DESKTOP: [&str; 3] = ["libwebkit2gtk-4.1-dev", "libdbus-1-dev", "libayatana-appindicator3-1"];
/// A virtual display, a private session bus, the webview's WebDriver, something to draw text with,
/// screenshots of the whole display, a Python that can make virtual environments, a real registry to
/// pull models from, what its speed is compared with, and what makes networks of namespaces and NATs.
const TESTS: [&str; 12] = [
    "xvfb",
    "xauth",
    "dbus",
    "webkit2gtk-driver",
    "fonts-dejavu-core",
    "imagemagick",
    "python3-venv",
    REGISTRY,
    "curl",
    "iproute2",
    "nftables",
    "util-linux",
];
const REGISTRY: &str = "docker-registry";
/// Its package starts a registry on all network interfaces, now and at every boot. The tests start
/// their own on loopback, so nobody should get one that they did not ask for.
const REGISTRY_UNIT: &str = "docker-registry.service";
/// Not everywhere: Ubuntu has Chromium only as a snap, which does not run in a container.
const TESTS_OPTIONAL: [&str; 2] = ["chromium", "chromium-driver"];
/// A clean root to install the package into.
const LONG: [&str; 1] = ["debootstrap"];

#[derive(Debug, Default)]
pub(crate) struct Packages {
    pub(crate) required: Vec<&'static str>,
    /// Done without when the distribution has no real package; what is lost is said.
    pub(crate) optional: Vec<&'static str>,
}

impl Packages {
    pub(crate) fn wanted(headless: bool, tests: bool, long: bool) -> Self {
        let mut wanted = Self { required: BUILD.to_vec(), optional: Vec::new() };
        if !headless {
            wanted.required.extend(DESKTOP);
        }
        if tests {
            wanted.required.extend(TESTS);
            wanted.optional.extend(TESTS_OPTIONAL);
        }
        if long {
            wanted.required.extend(LONG);
        }
        wanted
    }
}

pub(crate) fn ensure(wanted: &Packages) -> Result<()> {
    if is_on_path("apt-get") && is_on_path("dpkg-query") {
        ensure_with_apt(wanted)
    } else {
        check_without_apt(wanted)
    }
}

fn ensure_with_apt(wanted: &Packages) -> Result<()> {
    let all: Vec<_> = wanted.required.iter().chain(&wanted.optional).copied().collect();
    let known = Program::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Abbrev}\n"])
        .args(&all)
        .quiet_output()
        .unwrap_or_default();
    let mut install = missing(&wanted.required, &known);
    let optional = missing(&wanted.optional, &known);
    if install.is_empty() && optional.is_empty() {
        note(&format!("system packages: installed ({} looked for)", all.len()));
        return Ok(());
    }
    if !install.is_empty() || !has_package_lists(Path::new("/var/lib/apt/lists")) {
        // A mirror that does not answer is no reason to stop: the lists may be good enough.
        if apt(&["update", "-q"])?.run().is_err() {
            note("the package lists could not be refreshed; going on with those at hand");
        }
    }
    for name in optional {
        let policy = Program::new("apt-cache")
            .env("LC_ALL", "C")
            .args(["policy", name])
            .quiet_output()
            .unwrap_or_default();
        if has_real_candidate(&policy) {
            install.push(name);
        } else {
            note(&format!(
                "skipping {name}: this distribution has no package of it (tests that need it say so and are skipped)"
            ));
        }
    }
    if install.is_empty() {
        return Ok(());
    }
    note(&format!("installing {} system packages: {}", install.len(), install.join(" ")));
    if install.contains(&REGISTRY) {
        mask_registry()?;
    }
    apt(&["install", "-y", "-q", "--no-install-recommends"])?
        .args(&install)
        .fix(format!(
            "run it by hand and read what apt says: sudo apt-get update && sudo apt-get install {}",
            install.join(" ")
        ))
        .run()
}

/// Keeps systemd from starting the registry when its package is installed. A unit may be masked
/// before it is there, and the package's scripts respect that. Without systemd (containers) their
/// `policy-rc.d` does the same.
fn mask_registry() -> Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    note(&format!(
        "masking {REGISTRY_UNIT}, so that installing it starts no server (to undo: systemctl unmask {REGISTRY_UNIT})"
    ));
    as_root("systemctl", &["mask", REGISTRY_UNIT])?
        .fix(format!(
            "run it by hand and read what systemctl says: sudo systemctl mask {REGISTRY_UNIT}"
        ))
        .run()
}

/// apt-get as root, never asking questions.
fn apt(args: &[&str]) -> Result<Program> {
    as_root("apt-get", args)
}

fn as_root(name: &str, args: &[&str]) -> Result<Program> {
    let as_root = Program::new("id").arg("-u").quiet_output().is_some_and(|id| id.trim() == "0");
    let program = if as_root {
        Program::new("env")
    } else if is_on_path("sudo") {
        Program::new("sudo").arg("env")
    } else {
        bail!(
            "system packages are missing and there is no sudo\n  fix: as root, run: {name} {}",
            args.join(" ")
        );
    };
    // After sudo, which does not pass the environment on.
    Ok(program.args(["DEBIAN_FRONTEND=noninteractive", name]).args(args))
}

/// The names that dpkg does not list as installed.
fn missing(names: &[&'static str], dpkg: &str) -> Vec<&'static str> {
    let installed = |name: &str| {
        dpkg.lines().any(|line| {
            line.split_once(' ')
                .is_some_and(|(package, status)| package == name && status.starts_with("ii"))
        })
    };
    names.iter().copied().filter(|name| !installed(name)).collect()
}

/// Whether `apt-cache policy` offers a package that holds the program itself: a transitional package
/// that only fetches a snap does not.
fn has_real_candidate(policy: &str) -> bool {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))
        .is_some_and(|version| version.trim() != "(none)" && !version.contains("snap"))
}

fn has_package_lists(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
        })
    })
}

/// Without apt: look for the tools themselves and name what is missing.
fn check_without_apt(wanted: &Packages) -> Result<()> {
    let mut needed = Vec::new();
    if !is_on_path("cmake") {
        needed.push("CMake");
    }
    if cfg!(target_os = "macos") {
        if !Program::new("xcode-select").arg("-p").succeeds() {
            needed.push("the Xcode command line tools");
        }
    } else {
        if !is_on_path("cc") && !is_on_path("clang") {
            needed.push("a C and C++ compiler");
        }
        if wanted.required.contains(&DESKTOP[0]) {
            let has =
                |module: &str| Program::new("pkg-config").args(["--exists", module]).succeeds();
            if !has("webkit2gtk-4.1") {
                needed.push("WebKitGTK 4.1 with its development files, and pkg-config");
            }
            if !has("dbus-1") {
                needed.push("the D-Bus development files");
            }
        }
    }
    if needed.is_empty() {
        note("system tools: found (no apt here; only the tools themselves were looked for)");
        return Ok(());
    }
    let fix = if cfg!(target_os = "macos") {
        "xcode-select --install; brew install cmake"
    } else {
        "install these with your package manager, then run this again"
    };
    bail!("missing: {}\n  fix: {fix}", needed.join("; "))
}

#[cfg(test)]
mod tests {
    use super::{Packages, has_real_candidate, missing};

    #[test]
    fn only_what_is_not_installed_is_missing() {
        // `rc`: removed, configuration left. A package that dpkg never saw has no line.
        let dpkg = "cmake ii \nclang rc \n";
        assert_eq!(missing(&["cmake", "clang", "xvfb"], dpkg), ["clang", "xvfb"]);
        assert!(missing(&["cmake"], dpkg).is_empty());
    }

    #[test]
    fn a_name_is_not_taken_for_a_longer_one() {
        assert_eq!(missing(&["chromium"], "chromium-driver ii \n"), ["chromium"]);
    }

    #[test]
    fn a_snap_in_disguise_is_no_candidate() {
        assert!(has_real_candidate(
            "chromium:\n  Installed: (none)\n  Candidate: 140.0-1~deb12u1\n"
        ));
        assert!(!has_real_candidate("chromium-browser:\n  Candidate: 2:1snap1-0ubuntu2\n"));
        assert!(!has_real_candidate("chromium:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_real_candidate(""));
    }

    #[test]
    fn only_tests_bring_a_registry() {
        assert!(!Packages::wanted(true, false, false).required.contains(&super::REGISTRY));
        assert!(Packages::wanted(true, true, false).required.contains(&super::REGISTRY));
    }

    #[test]
    fn a_headless_machine_gets_no_desktop_libraries() {
        let headless = Packages::wanted(true, false, false);
        assert!(headless.required.iter().all(|name| !name.contains("webkit")));
        assert!(headless.optional.is_empty());
    }
}
