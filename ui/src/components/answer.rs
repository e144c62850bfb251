//! An answer's Markdown as elements. Only blocks that changed are made anew while it is written,
//! so that the text above can be selected and read in peace.

use std::hash::{DefaultHasher, Hash, Hasher};

use leptos::{prelude::*, task::spawn_local};

use crate::{
    clipboard,
    components::icon::{Icon, icon},
    derived::derived,
    markdown::{self, Block, Inline},
};

#[component]
pub fn Answer(
    #[prop(into)] text: Signal<String>,
    #[prop(into)] writing: Signal<bool>,
    /// The model writes code without saying so.
    bare_code: bool,
) -> impl IntoView {
    let blocks = derived(move || {
        text.with(|t| if bare_code { markdown::bare_code(t) } else { markdown::parse(t) })
    });
    let numbered = move || blocks.get().into_iter().enumerate().collect::<Vec<_>>();
    view! {
        <div class="answer" class:is-writing=move || writing.get()>
            <For each=numbered key=|(place, block)| (*place, fingerprint(block)) children=|(_, block)| self::block(block)/>
        </div>
    }
}

fn fingerprint(block: &Block) -> u64 {
    let mut hasher = DefaultHasher::new();
    block.hash(&mut hasher);
    hasher.finish()
}

fn blocks(list: Vec<Block>) -> Vec<AnyView> {
    list.into_iter().map(block).collect()
}

fn block(block: Block) -> AnyView {
    match block {
        Block::Paragraph(inlines) => view! { <p>{spans(inlines)}</p> }.into_any(),
        Block::Heading(inlines) => view! { <p class="answer-h">{spans(inlines)}</p> }.into_any(),
        Block::Code { language, text } => code(language, text),
        Block::List { first: None, items } => {
            let items: Vec<_> = items.into_iter().map(|i| view! { <li>{blocks(i)}</li> }).collect();
            view! { <ul>{items}</ul> }.into_any()
        }
        Block::List { first: Some(first), items } => {
            let items: Vec<_> = items.into_iter().map(|i| view! { <li>{blocks(i)}</li> }).collect();
            view! { <ol start=first.to_string()>{items}</ol> }.into_any()
        }
        Block::Quote(inner) => view! { <blockquote>{blocks(inner)}</blockquote> }.into_any(),
        Block::Rule => view! { <hr/> }.into_any(),
    }
}

fn spans(list: Vec<Inline>) -> Vec<AnyView> {
    list.into_iter().map(span).collect()
}

fn span(inline: Inline) -> AnyView {
    match inline {
        Inline::Text(text) => text.into_any(),
        Inline::Code(text) => view! { <code>{text}</code> }.into_any(),
        Inline::Strong(inner) => view! { <strong>{spans(inner)}</strong> }.into_any(),
        Inline::Emphasis(inner) => view! { <em>{spans(inner)}</em> }.into_any(),
        Inline::Break => view! { <br/> }.into_any(),
    }
}

fn code(language: String, text: String) -> AnyView {
    let label = if language.is_empty() { "text".into() } else { language };
    let shown = text.clone();
    view! {
        <div class="code">
            <div class="code-head"><span>{label}</span><CopyButton text/></div>
            <pre tabindex="0"><code>{shown}</code></pre>
        </div>
    }
    .into_any()
}

/// Copies a text, and says so in its own place.
#[component]
pub fn CopyButton(
    text: String,
    /// What is copied, for the label.
    #[prop(optional)]
    what: &'static str,
) -> impl IntoView {
    let copied = RwSignal::new(None::<bool>);
    let copy = move |_| {
        let text = text.clone();
        spawn_local(async move { copied.set(Some(clipboard::copy(&text).await)) });
    };
    let label = move || match copied.get() {
        None => "Copy",
        Some(true) => "Copied",
        Some(false) => "Select and copy",
    };
    let shape = move || icon(if copied.get() == Some(true) { Icon::Check } else { Icon::Copy });
    view! {
        <button class="btn btn--sm btn--ghost" type="button" on:click=copy>
            {shape}<span>{label}</span><span class="vh">{what}</span>
        </button>
    }
}
