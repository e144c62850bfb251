//! The tray icon and its menu.
//!
//! On Linux the menu is made once and only its lines change: the indicator library cannot replace
//! a menu, gives no clicks on the icon, and is loaded when the program runs. So "Open EdgeCoder" is
//! a line, and a missing library or a desktop without a tray is a warning, never an error.

mod state;

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use agent_api::{
    endpoint::{GetHealth, Nothing, PauseNode, ResumeNode},
    host::HostState,
    node::Pause,
};
use agent_core::{config::Paths, supervisor::Supervisor};
use tauri::{
    AppHandle, Manager as _,
    image::Image,
    menu::{Menu, MenuId, MenuItem, PredefinedMenuItem},
    tray::{TrayIcon, TrayIconBuilder},
};
use tokio::sync::Notify;

use crate::{app::Shell, door, quit, window};
use state::{Glyph, Switch, TrayState};

/// How often the node is asked; the product's specification names it.
const POLL: Duration = Duration::from_secs(5);

/// While the node starts or stops the next change is near, and a menu that lags looks broken.
const POLL_SOON: Duration = Duration::from_secs(1);

const HOUR_S: u64 = 60 * 60;

/// The icons are drawn in one colour. macOS paints them in the colour of its menu bar; elsewhere
/// they get this grey, which is readable on light and on dark panels (at least 3.9 to 1 on both
/// white and black).
const PANEL_GREY: [u8; 3] = [0x80, 0x80, 0x80];

/// The lines of the menu, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TrayItem {
    Status,
    Open,
    Model,
    /// Pauses or resumes, as its text says.
    Switch,
    PauseHour,
    Quit,
}

impl TrayItem {
    const ALL: [Self; 6] =
        [Self::Status, Self::Open, Self::Model, Self::Switch, Self::PauseHour, Self::Quit];

    fn id(self) -> &'static str {
        match self {
            Self::Status => "tray::status",
            Self::Open => "tray::open",
            Self::Model => "tray::model",
            Self::Switch => "tray::switch",
            Self::PauseHour => "tray::pause-hour",
            Self::Quit => "tray::quit",
        }
    }
}

impl From<TrayItem> for MenuId {
    fn from(item: TrayItem) -> Self {
        Self::new(item.id())
    }
}

/// The menu event came from something that is not in the tray's menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NotInTray;

impl TryFrom<&MenuId> for TrayItem {
    type Error = NotInTray;

    fn try_from(id: &MenuId) -> Result<Self, NotInTray> {
        Self::ALL.into_iter().find(|item| item.id() == id.as_ref()).ok_or(NotInTray)
    }
}

/// The icon, and the lines that change.
pub(crate) struct Tray {
    icon: TrayIcon,
    status: MenuItem<tauri::Wry>,
    model: MenuItem<tauri::Wry>,
    switch: MenuItem<tauri::Wry>,
    pause_hour: MenuItem<tauri::Wry>,
    /// What the switch does now: what the person saw when clicking it.
    offered: Mutex<Switch>,
    /// Something was done that the tray should show before the next poll.
    look_again: Notify,
}

/// Puts the icon into the tray.
pub(crate) fn build(app: &AppHandle, paths: &Paths) -> anyhow::Result<Tray> {
    library_loads()?;
    // The library's binding panics where an error would do; it must not take the node with it.
    let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| put_up(app, paths)));
    match built {
        Ok(tray) => Ok(tray?),
        Err(_) => anyhow::bail!("the indicator library does not work on this system"),
    }
}

/// Looked at before the binding does, which would panic.
#[cfg(target_os = "linux")]
fn library_loads() -> anyhow::Result<()> {
    for name in ["libayatana-appindicator3.so.1", "libappindicator3.so.1"] {
        #[allow(unsafe_code, reason = "the same library that the tray loads right after this")]
        // SAFETY: loading runs the library's initialisers; this one is made to be loaded so.
        let library = unsafe { libloading::Library::new(name) };
        if let Ok(library) = library {
            // GTK libraries register types and must stay loaded.
            std::mem::forget(library);
            return Ok(());
        }
    }
    anyhow::bail!(
        "libayatana-appindicator3 is not installed (Debian and Ubuntu: apt install \
         libayatana-appindicator3-1)"
    )
}

#[cfg(not(target_os = "linux"))]
fn library_loads() -> anyhow::Result<()> {
    Ok(())
}

