//! Settings. There is no save button: each change is saved when it is made, and says so in its row.

mod mesh;
mod models;
mod region;
mod registries;
mod row;
mod work;

use agent_api::{
    endpoint::{GetSettings, Nothing},
    settings::{SettingsPatch, SettingsView},
};
use leptos::{prelude::*, task::spawn_local};

use self::row::{KeyRow, NumberRow, SwitchRow, TextRow};
use crate::{
    app::use_app,
    backend,
    components::{
        answer::CopyButton,
        banner::Banner,
        icon::{Icon, icon},
    },
    derived::derived,
    theme::Theme,
};

/// The last answer of `/settings`, or why there is none.
type View = RwSignal<Option<Result<SettingsView, String>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Node,
    Api,
    Inference,
    Models,
    Mesh,
    Work,
    Appearance,
}

impl Section {
    const ALL: [Self; 7] = [
        Self::Node,
        Self::Api,
        Self::Inference,
        Self::Models,
        Self::Mesh,
        Self::Work,
        Self::Appearance,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Node => "This node",
            Self::Api => "API access",
            Self::Inference => "Inference",
            Self::Models => "Models and downloads",
            Self::Mesh => "Mesh",
            Self::Work => "Work for others",
            Self::Appearance => "Appearance",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Node => "What it is called and where it keeps its data.",
            Self::Api => "OpenAI compatible: editors and scripts use the model through it.",
            Self::Inference => "How the active model is loaded and how many requests it serves.",
            Self::Models => "Where models come from, what they may take, and what stays for you.",
            Self::Mesh => {
                "How this node finds others, what they see of it, and what they may fetch."
            }
            Self::Work => {
                "What this node does for the mesh, how much, and who may see your own tasks."
            }
            Self::Appearance => "Kept in this window, not on the node.",
        }
    }

    fn icon(self) -> Icon {
        match self {
            Self::Node => Icon::User,
            Self::Api => Icon::Key,
            Self::Inference => Icon::Bolt,
            Self::Models => Icon::Models,
            Self::Mesh => Icon::Mesh,
            Self::Work => Icon::Tasks,
            Self::Appearance => Icon::Palette,
        }
    }
}

#[component]
pub(super) fn Settings() -> impl IntoView {
    let app = use_app();
    let view: View = RwSignal::new(None);
    let live = app.live();
    Effect::new(move |_| {
        if live.get() {
            spawn_local(async move {
                view.set(Some(
                    backend::call(GetSettings, &Nothing {}).await.map_err(|e| e.to_string()),
                ));
            });
        }
    });
    let section = RwSignal::new(Section::Node);
    let entry = move |s: Section| {
        let current = move || (section.get() == s).then_some("true");
        view! {
            <li>
                <button type="button" title=s.title() aria-current=current on:click=move |_| section.set(s)>
                    {icon(s.icon())}<span>{s.title()}</span>
                </button>
            </li>
        }
    };
    let ready = derived(move || view.with(|v| v.as_ref().map(|v| v.as_ref().err().cloned())));
    let body = move || {
        match (section.get(), ready.get()) {
        (Section::Appearance, _) => view! { <Appearance/> }.into_any(),
        (_, None) => view! { <section class="card skcard late" aria-busy="true"><span class="sk" style:width="60%"></span></section> }.into_any(),
        (_, Some(Some(why))) => view! { <Banner kind="danger" text=why/> }.into_any(),
        (Section::Node, _) => view! { <Node view/> }.into_any(),
        (Section::Api, _) => view! { <Api view/> }.into_any(),
        (Section::Inference, _) => view! { <Inference view/> }.into_any(),
        (Section::Models, _) => view! { <models::Models view/> }.into_any(),
        (Section::Mesh, _) => view! { <mesh::Mesh view/> }.into_any(),
        (Section::Work, _) => view! { <work::Work view/> }.into_any(),
    }
    };
    view! {
        <div class="page">
            <div class="settings">
                <nav class="setnav" aria-label="Sections"><ul>{Section::ALL.map(entry).into_iter().collect_view()}</ul></nav>
                <div class="setsec">
                    <div class="setsec-head">
                        <h2>{move || section.get().title()}</h2>
                        <p class="faint">{move || section.get().about()}</p>
                    </div>
                    {body}
                </div>
            </div>
        </div>
    }
}

