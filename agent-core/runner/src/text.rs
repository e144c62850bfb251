//! Turns the bytes of tokens into text that may be sent: whole characters, and never a part of a
//! stop string.
//!
//! Tokens end anywhere, also inside a character or a stop string. What could still become one is
//! held back until the next token decides. The result does not depend on how the text was cut
//! into tokens: generation ends where the first stop string is complete.

use std::collections::VecDeque;

/// What a token added that can be sent now.
#[derive(Debug, PartialEq)]
pub(crate) struct Released<T> {
    pub(crate) text: String,
    /// The notes of the tokens whose text begins in what has been released.
    pub(crate) notes: Vec<T>,
    /// A stop string came; nothing follows.
    pub(crate) stopped: bool,
}

/// The text of one answer, while it grows. `T` is what the caller notes about each token.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    stops: Vec<String>,
    /// Bytes of a character that is not complete yet.
    partial: Vec<u8>,
    /// Whole characters that could be the beginning of a stop string.
    held: String,
    /// Bytes of text released so far.
    released: usize,
    /// Notes not released yet, each with the offset at which its token's text begins.
    notes: VecDeque<(usize, T)>,
}

impl<T> Answer<T> {
    /// Empty stop strings are left out: they would end every answer before it begins.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|s| !s.is_empty()).collect();
        let (partial, held) = (Vec::new(), String::new());
        Self { stops, partial, held, released: 0, notes: VecDeque::new() }
    }

    /// Adds a token's bytes. A token without text (a control token) leaves no note.
    pub(crate) fn push(&mut self, bytes: &[u8], note: Option<T>) -> Released<T> {
        if bytes.is_empty() {
            return Released { text: String::new(), notes: Vec::new(), stopped: false };
        }
        if let Some(note) = note {
            self.notes.push_back((self.released + self.held.len(), note));
        }
        let before = self.held.len();
        decode(&mut self.partial, bytes, &mut self.held);
        if self.stops.is_empty() {
            return self.release(self.held.len(), false);
        }
        match first_stop(&self.held, before, &self.stops) {
            Some(at) => {
                let released = self.release(at, true);
                self.partial.clear();
                self.held.clear();
                self.notes.clear();
                released
            }
            None => self.release(self.held.len() - stop_beginning(&self.held, &self.stops), false),
        }
    }

    /// The answer ends here: what was held back is text after all.
    pub(crate) fn finish(&mut self) -> Released<T> {
        if !self.partial.is_empty() {
            self.partial.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        self.release(self.held.len(), false)
    }

    fn release(&mut self, length: usize, stopped: bool) -> Released<T> {
        let text = if length == self.held.len() {
            std::mem::take(&mut self.held)
        } else {
            self.held.drain(..length).collect()
        };
        self.released += length;
        let mut notes = Vec::new();
        while self.notes.front().is_some_and(|(start, _)| *start < self.released) {
            notes.extend(self.notes.pop_front().map(|(_, note)| note));
        }
        Released { text, notes, stopped }
    }
}

/// Appends `bytes` to `text`, keeping an incomplete character in `partial`. Bytes that cannot be
/// part of a character become U+FFFD.
fn decode(partial: &mut Vec<u8>, bytes: &[u8], text: &mut String) {
    if partial.is_empty()
        && let Ok(whole) = std::str::from_utf8(bytes)
    {
        text.push_str(whole);
        return;
    }
    partial.extend_from_slice(bytes);
    let mut rest = 0;
    for chunk in partial.utf8_chunks() {
        text.push_str(chunk.valid());
        rest += chunk.valid().len();
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            continue;
        }
        let last = rest + invalid.len() == partial.len();
        if last && is_character_beginning(invalid) {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        rest += invalid.len();
    }
    partial.drain(..rest);
}

/// Whether more bytes could make `bytes`, which are not valid UTF-8, one character.
fn is_character_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
}

/// Where the stop string that is complete first begins. Only a stop string that ends after
/// `known` bytes can be new.
fn first_stop(text: &str, known: usize, stops: &[String]) -> Option<usize> {
    let mut best: Option<(usize, usize)> = None;
    for stop in stops {
        let from = text.floor_char_boundary(known.saturating_sub(stop.len()));
        if let Some(at) = text[from..].find(stop.as_str()) {
            let (start, end) = (from + at, from + at + stop.len());
            if best.is_none_or(|found| (end, start) < found) {
                best = Some((end, start));
            }
        }
    }
    best.map(|(_, start)| start)
}

