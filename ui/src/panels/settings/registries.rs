//! Registries: the usual one, and those that are mirrored, private or on the owner's own network.

use agent_api::{
    endpoint::PostRegistryLogin,
    settings::{Registry, RegistryLogin, SettingsPatch},
};
use leptos::{ev, html, prelude::*, task::spawn_local};

use super::{
    View,
    row::{Saved, TextRow, known, note, save},
};
use crate::{
    backend,
    components::{
        dialog::Dialog,
        icon::{Icon, icon},
    },
    derived::derived,
};

const FIELD: &str = "registries";

#[component]
pub(super) fn Registries(view: View) -> impl IntoView {
    let saved = RwSignal::new(Saved::default());
    // `Some("")` is a new one, `Some(host)` one that is being changed.
    let editing = RwSignal::new(None::<Registry>);
    let login = RwSignal::new(None::<String>);
    let list = derived(move || known(view).map(|v| v.settings.registries).unwrap_or_default());
    let rows =
        move || list.get().into_iter().map(|r| row(view, saved, editing, login, r)).collect_view();
    view! {
        <section class="card" id="registries">
            <div class="card-head card-head--line">
                <h3 class="h-card">"Registries"</h3><span class="push"></span>
                <div role="status">{note(view, FIELD, saved)}</div>
                <button
                    class="btn btn--sm"
                    type="button"
                    id="registry-add"
                    on:click=move |_| editing.set(Some(Registry::default()))
                >
                    {icon(Icon::Plus)}<span>"Add"</span>
                </button>
            </div>
            <div class="sets">
                <TextRow
                    view
                    field="default_registry"
                    label="Default"
                    hint="Plain names such as qwen3:4b come from here."
                    read=|s| s.default_registry.clone()
                    patch=|v| SettingsPatch { default_registry: Some(v), ..SettingsPatch::default() }
                />
                {rows}
            </div>
        </section>
        <Edit view saved editing/>
        <Login view login/>
    }
}

/// `over a mirror at https://mirror.example, without encryption`
fn how(registry: &Registry) -> String {
    let mut parts = Vec::new();
    if let Some(mirror) = &registry.mirror {
        parts.push(format!("fetched from {mirror}"));
    }
    if registry.plain_http {
        parts.push("not encrypted".into());
    }
    if let Some(file) = &registry.ca_file {
        parts.push(format!("trusts {file}"));
    }
    if parts.is_empty() {
        parts.push("over https, as it is named".into());
    }
    let text = parts.join(", ");
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |c| c.to_uppercase().collect::<String>() + letters.as_str())
}

fn row(
    view: View,
    saved: RwSignal<Saved>,
    editing: RwSignal<Option<Registry>>,
    login: RwSignal<Option<String>>,
    registry: Registry,
) -> AnyView {
    let host = registry.host.clone();
    let (to_login, to_remove, to_edit) = (host.clone(), host.clone(), registry.clone());
    let word = if registry.logged_in { "Log out or change" } else { "Log in" };
    let remove = move |_| {
        let mut list = known(view).map(|v| v.settings.registries).unwrap_or_default();
        list.retain(|r| r.host != to_remove);
        save(view, FIELD, SettingsPatch { registries: Some(list), ..Default::default() }, saved);
    };
    view! {
        <div class="set" data-registry=host.clone()>
            <div class="set-t">
                <span class="row">
                    <span class="set-l trunc">{host.clone()}</span>
                    {registry.logged_in.then(|| view! { <span class="badge badge--ok">{icon(Icon::Check)}"Logged in"</span> })}
                </span>
                <p class="hint">{how(&registry)}</p>
            </div>
            <div class="set-c">
                <button class="btn btn--sm" type="button" on:click=move |_| login.set(Some(to_login.clone()))>
                    {icon(Icon::Key)}<span>{word}</span>
                </button>
                <button class="btn btn--sm" type="button" on:click=move |_| editing.set(Some(to_edit.clone()))>
                    <span>"Change"</span>
                </button>
                <button
                    class="ibtn ibtn--sm ibtn--danger"
                    type="button"
                    aria-label=format!("Remove {host}")
                    title="Remove from the list; its models stay"
                    on:click=remove
                >
                    {icon(Icon::Trash)}
                </button>
            </div>
        </div>
    }
    .into_any()
}

