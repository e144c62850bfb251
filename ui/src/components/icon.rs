//! The icons: one SVG symbol each in `static/index.html`, shown by reference.

use leptos::prelude::*;

macro_rules! icons {
    ($( $name:ident $id:literal, )+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Icon { $( $name, )+ }

        impl Icon {
            pub const ALL: &'static [Self] = &[$( Self::$name, )+];

            /// What `<use>` points to.
            pub fn href(self) -> &'static str {
                match self { $( Self::$name => concat!("#i-", $id), )+ }
            }
        }
    };
}

icons! {
    Auto "auto",
    Bolt "bolt",
    Chat "chat",
    Check "check",
    ChevronDown "chevd",
    ChevronLeft "chevl",
    ChevronRight "chevr",
    Clock "clock",
    Code "code",
    Copy "copy",
    Cpu "cpu",
    Credits "credits",
    Dashboard "dashboard",
    Dht "dht",
    Direct "direct",
    Disk "disk",
    Dots "dots",
    Download "download",
    Embed "embed",
    Error "error",
    Eye "eye",
    File "file",
    Filter "filter",
    Globe "globe",
    Gossip "gossip",
    Gpu "gpu",
    Graph "graph",
    Home "home",
    Idle "idle",
    Info "info",
    Key "key",
    Keyboard "keyboard",
    Lan "lan",
    Lock "lock",
    Mesh "mesh",
    Minus "minus",
    Models "models",
    Moon "moon",
    Palette "palette",
    Pause "pause",
    Play "play",
    Plus "plus",
    Power "power",
    Ram "ram",
    Refresh "refresh",
    Relay "relay",
    Right "right",
    Search "search",
    Seed "seed",
    Send "send",
    Settings "settings",
    Stop "stop",
    Sun "sun",
    Swap "swap",
    Tasks "tasks",
    Temperature "temp",
    Ticket "ticket",
    Trash "trash",
    Up "up",
    User "user",
    Warn "warn",
    Wasm "wasm",
    X "x",
}

/// An icon next to text, or in a control that has a label: never read out.
pub fn icon(icon: Icon) -> AnyView {
    icon_class(icon, "i")
}

pub fn icon_class(icon: Icon, class: &'static str) -> AnyView {
    view! { <svg class=class aria-hidden="true"><use href=icon.href()></use></svg> }.into_any()
}

/// The product's mark; its node is the part that lives.
pub fn mark() -> AnyView {
    view! { <svg class="mark" viewBox="0 0 24 24" aria-hidden="true"><use href="#mark"></use></svg> }.into_any()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_icon_is_drawn_in_the_page() {
        let page = include_str!("../../static/index.html");
        for icon in Icon::ALL {
            let symbol = format!("<symbol id=\"{}\"", icon.href().trim_start_matches('#'));
            assert!(page.contains(&symbol), "{icon:?} has no symbol");
        }
        assert!(page.contains("<symbol id=\"mark\""));
    }
}
