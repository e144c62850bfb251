//! What went into a task and what came out, each kind as what it is.

use agent_api::tasks::{CodeIteration, Task, TaskKind};
use leptos::prelude::*;

use super::Opened;
use crate::{
    components::{
        answer::{Answer, CopyButton},
        icon::{Icon, icon},
    },
    derived::{Derived, derived},
    format,
    tasks::output::{self, Shown},
};

#[component]
pub(super) fn Output(opened: Opened, task: Derived<Option<Task>>) -> impl IntoView {
    let kind = derived(move || task.with(|t| t.as_ref().map(|t| t.kind)));
    let shown = derived(move || {
        let kind = kind.get()?;
        opened
            .output
            .with(|o| Some(output::shown(kind, o.as_ref()?.as_ref().ok()?.output.as_ref()?)))
    });
    let problem = derived(move || opened.output.with(|o| o.as_ref()?.as_ref().err().cloned()));
    let text = Signal::derive(move || opened.live.with(|l| l.text.clone()));
    let going = derived(move || task.with(|t| t.as_ref().is_some_and(|t| !t.state.is_final())));
    let writing =
        derived(move || shown.with(Option::is_none) && opened.live.with(|l| !l.text.is_empty()));
    view! {
        <Show when=move || writing.get()>
            <section>
                <h3>{move || if going.get() { "Output so far" } else { "Output, as far as it came" }}</h3>
                <div class="output" id="task-live"><Answer text writing=going bare_code=false/></div>
            </section>
        </Show>
        {move || problem.get().map(|why| view! {
            <p class="hint hint--bad">{icon(Icon::Error)}<span>{format!("The output could not be loaded. {why}")}</span></p>
        })}
        {move || shown.get().map(|shown| view! {
            <section id="task-output"><h3>"Output"</h3>{draw(shown)}</section>
        })}
    }
}

fn block(label: &'static str, text: &str) -> AnyView {
    let (shown, more) = output::cut(text);
    let note = more.then(|| view! { <p class="faint small">"Cut here; Copy takes all of it."</p> });
    view! {
        <div class="code">
            <div class="code-head"><span>{label}</span><CopyButton text=text.to_owned()/></div>
            <pre tabindex="0"><code>{shown}</code></pre>
        </div>
        {note}
    }
    .into_any()
}

fn draw(shown: Shown) -> AnyView {
    match shown {
        Shown::Text { text, note } => {
            let note = (!note.is_empty()).then(|| view! { <p class="hint warn">{note}</p> });
            view! { <div class="output"><Answer text=Signal::derive(move || text.clone()) writing=Signal::derive(|| false) bare_code=false/></div>{note} }
            .into_any()
        }
        Shown::Vectors { words, json } => view! {
            <div class="output row"><span>{words}</span><span class="push"><CopyButton text=json what=" the vectors"/></span></div>
        }
        .into_any(),
        Shown::Bytes { text, base64, note } => {
            let body = match text {
                Some(text) => block("text", &text),
                None => block("base64", &base64),
            };
            view! { {body}<p class="faint small">{note}</p> }.into_any()
        }
        Shown::Code { passed, code, iterations } => {
            let (class, glyph, words) = if passed {
                ("state ok", Icon::Check, "Its tests pass")
            } else {
                ("state bad", Icon::Error, "Its tests do not pass")
            };
            let last = iterations.len();
            let rounds = iterations.iter().enumerate().map(|(n, round)| iteration(n + 1, round, n + 1 == last));
            view! {
                <p class=class>{icon(glyph)}{words}</p>
                {block("program", &code)}
                <div class="rounds">{rounds.collect_view()}</div>
            }
            .into_any()
        }
        Shown::Other(text) => block("json", &text),
    }
}

/// The last round's program is the output itself.
fn iteration(number: usize, round: &CodeIteration, last: bool) -> AnyView {
    let title = format!("Round {number}: {}", output::iteration(round));
    // What could not be run took no time that anybody measured.
    let ran = round.run_ms > 0 || round.problem.is_none();
    let took = if ran { format::wait(round.run_ms as f64) } else { format::UNKNOWN.into() };
    let part =
        |label: &'static str, text: &str| (!text.trim().is_empty()).then(|| block(label, text));
    view! {
        <details class="fold">
            <summary><span class="trunc">{title}</span><span class="push faint num">{took}</span></summary>
            <div class="stack">
                {(!last).then(|| part("program", &round.code))}{part("stdout", &round.stdout)}{part("stderr", &round.stderr)}
            </div>
        </details>
    }
    .into_any()
}

#[component]
pub(super) fn Input(opened: Opened) -> impl IntoView {
    let fields = derived(move || {
        opened.details.with(|d| {
            let details = d.as_ref()?.as_ref().ok()?;
            Some((details.task.kind, output::input(details.task.kind, details.input.as_ref()?)))
        })
    });
    let field = |kind: TaskKind, name: &'static str, text: &str| {
        if kind == TaskKind::Wasm && text.len() < 80 && !text.contains('\n') {
            return view! { <p class="small"><span class="faint">{name}": "</span><code class="path">{text.to_owned()}</code></p> }.into_any();
        }
        block(name, text)
    };
    move || {
        fields.get().map(|(kind, fields)| {
            let rows = fields.iter().map(|(name, text)| field(kind, name, text)).collect_view();
            view! { <details class="fold" id="task-input"><summary>"Input"</summary><div class="stack">{rows}</div></details> }
        })
    }
}
