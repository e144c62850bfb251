//! Each way of finding peers: whether it works, what it found, and why not.

use agent_api::mesh::Source;
use leptos::prelude::*;

use crate::{
    app::use_app,
    components::icon::{Icon, icon, icon_class},
    format,
    words::{mesh as words, peer},
};

#[component]
pub(super) fn Sources() -> impl IntoView {
    let app = use_app();
    let sources = app.mesh_part(|m| m.sources.clone());
    let busy = move || app.mesh.busy.get();
    view! {
        <div class="topo-side">
            <div class="row">
                <h2 id="sources-title">"Found through"</h2>
                <button
                    class="ibtn ibtn--sm push"
                    type="button"
                    id="mesh-refresh"
                    aria-label="Look for peers now"
                    title="Look for peers now"
                    aria-busy=move || busy().to_string()
                    on:click=move |_| app.look_for_peers()
                >
                    {icon(Icon::Refresh)}
                </button>
            </div>
            <ul class="srcs" id="sources" aria-labelledby="sources-title">
                {move || sources.get().unwrap_or_default().into_iter().map(|s| view! { <Row source=s/> }).collect_view()}
            </ul>
        </div>
    }
}

#[component]
fn Row(source: Source) -> impl IntoView {
    let app = use_app();
    let (glyph, class, word) = words::source_state(source.state);
    let line = words::source_line(&source);
    let (found, last) = (source.found, source.last_found_ms);
    let reason = source.reason.clone();
    let hint = move || {
        let count = format::counted(u64::from(found), "peer", "peers");
        let when = last.map(|at| format!(", the last {}", peer::seen(Some(at), app.now.get())));
        format!("{reason} {count} found{}.", when.unwrap_or_default())
    };
    view! {
        <li title=hint>
            {icon(words::source_icon(source.kind))}
            <div><b>{words::source_title(source.kind)}</b><p>{line}</p></div>
            <span class="num">{format::count(u64::from(found))}</span>
            <span>{icon_class(glyph, class)}<span class="vh">{word}</span></span>
        </li>
    }
}
