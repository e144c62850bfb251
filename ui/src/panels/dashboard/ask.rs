//! The Ask box: a conversation with the active model, streamed.

use agent_api::{models::ModelState, tasks::TaskKind};
use leptos::{ev, html, prelude::*};

use crate::{
    app::{App, use_app},
    chat::{Asked, Turn},
    components::{
        answer::Answer as AnswerView,
        icon::{Icon, icon},
    },
    conversation::{Answer, Phase},
    derived::{Derived, derived},
    format,
    tasks::offers::{self, Offer},
};

/// Within so many pixels of its end, the log follows what is written.
const FOLLOW_PX: i32 = 48;

#[component]
pub(super) fn Ask() -> impl IntoView {
    let app = use_app();
    let model = app.active_model();
    let offers =
        derived(move || app.state.with(|s| offers::offers(s.peers.iter(), TaskKind::Chat)));
    let live = app.live();
    let on = derived(move || app.mesh.on(app));
    Effect::new(move |_| {
        // Their models can be asked as well.
        if live.get() && on.get() && !app.state.with_untracked(|s| s.peers.loaded()) {
            app.load_peers();
        }
    });
    let usable = derived(move || {
        app.chat.elsewhere.with(Option::is_some)
            || app.state.with(|s| {
                s.status.as_ref().is_some_and(|s| {
                    s.model.active.is_some()
                        && !matches!(s.model.state, ModelState::None | ModelState::Failed)
                })
            })
    });
    let has_turns = derived(move || app.chat.turns.with(|t| !t.is_empty()));
    let hint = move || match model.get().filter(|_| app.chat.elsewhere.with(Option::is_none)) {
        Some(m) if m.demo => "Demo model, not useful for real work".to_owned(),
        Some(m) => format!("Try {}", m.name),
        None => String::new(),
    };
    let fresh = move || {
        has_turns.get().then(|| {
            view! {
                <button class="btn btn--sm btn--ghost" id="ask-new" type="button" title="New conversation" on:click=move |_| app.chat.forget()>
                    {icon(Icon::Plus)}<span>"New"<span class="vh">" conversation"</span></span>
                </button>
            }
        })
    };
    view! {
        <section class="card ask" aria-labelledby="ask-title">
            <div class="card-head card-head--line ask-head">
                <h2 id="ask-title">"Ask"</h2><span class="faint trunc" id="ask-hint" title=hint>{hint}</span>
                <span class="push row">{move || offers.with(|o| (!o.is_empty()).then(|| where_to(app, o)))}{fresh}</span>
            </div>
            {move || if usable.get() || has_turns.get() {
                view! { <Log/><Composer usable/> }.into_any()
            } else {
                view! { <NoModel/> }.into_any()
            }}
        </section>
    }
}

/// The active model, or one of another node.
fn where_to(app: App, offers: &[Offer]) -> AnyView {
    let chosen = app.chat.elsewhere.get();
    let active = app.active_model().get().map_or_else(|| "This node".into(), |m| m.name);
    let list = offers.to_vec();
    let choose = move |event| {
        let model = event_target_value(&event);
        app.chat.elsewhere.set(list.iter().find(|o| o.model == model).cloned());
    };
    let gone = chosen.clone().filter(|c| !offers.contains(c));
    let options = offers.iter().cloned().chain(gone).map(|offer| {
        let on = chosen.as_ref() == Some(&offer);
        view! { <option value=offer.model selected=on>{offer.label}</option> }
    });
    view! {
        <label class="vh" for="ask-where">"Model"</label>
        <select class="select select--sm select--quiet ask-where" id="ask-where" on:change=choose>
            <option value="" selected=chosen.is_none()>{active}</option>{options.collect_view()}
        </select>
    }
    .into_any()
}

/// Who is asked next.
fn asked(app: App) -> Option<Asked> {
    let elsewhere = app.chat.elsewhere.get_untracked().map(Asked::from);
    elsewhere.or_else(|| app.active_model().get_untracked().as_ref().map(Asked::from))
}

