//! What the model is asked. Pure.

use agent_api::tasks::{CodeInput, CodeIteration, Language};
use serde_json::{Value, json};

/// Of what the tests wrote to stderr, which says what is wrong, and to stdout. Small models have
/// small contexts, and the end of a traceback is what counts.
const ERROR_BYTES: usize = 3_000;
const OUTPUT_BYTES: usize = 1_000;

/// The task, and if there was a try, that one and what became of it. Earlier tries are not repeated:
/// they would only fill the context.
pub(super) fn messages(input: &CodeInput, last: Option<&CodeIteration>) -> Vec<Value> {
    let mut messages = vec![
        json!({"role": "system", "content": rules(input.language)}),
        json!({"role": "user", "content": task(input)}),
    ];
    if let Some(last) = last {
        let said = if last.code.is_empty() {
            "(no program)".to_owned()
        } else {
            fenced(input.language, &last.code)
        };
        messages.push(json!({"role": "assistant", "content": said}));
        messages.push(json!({"role": "user", "content": verdict(last)}));
    }
    messages
}

fn rules(language: Language) -> String {
    let (name, share) = match language {
        Language::Python => ("Python 3", "The tests import it from the module `solution`."),
        Language::Javascript => (
            "JavaScript for Node.js",
            "The tests load it with `require(\"./solution.js\")`, so export with `module.exports`.",
        ),
    };
    format!(
        "You write programs in {name}, with nothing but the standard library. {share} There is no \
         network, no other process can be started, and on some computers no file can be written.\n\
         First plan in a few short sentences. Then give the whole program in exactly one fenced \
         code block. Do not repeat the tests."
    )
}

fn task(input: &CodeInput) -> String {
    format!(
        "{}\n\nThe program must pass these tests:\n\n{}",
        input.prompt.trim(),
        fenced(input.language, &input.tests)
    )
}

fn verdict(last: &CodeIteration) -> String {
    if last.code.is_empty() {
        return "There was no fenced code block with a program in your answer. Give the whole \
                program in one fenced code block."
            .to_owned();
    }
    let mut text = match (last.status, &last.problem) {
        (_, Some(problem)) => format!("The tests did not pass. {problem}\n"),
        (Some(status), None) => format!("The tests did not pass: status {status}.\n"),
        (None, None) => "The tests did not pass: they were stopped.\n".to_owned(),
    };
    for (name, output, most) in
        [("stderr", &last.stderr, ERROR_BYTES), ("stdout", &last.stdout, OUTPUT_BYTES)]
    {
        let end = tail(output.trim(), most);
        if !end.is_empty() {
            text.push_str(&format!("\nEnd of {name}:\n{}", block("", end)));
        }
    }
    text.push_str("\nSay in one sentence what was wrong, then give the whole corrected program.");
    text
}

fn fenced(language: Language, text: &str) -> String {
    match language {
        Language::Python => block("python", text),
        Language::Javascript => block("javascript", text),
    }
}

/// The fence is longer than any within the text.
fn block(tag: &str, text: &str) -> String {
    let mut fence = "```".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    format!("{fence}{tag}\n{}\n{fence}\n", text.trim_end())
}

/// The last bytes of a text, from the start of a character.
fn tail(text: &str, most: usize) -> &str {
    let from = text.ceil_char_boundary(text.len().saturating_sub(most));
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(language: Language) -> CodeInput {
        CodeInput {
            version: 1,
            model: String::new(),
            language,
            prompt: "Reverse a text.".to_owned(),
            tests: "assert True".to_owned(),
            max_iterations: None,
            run_s: None,
        }
    }

    fn content(message: &Value) -> &str {
        message["content"].as_str().expect("is text")
    }

    #[test]
    fn the_first_question_has_the_task_and_its_tests() {
        let messages = messages(&input(Language::Javascript), None);
        assert_eq!(messages.len(), 2);
        assert!(content(&messages[0]).contains("module.exports"));
        assert!(content(&messages[1]).contains("Reverse a text."));
        assert!(content(&messages[1]).contains("```javascript\nassert True\n```"));
    }

    #[test]
    fn of_a_long_error_the_end_comes_back() {
        let last = CodeIteration {
            code: "x = 1".to_owned(),
            status: Some(1),
            stdout: String::new(),
            stderr: format!("{}ValueError: here", "ä".repeat(9_000)),
            problem: None,
            run_ms: 3,
        };
        let messages = messages(&input(Language::Python), Some(&last));
        let verdict = content(&messages[3]);
        assert!(verdict.contains("ValueError: here"));
        assert!(verdict.len() < ERROR_BYTES + 300, "{}", verdict.len());
        assert!(content(&messages[2]).contains("x = 1"));
    }

    #[test]
    fn a_fence_within_the_text_does_not_end_the_block() {
        assert_eq!(block("", "a ``` b"), "````\na ``` b\n````\n");
    }
}
