//! The one window: opened once, hidden rather than closed while the tray can bring it back.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use agent_api::Settings;
use agent_core::config::load_settings;
use tauri::{
    AppHandle, Manager as _, PhysicalPosition, PhysicalSize, Theme, WebviewUrl, WebviewWindow,
    WebviewWindowBuilder, WindowEvent, Wry,
    plugin::TauriPlugin,
    webview::{Color, NewWindowResponse},
};
use tauri_plugin_window_state::StateFlags;

use crate::{app::Shell, quit, tray};

const MAIN: &str = "main";
const SIZE: (f64, f64) = (1200.0, 800.0);
const MIN_SIZE: (f64, f64) = (900.0, 600.0);

/// The page's own background (`--surface`), so that nothing flashes before it is drawn.
const DARK: Color = Color(0x0f, 0x13, 0x14, 0xff);
const LIGHT: Color = Color(0xf6, 0xf8, 0xf7, 0xff);

/// A window can be moved by its title bar when this much of it is on a screen.
const GRIP: (i32, i32) = (120, 24);

/// At login the panel may come up after us. If none has by then, a hidden app is out of reach.
const TRAY_WAIT: Duration = Duration::from_secs(30);

/// Size and place are kept beside the node's data, so that two data folders do not share them.
pub(crate) fn remembers_its_place(file: &Path) -> TauriPlugin<Wry> {
    tauri_plugin_window_state::Builder::new()
        .with_state_flags(StateFlags::POSITION | StateFlags::SIZE | StateFlags::MAXIMIZED)
        .with_filename(file.to_string_lossy())
        .build()
}

/// Makes the window, still hidden.
pub(crate) fn open(app: &AppHandle) -> tauri::Result<()> {
    let web_data = app.state::<Shell>().paths.data_dir.join("webview");
    let window = WebviewWindowBuilder::new(app, MAIN, WebviewUrl::default())
        .title("EdgeCoder")
        .icon(tauri::include_image!("../icons/128x128.png"))?
        .inner_size(SIZE.0, SIZE.1)
        .min_inner_size(MIN_SIZE.0, MIN_SIZE.1)
        .prevent_overflow()
        .center()
        .visible(false)
        .data_directory(web_data)
        // The window shows our page and nothing else, whatever the page contains.
        .on_navigation(|url| url.scheme() == "tauri")
        .on_new_window(|_, _| NewWindowResponse::Deny)
        .build()?;
    let background = if window.theme()? == Theme::Dark { DARK } else { LIGHT };
    window.set_background_color(Some(background))?;
    #[cfg(target_os = "linux")]
    quit_on_ctrl_q(app, &window)?;
    Ok(())
}

/// Tauri has shortcuts only for menus, and a menu bar for one shortcut is not worth having. The
/// window hears keys before the page does, so this works even when the page hangs. On macOS the
/// system's own menu has Quit.
#[cfg(target_os = "linux")]
fn quit_on_ctrl_q(app: &AppHandle, window: &WebviewWindow) -> tauri::Result<()> {
    use gtk::{gdk::ModifierType, glib::Propagation, prelude::WidgetExt as _};
    let app = app.clone();
    window.gtk_window()?.connect_key_press_event(move |_, event| {
        let modifiers =
            ModifierType::CONTROL_MASK | ModifierType::SHIFT_MASK | ModifierType::MOD1_MASK;
        let control = event.state() & modifiers == ModifierType::CONTROL_MASK;
        if control && event.keyval().to_unicode().is_some_and(|key| key.eq_ignore_ascii_case(&'q'))
        {
            quit::quit(&app);
            return Propagation::Stop;
        }
        Propagation::Proceed
    });
    Ok(())
}

/// Brings the window to the front, wherever it was.
pub(crate) fn show(app: &AppHandle) {
    // A second start may come while this one is still being put together; then there is nothing
    // to do, because the window is about to be shown anyway.
    let Some(shell) = app.try_state::<Shell>() else { return };
    let Some(window) = app.get_webview_window(MAIN) else { return };
    if shell.quitting.load(Ordering::SeqCst) {
        return;
    }
    // Untested: with a visible window the app is in the Dock, in the tray it is not.
    #[cfg(target_os = "macos")]
    let _ = app.set_activation_policy(tauri::ActivationPolicy::Regular);
    PLACE_UNCHECKED.store(true, Ordering::SeqCst);
    let shown = window.unminimize().and_then(|()| window.show()).and_then(|()| window.set_focus());
    if let Err(error) = shown {
        tracing::warn!(%error, "the window cannot be shown");
    }
    shell.page.set_visible(true);
}

