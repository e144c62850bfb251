//! Everything about tasks that opens over the page. The shell holds them, because the palette opens
//! them as well.

use leptos::prelude::*;

use super::{drawer::TaskDrawer, schedules::RemoveSchedule, submit::SubmitTask};

#[component]
pub fn Dialogs() -> impl IntoView {
    view! {
        <TaskDrawer/>
        <SubmitTask/>
        <RemoveSchedule/>
    }
}
