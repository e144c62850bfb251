//! Words for people.

/// An error's text as a sentence: errors are written without a capital and without a full stop, so
/// that they can be put into others; people read sentences.
pub fn sentence(error: &str) -> String {
    let mut chars = error.trim().chars();
    let Some(first) = chars.next() else { return String::new() };
    let mut sentence: String = first.to_uppercase().chain(chars).collect();
    if !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn errors_become_sentences_once() {
        assert_eq!(sentence("port 1 is in use"), "Port 1 is in use.");
        assert_eq!(sentence("Port 1 is in use."), "Port 1 is in use.");
        assert_eq!(sentence(""), "");
    }
}