#[component]
fn Node(view: View) -> impl IntoView {
    let app = use_app();
    let fact = |name: &'static str, read: fn(&agent_api::Status) -> String| {
        let value = app.part(read);
        view! {
            <div class="set">
                <div class="set-t"><span class="set-l">{name}</span></div>
                <div class="set-c set-fact"><code class="path">{move || value.get()}</code></div>
            </div>
        }
    };
    let file = move || view.with(|v| v.as_ref()?.as_ref().ok().map(|v| v.path.clone()));
    view! {
        <section class="card">
            <div class="sets">
                <TextRow
                    view
                    field="node_name"
                    label="Name"
                    hint="For people. Empty goes back to the name of the computer."
                    read=|s| s.node_name.clone()
                    patch=|v| SettingsPatch { node_name: Some(v), ..SettingsPatch::default() }
                />
                <SwitchRow
                    view
                    field="close_to_tray"
                    label="Keep serving when the window is closed"
                    hint="Quit from the tray to stop. Of use with the desktop app only."
                    read=|s| s.close_to_tray
                    patch=|v| SettingsPatch { close_to_tray: Some(v), ..SettingsPatch::default() }
                />
            </div>
        </section>
        <section class="card">
            <div class="sets">
                {fact("Node ID", |s| s.node.node_id.0.clone())}
                {fact("Version", |s| s.node.version.clone())}
                {fact("Data folder", |s| s.node.data_dir.clone())}
                <div class="set">
                    <div class="set-t"><span class="set-l">"Settings file"</span></div>
                    <div class="set-c set-fact"><code class="path">{file}</code></div>
                </div>
            </div>
        </section>
    }
}

#[component]
fn Api(view: View) -> impl IntoView {
    let app = use_app();
    let url = app.part(|s| format!("{}/v1", s.node.url));
    let exposed = app.part(|s| s.node.exposed);
    view! {
        <section class="card">
            <div class="sets">
                <div class="set">
                    <div class="set-t"><span class="set-l">"Address for editors and scripts"</span></div>
                    <div class="set-c">
                        <code>{move || url.get()}</code>
                        {move || url.get().map(|text| view! { <CopyButton text what=" the address"/> })}
                    </div>
                </div>
                <TextRow
                    view
                    field="listen"
                    label="Listen on"
                    hint="Address and port. Anything but 127.0.0.1 also needs a key."
                    read=|s| s.listen.clone()
                    patch=|v| SettingsPatch { listen: Some(v), ..SettingsPatch::default() }
                />
                <KeyRow view/>
            </div>
        </section>
        <Show when=move || exposed.get() == Some(true)>
            <Banner
                kind="danger"
                text="Other computers can reach this API. Whoever has the key can use this node, and the traffic is not encrypted."
            />
        </Show>
    }
}

#[component]
fn Inference(view: View) -> impl IntoView {
    view! {
        <section class="card">
            <div class="sets">
                <NumberRow
                    view
                    field="context_length"
                    label="Context length"
                    hint="Prompt and answer together. A smaller limit of the model wins."
                    unit="tokens"
                    min=1
                    read=|s| Some(s.context_length)
                    patch=|v| SettingsPatch { context_length: Some(v), ..SettingsPatch::default() }
                />
                <NumberRow
                    view
                    field="parallel"
                    label="Requests at a time"
                    hint="More wait in a queue. Each one takes memory for its context."
                    unit=""
                    min=1
                    read=|s| Some(s.parallel)
                    patch=|v| SettingsPatch { parallel: Some(v), ..SettingsPatch::default() }
                />
                <NumberRow
                    view
                    field="threads"
                    label="Threads"
                    hint="Empty: one per physical core."
                    unit=""
                    min=0
                    read=|s| s.threads
                    patch=|v| SettingsPatch { threads: Some(v), ..SettingsPatch::default() }
                />
            </div>
        </section>
    }
}

#[component]
fn Appearance() -> impl IntoView {
    let app = use_app();
    let option = move |(theme, glyph): (Theme, Icon)| {
        view! {
            <label>
                <input
                    type="radio"
                    name="theme"
                    value=theme.name()
                    prop:checked=move || app.theme.get() == theme
                    on:change=move |_| app.set_theme(theme)
                />
                <span>{icon(glyph)}{theme.label()}</span>
            </label>
        }
    };
    let themes =
        Theme::ALL.into_iter().zip([Icon::Auto, Icon::Sun, Icon::Moon]).map(option).collect_view();
    view! {
        <section class="card">
            <div class="sets">
                <div class="set">
                    <div class="set-t"><span class="set-l">"Theme"</span></div>
                    <div class="set-c"><div class="seg" role="radiogroup" aria-label="Theme">{themes}</div></div>
                </div>
                <div class="set">
                    <div class="set-t">
                        <label for="single-keys">"Single-key shortcuts"</label>
                        <p class="hint">"1 to 6, N, P, T, / and ?. Keys with Ctrl always work."</p>
                    </div>
                    <div class="set-c">
                        <button class="btn btn--sm btn--ghost" type="button" on:click=move |_| app.shortcuts.set(true)>
                            {icon(Icon::Keyboard)}<span>"All shortcuts"</span>
                        </button>
                        <input
                            class="switch"
                            type="checkbox"
                            role="switch"
                            id="single-keys"
                            prop:checked=move || app.single_keys.get()
                            on:change=move |event| app.set_single_keys(event_target_checked(&event))
                        />
                    </div>
                </div>
            </div>
        </section>
    }
}