/// Nothing can be asked: why, and what to do.
#[component]
fn NoModel() -> impl IntoView {
    let app = use_app();
    app.load_models();
    let failed = app.part(|s| s.model.state == ModelState::Failed);
    // Without a model the headline says it all; a failure has details.
    let reason =
        app.part(|s| (s.model.state == ModelState::Failed).then(|| s.model.reason.clone()));
    let folder = move || {
        app.library
            .list
            .get()
            .and_then(Result::ok)
            .map(|l| view! { <code class="path">{l.folder}</code> })
    };
    view! {
        <div class="empty">
            <span class="glyph">{icon(Icon::Models)}</span>
            <h3>{move || if failed.get() == Some(true) { "The model could not be loaded" } else { "No model to ask" }}</h3>
            {move || reason.get().flatten().map(|why| view! { <p>{why}</p> })}
            <p>"Put a GGUF file into this folder and choose it under Models. Where other nodes offer theirs, choose one of those above."</p>
            {folder}
            <div class="row"><a class="btn" href="#/models">{icon(Icon::Models)}<span>"Open Models"</span></a></div>
        </div>
    }
}

#[component]
fn Log() -> impl IntoView {
    let app = use_app();
    let log = NodeRef::<html::Div>::new();
    let follow = RwSignal::new(true);
    let on_scroll = move |_| {
        // The last scroll may be told after the panel is gone.
        if let Some(log) = log.try_get_untracked().flatten() {
            let below = log.scroll_height() - log.scroll_top() - log.client_height();
            follow.set(below < FOLLOW_PX);
        }
    };
    Effect::new(move |before: Option<usize>| {
        let count = app.chat.turns.with(Vec::len);
        let last = app.chat.turns.with(|t| t.last().map(|t| t.answer.clone()));
        if let Some(answer) = last {
            answer.track();
        }
        let asked = before.is_some_and(|n| count > n);
        if (asked || follow.get_untracked())
            && let Some(log) = log.get()
        {
            // After this frame's text is in place.
            request_animation_frame(move || log.set_scroll_top(log.scroll_height()));
        }
        count
    });
    let busy = move || app.chat.busy().to_string();
    let empty = move || app.chat.turns.with(Vec::is_empty);
    view! {
        <div
            class="ask-log"
            role="log"
            tabindex="0"
            aria-label="Conversation"
            aria-busy=busy
            node_ref=log
            on:scroll=on_scroll
        >
            <Show when=empty><Invitation/></Show>
            <For each=move || app.chat.turns.get() key=|t| t.id children=move |turn| view! { <TurnView turn/> }/>
        </div>
    }
}

/// Prompts to begin with: for a model that writes code, and for one that only continues it.
const EXAMPLES: [&str; 3] = [
    "Write a binary search in Rust",
    "Explain what a mutex is for",
    "Write tests for a function that parses dates",
];
const DEMO_EXAMPLES: [&str; 3] = ["fn binary_search(", "def fibonacci(n):", "impl Iterator for"];

#[component]
fn Invitation() -> impl IntoView {
    let app = use_app();
    let url = app.part(|s| s.node.url.clone());
    let demo = app.part(|s| s.model.active.as_ref().is_some_and(|m| m.demo));
    let example = move |text: &'static str| {
        let take = move |_| {
            app.chat.draft.set(text.into());
            app.focus_ask();
        };
        view! { <button class="chip" type="button" on:click=take>{text}</button> }
    };
    let place = move || match app.chat.elsewhere.get() {
        Some(offer) => format!("Answered by {}. Its owner can read what you ask.", offer.label),
        None => "Questions are answered by the active model.".into(),
    };
    let examples = move || {
        let list = if demo.get() == Some(true) { DEMO_EXAMPLES } else { EXAMPLES };
        list.map(example).into_iter().collect_view()
    };
    view! {
        <div class="ask-start">
            <p class="muted">{place}</p>
            <div class="chips" role="group" aria-label="Examples">{examples}</div>
            <p class="faint small">
                "Editors and scripts use the same model: OpenAI API at "
                <code>{move || url.get().map(|u| format!("{u}/v1"))}</code>
            </p>
        </div>
    }
}