/// Shows the window at a panel.
pub(crate) fn show_panel(app: &AppHandle, path: &str) {
    show(app);
    app.state::<Shell>().page.navigate(path);
}

pub(crate) fn hide(app: &AppHandle) {
    app.state::<Shell>().page.set_visible(false);
    if let Some(Err(error)) = app.get_webview_window(MAIN).map(|window| window.hide()) {
        tracing::warn!(%error, "the window cannot be hidden");
    }
    #[cfg(target_os = "macos")]
    let _ = app.set_activation_policy(tauri::ActivationPolicy::Accessory);
}

/// The close button: into the tray if the owner wants that and the tray can bring the window
/// back; else it quits.
pub(crate) async fn close(app: AppHandle) {
    let shell = app.state::<Shell>();
    // Read from the file, as the node may be down. A file that cannot be read is the node's to
    // report; until then the default holds.
    let settings = load_settings(&shell.paths.settings()).unwrap_or_else(|_| Settings::default());
    if settings.close_to_tray && shell.tray.is_some() && tray::has_host().await {
        hide(&app);
        return;
    }
    quit::quit(&app);
}

/// For a start in the tray: when there is none, only the window makes the app reachable.
pub(crate) async fn show_unless_tray(app: AppHandle) {
    let waited = tokio::time::timeout(TRAY_WAIT, async {
        while !tray::has_host().await {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    if app.state::<Shell>().tray.is_none() || waited.await.is_err() {
        tracing::warn!("no tray to start in; showing the window");
        show(&app);
    }
}

/// Set when the window was shown: where it came up is known only once the system has placed it.
static PLACE_UNCHECKED: AtomicBool = AtomicBool::new(false);

/// Brings a window back whose remembered place is on a screen that is gone.
pub(crate) fn on_event(app: &AppHandle, event: &WindowEvent) {
    let placed = matches!(
        event,
        WindowEvent::Moved(_) | WindowEvent::Resized(_) | WindowEvent::Focused(true)
    );
    if placed
        && PLACE_UNCHECKED.swap(false, Ordering::SeqCst)
        && let Some(window) = app.get_webview_window(MAIN)
        && let Err(error) = bring_into_reach(&window)
    {
        tracing::debug!(%error, "the window's place is not known here");
    }
}

fn bring_into_reach(window: &WebviewWindow) -> tauri::Result<()> {
    let place = Area { at: window.outer_position()?, size: window.outer_size()? };
    let screens = window.available_monitors()?;
    let screens: Vec<Area> =
        screens.iter().map(|m| Area { at: *m.position(), size: *m.size() }).collect();
    if !screens.is_empty() && !within_reach(place, &screens) {
        window.center()?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Area {
    at: PhysicalPosition<i32>,
    size: PhysicalSize<u32>,
}

/// Whether a piece of the window's upper edge, large enough to grab, is on some screen.
fn within_reach(window: Area, screens: &[Area]) -> bool {
    let overlap = |a: i32, a_len: i64, b: i32, b_len: u32| {
        let end = (i64::from(a) + a_len).min(i64::from(b) + i64::from(b_len));
        end - i64::from(a.max(b))
    };
    screens.iter().any(|screen| {
        let width = i64::from(window.size.width);
        let (grip_width, grip_height) = (i64::from(GRIP.0).min(width), i64::from(GRIP.1));
        overlap(window.at.x, width, screen.at.x, screen.size.width) >= grip_width
            && overlap(window.at.y, grip_height, screen.at.y, screen.size.height) >= grip_height
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(x: i32, y: i32, width: u32, height: u32) -> Area {
        Area { at: PhysicalPosition::new(x, y), size: PhysicalSize::new(width, height) }
    }

    #[test]
    fn a_window_on_any_screen_stays_where_it_is() {
        let screens = [area(0, 0, 1920, 1080), area(-1280, 100, 1280, 1024)];
        for place in [(0, 0), (700, 300), (1700, 500), (-1000, 200), (-1280, 1000)] {
            assert!(within_reach(area(place.0, place.1, 1200, 800), &screens), "{place:?}");
        }
    }

    #[test]
    fn a_window_whose_title_bar_cannot_be_grabbed_comes_back() {
        let screens = [area(0, 0, 1920, 1080)];
        for place in [(1900, 100), (-1150, 100), (200, -30), (200, 1070), (2500, 100)] {
            assert!(!within_reach(area(place.0, place.1, 1200, 800), &screens), "{place:?}");
        }
        assert!(!within_reach(area(i32::MAX, i32::MIN, u32::MAX, u32::MAX), &screens));
    }
}
