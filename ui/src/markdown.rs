//! Markdown of an answer as a small tree. The page makes elements from the tree; text that a model
//! wrote never becomes HTML, never loads anything and never becomes a link that can be followed.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// Deepest nesting that is kept; deeper lists and quotes are flattened. A page of `>` signs must
/// not become a page of nested elements.
const MAX_DEPTH: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    Paragraph(Vec<Inline>),
    Heading(Vec<Inline>),
    Code { language: String, text: String },
    List { first: Option<u64>, items: Vec<Vec<Block>> },
    Quote(Vec<Block>),
    Rule,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Inline {
    Text(String),
    Code(String),
    Strong(Vec<Inline>),
    Emphasis(Vec<Inline>),
    Break,
}

/// Parses an answer, also while it is still being written.
pub fn parse(text: &str) -> Vec<Block> {
    let mut builder = Builder { open: vec![Open::Blocks(Vec::new())] };
    for event in Parser::new_ext(text, Options::empty()) {
        builder.event(event);
    }
    builder.finish()
}

/// The answer of a model that writes code without a fence: its line ends and indents matter.
pub fn bare_code(text: &str) -> Vec<Block> {
    let text = text.trim_start_matches('\n');
    if text.is_empty() || text.contains("```") {
        return parse(text);
    }
    vec![Block::Code { language: String::new(), text: text.trim_end().into() }]
}

/// A container that is still being filled.
enum Open {
    Blocks(Vec<Block>),
    Quote(Vec<Block>),
    List {
        first: Option<u64>,
        items: Vec<Vec<Block>>,
    },
    Item(Vec<Block>),
    Paragraph {
        heading: bool,
        inlines: Vec<Inline>,
    },
    Strong(Vec<Inline>),
    Emphasis(Vec<Inline>),
    Code {
        language: String,
        text: String,
    },
    Link {
        url: String,
        inlines: Vec<Inline>,
    },
    /// Its content goes to what is around it.
    Transparent,
}

struct Builder {
    open: Vec<Open>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(end) => self.end(end),
            Event::Text(text) => self.text(&text),
            Event::Html(html) | Event::InlineHtml(html) => self.text(&html),
            Event::Code(code) => self.inline(Inline::Code(code.into_string())),
            Event::SoftBreak => self.text("\n"),
            Event::HardBreak => self.inline(Inline::Break),
            Event::Rule => self.block(Block::Rule),
            // Extensions are off.
            _ => {}
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        let deep = self.open.len() > 2 * MAX_DEPTH;
        self.open.push(match tag {
            Tag::BlockQuote(_) | Tag::List(_) | Tag::Item if deep => Open::Transparent,
            Tag::BlockQuote(_) => Open::Quote(Vec::new()),
            Tag::List(first) => Open::List { first, items: Vec::new() },
            Tag::Item => Open::Item(Vec::new()),
            Tag::Paragraph | Tag::HtmlBlock => {
                Open::Paragraph { heading: false, inlines: Vec::new() }
            }
            Tag::Heading { .. } => Open::Paragraph { heading: true, inlines: Vec::new() },
            Tag::CodeBlock(kind) => {
                let language = match kind {
                    // The info string may carry more than the language: `rust,ignore`.
                    CodeBlockKind::Fenced(info) => {
                        info.split([',', ' ']).next().unwrap_or_default().chars().take(24).collect()
                    }
                    CodeBlockKind::Indented => String::new(),
                };
                Open::Code { language, text: String::new() }
            }
            Tag::Strong => Open::Strong(Vec::new()),
            Tag::Emphasis => Open::Emphasis(Vec::new()),
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                Open::Link { url: dest_url.into_string(), inlines: Vec::new() }
            }
            _ => Open::Transparent,
        });
    }

    fn end(&mut self, _: TagEnd) {
        let Some(done) = self.open.pop() else { return };
        match done {
            Open::Blocks(blocks) => self.open.push(Open::Blocks(blocks)),
            Open::Quote(blocks) => self.block(Block::Quote(blocks)),
            Open::List { first, items } => self.block(Block::List { first, items }),
            Open::Item(blocks) => match self.open.last_mut() {
                Some(Open::List { items, .. }) => items.push(blocks),
                _ => blocks.into_iter().for_each(|b| self.block(b)),
            },
            Open::Paragraph { heading: true, inlines } => self.block(Block::Heading(inlines)),
            Open::Paragraph { heading: false, inlines } => self.block(Block::Paragraph(inlines)),
            Open::Strong(inlines) => self.inline(Inline::Strong(inlines)),
            Open::Emphasis(inlines) => self.inline(Inline::Emphasis(inlines)),
            Open::Code { language, mut text } => {
                if text.ends_with('\n') {
                    text.pop();
                }
                self.block(Block::Code { language, text });
            }
            Open::Link { url, inlines } => {
                let same = inlines == [Inline::Text(url.clone())];
                inlines.into_iter().for_each(|i| self.inline(i));
                if !url.is_empty() && !same {
                    self.text(&format!(" ({url})"));
                }
            }
            Open::Transparent => {}
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(Open::Code { text: code, .. }) = self.open.last_mut() {
            code.push_str(text);
        } else {
            self.inline(Inline::Text(text.into()));
        }
    }

    fn inline(&mut self, inline: Inline) {
        for open in self.open.iter_mut().rev() {
            match open {
                Open::Paragraph { inlines, .. }
                | Open::Strong(inlines)
                | Open::Emphasis(inlines)
                | Open::Link { inlines, .. } => return append(inlines, inline),
                // Items of a tight list hold their text without a paragraph.
                Open::Blocks(blocks) | Open::Quote(blocks) | Open::Item(blocks) => {
                    if let Some(Block::Paragraph(inlines)) = blocks.last_mut() {
                        return append(inlines, inline);
                    }
                    return blocks.push(Block::Paragraph(vec![inline]));
                }
                Open::List { .. } | Open::Code { .. } | Open::Transparent => {}
            }
        }
    }

    fn block(&mut self, block: Block) {
        for open in self.open.iter_mut().rev() {
            if let Open::Blocks(blocks) | Open::Quote(blocks) | Open::Item(blocks) = open {
                return blocks.push(block);
            }
        }
    }

    fn finish(mut self) -> Vec<Block> {
        match self.open.swap_remove(0) {
            Open::Blocks(blocks) => blocks,
            _ => Vec::new(),
        }
    }
}

