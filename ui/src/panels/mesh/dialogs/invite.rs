//! A ticket for another computer, as text and as QR code.

use agent_api::{
    endpoint::PostMeshInvite,
    mesh::{Invite, InviteRequest},
};
use leptos::{prelude::*, task::spawn_local};

use crate::{
    app::use_app,
    backend,
    components::{
        answer::CopyButton,
        dialog::Dialog,
        icon::{Icon, icon},
    },
    words::mesh as words,
};

const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;
/// Seconds, and what people call them. The longest is the longest that the node gives.
const EXPIRIES: [(u64, &str); 4] =
    [(HOUR_S, "1 hour"), (DAY_S, "24 hours"), (7 * DAY_S, "7 days"), (30 * DAY_S, "30 days")];
const USUAL: u64 = 7 * DAY_S;

type Answer = RwSignal<Option<Result<Invite, String>>>;

#[component]
pub(super) fn InvitePeer() -> impl IntoView {
    let app = use_app();
    let open = app.mesh.invite;
    let name = app.mesh_part(|m| m.name.clone());
    let title = move || name.get().map(|n| format!("Invite to {n}")).unwrap_or_default();
    view! {
        <Dialog
            open
            on_close=move |()| open.set(false)
            title=Signal::derive(title)
            about="Scan on the other computer, or paste the ticket there under Join another mesh."
            class="dialog-invite"
        >
            <Ticket/>
        </Dialog>
    }
}

#[component]
fn Ticket() -> impl IntoView {
    let app = use_app();
    let answer: Answer = RwSignal::new(None);
    let valid_for = RwSignal::new(USUAL);
    Effect::new(move |_| {
        let expires_in_s = Some(valid_for.get());
        answer.set(None);
        spawn_local(async move {
            let request = InviteRequest { expires_in_s };
            let invite = backend::call(PostMeshInvite, &request).await.map_err(|e| e.to_string());
            // Another time may have been chosen meanwhile, or the dialog closed.
            if valid_for.try_get_untracked() == expires_in_s {
                answer.set(Some(invite));
            }
        });
    });
    let private = app.mesh_part(|m| m.private);
    let options = EXPIRIES
        .map(|(seconds, name)| view! { <option value=seconds.to_string() selected=seconds == USUAL>{name}</option> });
    let choose = move |event| {
        if let Ok(seconds) = event_target_value(&event).parse() {
            valid_for.set(seconds);
        }
    };
    let picture = move || {
        match answer.get() {
        Some(Ok(invite)) => view! {
            <div class="qr"><img alt="QR code of the ticket" src=backend::svg_address(&invite.qr_svg)/></div>
        }
        .into_any(),
        _ => view! { <div class="qr qr--none" aria-hidden="true"></div> }.into_any(),
    }
    };
    let ticket = move || {
        match answer.get() {
        None => view! { <div class="ticket late" aria-busy="true"><span class="sk" style:width="80%"></span></div> }.into_any(),
        Some(Err(why)) => view! { <p class="hint hint--bad" role="alert">{icon(Icon::Error)}<span>{why}</span></p> }.into_any(),
        Some(Ok(invite)) => {
            let (_, expiry) = words::expiry(invite.expires_at_ms, app.now.get_untracked(), backend::local_offset_ms());
            view! {
                <div class="ticket" tabindex="0" role="textbox" aria-readonly="true" aria-label="Ticket"><code id="invite-ticket">{invite.ticket.clone()}</code></div>
                <div class="row"><CopyButton text=invite.ticket what=" the ticket"/><span class="faint small">{expiry}</span></div>
            }
            .into_any()
        }
    }
    };
    let (open, done) = (app.mesh.invite, "Done");
    view! {
        <div class="dialog-body invite">
            {picture}
            <div class="stack stack--lg">
                <div class="field"><span class="label">"Ticket"</span>{ticket}</div>
                <div class="field">
                    <label for="invite-valid">"Valid for"</label>
                    <select class="select select--auto start" id="invite-valid" on:change=choose>{options.into_iter().collect_view()}</select>
                </div>
                <p class="hint row">{icon(Icon::Lock)}<span>{move || private.get().map(words::ticket_warning)}</span></p>
            </div>
        </div>
        <div class="dialog-foot"><div class="push">
            <button class="btn btn--primary" type="button" data-first on:click=move |_| open.set(false)><span>{done}</span></button>
        </div></div>
    }
}