#[component]
fn TurnView(turn: Turn) -> impl IntoView {
    let app = use_app();
    let id = turn.id;
    let last = derived(move || app.chat.turns.with(|t| t.last().is_some_and(|t| t.id == id)));
    let answer = turn.answer;
    let part = |read: fn(&Answer) -> bool| {
        let answer = answer.clone();
        derived(move || answer.with(read))
    };
    let waiting = part(|a| a.phase == Phase::Waiting);
    let writing = part(|a| a.phase == Phase::Writing);
    let text = {
        let answer = answer.clone();
        Signal::derive(move || answer.with(|a| a.text.clone()))
    };
    let error = {
        let answer = answer.clone();
        derived(move || answer.with(|a| a.error.clone()))
    };
    view! {
        <div class="turn">
            <p class="ask-q">{turn.question}</p>
            <div class="ask-a" id=move || last.get().then_some("ask-answer")>
                <Show when=move || waiting.get()>
                    <p class="faint">"Waiting for the first token"<span class="caret" aria-hidden="true"></span></p>
                </Show>
                <AnswerView text writing bare_code=turn.demo/>
            </div>
            {move || error.get().map(|message| failure(app, message, last))}
            <Footer answer last node=turn.node/>
        </div>
    }
}

fn failure(app: App, message: String, last: Derived<bool>) -> AnyView {
    let again = move |_| {
        if let Some(asked) = asked(app) {
            app.chat.retry(&asked);
        }
    };
    view! {
        <div class="banner banner--danger ask-error" role="alert">
            {icon(Icon::Error)}<p>{message}</p>
            <Show when=move || last.get()>
                <span class="push">
                    <button class="btn btn--sm" id="ask-retry" type="button" on:click=again>
                        {icon(Icon::Refresh)}<span>"Retry"</span>
                    </button>
                </span>
            </Show>
        </div>
    }
    .into_any()
}

#[component]
fn Footer(answer: ArcRwSignal<Answer>, last: Derived<bool>, node: Option<String>) -> impl IntoView {
    let facts = derived(move || answer.with(|a| facts(a, node.as_deref())));
    move || {
        facts.get().map(|facts| {
            let figures = facts
                .figures
                .into_iter()
                .map(|f| view! { <span class="num">{f}</span> })
                .collect_view();
            view! {
                <p class="ask-meta" id=move || last.get().then_some("ask-footer")>
                    {icon(facts.glyph)}
                    <span>{facts.state}{facts.place}</span>
                    <span class="ask-figures push">{figures}</span>
                </p>
            }
        })
    }
}

/// What the line under an answer says.
#[derive(Clone, Debug, PartialEq)]
struct Facts {
    state: &'static str,
    glyph: Icon,
    /// Which node answered, as far as known.
    place: String,
    figures: Vec<String>,
}

/// `asked`: the node that was chosen, if not this one. What the answer's headers say counts more.
fn place(answer: &Answer, asked: Option<&str>) -> (Icon, String) {
    match (&answer.served_by, asked) {
        (Some(by), _) if by.path == "local" => {
            (Icon::Home, "Served by this node. Nothing left this computer.".into())
        }
        (Some(by), _) => {
            let path = if by.path == "lan" { "LAN" } else { by.path.as_str() };
            (Icon::Mesh, format!("Served by {} ({path}), which could read it.", by.name))
        }
        (None, Some(node)) => (Icon::Mesh, format!("Asked of {node}, which can read it.")),
        (None, None) => (Icon::Chat, String::new()),
    }
}

fn facts(answer: &Answer, asked: Option<&str>) -> Option<Facts> {
    let state = match answer.phase {
        Phase::Waiting | Phase::Failed => return None,
        Phase::Stopped => "Stopped. ",
        Phase::Done if answer.cut => "Cut at the length limit. ",
        Phase::Writing | Phase::Done => "",
    };
    let mut figures = Vec::new();
    // While it is written, only what is certain already: the rest would flicker.
    if answer.phase != Phase::Writing {
        figures.extend(answer.tokens_per_s().map(|r| format!("{}\u{202f}tok/s", format::rate(r))));
    }
    figures.extend(answer.first_token_ms.map(|ms| format!("first token {}", format::wait(ms))));
    if answer.phase != Phase::Writing {
        figures.extend(answer.tokens().map(|n| format::counted(u64::from(n), "token", "tokens")));
    }
    let (glyph, place) = place(answer, asked);
    Some(Facts { state, glyph, place, figures })
}

