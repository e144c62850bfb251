//! Pull by name or address: what it costs is asked of the registry while the name is typed, and
//! nothing is downloaded before the button.

use std::time::Duration;

use agent_api::{
    endpoint::{PostModelPull, PostPullPreview},
    pull::{ModelName, PullPreview, PullRequest},
};
use leptos::{ev, prelude::*, task::spawn_local};

use crate::{
    app::{App, use_app},
    backend,
    components::{
        badge::fit_badge,
        dialog::Dialog,
        icon::{Icon, icon},
    },
    route::Panel,
    words::{catalogue::could_be_name, fit, preview as words},
};

/// After the last key, before the registry is asked.
const TYPING: Duration = Duration::from_millis(400);

#[derive(Clone, Debug, PartialEq)]
enum Check {
    /// Nothing that could be a name.
    Nothing,
    Asking,
    Known(Box<PullPreview>),
    Failed(String),
}

#[derive(Clone, Copy)]
struct Form {
    app: App,
    typed: RwSignal<String>,
    check: RwSignal<Check>,
    swap_when_done: RwSignal<bool>,
    sending: RwSignal<bool>,
}

impl Form {
    fn begin(self, name: String) {
        self.swap_when_done.set(false);
        self.sending.set(false);
        self.typed.set(name);
        self.ask(Duration::ZERO);
    }

    fn ask(self, after: Duration) {
        let typed = self.typed.get_untracked().trim().to_owned();
        self.check.set(if typed.is_empty() { Check::Nothing } else { Check::Asking });
        if typed.is_empty() {
            return;
        }
        set_timeout(
            move || {
                if self.still(&typed) {
                    spawn_local(self.preview(typed));
                }
            },
            after,
        );
    }

    fn still(self, name: &str) -> bool {
        // The page may ask for a token meanwhile, and this be gone.
        self.typed.try_with_untracked(|t| t.trim() == name) == Some(true)
            && self.app.library.pull.with_untracked(Option::is_some)
    }

    async fn preview(self, name: String) {
        let answer = backend::call(PostPullPreview, &ModelName { model: name.clone() }).await;
        // Dropped when the name has changed since.
        if self.still(&name) {
            self.check.set(match answer {
                Ok(preview) => Check::Known(Box::new(preview)),
                Err(error) => Check::Failed(error.to_string()),
            });
        }
    }

    fn send(self) {
        let can = self.check.with_untracked(|c| match c {
            Check::Known(preview) => words::can_pull(preview),
            _ => false,
        });
        if !can || self.sending.get_untracked() {
            return;
        }
        self.sending.set(true);
        let request = PullRequest {
            model: self.typed.get_untracked().trim().to_owned(),
            swap_when_done: self.swap_when_done.get_untracked(),
        };
        spawn_local(async move {
            match backend::call(PostModelPull, &request).await {
                Ok(_) => {
                    self.app.library.pull.set(None);
                    self.app.open(Panel::Models);
                }
                Err(error) => self.check.set(Check::Failed(error.to_string())),
            }
            self.sending.set(false);
        });
    }
}

#[component]
pub(super) fn PullModel() -> impl IntoView {
    let app = use_app();
    let form = Form {
        app,
        typed: RwSignal::new(String::new()),
        check: RwSignal::new(Check::Nothing),
        swap_when_done: RwSignal::new(false),
        sending: RwSignal::new(false),
    };
    Effect::new(move |_| {
        if let Some(name) = app.library.pull.get() {
            form.begin(name);
        }
    });
    let open = Signal::derive(move || app.library.pull.with(Option::is_some));
    let submit = move |event: ev::SubmitEvent| {
        event.prevent_default();
        form.send();
    };
    view! {
        <Dialog
            open
            on_close=move |()| app.library.pull.set(None)
            title="Pull a model"
            about="The size and the fit are checked before anything is downloaded."
            class="dialog-wide"
        >
            <form class="dialog-form" on:submit=submit>
                <div class="dialog-body"><Name form/><Finding form/></div>
                <Foot form/>
            </form>
        </Dialog>
    }
}

