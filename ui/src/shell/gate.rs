//! Shown in a browser that has no token, or a wrong one.

use leptos::{html, prelude::*};

use crate::{
    backend,
    components::icon::{Icon, icon, mark},
    route,
};

#[component]
pub(super) fn Gate(had_token: bool) -> impl IntoView {
    let field = NodeRef::<html::Input>::new();
    let problem = RwSignal::new(None::<&'static str>);
    let send = move |event: leptos::ev::SubmitEvent| {
        event.prevent_default();
        let pasted = field.get_untracked().map(|f| f.value()).unwrap_or_default();
        match route::token_in(&pasted) {
            Some(token) => backend::set_token(&token),
            None => problem.set(Some(
                "There is no token in this. Paste the whole address, or the one word in the file.",
            )),
        }
    };
    let why = if had_token {
        "The node does not accept the token that this browser has. It may be from another node, or from a data folder that was removed."
    } else {
        "This page controls a node, so it needs the token of that node."
    };
    view! {
        <main class="gate" id="main">
            <div class="gate-box">
                <div class="brand">{mark()}<span class="wordmark">"EdgeCoder"</span></div>
                <h1 id="panel-title">{if had_token { "The token is not accepted" } else { "Open this page with its token" }}</h1>
                <p class="muted">{why}</p>
                <ol class="gate-ways">
                    <li>"Open the address that " <code>"edgecoder-node run"</code> " printed. It ends with the token."</li>
                    <li>"Or paste the token here. It is in the file " <code>"token"</code> " in the node’s data folder."</li>
                </ol>
                <form class="gate-form" on:submit=send>
                    <label class="vh" for="token-input">"Token or address"</label>
                    <input
                        class="input"
                        id="token-input"
                        type="password"
                        autocomplete="off"
                        spellcheck="false"
                        placeholder="Token or address"
                        node_ref=field
                        aria-invalid=move || problem.get().map(|_| "true")
                        aria-describedby="token-problem"
                    />
                    <button class="btn btn--primary" type="submit">{icon(Icon::Key)}<span>"Open"</span></button>
                </form>
                <p class="hint hint--bad" id="token-problem" role="alert">{problem}</p>
                <p class="hint">"The token stays in this browser. It is never sent to another computer."</p>
            </div>
        </main>
    }
}