#[component]
fn Composer(usable: Derived<bool>) -> impl IntoView {
    let app = use_app();
    let live = app.live();
    let field = NodeRef::<html::Textarea>::new();
    let ready = move || live.get() && usable.get();
    let send = move || {
        if let Some(asked) = asked(app).filter(|_| live.get_untracked() && usable.get_untracked()) {
            app.chat.send(&asked);
        }
    };
    // Grows with its text, up to the limit in the style sheet.
    Effect::new(move |_| {
        app.chat.draft.track();
        if let Some(field) = field.get() {
            let style = web_sys::HtmlElement::style(&field);
            let _ = style.set_property("height", "auto");
            let _ = style.set_property("height", &format!("{}px", field.scroll_height() + 2));
        }
    });
    let keys = move |event: ev::KeyboardEvent| {
        if event.key() == "Enter" && !event.shift_key() && !event.is_composing() {
            event.prevent_default();
            send();
        }
    };
    let placeholder = move || match (live.get(), app.chat.turns.with(Vec::is_empty)) {
        (false, _) => "The node is not answering",
        (true, true) => "Ask something",
        (true, false) => "Ask a follow-up",
    };
    let blank = move || app.chat.draft.with(|d| d.trim().is_empty());
    let submit = move |event: ev::SubmitEvent| {
        event.prevent_default();
        send();
    };
    let button = move || {
        if app.chat.busy() {
            view! {
                <button class="btn" id="ask-stop" type="button" on:click=move |_| app.chat.stop()>
                    {icon(Icon::Stop)}<span>"Stop"</span>
                </button>
            }
            .into_any()
        } else {
            view! {
                <button class="btn btn--primary" id="ask-send" type="submit" disabled=move || blank() || !ready()>
                    {icon(Icon::Send)}<span>"Ask"</span>
                </button>
            }
            .into_any()
        }
    };
    view! {
        <form class="ask-box" on:submit=submit>
            <label class="vh" for="ask-input">"Question"</label>
            <textarea
                class="textarea"
                id="ask-input"
                rows="1"
                title="Enter sends, Shift Enter starts a new line"
                placeholder=placeholder
                node_ref=field
                prop:value=move || app.chat.draft.get()
                on:input=move |event| app.chat.draft.set(event_target_value(&event))
                on:keydown=keys
            ></textarea>
            {button}
        </form>
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ServedBy;

    #[test]
    fn the_footer_says_only_what_is_known() {
        let mut answer = Answer::default();
        assert_eq!(facts(&answer, None), None);
        answer.phase = Phase::Stopped;
        let shown = facts(&answer, None).expect("a footer");
        assert_eq!((shown.state, shown.place.as_str()), ("Stopped. ", ""));
        assert!(shown.figures.is_empty());
        answer.phase = Phase::Done;
        answer.cut = true;
        answer.first_token_ms = Some(210.0);
        let shown = facts(&answer, None).expect("a footer");
        assert_eq!(shown.state, "Cut at the length limit. ");
        assert_eq!(shown.figures, ["first token 210\u{202f}ms"]);
    }

    #[test]
    fn the_footer_names_the_node_that_answered() {
        let mut answer = Answer::default();
        assert!(place(&answer, Some("kanal")).1.contains("Asked of kanal"));
        let by = |name: &str, path: &str| ServedBy { name: name.into(), path: path.into() };
        answer.served_by = Some(by("fjord-01", "relay"));
        assert!(place(&answer, Some("kanal")).1.contains("fjord-01 (relay)"), "it went elsewhere");
        answer.served_by = Some(by("workbench", "local"));
        assert!(place(&answer, None).1.contains("Nothing left this computer"));
    }
}
