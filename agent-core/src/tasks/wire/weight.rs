//! What a frame takes in memory once it is read, guessed from its bytes before that. Pure.
//!
//! JSON of a few megabytes can become a gigabyte of values: `{"":0},` is seven bytes and an object
//! of some hundreds. So structure is counted, and texts, which stay as large as they are, are not.

/// Commas, colons and beginnings of lists and objects in one frame: a chat of 4,096 messages has
/// some thirty thousand, no piece of an answer with all its logprobs reaches it.
pub(super) const STRUCTURE: usize = 64 << 10;
/// Numbers that follow each other in lists: a prompt, or texts to embed, as token ids.
pub(super) const NUMBERS: usize = 256 << 10;

/// Bytes that one of each takes at most while it is read: an object of one field in serde's buffer
/// and as a [`serde_json::Value`], both at once, counted over its `{`, `:` and `,`; a number in the
/// buffers of two tagged enums.
const STRUCTURE_BYTES: usize = 256;
const NUMBER_BYTES: usize = 64;

/// Counts of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    pub(super) structure: usize,
    pub(super) numbers: usize,
}

impl Weight {
    /// Of JSON, or of what says it is: then the count is of no use, and reading fails anyway.
    pub fn of(json: &[u8]) -> Self {
        let mut weight = Self::default();
        let mut rest = json.iter().copied();
        let (mut before, mut after_number) = (0_u8, false);
        while let Some(byte) = rest.next() {
            if byte.is_ascii_whitespace() {
                continue;
            }
            if std::mem::take(&mut after_number) {
                match byte {
                    b'-' | b'0'..=b'9' => weight.numbers += 1,
                    _ => weight.structure += 1,
                }
            }
            match byte {
                b'"' => skip_text(&mut rest),
                b',' if before.is_ascii_digit() => after_number = true,
                b',' | b':' | b'[' | b'{' => weight.structure += 1,
                _ => {}
            }
            before = byte;
        }
        weight
    }

    /// Whether a frame may be so.
    pub fn is_fair(self) -> bool {
        self.structure <= STRUCTURE && self.numbers <= NUMBERS
    }

    /// Bytes that it takes beside its own.
    pub fn bytes(self) -> usize {
        self.structure * STRUCTURE_BYTES + self.numbers * NUMBER_BYTES
    }
}

/// To behind the quotation mark that ends a text.
fn skip_text(rest: &mut impl Iterator<Item = u8>) {
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                rest.next();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(json: &str) -> (usize, usize) {
        let Weight { structure, numbers } = Weight::of(json.as_bytes());
        (structure, numbers)
    }

    #[test]
    fn structure_is_counted_and_texts_are_not() {
        assert_eq!(counts(r#"{"a":[1,"x"],"b":{}}"#), (7, 0));
        assert_eq!(counts(r#"{"a,[{:\",\\":"[[[[\\\"{{,,"}"#), (2, 0));
        assert_eq!(counts("[1, 2,\n-3.5,4e5 ,6]"), (1, 4));
        assert_eq!(counts("[[1,2],[3,4],null,5,{}]"), (8, 2));
        assert_eq!(counts(""), (0, 0));
        assert_eq!(counts("\"never ends, and: {["), (0, 0));
    }

    #[test]
    fn a_frame_that_becomes_a_hundred_times_its_size_is_told_before_it_is_read() {
        let bomb = format!("[{}0]", r#"{"":0},"#.repeat(1 << 20));
        assert!(!Weight::of(bomb.as_bytes()).is_fair());
        let tokens = format!("[{}0]", "1,".repeat(NUMBERS + 1));
        assert!(!Weight::of(tokens.as_bytes()).is_fair());
        let tokens = format!("[{}0]", "128000,".repeat(100_000));
        assert!(Weight::of(tokens.as_bytes()).is_fair());
        let message = r#"{"role":"user","content":"{[,:{[,:{[,:"},"#;
        let chat = format!("[{}0]", message.repeat(4_096));
        assert!(Weight::of(chat.as_bytes()).is_fair());
    }
}
