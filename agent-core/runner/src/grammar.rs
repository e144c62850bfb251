//! Grammars that constrain what is generated.
//!
//! llama.cpp parses them, but it reports an error only on the log, and it recurses as deep as a
//! grammar is nested. So a grammar is first read here, for limits and for reasons that can be told.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
};

use agent_api::runner::{Constraint, RunnerError};
use llama_cpp_2::{
    json_schema_to_grammar, model::LlamaModel, sampling::LlamaSampler, token::LlamaToken,
};
use serde_json::Value;

use crate::{failure::bad_request, llama_log::LlamaErrors};

/// Largest grammar. A schema of a thousand properties makes about a third of it.
const MAX_BYTES: usize = 256 << 10;
/// Largest schema, as JSON.
const MAX_SCHEMA_BYTES: usize = 64 << 10;
/// Deepest nesting of parentheses: llama.cpp's parser recurses for each.
const MAX_DEPTH: usize = 64;
/// The rule a grammar begins with.
const ROOT: &str = "root";

/// The sampler for a constraint.
pub(crate) fn sampler(
    constraint: &Constraint,
    model: &LlamaModel,
    errors: &LlamaErrors,
) -> Result<LlamaSampler, RunnerError> {
    let (gbnf, root) = match constraint {
        Constraint::JsonObject => {
            let any = serde_json::json!({ "type": "object" });
            (schema_grammar(&any, errors)?, ROOT.to_owned())
        }
        Constraint::JsonSchema { schema, before, after } => {
            framed(schema_grammar(schema, errors)?, before, after)
        }
        Constraint::Grammar { gbnf } => {
            check(gbnf).map_err(|why| bad_request(format!("The grammar is not valid: {why}.")))?;
            (gbnf.clone(), ROOT.to_owned())
        }
    };
    errors.clear();
    LlamaSampler::grammar(model, &gbnf, &root).map_err(|_| {
        let why = errors.first().unwrap_or_else(|| "llama.cpp cannot parse it".into());
        bad_request(format!("The grammar is not valid: {why}."))
    })
}

/// Takes a grammar past text that was written already.
pub(crate) fn advance(
    grammar: &mut LlamaSampler,
    model: &LlamaModel,
    begun: &[LlamaToken],
) -> Result<(), RunnerError> {
    for &token in begun {
        // llama.cpp aborts on an end that it does not expect.
        let taken = !model.vocab().is_eog(token) && grammar.try_accept(token).is_ok();
        if !taken {
            return Err(bad_request(
                "The answer that was begun does not follow its grammar, so it cannot go on.",
            ));
        }
    }
    Ok(())
}

fn schema_grammar(schema: &Value, errors: &LlamaErrors) -> Result<String, RunnerError> {
    let invalid = |why: &str| bad_request(format!("The JSON schema cannot be used: {why}."));
    let text = match schema {
        Value::Object(_) => schema.to_string(),
        Value::Bool(true) => "{}".to_owned(),
        _ => return Err(invalid("it must be a JSON object")),
    };
    if text.len() > MAX_SCHEMA_BYTES {
        return Err(invalid("it is larger than 64 KiB"));
    }
    if let Some(reference) = unresolved(schema, schema) {
        return Err(invalid(&format!("$ref {reference:?} does not lead to a part of it")));
    }
    errors.clear();
    json_schema_to_grammar(&text).map_err(|_| {
        let why = errors.first();
        invalid(why.as_deref().unwrap_or(
            "llama.cpp does not know one of its types, patterns or keywords, or they contradict",
        ))
    })
}

/// The first reference that leads nowhere. llama.cpp refuses these without naming them.
fn unresolved<'a>(part: &'a Value, schema: &Value) -> Option<&'a str> {
    match part {
        Value::Array(items) => items.iter().find_map(|item| unresolved(item, schema)),
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            let missing = reference.filter(|r| {
                r.strip_prefix('#').is_none_or(|pointer| schema.pointer(pointer).is_none())
            });
            missing.or_else(|| fields.values().find_map(|field| unresolved(field, schema)))
        }
        _ => None,
    }
}

/// A grammar with fixed text around what it describes, and the name of its first rule.
fn framed(mut gbnf: String, before: &str, after: &str) -> (String, String) {
    if before.is_empty() && after.is_empty() {
        return (gbnf, ROOT.to_owned());
    }
    // A name that no rule has and no rule name contains.
    let mut name = String::from("framed");
    while gbnf.contains(&name) {
        name.push('x');
    }
    let _infallible = write!(gbnf, "\n{name} ::= {} {ROOT} {}\n", literal(before), literal(after));
    (gbnf, name)
}

