//! What a new user does first, the same in every browser.

use anyhow::{Result, ensure};
use edgecoder_tests::node::eventually;

use super::page::Page;

const PANELS: [(&str, &str); 6] = [
    ("mesh", "Mesh"),
    ("models", "Models"),
    ("credits", "Credits"),
    ("tasks", "Tasks"),
    ("settings", "Settings"),
    ("", "Dashboard"),
];

/// Looks at the live state, asks, stops an answer, pauses and resumes, visits every panel, tries
/// the keyboard and both themes. Leaves screenshots.
pub(crate) async fn first_visit(page: &Page) -> Result<()> {
    sees_live_state(page).await?;
    asks(page).await?;
    stops_an_answer(page).await?;
    pauses_and_resumes(page).await?;
    visits_the_panels(page).await?;
    uses_the_keyboard(page).await
}

async fn sees_live_state(page: &Page) -> Result<()> {
    page.text_when("#status-headline", |text| text == "Ready").await?;
    page.text_when("#model-name", |text| text.contains("EdgeCoder")).await?;
    page.text_when("#activity", |text| text.contains("Node started")).await?;
    page.text_when(".meters, #machine, section[aria-labelledby=machine-title]", |text| {
        text.contains("CPU") && text.contains('%') && text.contains("RAM")
    })
    .await?;
    Ok(())
}

async fn asks(page: &Page) -> Result<()> {
    page.type_into("#ask-input", "Return the number of elements").await?;
    page.click("#ask-send").await?;
    let footer = page.text_when("#ask-footer", |text| text.contains("tok/s")).await?;
    ensure!(footer.contains("first token"), "{footer}");
    let answer = page.text("#ask-answer").await?;
    ensure!(!answer.trim().is_empty(), "an answer");
    page.text_when("#activity", |text| text.contains("Chat done")).await?;
    page.screenshot("answered").await
}

async fn stops_an_answer(page: &Page) -> Result<()> {
    // The demo model is done in a moment: the page itself clicks, as soon as there is a button. It
    // may still be too late.
    for _ in 0..20 {
        page.script(
            "window.pressed = false;
             const stopper = new MutationObserver(() => {
                 const button = document.querySelector('#ask-stop');
                 if (!button) return;
                 stopper.disconnect();
                 button.click();
                 window.pressed = true;
             });
             stopper.observe(document.body, { childList: true, subtree: true });
             return true",
        )
        .await?;
        page.type_into("#ask-input", "Write a long parser with many functions").await?;
        page.click("#ask-send").await?;
        eventually("the answer is over", || async {
            let over = "return window.pressed && !document.querySelector('#ask-stop')";
            page.script(over).await.is_ok_and(|over| over == true)
        })
        .await?;
        if page.text("#ask-footer").await?.contains("topped") {
            return Ok(());
        }
    }
    anyhow::bail!("no answer could be stopped in 20 tries")
}

async fn pauses_and_resumes(page: &Page) -> Result<()> {
    page.click("#pause-button").await?;
    page.text_when("#status-headline", |text| text.starts_with("Paused")).await?;
    page.screenshot("paused").await?;
    page.click("#resume-button").await?;
    page.text_when("#status-headline", |text| text == "Ready").await?;
    Ok(())
}

async fn visits_the_panels(page: &Page) -> Result<()> {
    for (path, title) in PANELS {
        page.click(&format!("nav a[href=\"#/{path}\"]")).await?;
        page.text_when("#panel-title", |text| text == title).await?;
        page.screenshot(if path.is_empty() { "dashboard" } else { path }).await?;
    }
    Ok(())
}

async fn uses_the_keyboard(page: &Page) -> Result<()> {
    page.press("2").await?;
    page.text_when("#panel-title", |text| text == "Mesh").await?;
    page.press("1").await?;
    page.text_when("#panel-title", |text| text == "Dashboard").await?;
    page.press("?").await?;
    page.find("dialog[open]").await?;
    page.press_escape().await?;
    page.gone("dialog[open]").await?;
    let before = theme(page).await?;
    page.screenshot(&format!("dashboard-{before}")).await?;
    page.press("t").await?;
    let after = theme(page).await?;
    ensure!(before != after, "t changes the theme: {before} and {after}");
    page.screenshot(&format!("dashboard-{after}")).await
}

async fn theme(page: &Page) -> Result<String> {
    let theme = page.script("return document.documentElement.dataset.theme || 'auto'").await?;
    Ok(theme.as_str().unwrap_or("none").to_owned())
}
