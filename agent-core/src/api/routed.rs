//! Which node answered, as headers of the answer, and who may, as a header of the request.

use agent_api::tasks::{Privacy, TaskPath};
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};

use crate::inference::{Route, SharedRoute, SubmitOptions};

/// Of a request: `this_node`, `my_nodes`, `trusted` or `mesh`.
const PRIVACY: &str = "x-edgecoder-privacy";
const NODE: HeaderName = HeaderName::from_static("x-edgecoder-node");
const NODE_NAME: HeaderName = HeaderName::from_static("x-edgecoder-node-name");
const PATH: HeaderName = HeaderName::from_static("x-edgecoder-path");
const OVERHEAD: HeaderName = HeaderName::from_static("x-edgecoder-overhead-ms");
/// Those of an answer, which a browser otherwise hides from pages of other origins.
pub(super) const EXPOSED: &str =
    "x-edgecoder-node, x-edgecoder-node-name, x-edgecoder-path, x-edgecoder-overhead-ms";

/// A header that is not one of the four words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The header x-edgecoder-privacy is this_node, my_nodes, trusted or mesh.")]
pub(super) struct WrongPrivacy;

/// What the headers say about where a request may go.
pub(super) fn options(headers: &HeaderMap) -> Result<SubmitOptions, WrongPrivacy> {
    let privacy = match headers.get(PRIVACY).map(HeaderValue::as_bytes) {
        None => None,
        Some(b"this_node") => Some(Privacy::ThisNode),
        Some(b"my_nodes") => Some(Privacy::MyNodes),
        Some(b"trusted") => Some(Privacy::Trusted),
        Some(b"mesh") => Some(Privacy::Mesh),
        Some(_) => return Err(WrongPrivacy),
    };
    Ok(SubmitOptions { privacy, ..SubmitOptions::default() })
}

/// Adds which node answers, which is certain once the first piece is there.
pub(super) fn tell(mut response: Response, route: Option<&SharedRoute>) -> Response {
    let Some(Route { node, name, path, overhead_ms }) = route.and_then(SharedRoute::get) else {
        return response;
    };
    let path = match path {
        TaskPath::Local => "local",
        TaskPath::Lan => "lan",
        TaskPath::Direct => "direct",
        TaskPath::Relay => "relay",
    };
    let headers = response.headers_mut();
    for (header, text) in [
        (NODE, node.0),
        (NODE_NAME, name),
        (PATH, path.to_owned()),
        (OVERHEAD, format!("{overhead_ms:.3}")),
    ] {
        // A name is one line of text, but whatever another node says is not trusted with headers.
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            headers.insert(header, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use agent_api::NodeId;

    use super::*;

    #[test]
    fn the_answer_says_who_answered() {
        let route = SharedRoute::default();
        let response = tell(Response::default(), Some(&route));
        assert!(response.headers().is_empty(), "nobody has yet");
        let (node, name) = (NodeId("ab12".to_owned()), "Büro\r\nset-cookie: x".to_owned());
        route.set(Route { node, name, path: TaskPath::Lan, overhead_ms: 1.23456 });
        let response = tell(response, Some(&route));
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        assert_eq!(header(NODE), Some("ab12"));
        assert_eq!(header(PATH), Some("lan"));
        assert_eq!(header(OVERHEAD), Some("1.235"));
        assert_eq!(response.headers().len(), 3, "a name cannot add headers of its own");
        for name in [NODE, NODE_NAME, PATH, OVERHEAD] {
            assert!(EXPOSED.split(", ").any(|exposed| exposed == name), "{name}");
        }
    }

    #[test]
    fn privacy_is_one_of_four_words() {
        let mut headers = HeaderMap::new();
        assert_eq!(options(&headers).expect("nothing said").privacy, None);
        headers.insert(PRIVACY, HeaderValue::from_static("my_nodes"));
        assert_eq!(options(&headers).expect("valid").privacy, Some(Privacy::MyNodes));
        headers.insert(PRIVACY, HeaderValue::from_static("nobody"));
        assert_eq!(options(&headers), Err(WrongPrivacy));
    }
}