/// A registry as a form holds it.
fn from_fields(
    host: &str,
    mirror: &str,
    plain_http: bool,
    ca_file: &str,
) -> Result<Registry, &'static str> {
    let host = host.trim().trim_end_matches('/');
    if host.is_empty() {
        return Err("A registry needs a host, such as registry.example:5000.");
    }
    if host.contains("://") || host.contains('/') || host.contains(char::is_whitespace) {
        return Err(
            "Only the host, without https:// and without a path. Another address goes into the mirror.",
        );
    }
    let optional = |text: &str| Some(text.trim().to_owned()).filter(|t| !t.is_empty());
    Ok(Registry {
        host: host.to_owned(),
        mirror: optional(mirror),
        plain_http,
        ca_file: optional(ca_file),
        logged_in: false,
    })
}

/// The list with a registry in the place of the one that was changed, or at the end.
fn put(
    mut list: Vec<Registry>,
    old_host: &str,
    new: Registry,
) -> Result<Vec<Registry>, &'static str> {
    if list.iter().any(|r| r.host == new.host && r.host != old_host) {
        return Err("This host is in the list already.");
    }
    match list.iter_mut().find(|r| r.host == old_host) {
        Some(place) => *place = new,
        None => list.push(new),
    }
    Ok(list)
}

#[component]
fn Edit(view: View, saved: RwSignal<Saved>, editing: RwSignal<Option<Registry>>) -> impl IntoView {
    let open = Signal::derive(move || editing.with(Option::is_some));
    let title = move || match editing.get() {
        Some(r) if !r.host.is_empty() => format!("Change {}", r.host),
        _ => "Add a registry".to_owned(),
    };
    view! {
        <Dialog open on_close=move |()| editing.set(None) title=Signal::derive(title) class="dialog-wide">
            {move || editing.get().map(|old| view! { <EditForm view saved editing old/> })}
        </Dialog>
    }
}