/// Length of the longest end of `text` that begins a stop string.
fn stop_beginning(text: &str, stops: &[String]) -> usize {
    let longest = stops.iter().map(|s| s.len() - 1).max().unwrap_or(0);
    let from = text.ceil_char_boundary(text.len().saturating_sub(longest));
    let tail = &text[from..];
    tail.char_indices()
        .map(|(at, _)| &tail[at..])
        .find(|end| stops.iter().any(|stop| stop.starts_with(end)))
        .map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(stops: &[&str]) -> Answer<usize> {
        Answer::new(stops.iter().map(|&s| s.to_owned()).collect())
    }

    /// Feeds pieces; returns the text, the notes and whether a stop string came.
    fn feed(stops: &[&str], pieces: &[&[u8]]) -> (String, Vec<usize>, bool) {
        let mut answer = answer(stops);
        let (mut text, mut notes) = (String::new(), Vec::new());
        for (i, piece) in pieces.iter().enumerate() {
            let released = answer.push(piece, Some(i));
            text += &released.text;
            notes.extend(released.notes);
            if released.stopped {
                return (text, notes, true);
            }
        }
        let released = answer.finish();
        (text + &released.text, [notes, released.notes].concat(), false)
    }

    #[test]
    fn a_character_cut_by_tokens_comes_whole() {
        let mut answer = answer(&[]);
        assert_eq!(answer.push(b"a\xE2\x82", Some(0)).text, "a");
        let released = answer.push(b"\xAC!", Some(1));
        assert_eq!((released.text.as_str(), released.notes), ("€!", vec![1]));
    }

    #[test]
    fn bytes_that_are_no_character_are_replaced() {
        assert_eq!(feed(&[], &[b"a\xFFb", b"\xE2", b"x"]).0, "a\u{FFFD}b\u{FFFD}x");
        assert_eq!(feed(&[], &[b"end\xF0\x9F"]).0, "end\u{FFFD}");
        assert_eq!(feed(&[], &[b"\xE2\x82\xAC\xC3", b"\xA9"]).0, "€é");
    }

    #[test]
    fn a_possible_stop_string_is_held_back() {
        let mut answer = answer(&["\n\n", "END"]);
        assert_eq!(answer.push(b"x\n", None).text, "x");
        assert_eq!(answer.push(b"y EN", None).text, "\ny ");
        assert_eq!(answer.push(b"ough", None).text, "ENough");
        let released = answer.push(b" END of it", None);
        assert_eq!((released.text.as_str(), released.stopped), (" ", true));
    }

    #[test]
    fn an_unfinished_stop_string_is_text_at_the_end() {
        assert_eq!(feed(&["STOP"], &[b"go ST"]), ("go ST".into(), vec![0], false));
    }

    #[test]
    fn where_the_answer_ends_does_not_depend_on_the_tokens() {
        let cases: [(&str, &[&str], &str); 6] = [
            ("one two three", &["two"], "one "),
            ("aaab", &["aab"], "a"),
            ("xabcx", &["abcd", "bc"], "xa"),
            ("é€😀é", &["😀"], "é€"),
            ("abc", &["abc", "b"], "a"),
            ("nothing here", &["here!"], "nothing here"),
        ];
        for (text, stops, expected) in cases {
            let bytes = text.as_bytes();
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(feed(stops, &pieces).0, expected, "{text} cut at {first}, {second}");
                }
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(feed(stops, &single).0, expected);
        }
    }

    #[test]
    fn every_token_with_text_in_the_answer_is_noted_once() {
        assert_eq!(feed(&[], &[b"a", b"", b"\xE2", b"\x82\xAC", b"b"]).1, [0, 2, 3, 4]);
        // The second token begins before the stop string, the third is part of it.
        assert_eq!(feed(&["\n\n"], &[b"a", b"b\n", b"\n"]), ("ab".into(), vec![0, 1], true));
        assert_eq!(feed(&["\n\n"], &[b"a", b"\n", b"\nb"]), ("a".into(), vec![0], true));
    }

    #[test]
    fn empty_stop_strings_are_ignored() {
        assert_eq!(feed(&[""], &[b"text"]).0, "text");
    }
}
