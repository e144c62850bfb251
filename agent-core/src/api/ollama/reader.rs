//! Splits generated text, as it arrives, into thinking, words for the user and tool calls.

use serde_json::{Map, Value};

use crate::inference::tools::{Part, ToolFormat, ToolReader};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A part of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    Thinking(String),
    Text(String),
    Call { name: String, arguments: Map<String, Value> },
}

#[derive(Debug, Default)]
pub(super) struct Reader {
    thinking: Option<ThinkReader>,
    tools: Option<ToolReader>,
}

impl Reader {
    /// `thinking`: where the answer begins, if thoughts are to be split off.
    pub(super) fn new(thinking: Option<Begins>, tools: Option<ToolFormat>) -> Self {
        Self { thinking: thinking.map(ThinkReader::new), tools: tools.map(ToolReader::new) }
    }

    pub(super) fn push(&mut self, text: &str) -> Vec<Said> {
        let mut said = Vec::new();
        let text = match &mut self.thinking {
            Some(reader) => {
                let (thoughts, rest) = reader.push(text);
                if !thoughts.is_empty() {
                    said.push(Said::Thinking(thoughts));
                }
                rest
            }
            None => text.to_owned(),
        };
        self.words(text, &mut said);
        said
    }

    /// What is left when the answer is over.
    pub(super) fn finish(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        if let Some(reader) = self.thinking.take() {
            let (thoughts, rest) = reader.finish();
            if !thoughts.is_empty() {
                said.push(Said::Thinking(thoughts));
            }
            self.words(rest, &mut said);
        }
        if let Some(reader) = self.tools.take() {
            said.extend(reader.finish().into_iter().map(of_part));
        }
        said
    }

    fn words(&mut self, text: String, said: &mut Vec<Said>) {
        if text.is_empty() {
            return;
        }
        match &mut self.tools {
            Some(reader) => said.extend(reader.push(&text).into_iter().map(of_part)),
            None => said.push(Said::Text(text)),
        }
    }
}

fn of_part(part: Part) -> Said {
    match part {
        Part::Text(text) => Said::Text(text),
        Part::Call { name, arguments } => match serde_json::from_str(&arguments) {
            Ok(Value::Object(arguments)) => Said::Call { name, arguments },
            // The API has only objects here; the user still sees what the model wrote.
            _ => Said::Text(format!("{name}({arguments})")),
        },
    }
}

/// Where a thinking model's answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// With `<think>`, or with words if it does not think this time.
    Outside,
    /// In the middle of thoughts: its template ends the prompt with `<think>`.
    Inside,
}

impl Begins {
    /// Reads it from a chat template: what comes after the last `add_generation_prompt` is the end
    /// of every prompt.
    pub(super) fn of(template: &str) -> Self {
        let end = template.rsplit("add_generation_prompt").next().unwrap_or_default();
        let opens = template.contains("add_generation_prompt") && end.contains(OPEN);
        if opens && !end.contains(CLOSE) { Self::Inside } else { Self::Outside }
    }
}

#[derive(Debug)]
struct ThinkReader {
    place: Place,
    /// Not yet decided.
    held: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the start, or after white space.
    Start(Begins),
    /// Before the first thought: white space is dropped.
    Opened,
    Thoughts,
    /// After `</think>`: white space is dropped.
    Between,
    Words,
}

impl ThinkReader {
    fn new(begins: Begins) -> Self {
        Self { place: Place::Start(begins), held: String::new() }
    }

