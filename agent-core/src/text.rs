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

/// Bytes in units of 1,000, as disks are sold and as the page writes them: `364 MB`, `4.7 GB`.
/// Three digits: sentences compare what is needed with what there is.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would round to a number of four digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::{sentence, size};

    #[test]
    fn sizes_are_decimal_and_have_three_digits_at_most() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1_000, "1.0 kB"),
            (85_000_000, "85.0 MB"),
            (99_960_000, "100 MB"),
            (999_700_000, "1.0 GB"),
            (12_640_000_000, "12.6 GB"),
            (100_000_000_000_000, "100 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn errors_become_sentences_once() {
        assert_eq!(sentence("port 1 is in use"), "Port 1 is in use.");
        assert_eq!(sentence("Port 1 is in use."), "Port 1 is in use.");
        assert_eq!(sentence(""), "");
    }
}
