//! The Tasks panel in Chromium, with a hundred thousand generated tasks.

use anyhow::{Result, ensure};
use edgecoder_tests::tasks_page::TasksPage;

use crate::{browser::possible, support::page::Page};

const TASKS: usize = 100_000;

async fn number(page: &Page, script: &str) -> Result<f64> {
    Ok(page.script(script).await?.as_f64().unwrap_or(f64::NAN))
}

const ROWS: &str = "return document.querySelectorAll('#tasks tr[data-task]').length";

#[tokio::test]
async fn browser_a_hundred_thousand_tasks_are_filtered_and_scrolled_through() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let tasks = TasksPage::start("127.0.0.1:0", TASKS).await?;
    let page = Page::chromium("chromium-tasks", &tasks.address()).await?;
    page.run(async |page| {
        page.text_when("nav a[href=\"#/tasks\"]", |text| text.contains('2')).await?;
        page.click("nav a[href=\"#/tasks\"]").await?;
        page.text_when("#tasks", |text| text.contains("Streaming") && text.contains("1st in line")).await?;
        page.text_when(".topbar .sub", |text| text == "2 running, 3 waiting").await?;
        page.screenshot("all").await?;

        page.click("[data-group=\"Done\"]").await?;
        page.text_when("#tasks .card-foot [role=\"status\"]", |text| text.contains("loaded")).await?;
        ensure!(number(page, ROWS).await? < 100.0, "only rows near the view are drawn");
        // Ten times to the end of what is loaded: each time more comes.
        for step in 1..=10 {
            page.script("const m = document.getElementById('main'); m.scrollTop = m.scrollHeight; return null").await?;
            let most = f64::from(step) * 200.0;
            page.text_when("#tasks .card-foot [role=\"status\"]", |text| {
                let figures: String = text.split(" of ").next().unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
                figures.parse::<f64>().is_ok_and(|loaded| loaded > most)
            })
            .await?;
        }
        ensure!(number(page, ROWS).await? < 100.0);
        page.screenshot("deep").await?;

        page.script("document.getElementById('main').scrollTop = 0; return null").await?;
        page.click("[data-group=\"Failed\"]").await?;
        page.text_when("#tasks tbody", |text| text.contains("No answer in 30 s") && !text.contains("Done")).await?;
        page.click("#task-filters .seg + .seg label:nth-child(2)").await?;
        page.text_when("#tasks tbody", |text| !text.contains("you")).await?;
        page.type_into("#task-search", "nowhere").await?;
        page.text_when("#no-task-fits", |text| text.contains("No task fits")).await?;
        page.screenshot("none").await?;
        page.click("#no-task-fits button").await?;
        page.text_when("#tasks", |text| text.contains("Streaming")).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn browser_a_task_is_opened_followed_and_cancelled() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let tasks = TasksPage::start("127.0.0.1:0", 200).await?;
    let page = Page::chromium("chromium-task", &tasks.address()).await?;
    page.run(async |page| {
        page.click("nav a[href=\"#/tasks\"]").await?;
        // The one that this node's owner asked and that runs.
        let own = "const row = [...document.querySelectorAll('#tasks tr[data-task]')].find(r => r.innerText.includes('Streaming') && r.innerText.includes('you')); if (row) row.click(); return !!row";
        page.text_when("#tasks", |text| text.contains("Streaming")).await?;
        ensure!(page.script(own).await? == true);
        page.text_when("#task-live", |text| text.contains("lease")).await?;
        page.text_when("#task-why", |text| text.contains("writing 256 tokens")).await?;
        let address = page.script("return location.hash").await?;
        ensure!(address.as_str().is_some_and(|a| a.starts_with("#/tasks/task/t_")), "{address}");
        page.screenshot("drawer").await?;
        page.click("#task-cancel").await?;
        page.text_when("#task-drawer", |text| text.contains("Cancelled")).await?;
        page.click("#task-retry").await?;
        page.text_when(".toasts", |text| text.contains("Submitted again")).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn browser_a_task_is_submitted_once_and_refusals_are_listed() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let tasks = TasksPage::start("127.0.0.1:0", 0).await?;
    let page = Page::chromium("chromium-submit", &tasks.address()).await?;
    page.run(async |page| {
        page.click("nav a[href=\"#/tasks\"]").await?;
        page.text_when("#no-tasks", |text| text.contains("No tasks yet")).await?;
        page.screenshot("empty").await?;
        page.press("n").await?;
        page.type_into("#task-prompt", "refuse me").await?;
        page.text_when("#task-reader", |text| text.contains("can read")).await?;
        page.click("#task-send").await?;
        page.text_when("#task-refused", |text| text.contains("mistral:7b") && text.contains("https://")).await?;
        page.screenshot("refused").await?;
        page.script("const f = document.getElementById('task-prompt'); f.value = 'What is a lease?'; f.dispatchEvent(new Event('input', {bubbles: true})); return null").await?;
        page.script("const b = document.getElementById('task-send'); b.click(); b.click(); return null").await?;
        page.text_when("#task-drawer", |text| text.contains("Timeline")).await?;
        ensure!(tasks.submitted() == 1, "a double click submits once");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn browser_schedules_are_listed_paused_and_removed() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let tasks = TasksPage::start("127.0.0.1:0", 50).await?;
    let page = Page::chromium("chromium-schedules", &tasks.address()).await?;
    page.run(async |page| {
        page.click("nav a[href=\"#/tasks\"]").await?;
        page.click("#schedules-link").await?;
        page.text_when("#schedules", |text| {
            text.contains("Every day at 02:30") && text.contains("paused")
        })
        .await?;
        page.text_when("#undelivered", |text| text.contains("503")).await?;
        page.screenshot("list").await?;
        page.click("[aria-label=\"Pause Nightly summary\"]").await?;
        page.find("[aria-label=\"Go on with Nightly summary\"]").await?;
        page.click("[aria-label=\"Remove Nightly summary\"]").await?;
        page.click("#schedule-remove-now").await?;
        page.text_when("#schedules", |text| !text.contains("Nightly")).await?;
        Ok(())
    })
    .await
}