/// Text as a literal of a grammar.
fn literal(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What a grammar has at one place.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Name(&'a str),
    Defines,
    Opens,
    Closes,
}

/// Looks for what llama.cpp would refuse without a reason, or not survive.
fn check(gbnf: &str) -> Result<(), String> {
    if gbnf.len() > MAX_BYTES {
        return Err("it is larger than 256 KiB".into());
    }
    if gbnf.contains('\0') {
        return Err("it contains a zero byte".into());
    }
    let pieces = pieces(gbnf)?;
    let (mut open, mut used, mut defined) = (Vec::new(), HashMap::new(), HashSet::new());
    for (at, (line, piece)) in pieces.iter().enumerate() {
        match piece {
            Piece::Opens => open.push(line),
            Piece::Closes if open.pop().is_none() => {
                return Err(format!("line {line} closes a parenthesis that is not open"));
            }
            Piece::Name(name) if matches!(pieces.get(at + 1), Some((_, Piece::Defines))) => {
                defined.insert(*name);
            }
            Piece::Name(name) => {
                used.entry(*name).or_insert(line);
            }
            Piece::Closes | Piece::Defines => {}
        }
        if open.len() > MAX_DEPTH {
            return Err(format!("line {line} nests more than {MAX_DEPTH} parentheses"));
        }
    }
    if let Some(line) = open.pop() {
        return Err(format!("the parenthesis opened in line {line} is not closed"));
    }
    if !defined.contains(ROOT) {
        return Err("it has no rule named \"root\"".into());
    }
    let missing = used.iter().filter(|(name, _)| !defined.contains(*name));
    match missing.min_by_key(|(_, line)| **line) {
        Some((name, line)) => Err(format!("line {line} uses {name:?}, which is not defined")),
        None => Ok(()),
    }
}

/// The names and parentheses of a grammar, each with its line; text, character classes,
/// repetitions and comments are passed over.
fn pieces(gbnf: &str) -> Result<Vec<(usize, Piece<'_>)>, String> {
    let (mut found, mut line, mut rest) = (Vec::new(), 1, gbnf);
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\n' => {
                line += 1;
                1
            }
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' | '[' => {
                let end = if c == '"' { '"' } else { ']' };
                let what = if c == '"' { "text" } else { "character class" };
                closed(rest, end).ok_or(format!("the {what} begun in line {line} is not closed"))?
            }
            '<' | '{' => rest.find(if c == '<' { '>' } else { '}' }).map_or(1, |at| at + 1),
            '(' | ')' => {
                found.push((line, if c == '(' { Piece::Opens } else { Piece::Closes }));
                1
            }
            ':' if rest.starts_with("::=") => {
                found.push((line, Piece::Defines));
                3
            }
            c if is_name(c) => {
                let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                found.push((line, Piece::Name(&rest[..end])));
                end
            }
            c => c.len_utf8(),
        };
        line += rest[..length].matches('\n').count() - usize::from(c == '\n');
        rest = &rest[length..];
    }
    Ok(found)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

/// Length of what begins with a delimiter and ends with `end`, which a backslash hides.
fn closed(text: &str, end: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == end {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(gbnf: &str) -> String {
        check(gbnf).expect_err("is refused")
    }

    #[test]
    fn a_good_grammar_passes() {
        let gbnf = "# numbers in a list\nroot ::= \"[\" (num (\", \" num)*)? \"]\"\n\
                    num ::= [0-9]{1,3} | \"\\\"(\" | [^\\]\"] | <[12]> | .";
        assert_eq!(check(gbnf), Ok(()));
    }

    #[test]
    fn reasons_name_the_place() {
        assert_eq!(
            why("root ::= \"a\"\nb ::= missing"),
            "line 2 uses \"missing\", which is not defined"
        );
        assert_eq!(why("start ::= \"a\""), "it has no rule named \"root\"");
        assert_eq!(why("\nroot ::= \"a"), "the text begun in line 2 is not closed");
        assert_eq!(why("root ::= [a-z"), "the character class begun in line 1 is not closed");
        assert_eq!(why("root ::= (\"a\""), "the parenthesis opened in line 1 is not closed");
        assert_eq!(why("root ::= \"a\")"), "line 1 closes a parenthesis that is not open");
    }

    #[test]
    fn deep_and_large_grammars_are_refused() {
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(why(&deep).contains("nests more than 64"));
        assert!(why(&"x".repeat(MAX_BYTES + 1)).contains("256 KiB"));
    }

    #[test]
    fn schemas_are_refused_with_a_reason() {
        let refused = |schema| {
            let error = schema_grammar(&schema, &LlamaErrors::default()).expect_err("is refused");
            error.message
        };
        assert!(refused(serde_json::json!("text")).contains("must be a JSON object"));
        let lost = serde_json::json!({ "properties": { "a": { "$ref": "#/$defs/gone" } } });
        assert!(refused(lost).contains("\"#/$defs/gone\""));
        assert!(refused(serde_json::json!({ "title": "x".repeat(70_000) })).contains("64 KiB"));
    }

    #[test]
    fn fixed_text_surrounds_a_schema() {
        let schema = serde_json::json!({ "type": "object", "properties": {
            "framed": { "type": "object", "properties": { "root": { "type": "integer" } } }
        }});
        let gbnf = schema_grammar(&schema, &LlamaErrors::default()).expect("converts");
        let (gbnf, root) = framed(gbnf, "<call>\n", "\"</call>");
        assert!(gbnf.contains(&format!("{root} ::= \"<call>\\n\" root \"\\\"</call>\"")), "{gbnf}");
        assert_eq!(gbnf.matches(&format!("{root} ::=")).count(), 1);
        assert_eq!(framed("root ::= \"\"".into(), "", ""), ("root ::= \"\"".into(), ROOT.into()));
    }
}
