//! Reads fields of a JSON object and notes everything that is wrong with them.

use std::{fmt::Display, ops::RangeInclusive};

use serde_json::{Map, Value};

use super::{name_of, quoted};

/// The fields of one object. A field that is `null` counts as absent.
#[derive(Debug)]
pub(super) struct Fields<'a, 'p> {
    /// Before each name: `input.`, or nothing.
    prefix: &'static str,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
    problems: &'p mut Vec<String>,
}

impl<'a, 'p> Fields<'a, 'p> {
    pub(super) fn new(
        prefix: &'static str,
        map: &'a Map<String, Value>,
        problems: &'p mut Vec<String>,
    ) -> Self {
        Self { prefix, map, known: Vec::new(), problems }
    }

    pub(super) fn wrong(&mut self, name: impl Display, what: impl Display) {
        self.problems.push(format!("{}{name}: {what}", self.prefix));
    }

    pub(super) fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Its absence is a problem.
    pub(super) fn need(&mut self, name: &'static str) -> Option<&'a Value> {
        let value = self.get(name);
        if value.is_none() {
            self.wrong(name, "is missing");
        }
        value
    }

    /// A text of so many bytes.
    pub(super) fn text(
        &mut self,
        name: &'static str,
        bytes: RangeInclusive<usize>,
    ) -> Option<&'a str> {
        let value = self.get(name)?;
        self.as_text(name, value, bytes)
    }

    pub(super) fn need_text(
        &mut self,
        name: &'static str,
        bytes: RangeInclusive<usize>,
    ) -> Option<&'a str> {
        let value = self.need(name)?;
        self.as_text(name, value, bytes)
    }

    fn as_text(
        &mut self,
        name: &str,
        value: &'a Value,
        bytes: RangeInclusive<usize>,
    ) -> Option<&'a str> {
        let Some(text) = value.as_str() else {
            self.wrong(name, format_args!("a text is expected, not {}", name_of(value)));
            return None;
        };
        if bytes.contains(&text.len()) {
            return Some(text);
        }
        let (low, high) = bytes.into_inner();
        self.wrong(name, format_args!("it has {low} to {high} bytes, not {}", text.len()));
        None
    }

    /// One line for people, of so many characters at most.
    pub(super) fn line(&mut self, name: &'static str, characters: usize) -> Option<&'a str> {
        // Four bytes are the most that a character has.
        let text = self.text(name, 0..=4 * characters)?;
        if text.chars().count() > characters || text.chars().any(char::is_control) {
            self.wrong(name, format_args!("one line of at most {characters} characters"));
            return None;
        }
        Some(text)
    }

    /// A whole number within a range.
    pub(super) fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = self.get(name)?;
        if let Some(number) = value.as_u64().filter(|number| range.contains(number)) {
            return Some(number);
        }
        let (low, high) = range.into_inner();
        self.wrong(
            name,
            format_args!("a whole number from {low} to {high} is expected, not {}", name_of(value)),
        );
        None
    }

    pub(super) fn small(&mut self, name: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let (low, high) = range.into_inner();
        let number = self.integer(name, u64::from(low)..=u64::from(high))?;
        u32::try_from(number).ok()
    }

    /// A number within a range.
    pub(super) fn number(&mut self, name: &'static str, low: f32, high: f32) -> Option<f32> {
        let value = self.get(name)?;
        let range = f64::from(low)..=f64::from(high);
        #[expect(clippy::cast_possible_truncation, reason = "the range is small")]
        let number = value.as_f64().filter(|number| range.contains(number)).map(|n| n as f32);
        if number.is_none() {
            let what = name_of(value);
            self.wrong(name, format_args!("a number from {low} to {high} is expected, not {what}"));
        }
        number
    }

    /// A list of texts.
    pub(super) fn texts(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
        bytes: RangeInclusive<usize>,
    ) -> Option<Vec<String>> {
        let value = self.get(name)?;
        let Some(list) = value.as_array() else {
            self.wrong(name, format_args!("a list of texts is expected, not {}", name_of(value)));
            return None;
        };
        if !count.contains(&list.len()) {
            let (low, high) = count.into_inner();
            self.wrong(name, format_args!("it has {low} to {high} entries, not {}", list.len()));
            return None;
        }
        let mut texts = Vec::with_capacity(list.len());
        for (n, value) in list.iter().enumerate() {
            let name = format!("{name}[{n}]");
            texts.extend(self.as_text(&name, value, bytes.clone()).map(ToOwned::to_owned));
        }
        (texts.len() == list.len()).then_some(texts)
    }

    /// `false`: this node does not know the version; absent means 1.
    pub(super) fn version(&mut self, newest: u32) -> bool {
        let Some(value) = self.get("version") else { return true };
        let known =
            value.as_u64().is_some_and(|version| (1..=u64::from(newest)).contains(&version));
        if !known {
            let versions = match newest {
                1 => "this node knows version 1".to_owned(),
                newest => format!("this node knows versions 1 to {newest}"),
            };
            self.wrong("version", format_args!("{} is not known; {versions}", name_of(value)));
        }
        known
    }

    /// Fields that were never asked for are problems.
    pub(super) fn finish(self) {
        for name in self.map.keys().filter(|name| !self.known.contains(&name.as_str())) {
            self.problems.push(format!(
                "{}{}: there is no such field; fields are {}",
                self.prefix,
                quoted(name),
                self.known.join(", ")
            ));
        }
    }
}
