//! The tray icon's menu, read and clicked over D-Bus: the test is the desktop's tray host.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use edgecoder_tests::{
    node::{eventually, wait},
    programs::{self, PATIENCE},
};
use tokio::sync::mpsc;
use zbus::{
    Connection, Proxy, interface,
    message::Header,
    object_server::SignalEmitter,
    zvariant::{OwnedObjectPath, OwnedValue, Value},
};

use crate::{
    support::process::{Group, free_port},
    window::{desktop, wait_for_token},
};

/// `org.kde.StatusNotifierWatcher`, which panels run and icons register with.
struct Watcher {
    items: mpsc::Sender<(String, String)>,
}

#[interface(name = "org.kde.StatusNotifierWatcher")]
impl Watcher {
    async fn register_status_notifier_item(
        &self,
        service: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) {
        let sender = header.sender().map(ToString::to_string).unwrap_or_default();
        // Ayatana registers with a path, others with a bus name.
        let item = if service.starts_with('/') {
            (sender, service)
        } else {
            (service, "/StatusNotifierItem".to_owned())
        };
        let _ = Self::status_notifier_item_registered(&emitter, &item.0).await;
        let _ = self.items.send(item).await;
    }

    fn register_status_notifier_host(&self, _service: &str) {}

    #[zbus(property)]
    fn registered_status_notifier_items(&self) -> Vec<String> {
        Vec::new()
    }

    #[zbus(property)]
    fn is_status_notifier_host_registered(&self) -> bool {
        true
    }

    #[zbus(property)]
    fn protocol_version(&self) -> i32 {
        0
    }

    #[zbus(signal)]
    async fn status_notifier_item_registered(
        emitter: &SignalEmitter<'_>,
        service: &str,
    ) -> zbus::Result<()>;
}

type Layout = (i32, HashMap<String, OwnedValue>, Vec<OwnedValue>);

/// One line of the menu.
#[derive(Debug)]
struct Line {
    id: i32,
    label: String,
    enabled: bool,
}

struct Menu {
    item: Proxy<'static>,
    menu: Proxy<'static>,
}

impl Menu {
    async fn find(
        connection: &Connection,
        items: &mut mpsc::Receiver<(String, String)>,
    ) -> Result<Self> {
        let registered = tokio::time::timeout(PATIENCE, items.recv()).await;
        let (bus, path) = registered.context("no icon came")?.context("the watcher is gone")?;
        // The icon's properties change without the signal that a cache waits for.
        let item: Proxy<'_> = zbus::proxy::Builder::new(connection)
            .destination(bus.clone())?
            .path(path)?
            .interface("org.kde.StatusNotifierItem")?
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        let path: OwnedObjectPath = item.get_property("Menu").await?;
        let menu = Proxy::new(connection, bus, path, "com.canonical.dbusmenu").await?;
        Ok(Self { item, menu })
    }

    async fn lines(&self) -> Result<Vec<Line>> {
        let _: bool = self.menu.call("AboutToShow", &(0_i32)).await.unwrap_or(false);
        let asked = (0_i32, -1_i32, Vec::<&str>::new());
        let (_, root): (u32, Layout) = self.menu.call("GetLayout", &asked).await?;
        let mut lines = Vec::new();
        flatten(root, &mut lines)?;
        Ok(lines)
    }

    async fn labels(&self) -> Vec<String> {
        let lines = self.lines().await.unwrap_or_default();
        lines.into_iter().map(|line| line.label).collect()
    }

    async fn line_when(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<Line> {
        eventually(what, || async { self.labels().await.iter().any(|label| wanted(label)) })
            .await
            .with_context(|| {
                format!("no line in {:?}", futures_util::FutureExt::now_or_never(self.labels()))
            })?;
        self.lines().await?.into_iter().find(|line| wanted(&line.label)).context(what.to_owned())
    }

    async fn click(&self, line: &Line) -> Result<()> {
        let event = (line.id, "clicked", Value::from(0_i32), 0_u32);
        Ok(self.menu.call("Event", &event).await?)
    }

    async fn icon(&self) -> Result<String> {
        let name: OwnedValue = self.item.get_property("IconName").await?;
        Ok(String::try_from(name)?)
    }
}

fn flatten((id, properties, children): Layout, lines: &mut Vec<Line>) -> Result<()> {
    let text = |name: &str| {
        let value = properties.get(name)?;
        String::try_from(value.try_clone().ok()?).ok()
    };
    if let Some(label) = text("label") {
        let enabled =
            properties.get("enabled").and_then(|v| bool::try_from(v).ok()).unwrap_or(true);
        lines.push(Line { id, label: label.replace('_', ""), enabled });
    }
    for child in children {
        flatten(Layout::try_from(child)?, lines)?;
    }
    Ok(())
}

#[tokio::test]
async fn tray_menu_shows_the_state_and_does_what_it_says() -> Result<()> {
    let Some(desktop) = desktop(free_port()?)? else { return Ok(()) };
    let (sender, mut items) = mpsc::channel(8);
    // The watcher is there before the app, as on a desktop.
    let connection = zbus::connection::Builder::address(desktop.bus.as_str())?
        .serve_at("/StatusNotifierWatcher", Watcher { items: sender })?
        .name("org.kde.StatusNotifierWatcher")?
        .build()
        .await?;
    let app = programs::desktop().context("the app")?;
    let mut running = Group::spawn(&mut desktop.app(&app))?;
    let menu = Menu::find(&connection, &mut items).await?;

    let status = menu.line_when("the idle state", |label| label.starts_with("Idle")).await?;
    anyhow::ensure!(!status.enabled, "the first line is information: {status:?}");
    let labels = menu.labels().await;
    for wanted in ["Open EdgeCoder", "Pause", "Quit EdgeCoder"] {
        anyhow::ensure!(
            labels.iter().any(|label| label == wanted),
            "{wanted} is not in {labels:?}"
        );
    }
    anyhow::ensure!(
        labels.iter().any(|l| l.contains("edgecoder-demo-4m")),
        "the model: {labels:?}"
    );
    let idle = menu.icon().await?;

    let pause = menu.line_when("Pause", |label| label == "Pause").await?;
    menu.click(&pause).await?;
    menu.line_when("the paused state", |label| label.starts_with("Paused")).await?;
    let resume = menu.line_when("Resume", |label| label == "Resume").await?;
    let paused = menu.icon().await?;
    anyhow::ensure!(idle != paused, "the icon shows the state: {idle} and {paused}");
    menu.click(&resume).await?;
    menu.line_when("the idle state again", |label| label.starts_with("Idle")).await?;

    let quit = menu.line_when("Quit", |label| label == "Quit EdgeCoder").await?;
    menu.click(&quit).await?;
    let status = wait(&mut running.child)?;
    anyhow::ensure!(status.code() == Some(0), "Quit ends it cleanly: {status}");
    Ok(())
}

#[tokio::test]
async fn tray_a_desktop_without_a_tray_is_no_reason_to_fail() -> Result<()> {
    let Some(desktop) = desktop(free_port()?)? else { return Ok(()) };
    let app = programs::desktop().context("the app")?;
    let mut running = Group::spawn(&mut desktop.app(&app))?;
    wait_for_token(&desktop).await?;
    edgecoder_tests::node::signal(running.pid(), "TERM")?;
    let status = wait(&mut running.child)?;
    anyhow::ensure!(status.code() == Some(0), "{status}");
    Ok(())
}
