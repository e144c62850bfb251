//! What Linux desktops need before the first window: workarounds for WebKitGTK on NVIDIA, and a
//! look whether there is a display at all. Elsewhere both do nothing.
//!
//! WebKitGTK's DMA-BUF renderer shows an empty or flickering window with NVIDIA's own driver. On
//! Wayland the cause is explicit sync in the driver (WebKit bug 280210) and turning that off keeps
//! acceleration; on X11 the renderer itself has to go. A value that the user has set always wins.

use std::ffi::OsString;

const NO_EXPLICIT_SYNC: &str = "__NV_DISABLE_EXPLICIT_SYNC";
const NO_DMABUF: &str = "WEBKIT_DISABLE_DMABUF_RENDERER";

/// Sets what [`workaround`] asks for. Call it first in `main`.
pub(crate) fn prepare_environment() {
    if !cfg!(target_os = "linux") {
        return;
    }
    // Only NVIDIA's own driver registers this module; nouveau does not need the workaround.
    let has_nvidia = std::path::Path::new("/sys/module/nvidia").exists();
    if let Some(name) = workaround(|name| std::env::var_os(name), has_nvidia) {
        #[allow(
            unsafe_code,
            reason = "WebKit reads the environment; no other thread exists yet that could read it"
        )]
        // SAFETY: the first thing `main` does, before any thread was started.
        unsafe {
            std::env::set_var(name, "1");
        }
    }
}

/// The variable to set to `1`, if any.
fn workaround(env: impl Fn(&str) -> Option<OsString>, has_nvidia: bool) -> Option<&'static str> {
    if !has_nvidia {
        return None;
    }
    let is = |name: &str, value: &str| env(name).is_some_and(|v| v == value);
    // An AppImage forces GTK to X11 even in a Wayland session.
    let wayland = (filled(&env, "WAYLAND_DISPLAY") || is("XDG_SESSION_TYPE", "wayland"))
        && !is("GDK_BACKEND", "x11");
    let name = if wayland { NO_EXPLICIT_SYNC } else { NO_DMABUF };
    env(name).is_none().then_some(name)
}

/// Whether a window can be opened. Without a display GTK would end the program with a panic.
pub(crate) fn has_display() -> bool {
    !cfg!(target_os = "linux") || names_display(|name| std::env::var_os(name))
}

fn names_display(env: impl Fn(&str) -> Option<OsString>) -> bool {
    filled(&env, "DISPLAY") || filled(&env, "WAYLAND_DISPLAY")
}

fn filled(env: impl Fn(&str) -> Option<OsString>, name: &str) -> bool {
    env(name).is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(set: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into())
    }

    #[test]
    fn other_gpus_are_left_alone() {
        assert_eq!(workaround(env(&[("WAYLAND_DISPLAY", "wayland-0")]), false), None);
    }

    #[test]
    fn nvidia_on_wayland_keeps_acceleration() {
        for session in [("WAYLAND_DISPLAY", "wayland-0"), ("XDG_SESSION_TYPE", "wayland")] {
            assert_eq!(workaround(env(&[session]), true), Some(NO_EXPLICIT_SYNC));
        }
    }

    #[test]
    fn nvidia_on_x11_loses_the_dmabuf_renderer() {
        assert_eq!(workaround(env(&[("DISPLAY", ":0")]), true), Some(NO_DMABUF));
        let forced = [("WAYLAND_DISPLAY", "wayland-0"), ("GDK_BACKEND", "x11")];
        assert_eq!(workaround(env(&forced), true), Some(NO_DMABUF));
    }

    #[test]
    fn the_users_value_wins() {
        let x11 = [("DISPLAY", ":0"), (NO_DMABUF, "0")];
        assert_eq!(workaround(env(&x11), true), None);
        let wayland = [("WAYLAND_DISPLAY", "wayland-0"), (NO_EXPLICIT_SYNC, "")];
        assert_eq!(workaround(env(&wayland), true), None);
    }

    #[test]
    fn an_empty_display_is_none() {
        assert!(names_display(env(&[("DISPLAY", ":0")])));
        assert!(!names_display(env(&[("DISPLAY", ""), ("WAYLAND_DISPLAY", "")])));
    }
}