    /// Thoughts and words that are decided by now.
    fn push(&mut self, text: &str) -> (String, String) {
        self.held.push_str(text);
        let mut thoughts = String::new();
        loop {
            match self.place {
                Place::Start(begins) => {
                    let begun = self.held.trim_start();
                    if let Some(rest) = begun.strip_prefix(OPEN) {
                        self.held = rest.to_owned();
                        self.place = Place::Opened;
                    } else if OPEN.starts_with(begun) {
                        return (thoughts, String::new());
                    } else {
                        self.place = match begins {
                            Begins::Inside => Place::Opened,
                            Begins::Outside => Place::Words,
                        };
                    }
                }
                Place::Thoughts => {
                    if let Some((before, after)) = self.held.split_once(CLOSE) {
                        thoughts.push_str(before);
                        self.held = after.to_owned();
                        self.place = Place::Between;
                    } else {
                        let sure = self.held.len() - partial(&self.held, CLOSE);
                        thoughts.extend(self.held.drain(..sure));
                        return (thoughts, String::new());
                    }
                }
                Place::Opened | Place::Between => {
                    self.held = self.held.trim_start().to_owned();
                    if self.held.is_empty() {
                        return (thoughts, String::new());
                    }
                    let opened = self.place == Place::Opened;
                    self.place = if opened { Place::Thoughts } else { Place::Words };
                }
                Place::Words => return (thoughts, std::mem::take(&mut self.held)),
            }
        }
    }

    fn finish(self) -> (String, String) {
        match self.place {
            Place::Thoughts => (self.held, String::new()),
            _ => (String::new(), self.held),
        }
    }
}

/// Bytes at the end of `text` that may be the beginning of `tag`.
fn partial(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&n| text.ends_with(&tag[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: &mut Reader, text: &str, step: usize) -> Vec<Said> {
        let chars: Vec<char> = text.chars().collect();
        let mut all: Vec<Said> = Vec::new();
        let mut parts: Vec<Said> =
            chars.chunks(step).flat_map(|c| reader.push(&c.iter().collect::<String>())).collect();
        parts.extend(reader.finish());
        for part in parts {
            match (all.last_mut(), part) {
                (Some(Said::Text(a)), Said::Text(b)) => a.push_str(&b),
                (Some(Said::Thinking(a)), Said::Thinking(b)) => a.push_str(&b),
                (_, part) => all.push(part),
            }
        }
        all
    }

    fn thought(text: &str) -> Said {
        Said::Thinking(text.into())
    }

    fn text(text: &str) -> Said {
        Said::Text(text.into())
    }

    #[test]
    fn thoughts_are_split_off_however_the_text_arrives() {
        use Begins::{Inside, Outside};
        for step in [1, 2, 5, 100] {
            for (begins, given, expected) in [
                (
                    Outside,
                    "<think>\nso <b> it\n</think>\n\nYes.",
                    vec![thought("so <b> it\n"), text("Yes.")],
                ),
                (Inside, "so it is</think>Yes.", vec![thought("so it is"), text("Yes.")]),
                (Inside, "<think>so</think>Yes.", vec![thought("so"), text("Yes.")]),
                (Outside, "No <think> here</think>", vec![text("No <think> here</think>")]),
                (Outside, "<think>cut o", vec![thought("cut o")]),
                (Outside, "<think>cut </thi", vec![thought("cut </thi")]),
                (Outside, "<thi", vec![text("<thi")]),
                (Outside, "", vec![]),
            ] {
                let mut reader = Reader::new(Some(begins), None);
                assert_eq!(read(&mut reader, given, step), expected, "{given:?} by {step}");
            }
        }
    }

    #[test]
    fn calls_come_after_thoughts_with_their_arguments_as_an_object() {
        let given = "<think>tools!</think><tool_call>{\"name\": \"ls\", \"arguments\": {\"path\": \"/\"}}</tool_call>";
        let mut reader = Reader::new(Some(Begins::Outside), Some(ToolFormat::Hermes));
        let said = read(&mut reader, given, 3);
        let [Said::Thinking(_), Said::Call { name, arguments }] = said.as_slice() else {
            panic!("{said:?}");
        };
        assert_eq!((name.as_str(), &arguments["path"]), ("ls", &Value::from("/")));
    }

    #[test]
    fn a_template_tells_whether_answers_begin_inside_thoughts() {
        let opens = "{% if add_generation_prompt %}{{ '<assistant><think>\\n' }}{% endif %}";
        let may =
            "{% if add_generation_prompt %}A{% if off %}<think>\n</think>{% endif %}{% endif %}";
        assert_eq!(Begins::of(opens), Begins::Inside);
        assert_eq!(Begins::of(may), Begins::Outside);
        assert_eq!(Begins::of("<think>{{ messages }}"), Begins::Outside);
    }
}
