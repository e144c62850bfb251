//! The Dashboard: what the node is doing and why, and a box to ask it something.

mod activity;
mod ask;
mod hero;
mod machine;
mod strip;

use leptos::prelude::*;

use crate::{app::use_app, components::banner::Banner, derived::derived};

#[component]
pub(super) fn Dashboard() -> impl IntoView {
    let app = use_app();
    let known = derived(move || app.state.with(|s| s.status.is_some()));
    let body = move || {
        if known.get() {
            view! {
                <strip::Strip/>
                <div class="dash">
                    <div class="dash-main"><ask::Ask/></div>
                    <div class="dash-side">
                        <machine::ThisComputer/>
                        <activity::Feed/>
                    </div>
                </div>
            }
            .into_any()
        } else {
            view! { <Skeleton/> }.into_any()
        }
    };
    view! {
        <div class="page page--dashboard">
            <Notices/>
            <hero::Hero/>
            {body}
        </div>
    }
}

#[component]
fn Notices() -> impl IntoView {
    let app = use_app();
    let notices = app.part(|s| s.notices.clone());
    view! {
        <div class="notices" role="status">
            <For
                each=move || notices.get().unwrap_or_default()
                key=|n| (n.id.clone(), n.message.clone())
                children=|n| view! { <Banner kind="warn" text=n.message/> }
            />
        </div>
    }
}

/// In the place of what is awaited, and of its height; visible only if it takes a while.
#[component]
fn Skeleton() -> impl IntoView {
    let cell = || view! { <div class="strip-cell"><span class="sk sk--label"></span><span class="sk sk--big"></span></div> };
    let line = |width: &'static str| view! { <span class="sk" style:width=width></span> };
    view! {
        <section class="strip card late" aria-hidden="true">{(0..6).map(|_| cell()).collect_view()}</section>
        <div class="dash late" aria-busy="true">
            <div class="dash-main"><section class="card ask skcard">{["30%", "80%", "64%"].map(line).collect_view()}</section></div>
            <div class="dash-side"><section class="card grow skcard">{["90%", "80%", "84%", "70%"].map(line).collect_view()}</section></div>
        </div>
    }
}
