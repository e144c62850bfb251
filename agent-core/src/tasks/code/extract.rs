//! The program in a model's answer. Pure.

use agent_api::tasks::Language;

/// A fenced block of Markdown.
#[derive(Debug)]
struct Block<'a> {
    tag: &'a str,
    text: String,
}

/// The longest fenced block of the language, or without one; where there are no blocks, the answer
/// itself if it looks like a program. What a model thinks before it answers does not count.
pub(super) fn code(answer: &str, language: Language) -> Option<String> {
    let answer = answer.rsplit("</think>").next().unwrap_or(answer);
    let blocks = blocks(answer);
    let fits = |block: &&Block| {
        block.tag.is_empty() || names(language).iter().any(|n| block.tag.eq_ignore_ascii_case(n))
    };
    let chosen = blocks.iter().filter(fits).max_by_key(|block| block.text.len());
    if let Some(block) = chosen.filter(|block| !block.text.trim().is_empty()) {
        return Some(block.text.clone());
    }
    let bare = blocks.is_empty() && looks_like_code(answer, language);
    bare.then(|| format!("{}\n", answer.trim()))
}

/// An unfinished block, of an answer that was cut, counts as far as it goes.
fn blocks(answer: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Block<'_>)> = None;
    for line in answer.lines() {
        let fence = line.trim_start();
        let ticks = fence.len() - fence.trim_start_matches('`').len();
        match &mut open {
            None if ticks >= 3 => {
                let tag = fence[ticks..].split_whitespace().next().unwrap_or_default();
                open = Some((ticks, Block { tag, text: String::new() }));
            }
            None => {}
            // Closed by a fence at least as long, with nothing behind it.
            Some((opened, _)) if ticks >= *opened && fence.trim_end().len() == ticks => {
                blocks.extend(open.take().map(|(_, block)| block));
            }
            Some((_, block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
        }
    }
    blocks.extend(open.map(|(_, block)| block));
    blocks
}

fn names(language: Language) -> &'static [&'static str] {
    match language {
        Language::Python => &["python", "python3", "py"],
        Language::Javascript => &["javascript", "js", "node", "nodejs"],
    }
}

/// Small models often leave the fence out.
fn looks_like_code(answer: &str, language: Language) -> bool {
    let starts: &[&str] = match language {
        Language::Python => &["def ", "class ", "import ", "from ", "@"],
        Language::Javascript => {
            &["function ", "const ", "let ", "class ", "module.exports", "\"use"]
        }
    };
    let first = answer.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    starts.iter().any(|start| first.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(answer: &str) -> Option<String> {
        code(answer, Language::Python)
    }

    #[test]
    fn the_fenced_block_is_the_program() {
        let answer = "I add them.\n\n```python\ndef f():\n    return 1\n```\nThat is all.";
        assert_eq!(python(answer).as_deref(), Some("def f():\n    return 1\n"));
        assert_eq!(python("```\nx = 1\n```").as_deref(), Some("x = 1\n"));
        assert_eq!(
            python("````py\ns = '''\n```\n'''\n````").as_deref(),
            Some("s = '''\n```\n'''\n")
        );
    }

    #[test]
    fn of_several_blocks_the_longest_of_the_language_counts() {
        let answer = "```bash\npip install a very long list of packages indeed\n```\n\
                      ```python\nx = 1\n```\n```python\ndef f():\n    return 22\n```";
        assert_eq!(python(answer).as_deref(), Some("def f():\n    return 22\n"));
        assert_eq!(python("```bash\nls\n```"), None);
    }

    #[test]
    fn a_cut_block_counts_as_far_as_it_goes() {
        assert_eq!(python("```python\nx = 1\ny = ").as_deref(), Some("x = 1\ny = \n"));
    }

    #[test]
    fn an_answer_that_is_only_a_program_needs_no_fence() {
        assert_eq!(python("def f():\n    return 1").as_deref(), Some("def f():\n    return 1\n"));
        assert_eq!(python("I cannot do that."), None);
        assert_eq!(python(""), None);
    }

    #[test]
    fn thoughts_before_the_answer_do_not_count() {
        let answer =
            "<think>\n```python\nwrong = True\nvery = 'long'\n```\n</think>\n```python\nx = 1\n```";
        assert_eq!(python(answer).as_deref(), Some("x = 1\n"));
    }
}
