//! An incremental parser of server-sent events, for `/events` and for streamed answers.
//!
//! Follows the WHATWG rules as far as a node uses them: `event:` and `data:` lines, comments,
//! LF, CRLF and CR line ends, frames cut anywhere.

/// Longest frame, 4 MiB: a snapshot with 50 activity lines is a few tens of kilobytes. A longer
/// frame is dropped, so that a broken stream cannot eat the page's memory.
const MAX_FRAME: usize = 4 << 20;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Empty where the stream does not name it.
    pub event: String,
    pub data: String,
}

#[derive(Debug, Default)]
pub struct Parser {
    line: String,
    /// A CR ended the last line: an LF that follows belongs to it.
    after_cr: bool,
    event: String,
    data: String,
    has_data: bool,
    too_long: bool,
}

impl Parser {
    /// Takes the next piece of the stream; gives the events that it completes.
    pub fn push(&mut self, text: &str) -> Vec<Frame> {
        let mut frames = Vec::new();
        for c in text.chars() {
            let after_cr = std::mem::replace(&mut self.after_cr, c == '\r');
            match c {
                '\n' if after_cr => {}
                '\n' | '\r' => {
                    let line = std::mem::take(&mut self.line);
                    frames.extend(self.end_of_line(&line));
                }
                _ if self.line.len() + self.data.len() < MAX_FRAME => self.line.push(c),
                _ => self.too_long = true,
            }
        }
        frames
    }

    fn end_of_line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            let frame = Frame {
                event: std::mem::take(&mut self.event),
                data: std::mem::take(&mut self.data),
            };
            let whole = !std::mem::take(&mut self.too_long);
            return (std::mem::take(&mut self.has_data) && whole).then_some(frame);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event = value.into(),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Comments keep the connection open; `id` and `retry` are not used by a node.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(event: &str, data: &str) -> Frame {
        Frame { event: event.into(), data: data.into() }
    }

    #[test]
    fn reads_names_data_and_comments() {
        let mut parser = Parser::default();
        let frames =
            parser.push(": hello\n\nevent: status\ndata: {\"a\":1}\n\ndata: x\ndata:y\nid: 4\n\n");
        assert_eq!(frames, [frame("status", "{\"a\":1}"), frame("", "x\ny")]);
    }

    #[test]
    fn a_stream_cut_at_every_character_gives_the_same_events() {
        for ends in ["\n", "\r\n", "\r"] {
            let stream = format!(
                "event: a{ends}data: grün{ends}{ends}data: [DONE]{ends}{ends}data:{ends}{ends}"
            );
            let mut parser = Parser::default();
            let frames: Vec<_> = stream.chars().flat_map(|c| parser.push(&c.to_string())).collect();
            assert_eq!(
                frames,
                [frame("a", "grün"), frame("", "[DONE]"), frame("", "")],
                "{ends:?}"
            );
        }
    }

    #[test]
    fn an_unfinished_event_is_not_an_event() {
        let mut parser = Parser::default();
        assert!(parser.push("data: half").is_empty());
        assert!(parser.push("\n").is_empty());
        assert_eq!(parser.push("\n"), [frame("", "half")]);
    }

    #[test]
    fn an_endless_frame_is_dropped_and_the_next_one_read() {
        let mut parser = Parser::default();
        assert!(parser.push("data: ").is_empty());
        let piece = "x".repeat(1 << 20);
        for _ in 0..6 {
            assert!(parser.push(&piece).is_empty());
        }
        assert!(parser.line.len() <= MAX_FRAME);
        assert_eq!(parser.push("\n\ndata: ok\n\n"), [frame("", "ok")]);
    }
}