/// The parser cuts text at every entity and every soft break: join it, for fewer nodes.
fn append(inlines: &mut Vec<Inline>, inline: Inline) {
    match (inlines.last_mut(), inline) {
        (Some(Inline::Text(before)), Inline::Text(text)) => before.push_str(&text),
        (_, inline) => inlines.push(inline),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Inline {
        Inline::Text(s.into())
    }

    #[test]
    fn paragraphs_code_and_emphasis() {
        let blocks = parse("Use `select!` **with** *care*.\nNow.");
        assert_eq!(
            blocks,
            [Block::Paragraph(vec![
                text("Use "),
                Inline::Code("select!".into()),
                text(" "),
                Inline::Strong(vec![text("with")]),
                text(" "),
                Inline::Emphasis(vec![text("care")]),
                text(".\nNow."),
            ])]
        );
    }

    #[test]
    fn a_code_block_that_is_still_open_is_a_code_block() {
        let blocks = parse("```rust,ignore\nfn main() {\n    let a = 1 < 2;");
        let code =
            Block::Code { language: "rust".into(), text: "fn main() {\n    let a = 1 < 2;".into() };
        assert_eq!(blocks, [code]);
    }

    #[test]
    fn bare_code_keeps_its_indents_unless_it_has_a_fence() {
        let text = "def f(n):\n    return n".to_owned();
        let code = Block::Code { language: String::new(), text: text.clone() };
        assert_eq!(bare_code(&format!("\n{text}\n")), [code]);
        assert_eq!(bare_code("see `x`:\n```\ny\n```").len(), 2);
        assert!(bare_code("\n").is_empty());
    }

    #[test]
    fn html_stays_text() {
        let blocks = parse("<script>alert(1)</script>\n\nand <b onclick=x>this</b>");
        let shown = format!("{blocks:?}");
        assert!(shown.contains("<script>alert(1)</script>"), "{shown}");
        assert!(shown.contains("<b onclick=x>this</b>"), "{shown}");
    }

    #[test]
    fn links_and_images_show_where_they_point() {
        let blocks = parse(
            "[docs](https://example.org/a) ![pixel](http://tracker/x.png) <https://example.org>",
        );
        assert_eq!(
            blocks,
            [Block::Paragraph(vec![text(
                "docs (https://example.org/a) pixel (http://tracker/x.png) https://example.org"
            )])]
        );
    }

    #[test]
    fn lists_keep_their_numbers_and_nesting() {
        let blocks = parse("3. three\n4. four\n   - inner\n");
        assert_eq!(
            blocks,
            [Block::List {
                first: Some(3),
                items: vec![
                    vec![Block::Paragraph(vec![text("three")])],
                    vec![
                        Block::Paragraph(vec![text("four")]),
                        Block::List {
                            first: None,
                            items: vec![vec![Block::Paragraph(vec![text("inner")])]]
                        },
                    ],
                ],
            }]
        );
    }

    #[test]
    fn absurd_nesting_is_flattened() {
        fn depth(blocks: &[Block]) -> usize {
            let inner = |b: &Block| match b {
                Block::Quote(b) => depth(b),
                Block::List { items, .. } => items.iter().map(|i| depth(i)).max().unwrap_or(0),
                _ => 0,
            };
            1 + blocks.iter().map(inner).max().unwrap_or(0)
        }
        let blocks = parse(&format!("{} deep", ">".repeat(2_000)));
        assert!(depth(&blocks) <= 2 * MAX_DEPTH + 2);
        assert!(format!("{blocks:?}").contains("deep"));
        let list: String = (0..200).map(|i| format!("{}- x\n", "  ".repeat(i))).collect();
        assert!(depth(&parse(&list)) <= 2 * MAX_DEPTH + 2);
    }
}
