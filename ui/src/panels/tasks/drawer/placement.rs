//! Why this node, and why not the others.

use agent_api::tasks::{Candidate, Excluded, Placement};
use leptos::prelude::*;

use super::Opened;
use crate::{
    components::icon::{Icon, icon},
    derived::derived,
    format,
};

/// Nodes that are shown before the rest is unfolded.
const FIRST: usize = 4;

#[component]
pub(super) fn Why(opened: Opened) -> impl IntoView {
    let placement = derived(move || {
        opened.details.with(|d| {
            let details = d.as_ref()?.as_ref().ok()?;
            let mut placement = details.placement.clone()?;
            // While nobody can do it, this is the task's reason, which stands above.
            if placement.summary == details.task.reason {
                placement.summary.clear();
            }
            let nothing = placement.candidates.is_empty() && placement.excluded.is_empty();
            (!nothing || !placement.summary.is_empty()).then_some(placement)
        })
    });
    move || placement.get().map(|p| why(&p))
}

fn why(placement: &Placement) -> AnyView {
    let summary = (!placement.summary.is_empty())
        .then(|| view! { <p class="muted">{placement.summary.clone()}</p> });
    let top = placement.candidates.iter().map(|c| c.cost_ms).fold(1.0, f64::max);
    let mut rows = placement.candidates.iter().map(|c| candidate(c, top));
    let first: Vec<_> = rows.by_ref().take(FIRST).collect();
    let rest: Vec<_> = rows.collect();
    let more = (!rest.is_empty()).then(|| {
        let title = format!("{} more that could", rest.len());
        view! { <details class="fold"><summary>{title}</summary><ul class="costs">{rest}</ul></details> }
    });
    let chosen = placement.candidates.iter().any(|c| c.chosen);
    let title = if chosen { "Why this node" } else { "Why no node" };
    view! {
        <section id="task-why">
            <h3>{title}</h3>
            {summary}
            <ul class="costs">{first}</ul>
            {more}
            {why_not(placement)}
        </section>
    }
    .into_any()
}

/// A bar made of the parts of the estimate.
fn candidate(candidate: &Candidate, top: f64) -> AnyView {
    let colours = ["c1", "c2", "c4", "c3", "c0"];
    let width = |ms: f64| format!("{:.2}%", (ms / top * 100.0).clamp(0.0, 100.0));
    let said =
        |part: &agent_api::tasks::CostPart| format!("{} {}", part.what, format::wait(part.ms));
    // A part that adds nothing is not worth a word.
    let counted = || candidate.parts.iter().filter(|part| part.ms > 0.0);
    let words = counted().map(said).collect::<Vec<_>>().join(", ");
    let parts = counted().enumerate().map(|(n, part)| {
        view! { <b class=colours[n % colours.len()] style:width=width(part.ms) title=said(part)></b> }
    });
    let refused = candidate.refused.as_ref().map(|why| {
        view! { <p class="small warn">{format!("Said no: {why}")}</p> }
    });
    let chosen = candidate
        .chosen
        .then(|| view! { <span class="badge badge--ok">{icon(Icon::Check)}"chosen"</span> });
    view! {
        <li>
            <div class="row"><span class="trunc strong">{candidate.name.clone()}</span>{chosen}<span class="num push">{format::wait(candidate.cost_ms)}</span></div>
            <span class="stackbar" role="img" aria-label=words.clone()>{parts.collect_view()}</span>
            <p class="small faint">{words}</p>
            {refused}
        </li>
    }
    .into_any()
}

fn why_not(placement: &Placement) -> Option<AnyView> {
    let total = placement.excluded.len() as u64 + u64::from(placement.more_excluded);
    if total == 0 {
        return None;
    }
    let row = |node: &Excluded| view! { <div><dt>{node.name.clone()}</dt><dd>{node.reason.clone()}</dd></div> };
    let rows = placement.excluded.iter().map(row).collect_view();
    let more = (placement.more_excluded > 0).then(|| {
        let count = format::count(u64::from(placement.more_excluded));
        view! { <p class="faint small">{format!("and {count} more")}</p> }
    });
    let whose =
        if placement.candidates.is_empty() { "Nodes that cannot" } else { "Why not the others" };
    let title = format!("{whose} ({})", format::count(total));
    let view = view! {
        <details class="fold" id="task-why-not" open=total <= 3>
            <summary>{title}</summary><dl class="kv kv--tight small">{rows}</dl>{more}
        </details>
    };
    Some(view.into_any())
}
