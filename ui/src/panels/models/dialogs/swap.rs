//! What a swap would do, before it is done.

use agent_api::{
    endpoint::PostSwapPreview,
    models::{InstalledModel, SwapModel, SwapPreview},
};
use leptos::{prelude::*, task::spawn_local};

use crate::{
    app::{App, focus, use_app},
    backend,
    components::{
        badge::fit_badge,
        dialog::Dialog,
        icon::{Icon, icon},
    },
    format,
};

/// From here on the memory is nearly full.
const TIGHT_PERCENT: f64 = 90.0;

type Answer = RwSignal<Option<Result<SwapPreview, String>>>;

#[component]
pub(super) fn Swap() -> impl IntoView {
    let app = use_app();
    let target = app.library.swap;
    let answer: Answer = RwSignal::new(None);
    Effect::new(move |_| {
        let Some(id) = target.get() else { return };
        answer.set(None);
        spawn_local(async move {
            let request = SwapModel { model: id.clone() };
            let preview = backend::call(PostSwapPreview, &request).await.map_err(|e| e.to_string());
            // Another model may have been chosen meanwhile.
            if target.get_untracked() == Some(id) {
                answer.set(Some(preview));
                // The buttons are in the document at the next frame.
                request_animation_frame(|| focus("swap-now"));
            }
        });
    });
    let title = move || {
        let id = target.get()?;
        Some(format!("Swap to {}?", app.library.model(&id).map_or(id, |m| m.name)))
    };
    let about = Signal::derive(move || {
        answer.with(|a| a.as_ref().and_then(|a| a.as_ref().ok()).map(time)).unwrap_or_default()
    });
    let open = Signal::derive(move || target.with(Option::is_some));
    view! {
        <Dialog
            open
            on_close=move |()| target.set(None)
            title=Signal::derive(move || title().unwrap_or_default())
            about
            class="dialog-wide"
        >
            {move || match answer.get() {
                None => view! {
                    <div class="dialog-body late" aria-busy="true"><span class="sk" style:width="60%"></span></div>
                }.into_any(),
                Some(Err(why)) => view! {
                    <div class="dialog-body"><p class="hint hint--bad" role="alert">{icon(Icon::Error)}<span>{why}</span></p></div>
                }.into_any(),
                Some(Ok(preview)) => body(app, preview),
            }}
        </Dialog>
    }
}

/// `Loads in about 9 s. Requests wait in the queue meanwhile.`
fn time(preview: &SwapPreview) -> String {
    let load = preview.load_ms.map(|ms| format!("Loaded in {} the last time. ", format::wait(ms)));
    format!("{}Requests wait in the queue meanwhile.", load.unwrap_or_default())
}

fn body(app: App, preview: SwapPreview) -> AnyView {
    let target = app.library.swap;
    let active = app.library.models().into_iter().find(|m| m.active);
    let before = active.map_or("No model".to_owned(), |m| m.name);
    let limit = preview.limit_bytes;
    let side = move |label: &'static str, name: String, bytes: u64, fit: Option<AnyView>| {
        let percent = format::share(bytes, limit).unwrap_or(0.0);
        let class = if bytes > limit && limit > 0 {
            "bar bar--bad"
        } else if percent >= TIGHT_PERCENT {
            "bar bar--warn"
        } else {
            "bar bar--ok"
        };
        let (used, of) = format::part_of(bytes, limit, format::file_size);
        view! {
            <div>
                <p class="faint small">{label}</p>
                <p class="strong trunc" title=name.clone()>{name.clone()}</p>
                <span class=class aria-hidden="true"><b style:width=format!("{percent:.1}%")></b></span>
                <p class="num small">{used}" "{of}{fit}</p>
            </div>
        }
    };
    let fit = preview.model.fit.as_ref().map(fit_badge);
    let name = preview.model.name.clone();
    let leaves = names(app, &preview);
    let running = (preview.running > 0).then(|| {
        let what = format::counted(
            u64::from(preview.running),
            "request is running and finishes",
            "requests are running and finish",
        );
        note(Icon::Clock, format!("{what} on the old model first."))
    });
    let problem = preview.problem.clone();
    let off = problem.is_some();
    let model: InstalledModel = preview.model;
    let swap = move |_| {
        target.set(None);
        app.swap(model.clone());
    };
    view! {
        <div class="dialog-body">
            <div class="well swapwell">
                {side("Now", before, preview.now_bytes, None)}
                {icon(Icon::Right)}
                {side("After", name, preview.after_bytes, fit)}
            </div>
            {leaves.map(|text| note(Icon::Info, text))}
            {running}
            {problem.map(|why| view! {
                <p class="hint hint--bad" role="alert" id="swap-problem">{icon(Icon::Error)}<span>{why}</span></p>
            })}
        </div>
        <div class="dialog-foot">
            <span class="faint small">"The old model stays on disk"</span>
            <div class="push">
                <button class="btn" type="button" on:click=move |_| target.set(None)><span>"Stay"</span></button>
                <button class="btn btn--primary" type="button" id="swap-now" disabled=off on:click=swap>
                    {icon(Icon::Swap)}<span>"Swap"</span>
                </button>
            </div>
        </div>
    }
    .into_any()
}

fn note(glyph: Icon, text: String) -> impl IntoView {
    view! { <p class="hint row">{icon(glyph)}<span>{text}</span></p> }
}

/// `Qwen3 4B and nomic-embed-text leave memory.`
fn names(app: App, preview: &SwapPreview) -> Option<String> {
    let names: Vec<String> = preview
        .evicts
        .iter()
        .map(|id| app.library.model(id).map_or_else(|| id.clone(), |m| m.name))
        .collect();
    match names.as_slice() {
        [] => Some("Nothing leaves memory.".into()),
        [one] => Some(format!("{one} leaves memory.")),
        [rest @ .., last] => Some(format!("{} and {last} leave memory.", rest.join(", "))),
    }
}
