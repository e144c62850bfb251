//! The .deb in a clean Debian: installed, used through its window, removed. Takes minutes and needs
//! root and debootstrap: `cargo xtask test --long`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use edgecoder_tests::skipped;
use tempfile::TempDir;

use crate::support::{desktop::Desktop, journey::first_visit, page::Page, process::free_port};

/// What is missing for this test, if anything.
fn missing(deb: Option<&Path>) -> Option<&'static str> {
    if std::env::var_os("EDGECODER_LONG").is_none() {
        return Some("it takes minutes (cargo xtask test --long)");
    }
    if deb.is_none_or(|deb| !deb.exists()) {
        return Some("no package was built");
    }
    if Command::new("debootstrap").arg("--version").output().is_err() {
        return Some("debootstrap is not installed (cargo xtask setup --tests --long)");
    }
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0"));
    (!root).then_some("it needs root for chroot")
}

/// A clean system in a folder.
struct Root {
    dir: TempDir,
}

impl Root {
    fn bootstrap() -> Result<Self> {
        let dir = TempDir::with_prefix("edgecoder-root-")?;
        let release = std::fs::read_to_string("/etc/os-release")?;
        let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let mut command = Command::new("debootstrap");
        command.args(["--variant=minbase", codename.context("a Debian release")?]).arg(dir.path());
        run(&mut command)?;
        // The machine's own package sources, whatever they are.
        for name in [
            "/etc/apt/sources.list",
            "/etc/apt/sources.list.d",
            "/etc/apt/apt.conf.d",
            "/etc/resolv.conf",
            "/etc/hosts",
        ] {
            if Path::new(name).exists() {
                let to = dir.path().join(&name[1..]);
                let _ = std::fs::remove_dir_all(&to).or_else(|_| std::fs::remove_file(&to));
                run(Command::new("cp").args(["-rL", name]).arg(to))?;
            }
        }
        let root = Self { dir };
        for (kind, from, to) in [("proc", "proc", "proc"), ("tmpfs", "tmpfs", "dev/shm")] {
            let to = root.dir.path().join(to);
            std::fs::create_dir_all(&to)?;
            run(Command::new("mount").args(["-t", kind, from]).arg(to))?;
        }
        Ok(root)
    }

    fn chroot(&self, command: &[&str]) -> Command {
        let mut chroot = Command::new("chroot");
        chroot.arg(self.dir.path()).args(command).env("DEBIAN_FRONTEND", "noninteractive");
        chroot
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for mounted in ["proc", "dev/shm", "tmp/.X11-unix"] {
            let _ = Command::new("umount").args(["-l"]).arg(self.dir.path().join(mounted)).output();
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[tokio::test]
async fn package_installs_works_and_goes_away() -> Result<()> {
    let deb = std::env::var_os("EDGECODER_DEB").map(PathBuf::from);
    if let Some(why) = missing(deb.as_deref()) {
        skipped(why);
        return Ok(());
    }
    let deb = deb.context("a package")?;
    let root = Root::bootstrap()?;
    std::fs::copy(&deb, root.path("/tmp/edgecoder.deb"))?;
    run(&mut root.chroot(&["apt-get", "update", "-q"]))?;
    run(&mut root.chroot(&[
        "apt-get",
        "install",
        "-y",
        "-q",
        "--no-install-recommends",
        "/tmp/edgecoder.deb",
        "webkit2gtk-driver",
    ]))?;
    for file in [
        "/usr/bin/edgecoder",
        "/usr/bin/edgecoder-node",
        "/usr/lib/edgecoder/edgecoder-runner",
        "/usr/lib/edgecoder/edgecoder-sandbox",
        "/usr/share/applications/edgecoder.desktop",
    ] {
        anyhow::ensure!(root.path(file).exists(), "{file} is installed");
    }
    uses_the_window(&root).await?;
    run(&mut root.chroot(&["apt-get", "remove", "-y", "-q", "edgecoder"]))?;
    for file in ["/usr/bin/edgecoder", "/usr/bin/edgecoder-node", "/usr/lib/edgecoder"] {
        anyhow::ensure!(!root.path(file).exists(), "{file} is gone");
    }
    Ok(())
}

/// The journey of `window.rs` on the installed program, inside the clean system: the driver and
/// the app run there; display and bus are reached through sockets that are bound into it.
async fn uses_the_window(root: &Root) -> Result<()> {
    let desktop = Desktop::start()?;
    let sockets = root.path("/tmp/.X11-unix");
    std::fs::create_dir_all(&sockets)?;
    run(Command::new("mount").args(["--bind", "/tmp/.X11-unix"]).arg(&sockets))?;
    let home = root.path("/root/data");
    std::fs::create_dir_all(&home)?;
    let settings = serde_json::json!({
        "version": 1,
        "listen": format!("127.0.0.1:{}", free_port()?),
        "mesh": { "lan": false, "port_mapping": false },
    });
    std::fs::write(home.join("settings.json"), settings.to_string())?;
    let dir = root.dir.path().to_path_buf();
    let dress = move |desktop: &Desktop, command: &mut Command| {
        desktop.dress_installed(command);
        // Seen from inside.
        command
            .env("HOME", "/root")
            .env("XDG_RUNTIME_DIR", "/root")
            .env("EDGECODER_DATA_DIR", "/root/data");
        command.env_remove("DBUS_SESSION_BUS_ADDRESS");
        let inner = std::mem::replace(command, Command::new("chroot"));
        command.arg(&dir).arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    };
    let page = Page::window("installed", &desktop, Path::new("/usr/bin/edgecoder"), dress).await?;
    page.run(async |page| first_visit(page).await).await
}
