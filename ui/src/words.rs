//! What the Models, Mesh and Tasks panels say, as pure functions over what the node sent.

pub mod catalogue;
pub mod fit;
pub mod memory;
pub mod mesh;
pub mod model;
pub mod peer;
pub mod preview;
pub mod pull;
pub mod task;

use crate::components::icon::Icon;

/// How a short word is coloured; the icon says the same again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Busy,
    Attention,
    Bad,
    Plain,
}

impl Tone {
    /// The badge's class.
    pub fn badge(self) -> &'static str {
        match self {
            Self::Good => "badge badge--ok",
            Self::Busy => "badge badge--info",
            Self::Attention => "badge badge--warn",
            Self::Bad => "badge badge--danger",
            Self::Plain => "badge badge--line",
        }
    }
}

/// A badge: a word, an icon where it is a state, and a colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Badge {
    pub tone: Tone,
    pub icon: Option<Icon>,
    pub text: String,
    /// Longer, for the pointer and for screen readers.
    pub hint: String,
}
