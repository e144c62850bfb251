//! Joining by ticket: what is in it is shown before anything changes.

use agent_api::{
    endpoint::PostMeshTicket,
    mesh::{TicketInfo, TicketText},
};
use leptos::{ev, html, prelude::*, task::spawn_local};

use crate::{
    app::{App, use_app},
    backend,
    components::{
        dialog::Dialog,
        icon::{Icon, icon},
    },
    words::mesh as words,
};

/// Longest text that is sent: a ticket with eight addressed nodes is below 3 kB.
const MAX_TICKET: usize = 16_384;

#[component]
pub(super) fn JoinMesh() -> impl IntoView {
    let app = use_app();
    let open = app.mesh.join;
    Effect::new(move |_| {
        if open.get() {
            app.mesh.refusal.set(None);
        }
    });
    view! {
        <Dialog open on_close=move |()| open.set(false) title="Join a mesh" about="You see what the ticket leads to before you join." class="dialog-wide">
            <Form/>
        </Dialog>
    }
}

/// Why the last change was refused.
pub(super) fn refusal(app: App) -> Option<AnyView> {
    app.mesh.refusal.get().map(|why| {
        view! { <p class="hint hint--bad" role="alert">{icon(Icon::Error)}<span>{why}</span></p> }.into_any()
    })
}

type Preview = RwSignal<Option<Result<TicketInfo, String>>>;

#[component]
fn Form() -> impl IntoView {
    let app = use_app();
    let open = app.mesh.join;
    let field = NodeRef::<html::Textarea>::new();
    let preview: Preview = RwSignal::new(None);
    let text = move || {
        let field = field.try_get_untracked().flatten();
        field.map(|f| f.value().trim().to_owned()).unwrap_or_default()
    };
    let look = move |_| {
        let ticket = text();
        app.mesh.refusal.set(None);
        if ticket.is_empty() {
            preview.set(None);
            return;
        }
        if ticket.len() > MAX_TICKET {
            preview.set(Some(Err("This is too long to be a ticket.".into())));
            return;
        }
        spawn_local(async move {
            let body = TicketText { ticket: ticket.clone() };
            let answer = backend::call(PostMeshTicket, &body).await.map_err(|e| e.to_string());
            // More may have been typed meanwhile, or the dialog closed.
            if text() == ticket {
                preview.set(Some(answer));
            }
        });
    };
    let valid = move || {
        let now = app.now.get();
        preview.with(|p| matches!(p, Some(Ok(info)) if info.expires_at_ms > now))
    };
    let submit = move |event: ev::SubmitEvent| {
        event.prevent_default();
        if valid() {
            app.join_mesh(text());
        }
    };
    let button = move || match preview.get() {
        Some(Ok(info)) => format!("Join {}", info.name),
        _ => "Join".into(),
    };
    let invalid = move || preview.with(|p| matches!(p, Some(Err(_))).then_some("true"));
    view! {
        <form class="dialog-form" on:submit=submit>
            <div class="dialog-body">
                <div class="field">
                    <label for="join-ticket">"Ticket"</label>
                    <textarea class="textarea mono" id="join-ticket" rows="4" data-first autocomplete="off" spellcheck="false"
                        placeholder="ec1…" aria-invalid=invalid aria-describedby="join-note" node_ref=field on:input=look></textarea>
                </div>
                <div id="join-note" class="stack" aria-live="polite">
                    {move || match preview.get() {
                        None => view! { <p class="hint">"From the Invite dialog of a computer that is in the mesh. White space and capitals do not matter."</p> }.into_any(),
                        Some(Err(why)) => view! { <p class="hint hint--bad">{icon(Icon::Error)}<span>{why}</span></p> }.into_any(),
                        Some(Ok(info)) => facts(app, &info),
                    }}
                </div>
                {move || refusal(app)}
            </div>
            <div class="dialog-foot"><div class="push">
                <button class="btn" type="button" on:click=move |_| open.set(false)><span>"Cancel"</span></button>
                <button class="btn btn--primary" type="submit" id="join-now" disabled=move || !valid() || app.mesh.busy.get()>
                    <span>{button}</span>
                </button>
            </div></div>
        </form>
    }
}

fn facts(app: App, info: &TicketInfo) -> AnyView {
    let (valid, expiry) =
        words::expiry(info.expires_at_ms, app.now.get_untracked(), backend::local_offset_ms());
    let kind = if info.private { "private" } else { "public" };
    let leaving = app.state.with_untracked(|s| s.mesh.as_ref().map(|m| words::leaving(m, info)));
    let inviter = info.inviter.fmt_short().to_owned();
    let (class, glyph) =
        if valid { ("hint ok row", Icon::Check) } else { ("hint hint--bad", Icon::Error) };
    view! {
        <p class=class>{icon(glyph)}<span>{expiry}</span></p>
        <div class="well"><dl class="kv" id="join-facts">
            <div><dt>"Mesh"</dt><dd>{format!("{}, {kind}", info.name)}</dd></div>
            <div><dt>"Who can join"</dt><dd>{words::joining(info.private)}</dd></div>
            <div><dt>"Prompts"</dt><dd>"Readable by the node that runs them"</dd></div>
            <div><dt>"Invited by"</dt><dd>{info.inviter_name.clone()}" "<code class="faint">{inviter}</code></dd></div>
            <div><dt>"Addresses to try"</dt><dd title=info.addresses.join("\n")>{info.addresses.len().to_string()}</dd></div>
        </dl></div>
        {leaving.map(|text| view! { <p class="hint row warn">{icon(Icon::Info)}<span>{text}</span></p> })}
    }
    .into_any()
}
