//! Builds an installable package. So far that is a .deb; tauri-bundler writes it, as a library.

#[cfg(feature = "package")]
pub(crate) mod pack;

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    compile, page,
    program::Program,
    setup::{self, SetupOptions},
    steps::{Steps, note},
    workspace::{Profile, Workspace, size_of, size_text},
};

/// The programs in the package.
pub(crate) const PROGRAMS: [&str; 4] =
    ["edgecoder", "edgecoder-node", "edgecoder-runner", "edgecoder-sandbox"];

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BundleOptions {
    /// A package for Debian and Ubuntu
    #[arg(long, required = true)]
    deb: bool,
    /// How the programs are built
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
}

pub(crate) fn run(workspace: &Workspace, options: &BundleOptions) -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("a .deb is built on Linux\n  fix: run this on Debian or Ubuntu");
    }
    let mut steps = Steps::new(4);
    steps.step("Setting up", || setup::ensure(workspace, &SetupOptions::default()))?;
    steps.step("Building the page", || page::build(workspace, page::Kind::Release))?;
    steps.step(&format!("Building the programs ({} profile)", options.profile.name()), || {
        compile::programs(workspace, options.profile, false)
    })?;
    steps.step("Packing the .deb", || pack(workspace, options.profile).map(|_| ()))
}

/// Packs what is built already; quick when nothing changed.
pub(crate) fn pack(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let stage = stage(workspace, profile);
    let programs = workspace.programs(profile);
    let fingerprint = fingerprint(workspace, &programs)?;
    let stamp = stage.join("packed");
    let unchanged = fs::read_to_string(&stamp).is_ok_and(|known| known == fingerprint);
    if let (true, Ok(deb)) = (unchanged, packed(workspace, profile)) {
        note(&format!("{} is up to date", deb.display()));
        return Ok(deb);
    }
    stage_programs(&programs, &stage)?;
    Program::xtask_with(workspace, "package").arg("pack").arg("--stage").arg(&stage).run()?;
    fs::write(&stamp, fingerprint).with_context(|| format!("writing {}", stamp.display()))?;
    let deb = packed(workspace, profile)?;
    note(&format!("{} ({})", deb.display(), size_text(size_of(&deb)?)));
    Ok(deb)
}

/// Changes with anything that goes into a package. Programs are large: their size and time of change
/// stand for what is in them.
fn fingerprint(workspace: &Workspace, programs: &Path) -> Result<String> {
    let mut files: Vec<_> = PROGRAMS.iter().map(|name| programs.join(name)).collect();
    for folder in ["ui/dist", "agent-core/assets", "installers", "icons", "xtask/src/bundle"] {
        files.extend(page::files_below(&workspace.root.join(folder))?);
    }
    files.push(workspace.root.join("src-tauri/tauri.conf.json"));
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for file in files {
        let about = fs::metadata(&file).with_context(|| {
            format!("looking at {}, which goes into the package", file.display())
        })?;
        (&file, about.len(), about.modified()?).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// The package of a profile, once packed.
pub(crate) fn packed(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let folder = stage(workspace, profile).join("bundle/deb");
    let version = format!("_{}_", env!("CARGO_PKG_VERSION"));
    fs::read_dir(&folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.extension().is_some_and(|extension| extension == "deb")
                && path.file_name().is_some_and(|name| name.to_string_lossy().contains(&version))
        })
        .with_context(|| {
            format!("no package of version {} in {}", env!("CARGO_PKG_VERSION"), folder.display())
        })
}

/// Where a package of this profile is put together.
fn stage(workspace: &Workspace, profile: Profile) -> PathBuf {
    workspace.target.join("package").join(profile.name())
}

/// Copies of the programs, without debugging information: a development build carries hundreds of
/// megabytes of it. Copies also because the bundler writes into the main program.
fn stage_programs(from: &Path, stage: &Path) -> Result<()> {
    fs::create_dir_all(stage).with_context(|| format!("creating {}", stage.display()))?;
    for name in PROGRAMS {
        let copy = stage.join(name);
        let original = from.join(name);
        Program::new("strip")
            .arg("-o")
            .arg(&copy)
            .arg(&original)
            .fix("sudo apt-get install binutils")
            .run()?;
    }
    Ok(())
}
