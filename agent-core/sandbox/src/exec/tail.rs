//! The end of a stream of any length.

use std::io::Read;

/// Of each stream, as the contract of `code` says.
const KEPT_BYTES: usize = 16 << 10;

/// A program that says more than this in one stream is stopped.
pub(super) const FLOOD_BYTES: usize = 16 << 20;

/// What was kept.
#[derive(Debug, Default)]
pub(super) struct Tail {
    kept: Vec<u8>,
    cut: bool,
    pub(super) flood: bool,
}

impl Tail {
    /// Reads until the stream ends or is a flood.
    pub(super) fn read(mut stream: impl Read) -> Self {
        let mut tail = Self::default();
        let mut total = 0;
        let mut chunk = [0; 4_096];
        loop {
            let read = match stream.read(&mut chunk) {
                Ok(0) => return tail,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return tail,
            };
            total += read;
            tail.kept.extend_from_slice(&chunk[..read]);
            // Twice the size before anything is moved: each byte is moved at most once.
            if tail.kept.len() > 2 * KEPT_BYTES {
                tail.shorten();
            }
            if total > FLOOD_BYTES {
                tail.flood = true;
                return tail;
            }
        }
    }

    fn shorten(&mut self) {
        let excess = self.kept.len().saturating_sub(KEPT_BYTES);
        self.cut |= excess > 0;
        self.kept.drain(..excess);
    }

    pub(super) fn text(mut self) -> String {
        self.shorten();
        let text = String::from_utf8_lossy(&self.kept);
        if !self.cut {
            return text.into_owned();
        }
        // A character that was cut in the middle is none.
        text.trim_start_matches(char::REPLACEMENT_CHARACTER).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_output_is_kept_whole() {
        assert_eq!(Tail::read(&b"one\ntwo\n"[..]).text(), "one\ntwo\n");
    }

    #[test]
    fn of_long_output_the_end_is_kept() {
        let long = "0123456789".repeat(10_000) + "the end";
        let text = Tail::read(long.as_bytes()).text();
        assert_eq!(text.len(), KEPT_BYTES);
        assert!(text.ends_with("789the end"));
    }

    #[test]
    fn a_flood_is_told_and_not_read_to_its_end() {
        let tail = Tail::read(std::io::repeat(b'y'));
        assert!(tail.flood);
        assert_eq!(tail.text().len(), KEPT_BYTES);
    }
}