#[component]
fn Name(form: Form) -> impl IntoView {
    let invalid = move || form.check.with(|c| matches!(c, Check::Failed(_)).then_some("true"));
    view! {
        <div class="field">
            <label for="pull-name">"Name or URL"</label>
            <input
                class="input"
                id="pull-name"
                type="text"
                data-first
                autocomplete="off"
                autocapitalize="off"
                spellcheck="false"
                placeholder="llama3.2:1b"
                aria-describedby="pull-finding"
                aria-invalid=invalid
                prop:value=move || form.typed.get()
                on:input=move |event| {
                    form.typed.set(event_target_value(&event));
                    form.ask(TYPING);
                }
            />
        </div>
    }
}

#[component]
fn Finding(form: Form) -> impl IntoView {
    let finding = move || match form.check.get() {
        Check::Nothing => view! {
            <p class="hint">
                "A name from a registry ("<code>"qwen3:4b"</code>"), a private one with its host ("
                <code>"registry.example:5000/team/model"</code>"), a repository ("
                <code>"hf.co/ORG/REPO:Q4_K_M"</code>") or the address of a GGUF file."
            </p>
        }
        .into_any(),
        Check::Asking if form.typed.with(|t| !could_be_name(t)) => {
            view! { <p class="hint">"Names have no spaces."</p> }.into_any()
        }
        Check::Asking => view! {
            <p class="hint row">{icon(Icon::Refresh)}<span>"Asking the registry"</span></p>
        }
        .into_any(),
        Check::Failed(why) => view! {
            <p class="hint hint--bad" role="alert">{icon(Icon::Error)}<span>{why}</span></p>
        }
        .into_any(),
        Check::Known(preview) => facts(form.app, &preview),
    };
    view! { <div id="pull-finding" role="status">{finding}</div> }
}

fn facts(app: App, preview: &PullPreview) -> AnyView {
    let row =
        |name: &'static str, value: AnyView| view! { <div><dt>{name}</dt><dd>{value}</dd></div> };
    let limit = app.state.with_untracked(|s| s.settings.as_ref().and_then(|s| s.download_limit));
    let time = words::least_time(preview, limit).map(|t| row("Time", t.into_any()));
    let fit = preview.fit.as_ref().map(|fit| {
        let both = view! { <span class="row fitrow">{fit_badge(fit)}<span>{fit.reason.clone()}</span></span> };
        row("Fit", both.into_any())
    });
    let wont = preview
        .fit
        .as_ref()
        .is_some_and(|f| !fit::fits(f))
        .then_some("It would be downloaded and kept, but this computer could not load it.");
    view! {
        <div class="well">
            <dl class="kv" id="pull-facts">
                {row("Name here", view! { <code>{preview.model.clone()}</code> }.into_any())}
                {row("Download", words::download(preview).into_any())}
                {row("Source", view! { <span class="state">{icon(Icon::Globe)}{preview.source.clone()}</span> }.into_any())}
                {fit}
                {row("Disk after", words::disk_after(preview).into_any())}
                {time}
                {row("Licence", preview.license.clone().unwrap_or_else(|| "not stated".into()).into_any())}
            </dl>
        </div>
        {preview.already_installed.then(|| view! {
            <p class="hint row gap">{icon(Icon::Info)}<span>{words::already(preview)}</span></p>
        })}
        {wont.map(|text| view! { <p class="hint row warn gap">{icon(Icon::Warn)}<span>{text}</span></p> })}
        {preview.problem.clone().map(|why| view! {
            <p class="hint hint--bad gap" role="alert" id="pull-problem">{icon(Icon::Error)}<span>{why}</span></p>
        })}
    }
    .into_any()
}

#[component]
fn Foot(form: Form) -> impl IntoView {
    let label = move || {
        form.check.with(|c| match c {
            Check::Known(preview) => words::button(preview),
            _ => "Pull".into(),
        })
    };
    let off = move || {
        form.sending.get()
            || form.check.with(|c| !matches!(c, Check::Known(preview) if words::can_pull(preview)))
    };
    view! {
        <div class="dialog-foot">
            <label class="row small">
                <input
                    type="checkbox"
                    class="check"
                    id="pull-swap"
                    prop:checked=move || form.swap_when_done.get()
                    on:change=move |event| form.swap_when_done.set(event_target_checked(&event))
                />
                "Swap it in when done"
            </label>
            <div class="push">
                <button class="btn" type="button" on:click=move |_| form.app.library.pull.set(None)><span>"Close"</span></button>
                <button class="btn btn--primary" type="submit" id="pull-now" disabled=off aria-busy=move || form.sending.get().to_string()>
                    {icon(Icon::Download)}<span>{label}</span>
                </button>
            </div>
        </div>
    }
}
