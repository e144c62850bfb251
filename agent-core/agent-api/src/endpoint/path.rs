//! Paths with a part that names something: `/agent-mesh/peers/{id}`. Clients fill them in, the
//! guard and the router take them apart, all with these functions.

use std::fmt::Write as _;

use serde_json::Value;

use super::{ENDPOINTS, EndpointInfo};

/// The path with the request's fields in place of the parts that name them. These fields leave the
/// request; what remains goes into the query or the body. A field that is missing leaves its part
/// empty, which no row matches.
pub fn fill_path(template: &str, mut request: Value) -> (String, Value) {
    if !template.contains('{') {
        return (template.to_owned(), request);
    }
    let segments = template.split('/').map(|segment| match field(segment) {
        None => segment.to_owned(),
        Some(name) => {
            let value = request.as_object_mut().and_then(|fields| fields.remove(name));
            match value {
                Some(Value::String(text)) => encode(&text),
                Some(value) => encode(&value.to_string()),
                None => String::new(),
            }
        }
    });
    let path = segments.collect::<Vec<_>>().join("/");
    (path, request)
}

/// Names and values, still encoded, of the parts that a path fills in; `None`: it is not such a
/// path.
pub fn path_fields<'a>(template: &'a str, path: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    let mut fields = Vec::new();
    let mut given = path.split('/');
    for segment in template.split('/') {
        let value = given.next()?;
        match field(segment) {
            Some(name) if !value.is_empty() => fields.push((name, value)),
            None if segment == value => {}
            _ => return None,
        }
    }
    given.next().is_none().then_some(fields)
}

/// The row of the table that a path belongs to.
pub fn find(path: &str) -> Option<&'static EndpointInfo> {
    ENDPOINTS.iter().find(|row| path_fields(row.path, path).is_some())
}

fn field(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// Percent-encoding of everything that is not unreserved (RFC 3986, section 2.3).
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PEER: &str = "/agent-mesh/peers/{id}";

    #[test]
    fn a_field_moves_from_the_request_into_the_path() {
        let request = json!({"id": "ab/ü", "limit": 3});
        assert_eq!(
            fill_path(PEER, request),
            ("/agent-mesh/peers/ab%2F%C3%BC".to_owned(), json!({"limit": 3}))
        );
        assert_eq!(fill_path("/mesh", json!({"a": 1})), ("/mesh".to_owned(), json!({"a": 1})));
    }

    #[test]
    fn only_whole_paths_match() {
        assert_eq!(path_fields(PEER, "/agent-mesh/peers/ab%2F"), Some(vec![("id", "ab%2F")]));
        for other in ["/agent-mesh/peers", "/agent-mesh/peers/", "/agent-mesh/peers/a/b", "/mesh"] {
            assert_eq!(path_fields(PEER, other), None, "{other}");
        }
    }

    #[test]
    fn every_row_is_found_by_a_path_of_its_own() {
        for row in ENDPOINTS {
            let fields = row.path.replace(['{', '}'], "");
            assert_eq!(find(&fields).map(|found| found.path), Some(row.path));
        }
        assert!(find("/nothing/here").is_none());
    }
}
