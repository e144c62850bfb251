//! Everything known about one installed model, in a drawer; every long value can be copied.

use agent_api::{
    endpoint::GetModelShow,
    models::{ModelDetails, ShowModel},
};
use leptos::{prelude::*, task::spawn_local};
use serde_json::{Map, Value};

use crate::{
    app::use_app,
    backend,
    components::{
        answer::CopyButton,
        badge::fit_badge,
        dialog::Dialog,
        icon::{Icon, icon},
    },
    format,
    words::model as words,
};

/// Metadata may hold whole vocabularies; the drawer shows the beginning of each value.
const SHOWN_CHARS: usize = 300;

type Answer = RwSignal<Option<Result<ModelDetails, String>>>;

#[component]
pub(super) fn Details() -> impl IntoView {
    let app = use_app();
    let target = app.library.details;
    let answer: Answer = RwSignal::new(None);
    Effect::new(move |_| {
        let Some(id) = target.get() else { return };
        answer.set(None);
        spawn_local(async move {
            let request = ShowModel { model: id.clone() };
            let details = backend::call(GetModelShow, &request).await.map_err(|e| e.to_string());
            // Another one may have been opened meanwhile.
            if target.get_untracked() == Some(id) {
                answer.set(Some(details));
            }
        });
    });
    let title = move || {
        let id = target.get().unwrap_or_default();
        app.library.model(&id).map_or(id, |m| m.name)
    };
    let open = Signal::derive(move || target.with(Option::is_some));
    view! {
        <Dialog open on_close=move |()| target.set(None) title=Signal::derive(title) class="drawer">
            {move || match answer.get() {
                None => view! {
                    <div class="drawer-body late" aria-busy="true">
                        <span class="sk" style:width="70%"></span><span class="sk" style:width="50%"></span>
                    </div>
                }.into_any(),
                Some(Err(why)) => view! {
                    <div class="drawer-body"><p class="hint hint--bad" role="alert">{icon(Icon::Error)}<span>{why}</span></p></div>
                }.into_any(),
                Some(Ok(details)) => body(details),
            }}
        </Dialog>
    }
}

fn body(details: ModelDetails) -> AnyView {
    let model = &details.model;
    let mut facts = vec![
        ("Name for requests", model.id.clone()),
        ("Size", format::file_size(model.size_bytes)),
        ("Architecture", model.architecture.clone()),
        ("Weights", model.parameters.map(format::parameters).unwrap_or_default()),
        ("Quantization", model.quantization.clone()),
        ("Trained context", format!("{} tokens", format::context(model.context_train))),
        ("Licence", model.license.clone().unwrap_or_default()),
    ];
    let can: Vec<_> = model.capabilities.iter().map(|c| words::capability(*c)).collect();
    facts.push(("Can do", can.join(", ")));
    facts.push(("Changed", model.modified_at_ms.map(date).unwrap_or_default()));
    facts.retain(|(_, value)| !value.is_empty());
    let facts = facts
        .into_iter()
        .map(|(name, value)| view! { <div><dt>{name}</dt><dd>{value}</dd></div> })
        .collect_view();
    let fit = model.fit.as_ref().map(|fit| {
        view! { <p class="row fitrow">{fit_badge(fit)}<span class="small faint">{fit.reason.clone()}</span></p> }
    });
    let digest = model.digest.clone().map(|d| long("Digest", d));
    let path = (!model.path.is_empty()).then(|| long("File", model.path.clone()));
    view! {
        <div class="drawer-body" tabindex="-1" data-first>
            <section>{fit}<dl class="kv kv--tight">{facts}</dl></section>
            {digest}{path}
            {layers(&details)}
            {object("Parameters", &details.parameters)}
            {details.system.clone().map(|text| block("System prompt", text))}
            {details.template.clone().map(|text| block("Template", text))}
            {details.license_text.clone().map(|text| block("Licence text", text))}
            {object("Metadata", &details.metadata)}
        </div>
    }
    .into_any()
}

fn date(at_ms: i64) -> String {
    let offset = backend::local_offset_ms();
    let now = format::LocalTime::new(backend::now_ms(), offset);
    format::LocalTime::new(at_ms, offset).moment(now)
}

/// One long word, to be copied.
fn long(name: &'static str, value: String) -> impl IntoView {
    view! {
        <section>
            <div class="row"><h3>{name}</h3><span class="push"></span><CopyButton text=value.clone()/></div>
            <code class="path small">{value}</code>
        </section>
    }
}

fn layers(details: &ModelDetails) -> Option<impl IntoView + use<>> {
    if details.layers.is_empty() {
        return None;
    }
    let rows = details
        .layers
        .iter()
        .map(|layer| {
            let short: String = layer.digest.chars().take(19).collect();
            view! {
                <tr>
                    <td>{layer.kind.clone()}</td>
                    <td title=layer.digest.clone()><code class="faint">{short}"…"</code></td>
                    <td class="num">{format::file_size(layer.size_bytes)}</td>
                </tr>
            }
        })
        .collect_view();
    Some(view! {
        <section>
            <h3>"Layers"</h3>
            <table class="table table--flush"><caption class="vh">"Layers"</caption><tbody>{rows}</tbody></table>
        </section>
    })
}

/// A longer text, closed at first.
fn block(name: &'static str, text: String) -> impl IntoView {
    view! {
        <details class="fold">
            <summary><h3>{name}</h3></summary>
            <div class="code">
                <div class="code-head"><span>{format::counted(text.lines().count() as u64, "line", "lines")}</span><CopyButton text=text.clone()/></div>
                <pre tabindex="0"><code>{text}</code></pre>
            </div>
        </details>
    }
}

fn object(name: &'static str, values: &Map<String, Value>) -> Option<impl IntoView + use<>> {
    if values.is_empty() {
        return None;
    }
    let all = Value::Object(values.clone()).to_string();
    let rows = values
        .iter()
        .map(|(key, value)| view! { <div><dt>{key.clone()}</dt><dd>{short(value)}</dd></div> })
        .collect_view();
    let count = format::count(values.len() as u64);
    Some(view! {
        <details class="fold" open=values.len() < 8>
            <summary><h3>{name}" "<span class="count">{count}</span></h3></summary>
            <div class="row"><span class="push"></span><CopyButton text=all/></div>
            <dl class="kv kv--tight kv--mono">{rows}</dl>
        </details>
    })
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= SHOWN_CHARS {
        return text;
    }
    text.chars().take(SHOWN_CHARS).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_metadata_is_cut_and_words_have_no_quotes() {
        assert_eq!(short(&Value::from("llama")), "llama");
        assert_eq!(short(&Value::from(128_000)), "128000");
        assert_eq!(short(&Value::from("é".repeat(1_000))).chars().count(), SHOWN_CHARS + 1);
    }
}
