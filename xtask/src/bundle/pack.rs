//! What goes where in the .deb, and what it depends on.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tauri_bundler::bundle::{
    BundleBinary, BundleSettings, DebianSettings, PackageSettings, PackageType, SettingsBuilder,
    bundle_project,
};

use super::PROGRAMS;
use crate::{program::Program, workspace::Workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct PackOptions {
    /// The folder that holds the stripped programs
    #[arg(long)]
    stage: PathBuf,
}

pub(crate) fn run(workspace: &Workspace, options: &PackOptions) -> Result<()> {
    let configuration = workspace.root.join("src-tauri/tauri.conf.json");
    let text = fs::read_to_string(&configuration)
        .with_context(|| format!("reading {}", configuration.display()))?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .with_context(|| format!("reading {}", configuration.display()))?;
    let identifier =
        json["identifier"].as_str().context("src-tauri/tauri.conf.json names an identifier")?;
    // A package of an earlier version must not be taken for this one.
    let out = options.stage.join("bundle");
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("removing {}", out.display()))?;
    }
    let icons = ["32x32.png", "128x128.png", "128x128@2x.png", "icon.png"];
    let settings = SettingsBuilder::new()
        .project_out_directory(&options.stage)
        .package_types(vec![PackageType::Deb])
        .binaries(vec![
            BundleBinary::new("edgecoder".into(), true),
            BundleBinary::new("edgecoder-node".into(), false),
        ])
        .package_settings(PackageSettings {
            // Names the package, its files and its folders; people read the name in the .desktop file.
            product_name: "edgecoder".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "Share your computer's AI, or use it alone".into(),
            homepage: None,
            authors: Some(vec!["The EdgeCoder developers".into()]),
            default_run: Some("edgecoder".into()),
        })
        .bundle_settings(BundleSettings {
            identifier: Some(identifier.into()),
            icon: Some(
                icons
                    .iter()
                    .map(|icon| workspace.root.join("icons").join(icon).display().to_string())
                    .collect(),
            ),
            short_description: Some(
                "run language models on this computer, with a desktop app".into(),
            ),
            long_description: Some(LONG_DESCRIPTION.into()),
            deb: DebianSettings {
                depends: Some(dependencies(&options.stage)?),
                section: Some("net".into()),
                files: files(workspace, &options.stage),
                desktop_template: Some(workspace.root.join("installers/edgecoder.desktop")),
                ..DebianSettings::default()
            },
            ..BundleSettings::default()
        })
        .build()?;
    bundle_project(&settings)?;
    Ok(())
}

const LONG_DESCRIPTION: &str = "EdgeCoder runs a language model on this computer and offers it to editors and scripts\n\
     through an OpenAI-compatible interface on 127.0.0.1. This package holds the desktop app,\n\
     the headless node with its command line (edgecoder-node), and a small demonstration model.";

/// Everything besides the programs in /usr/bin, the .desktop file and the PNG icons, which the bundler
/// places by itself.
fn files(workspace: &Workspace, stage: &Path) -> HashMap<PathBuf, PathBuf> {
    let root = &workspace.root;
    let model = "edgecoder-demo-4m-q8_0.gguf";
    [
        ("/usr/lib/edgecoder/edgecoder-runner".into(), stage.join("edgecoder-runner")),
        ("/usr/lib/edgecoder/edgecoder-sandbox".into(), stage.join("edgecoder-sandbox")),
        (format!("/usr/lib/edgecoder/models/{model}"), workspace.assets().join(model)),
        ("/usr/lib/edgecoder/ui".into(), workspace.page()),
        (
            "/usr/lib/systemd/user/edgecoder-node.service".into(),
            root.join("installers/edgecoder-node.service"),
        ),
        (
            "/usr/share/metainfo/dev.edgecoder.desktop.metainfo.xml".into(),
            root.join("installers/dev.edgecoder.desktop.metainfo.xml"),
        ),
        (
            "/usr/share/icons/hicolor/scalable/apps/edgecoder.svg".into(),
            root.join("icons/app-icon.svg"),
        ),
        ("/usr/share/doc/edgecoder/copyright".into(), root.join("installers/copyright")),
    ]
    .into_iter()
    .map(|(place, source): (String, PathBuf)| (PathBuf::from(place), source))
    .collect()
}

/// The packages that hold the libraries which the programs link, as Debian's own tool works them out for
/// the system that this is built on, and the ones that are loaded at run time.
fn dependencies(stage: &Path) -> Result<Vec<String>> {
    // dpkg-shlibdeps wants to stand in a source package; this is all that it looks at.
    let source = stage.join("shlibdeps");
    fs::create_dir_all(source.join("debian"))?;
    fs::write(
        source.join("debian/control"),
        "Source: edgecoder\n\nPackage: edgecoder\nArchitecture: any\n",
    )?;
    // It warns about programs that are not in a package's tree, which it knows by the DEBIAN folder.
    fs::create_dir_all(source.join("debian/edgecoder/DEBIAN"))?;
    let tree = source.join("debian/edgecoder/usr/bin");
    fs::create_dir_all(&tree)?;
    for name in PROGRAMS {
        fs::copy(stage.join(name), tree.join(name))?;
    }
    let output = Program::new("dpkg-shlibdeps")
        .dir(&source)
        .arg("-O")
        .args(PROGRAMS.map(|name| tree.join(name)))
        .fix("sudo apt-get install dpkg-dev")
        .output()?;
    let mut packages = parse_dependencies(&output).context("dpkg-shlibdeps named no packages")?;
    // Loaded by name when the tray is set up.
    packages.push("libayatana-appindicator3-1".into());
    Ok(packages)
}

/// Reads `shlibs:Depends=libc6 (>= 2.36), libgtk-3-0 (>= 3.24)`.
fn parse_dependencies(output: &str) -> Option<Vec<String>> {
    let list = output.lines().find_map(|line| line.strip_prefix("shlibs:Depends="))?;
    Some(
        list.split(',')
            .map(|package| package.trim().to_owned())
            .filter(|package| !package.is_empty())
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::parse_dependencies;

    #[test]
    fn dependencies_are_read_from_dpkg_shlibdeps() {
        let output = "shlibs:Depends=libc6 (>= 2.36), libgtk-3-0 (>= 3.24) | libgtk-3-0t64\n";
        assert_eq!(
            parse_dependencies(output).unwrap(),
            ["libc6 (>= 2.36)", "libgtk-3-0 (>= 3.24) | libgtk-3-0t64"]
        );
        assert_eq!(parse_dependencies("something else\n"), None);
    }
}
