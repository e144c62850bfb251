//! The place that others see: a field that searches time zones.

use agent_api::{mesh::MeshSettingsPatch, settings::SettingsPatch};
use leptos::{ev, prelude::*};

use super::{
    View,
    row::{Row, Saved, known, save},
};
use crate::{derived::derived, keyboard, mesh::places};

const FIELD: &str = "mesh.region";
/// What the patch calls this computer's own zone.
const AUTO: &str = "auto";
/// The list scrolls; more are found by typing on.
const MAX_FOUND: usize = 60;

/// The value to send and its words.
type Choice = (String, String, &'static str);

fn choices(typed: &str) -> Vec<Choice> {
    let mut list = Vec::new();
    if typed.trim().is_empty() {
        list.push((AUTO.to_owned(), "This computer’s".to_owned(), "by its time zone"));
        list.push((String::new(), "None".to_owned(), "others see no place"));
    }
    let zones = places::search(typed, MAX_FOUND);
    list.extend(zones.into_iter().map(|z| (z.to_owned(), places::name(z), places::area(z))));
    list
}

/// What the field shows for the setting.
fn shown(region: Option<&str>) -> String {
    match region {
        None => "This computer’s".into(),
        Some("") => "None".into(),
        Some(zone) => places::name(zone),
    }
}

#[component]
pub(super) fn RegionRow(view: View) -> impl IntoView {
    let saved = RwSignal::new(Saved::default());
    let value =
        move || known(view).map(|v| shown(v.settings.mesh.region.as_deref())).unwrap_or_default();
    let open = RwSignal::new(false);
    let typed = RwSignal::new(String::new());
    let chosen = RwSignal::new(0_usize);
    let found = derived(move || if open.get() { choices(&typed.get()) } else { Vec::new() });
    let close = move || {
        open.set(false);
        typed.set(String::new());
        chosen.set(0);
        // The field shows the value in force again.
        view.update(|_| {});
    };
    let choose = move |region: String| {
        let mesh = MeshSettingsPatch { region: Some(region), ..MeshSettingsPatch::default() };
        save(view, FIELD, SettingsPatch { mesh: Some(mesh), ..SettingsPatch::default() }, saved);
        close();
    };
    let keys = move |event: ev::KeyboardEvent| {
        let list = found.get_untracked();
        match event.key().as_str() {
            "Escape" if open.get_untracked() => close(),
            "Enter" => {
                if let Some((region, ..)) = list.get(chosen.get_untracked()) {
                    choose(region.clone());
                }
            }
            key => {
                open.set(open.get_untracked() || key.starts_with("Arrow"));
                let Some(next) = keyboard::moved(key, chosen.get_untracked(), list.len()) else {
                    return;
                };
                if matches!(key, "Home" | "End") {
                    return;
                }
                chosen.set(next);
                if let Some(row) = document().get_element_by_id(&format!("region-{next}")) {
                    let options = web_sys::ScrollIntoViewOptions::new();
                    options.set_block(web_sys::ScrollLogicalPosition::Nearest);
                    row.scroll_into_view_with_scroll_into_view_options(&options);
                }
            }
        }
        event.prevent_default();
    };
    let rows = move || {
        let row = |(place, (region, name, area)): (usize, Choice)| {
            let on = move || chosen.get() == place;
            view! {
                <li id=format!("region-{place}") role="option" class:on=on aria-selected=move || on().to_string()
                    on:pointermove=move |_| chosen.set(place)
                    on:pointerdown=move |event| {
                        // Before the field loses the focus.
                        event.prevent_default();
                        choose(region.clone());
                    }>
                    <span class="trunc">{name}</span><span class="faint small push nowrap">{area}</span>
                </li>
            }
        };
        found.get().into_iter().enumerate().map(row).collect_view()
    };
    view! {
        <Row field=FIELD label="Place that others see" hint=Signal::derive(|| "The city of a time zone; nothing more precise leaves this computer.".to_owned()) view saved>
            <div class="region">
                <input
                    class="input set-w"
                    id=format!("set-{FIELD}")
                    type="text"
                    role="combobox"
                    aria-expanded=move || open.get().to_string()
                    aria-controls="region-list"
                    aria-activedescendant=move || open.get().then(|| format!("region-{}", chosen.get()))
                    autocomplete="off"
                    spellcheck="false"
                    placeholder="Search a city"
                    prop:value=move || if open.get() { typed.get() } else { value() }
                    on:focus=move |_| open.set(true)
                    on:blur=move |_| close()
                    on:keydown=keys
                    on:input=move |event| {
                        open.set(true);
                        typed.set(event_target_value(&event));
                        chosen.set(0);
                    }
                />
                <Show when=move || open.get()>
                    <ul class="region-list" id="region-list" role="listbox" aria-label="Places">{rows}</ul>
                </Show>
            </div>
        </Row>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_of_place_are_offered_and_told_apart() {
        let first: Vec<_> = choices("").into_iter().take(2).map(|c| c.0).collect();
        assert_eq!(first, ["auto", ""]);
        assert_eq!(choices("berlin")[0].0, "Europe/Berlin");
        assert_eq!((shown(None).as_str(), shown(Some("")).as_str()), ("This computer’s", "None"));
        assert_eq!(shown(Some("America/New_York")), "New York");
        assert!(choices("").len() <= MAX_FOUND + 2);
    }
}