fn put_up(app: &AppHandle, paths: &Paths) -> tauri::Result<Tray> {
    let first = TrayState::from(&HostState::Starting, None);
    let item = |item: TrayItem, text: &str, enabled| {
        MenuItem::with_id(app, item, menu_text(text), enabled, None::<&str>)
    };
    let status = item(TrayItem::Status, &first.status, false)?;
    let open = item(TrayItem::Open, "Open EdgeCoder", true)?;
    let model = item(TrayItem::Model, &first.model, true)?;
    let switch = item(TrayItem::Switch, switch_text(first.switch), false)?;
    let pause_hour = item(TrayItem::PauseHour, "Pause for 1 hour", false)?;
    let quit = item(TrayItem::Quit, "Quit EdgeCoder", true)?;
    let line = || PredefinedMenuItem::separator(app);
    let menu = Menu::with_items(
        app,
        &[&status, &open, &line()?, &model, &switch, &pause_hour, &line()?, &quit],
    )?;
    let folder = icon_folder(paths, std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from));
    // Each picture shown is a new file; those of a run that was killed are nobody's any more.
    let _ = std::fs::remove_dir_all(&folder);
    let icon = TrayIconBuilder::with_id("edgecoder")
        .icon(picture(first.glyph))
        .icon_as_template(true)
        .tooltip(&first.status)
        .menu(&menu)
        .show_menu_on_left_click(true)
        .temp_dir_path(folder)
        .on_menu_event(|app, event| {
            if let Ok(item) = TrayItem::try_from(event.id()) {
                on_click(app, item);
            }
        })
        .build(app)?;
    let offered = Mutex::new(first.switch);
    Ok(Tray { icon, status, model, switch, pause_hour, offered, look_again: Notify::new() })
}

/// The indicator shows a file. The default place is in the shared temporary folder, where another
/// user may have been first.
fn icon_folder(paths: &Paths, runtime_dir: Option<PathBuf>) -> PathBuf {
    runtime_dir
        .filter(|dir| dir.is_dir())
        .map_or_else(|| paths.data_dir.join("tray"), |dir| dir.join("edgecoder-tray"))
}

fn on_click(app: &AppHandle, item: TrayItem) {
    match item {
        TrayItem::Status => {}
        TrayItem::Open => window::show(app),
        TrayItem::Model => window::show_panel(app, "/models"),
        TrayItem::Switch => {
            let offered = app.state::<Shell>().tray.as_ref().map(Tray::offered);
            match offered {
                Some(Switch::Pause) => pause(app, Some(Pause { for_s: None })),
                Some(Switch::Resume) => pause(app, None),
                Some(Switch::Off) | None => {}
            }
        }
        TrayItem::PauseHour => pause(app, Some(Pause { for_s: Some(HOUR_S) })),
        TrayItem::Quit => quit::quit(app),
    }
}

/// Pauses the node, or resumes it with `None`.
fn pause(app: &AppHandle, pause: Option<Pause>) {
    let app = app.clone();
    tauri::async_runtime::spawn(async move {
        let shell = app.state::<Shell>();
        let done = match pause {
            Some(pause) => door::post::<PauseNode>(&shell.supervisor, &pause).await,
            None => door::post::<ResumeNode>(&shell.supervisor, &Nothing {}).await,
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the tray could not pause or resume the node");
        }
        if let Some(tray) = &shell.tray {
            tray.look_again.notify_one();
        }
    });
}

/// Keeps the tray up to date until the program ends.
pub(crate) fn follow(app: &AppHandle) {
    let app = app.clone();
    tauri::async_runtime::spawn(async move {
        let shell = app.state::<Shell>();
        let Some(tray) = &shell.tray else { return };
        let mut host = shell.supervisor.state();
        let mut shown = None;
        loop {
            let now = host.borrow_and_update().clone();
            let state = read(&shell.supervisor, &now).await;
            if let Err(error) = tray.show(&state, shown.as_ref()) {
                tracing::warn!(%error, "the tray cannot be updated");
            }
            let poll = if state.is_passing() { POLL_SOON } else { POLL };
            shown = Some(state);
            tokio::select! {
                () = tokio::time::sleep(poll) => {}
                () = tray.look_again.notified() => {}
                changed = host.changed() => if changed.is_err() { return },
            }
        }
    });
}

async fn read(supervisor: &Supervisor, host: &HostState) -> TrayState {
    let health = match host {
        HostState::Running => door::get::<GetHealth>(supervisor).await.ok(),
        _ => None,
    };
    TrayState::from(host, health.as_ref())
}

