//! The page in headless Chromium, served by a headless node.

use std::process::Command;

use anyhow::Result;
use edgecoder_tests::{node::Options, programs, skipped};

use crate::support::{journey::first_visit, page::Page, process::free_port};

/// `false` (and a line that says why) where there is no browser or no page.
pub(crate) fn possible() -> bool {
    if !programs::ui().join("index.html").exists() {
        skipped("the page is not built (cargo xtask ui)");
        return false;
    }
    if Command::new("chromedriver").arg("--version").output().is_err() {
        skipped("chromedriver is not installed (cargo xtask setup --tests)");
        return false;
    }
    true
}

#[tokio::test]
async fn browser_a_new_user_finds_everything() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let node = Options::default().with_page().start()?;
    node.model().await?;
    let url = format!("{}/#token={}", node.http.url, node.http.token);
    let page = Page::chromium("chromium", &url).await?;
    page.run(async |page| {
        first_visit(page).await?;
        let address = page.script("return location.href").await?;
        anyhow::ensure!(!address.to_string().contains("token="), "the token left the address bar");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn browser_a_node_that_dies_is_waited_for_and_comes_back_by_itself() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let listen = format!("127.0.0.1:{}", free_port()?);
    let node = Options::default().with_page().listen(&listen).start()?;
    node.model().await?;
    let url = format!("{}/#token={}", node.http.url, node.http.token);
    let page = Page::chromium("chromium-lost", &url).await?;
    page.run(async |page| {
        page.text_when("#status-headline", |text| text == "Ready").await?;
        let options = node.kill()?;
        page.find("#host-banner").await?;
        page.text_when("#host-countdown", |text| text.contains(char::is_numeric)).await?;
        page.screenshot("countdown").await?;
        let _node = options.start()?;
        page.gone("#host-banner").await?;
        page.text_when("#status-headline", |text| text == "Ready").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn browser_without_the_token_the_page_says_where_it_is() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let node = Options::default().with_page().without_model().start()?;
    let page = Page::chromium("chromium-token", &node.http.url).await?;
    page.run(async |page| {
        page.find("#token-input").await?;
        page.screenshot("asked").await?;
        page.type_into("#token-input", &format!("{}\n", node.http.token)).await?;
        page.text_when("#panel-title", |text| text == "Dashboard").await?;
        page.text_when("#status-headline", |text| !text.is_empty()).await?;
        page.screenshot("no-model").await?;
        page.goto(&format!("{}/#/models", node.http.url)).await?;
        page.text_when("#panel-title", |text| text == "Models").await?;
        Ok(())
    })
    .await
}