#[component]
fn EditForm(
    view: View,
    saved: RwSignal<Saved>,
    editing: RwSignal<Option<Registry>>,
    old: Registry,
) -> impl IntoView {
    let [host, mirror, ca_file] = [(); 3].map(|()| NodeRef::<html::Input>::new());
    let plain = NodeRef::<html::Input>::new();
    let problem = RwSignal::new(None::<&'static str>);
    let old_host = old.host.clone();
    let submit = move |event: ev::SubmitEvent| {
        event.prevent_default();
        let text = |field: NodeRef<html::Input>| {
            field.get_untracked().map(|f| f.value()).unwrap_or_default()
        };
        let plain = plain.get_untracked().is_some_and(|f| f.checked());
        let list = known(view).map(|v| v.settings.registries).unwrap_or_default();
        let new = from_fields(&text(host), &text(mirror), plain, &text(ca_file))
            .and_then(|new| put(list, &old_host, new));
        match new {
            Ok(list) => {
                editing.set(None);
                save(
                    view,
                    FIELD,
                    SettingsPatch { registries: Some(list), ..Default::default() },
                    saved,
                );
            }
            Err(why) => problem.set(Some(why)),
        }
    };
    view! {
        <form class="dialog-form" on:submit=submit>
            <div class="dialog-body">
                <div class="field">
                    <label for="registry-host">"Host"</label>
                    <input class="input" id="registry-host" type="text" data-first autocomplete="off" spellcheck="false"
                        placeholder="registry.example:5000" value=old.host.clone() node_ref=host
                        aria-invalid=move || problem.get().map(|_| "true") aria-describedby="registry-problem"/>
                    <p class="hint">"As it is written in model names."</p>
                </div>
                <div class="field">
                    <label for="registry-mirror">"Mirror"</label>
                    <input class="input" id="registry-mirror" type="text" autocomplete="off" spellcheck="false"
                        placeholder="https://mirror.example" value=old.mirror.clone() node_ref=mirror/>
                    <p class="hint">"Where it is really fetched from. Empty: from the host itself."</p>
                </div>
                <div class="field">
                    <label for="registry-ca">"Certificate authority"</label>
                    <input class="input" id="registry-ca" type="text" autocomplete="off" spellcheck="false"
                        placeholder="/etc/ssl/our-ca.pem" value=old.ca_file.clone() node_ref=ca_file/>
                    <p class="hint">"A PEM file to trust for this host. Empty: what the system trusts."</p>
                </div>
                <label class="row">
                    <input type="checkbox" class="check" id="registry-plain" checked=old.plain_http node_ref=plain/>
                    <span>"Without encryption (http). Others on the network can read the password."</span>
                </label>
                <p class="hint hint--bad" id="registry-problem" role="alert">{problem}</p>
            </div>
            <div class="dialog-foot"><div class="push">
                <button class="btn" type="button" on:click=move |_| editing.set(None)><span>"Keep as it is"</span></button>
                <button class="btn btn--primary" type="submit" id="registry-save"><span>"Save registry"</span></button>
            </div></div>
        </form>
    }
}

#[component]
fn Login(view: View, login: RwSignal<Option<String>>) -> impl IntoView {
    let open = Signal::derive(move || login.with(Option::is_some));
    let title = move || format!("Log in to {}", login.get().unwrap_or_default());
    view! {
        <Dialog
            open
            on_close=move |()| login.set(None)
            title=Signal::derive(title)
            about="Kept on the node for this host only, and never shown again."
        >
            {move || login.get().map(|host| view! { <LoginForm view login host/> })}
        </Dialog>
    }
}

#[component]
fn LoginForm(view: View, login: RwSignal<Option<String>>, host: String) -> impl IntoView {
    let username = NodeRef::<html::Input>::new();
    let secret = NodeRef::<html::Input>::new();
    let problem = RwSignal::new(None::<String>);
    let known_here = known(view)
        .is_some_and(|v| v.settings.registries.iter().any(|r| r.host == host && r.logged_in));
    let host = StoredValue::new(host);
    let send = move |username: String, secret: String| {
        let request = RegistryLogin { host: host.get_value(), username, secret };
        spawn_local(async move {
            match backend::call(PostRegistryLogin, &request).await {
                Ok(new) => {
                    view.set(Some(Ok(new)));
                    login.set(None);
                }
                // The dialog may be closed by now.
                Err(error) => drop(problem.try_set(Some(error.to_string()))),
            }
        });
    };
    let submit = move |event: ev::SubmitEvent| {
        event.prevent_default();
        let text = |field: NodeRef<html::Input>| {
            field.get_untracked().map(|f| f.value()).unwrap_or_default()
        };
        let (name, word) = (text(username).trim().to_owned(), text(secret));
        if word.is_empty() {
            problem.set(Some("A password or a token is needed.".into()));
        } else {
            send(name, word);
        }
    };
    view! {
        <form class="dialog-form" on:submit=submit>
            <div class="dialog-body">
                <div class="field">
                    <label for="login-name">"Name"</label>
                    <input class="input" id="login-name" type="text" data-first autocomplete="off" spellcheck="false" node_ref=username/>
                    <p class="hint">"Empty: the token is sent as it is."</p>
                </div>
                <div class="field">
                    <label for="login-secret">"Password or token"</label>
                    <input class="input" id="login-secret" type="password" autocomplete="off" node_ref=secret/>
                </div>
                {move || problem.get().map(|why| view! {
                    <p class="hint hint--bad" role="alert">{icon(Icon::Error)}<span>{why}</span></p>
                })}
            </div>
            <div class="dialog-foot">
                {known_here.then(|| view! {
                    <button class="btn btn--danger-quiet" type="button" id="login-forget" on:click=move |_| send(String::new(), String::new())>
                        <span>"Log out"</span>
                    </button>
                })}
                <div class="push">
                    <button class="btn" type="button" on:click=move |_| login.set(None)><span>"Close"</span></button>
                    <button class="btn btn--primary" type="submit" id="login-now">{icon(Icon::Key)}<span>"Log in"</span></button>
                </div>
            </div>
        </form>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(host: &str) -> Registry {
        Registry { host: host.into(), ..Registry::default() }
    }

    #[test]
    fn a_registry_is_a_host_and_nothing_else() {
        assert_eq!(
            from_fields(" registry.example:5000/ ", "", false, " "),
            Ok(registry("registry.example:5000"))
        );
        for wrong in ["", "https://registry.example", "registry.example/team", "two words"] {
            assert!(from_fields(wrong, "", false, "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_changed_registry_keeps_its_place_and_doubles_are_refused() {
        let list = vec![registry("a"), registry("b")];
        let hosts = |list: Vec<Registry>| list.into_iter().map(|r| r.host).collect::<Vec<_>>();
        assert_eq!(
            put(list.clone(), "a", registry("c")).map(hosts),
            Ok(vec!["c".into(), "b".into()])
        );
        assert_eq!(
            put(list.clone(), "", registry("c")).map(hosts),
            Ok(vec!["a".into(), "b".into(), "c".into()])
        );
        assert!(put(list, "a", registry("b")).is_err());
    }

    #[test]
    fn a_row_says_how_the_host_is_reached() {
        assert_eq!(how(&registry("a")), "Over https, as it is named");
        let plain = Registry { plain_http: true, mirror: Some("http://m".into()), ..registry("a") };
        assert_eq!(how(&plain), "Fetched from http://m, not encrypted");
    }
}