impl Tray {
    fn offered(&self) -> Switch {
        *self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what differs from `shown`; each change is a message to the panel.
    fn show(&self, new: &TrayState, shown: Option<&TrayState>) -> tauri::Result<()> {
        if shown == Some(new) {
            return Ok(());
        }
        if shown.is_none_or(|old| old.glyph != new.glyph) {
            self.icon.set_icon_with_as_template(Some(picture(new.glyph)), true)?;
        }
        self.icon.set_tooltip(Some(&new.status))?;
        self.status.set_text(menu_text(&new.status))?;
        self.model.set_text(menu_text(&new.model))?;
        *self.offered.lock().unwrap_or_else(PoisonError::into_inner) = new.switch;
        self.switch.set_text(switch_text(new.switch))?;
        self.switch.set_enabled(new.switch != Switch::Off)?;
        self.pause_hour.set_enabled(new.switch != Switch::Off)
    }
}

fn switch_text(switch: Switch) -> &'static str {
    match switch {
        Switch::Pause | Switch::Off => "Pause",
        Switch::Resume => "Resume",
    }
}

/// `&` marks a shortcut letter in a menu; two of them are the character.
fn menu_text(text: &str) -> String {
    text.replace('&', "&&")
}

fn picture(glyph: Glyph) -> Image<'static> {
    let image = match glyph {
        Glyph::Idle => tauri::include_image!("../icons/tray-idle.png"),
        Glyph::Serving => tauri::include_image!("../icons/tray-serving.png"),
        Glyph::Paused => tauri::include_image!("../icons/tray-paused.png"),
        Glyph::Error => tauri::include_image!("../icons/tray-error.png"),
        Glyph::Offline => tauri::include_image!("../icons/tray-offline.png"),
    };
    if cfg!(target_os = "macos") {
        return image;
    }
    let (width, height) = (image.width(), image.height());
    Image::new_owned(painted(image.rgba(), PANEL_GREY), width, height)
}

/// The same shape in another colour: only the transparency of each point stays.
fn painted(rgba: &[u8], [r, g, b]: [u8; 3]) -> Vec<u8> {
    rgba.chunks_exact(4).flat_map(|point| [r, g, b, point[3]]).collect()
}

/// Whether the desktop shows tray icons now. Without it a hidden window would be out of reach.
///
/// On Linux the panel answers to a name on the session bus. Old panels that know only the X11
/// tray do not; there closing the window quits, which loses nothing.
pub(crate) async fn has_host() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
        let answer = tokio::time::timeout(ANSWERS_WITHIN, watcher_has_host()).await;
        matches!(answer, Ok(Ok(true)))
    }
    #[cfg(not(target_os = "linux"))]
    true
}

#[cfg(target_os = "linux")]
async fn watcher_has_host() -> zbus::Result<bool> {
    const WATCHER: &str = "org.kde.StatusNotifierWatcher";
    let bus = zbus::Connection::session().await?;
    let property = (WATCHER, "IsStatusNotifierHostRegistered");
    let answer = bus
        .call_method(
            Some(WATCHER),
            "/StatusNotifierWatcher",
            Some("org.freedesktop.DBus.Properties"),
            "Get",
            &property,
        )
        .await?;
    let value: zbus::zvariant::OwnedValue = answer.body().deserialize()?;
    Ok(value.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_line_is_found_by_its_id() {
        for item in TrayItem::ALL {
            assert_eq!(TrayItem::try_from(&MenuId::from(item)), Ok(item));
        }
        assert_eq!(TrayItem::try_from(&MenuId::new("edit::copy")), Err(NotInTray));
    }

    #[test]
    fn the_five_pictures_differ_and_are_readable_on_any_panel() {
        let glyphs = [Glyph::Idle, Glyph::Serving, Glyph::Paused, Glyph::Error, Glyph::Offline];
        let pictures = glyphs.map(|glyph| picture(glyph).rgba().to_vec());
        for (n, one) in pictures.iter().enumerate() {
            assert!(one.chunks_exact(4).any(|point| point[3] > 0x80), "something is drawn");
            assert!(pictures[n + 1..].iter().all(|other| other != one));
            if !cfg!(target_os = "macos") {
                assert!(one.chunks_exact(4).all(|point| point[..3] == PANEL_GREY));
            }
        }
    }

    #[test]
    fn an_ampersand_in_a_name_is_no_shortcut() {
        assert_eq!(menu_text("Model: R&D_q8"), "Model: R&&D_q8");
    }

    #[test]
    fn icons_are_not_kept_in_the_shared_temporary_folder() {
        let paths = Paths { data_dir: PathBuf::from("/data") };
        let own = Path::new("/data/tray");
        assert_eq!(icon_folder(&paths, None), own);
        assert_eq!(icon_folder(&paths, Some("/no/such/folder".into())), own);
        let runtime = std::env::temp_dir();
        assert_eq!(icon_folder(&paths, Some(runtime.clone())), runtime.join("edgecoder-tray"));
    }
}
