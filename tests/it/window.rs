//! The desktop app in its own window: the real WebKitGTK webview under Xvfb.

use std::{net::TcpListener, process::Command};

use anyhow::{Context as _, Result};
use edgecoder_tests::{
    http::client,
    node::{is_alive, signal, wait},
    programs, skipped,
};
use serde_json::json;

use crate::support::{
    desktop::{Desktop, missing},
    journey::first_visit,
    page::Page,
    process::{Group, free_port},
};

/// A desktop for an app whose node listens on this port; `None` (and a line that says why) where
/// there cannot be one.
pub(crate) fn desktop(port: u16) -> Result<Option<Desktop>> {
    if let Some(what) = missing() {
        skipped(&what);
        return Ok(None);
    }
    let desktop = Desktop::start()?;
    let settings = json!({
        "version": 1,
        "listen": format!("127.0.0.1:{port}"),
        "mesh": { "lan": false, "port_mapping": false },
    })
    .to_string();
    desktop.file("settings.json", settings.as_bytes())?;
    Ok(Some(desktop))
}

#[tokio::test]
async fn window_a_new_user_finds_everything() -> Result<()> {
    let port = free_port()?;
    let Some(desktop) = desktop(port)? else { return Ok(()) };
    let app = programs::desktop().context("the app")?;
    let page = Page::window("webview", &desktop, &app, Desktop::dress).await?;
    page.run(async |page| {
        first_visit(page).await?;
        // The editors' door is open while the window is.
        let models: serde_json::Value =
            client().get(format!("http://127.0.0.1:{port}/v1/models")).send().await?.json().await?;
        anyhow::ensure!(models["data"][0]["id"] == "edgecoder-demo-4m", "{models}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn window_a_taken_port_is_explained_with_a_countdown_and_recovers() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let Some(desktop) = desktop(taken.local_addr()?.port())? else { return Ok(()) };
    let app = programs::desktop().context("the app")?;
    let page = Page::window("webview-port", &desktop, &app, Desktop::dress).await?;
    page.run(async |page| {
        page.text_when("#host-banner", |text| text.contains("in use")).await?;
        page.text_when("#host-countdown", |text| text.contains(char::is_numeric)).await?;
        page.screenshot("countdown").await?;
        drop(taken);
        // Unless the countdown was faster.
        page.script(
            "const b = document.querySelector('#restart-now'); if (b) b.click(); return null",
        )
        .await?;
        page.gone("#host-banner").await?;
        page.text_when("#status-headline", |text| text == "Ready").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn window_a_second_start_shows_the_first_and_ends() -> Result<()> {
    let Some(desktop) = desktop(free_port()?)? else { return Ok(()) };
    let app = programs::desktop().context("the app")?;
    let mut first = Group::spawn(&mut desktop.app(&app))?;
    wait_for_token(&desktop).await?;
    let mut second = Group::spawn(&mut desktop.app(&app))?;
    let status = wait(&mut second.child)?;
    anyhow::ensure!(status.success(), "the second ends well: {status}");
    anyhow::ensure!(is_alive(first.pid()), "the first stays");
    signal(first.pid(), "TERM")?;
    let status = wait(&mut first.child)?;
    anyhow::ensure!(status.code() == Some(0), "SIGTERM ends it cleanly: {status}");
    Ok(())
}

/// The node inside has started once its API answers.
pub(crate) async fn wait_for_token(desktop: &Desktop) -> Result<()> {
    let lock = desktop.data_dir().join("node.lock");
    let up = || async {
        let holder = std::fs::read_to_string(&lock).unwrap_or_default();
        let url = serde_json::from_str::<serde_json::Value>(&holder).ok();
        let url = url.as_ref().and_then(|holder| holder["url"].as_str());
        match url {
            Some(url) if !url.is_empty() => client()
                .get(format!("{url}/health/runtime"))
                .send()
                .await
                .is_ok_and(|r| r.status() == 200),
            _ => false,
        }
    };
    edgecoder_tests::node::eventually("the node in the app answers", up).await
}

#[test]
fn window_the_app_explains_itself_on_the_command_line() -> Result<()> {
    let Some(app) = programs::desktop() else {
        skipped("the desktop app is not built");
        return Ok(());
    };
    let help = Command::new(app).arg("--help").output()?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    anyhow::ensure!(help.contains("--data-dir"), "{help}");
    Ok(())
}
