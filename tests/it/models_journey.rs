//! A model's whole life, as its owner sees it in a browser: found, pulled, interrupted by kill -9,
//! resumed, swapped to, asked, removed.

use anyhow::{Context as _, Result, ensure};
use edgecoder_tests::{
    fault_proxy::{Fault, FaultProxy, Rule},
    node::Options,
    pulls::{self, HEAD, PART},
    registry::{Content, Registry},
};

use crate::{
    browser::possible,
    support::{page::Page, process::free_port},
};

#[tokio::test]
async fn browser_a_model_is_pulled_resumed_after_kill_9_swapped_to_asked_and_removed() -> Result<()>
{
    if !possible() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let file = pulls::medium_model(folder.path())?;
    let registry = Registry::start().await?;
    let layers = [("model", Content::File(file)), ("license", Content::text("MIT License"))];
    let pushed = registry.push_model("medium", "v1", &layers).await?;
    let proxy = FaultProxy::start(&registry.origin()).await?;
    let model = pushed.at(&proxy.host);
    // The second half does not come before the node was killed.
    proxy.rule(Rule::on("/blobs/", Fault::StallAfter(0)).get().from_byte(2 * PART));

    let listen = format!("127.0.0.1:{}", free_port()?);
    let node = Options::default().with_page().listen(&listen).start()?;
    node.model().await?;
    let url = format!("{}/#token={}", node.http.url, node.http.token);
    let page = Page::chromium("chromium-models", &url).await?;
    page.run(async |page| {
        page.click("nav a[href=\"#/models\"]").await?;
        page.text_when("#models", |text| text.contains("EdgeCoder Demo")).await?;

        page.click("#pull-model").await?;
        page.type_into("#pull-name", &model).await?;
        let facts = page.text_when("#pull-facts", |text| text.contains("MB")).await?;
        ensure!(facts.contains("Fits") && facts.contains("MIT License"), "{facts}");
        ensure!(proxy.blob_bytes() <= HEAD, "only the head was looked at");
        page.screenshot("pull-dialog").await?;
        page.text_when("#pull-now", |text| text.contains("MB")).await?;
        page.click("#pull-now").await?;
        page.text_when("#pulls", |text| text.contains(&model) && text.contains("16.8 of")).await?;
        page.screenshot("half-way").await?;

        let options = node.kill()?;
        page.find("#host-banner").await?;
        let node = options.start()?;
        page.gone("#host-banner").await?;
        page.text_when("#pulls", |text| text.contains(&model)).await?;
        proxy.clear_rules();
        proxy.release();
        let row = format!("#models tr[data-model=\"{model}\"]");
        page.find(&row).await?;
        page.screenshot("pulled").await?;

        page.click(&format!("{row} .rowacts button.btn")).await?;
        page.text_when("dialog[open]", |text| text.contains("Swap to")).await?;
        page.screenshot("swap-dialog").await?;
        page.click("#swap-now").await?;
        page.text_when(&row, |text| text.contains("Active")).await?;
        let active = node.status().await?.model.active.context("an active model")?;
        ensure!(active.id == model, "the node says so too: {}", active.id);

        page.click("nav a[href=\"#/\"]").await?;
        page.text_when("#status-headline", |text| text == "Ready").await?;
        page.type_into("#ask-input", "Return the number of elements").await?;
        page.click("#ask-send").await?;
        page.text_when("#ask-footer", |text| text.contains("tok/s")).await?;

        page.click("nav a[href=\"#/models\"]").await?;
        page.click(&format!("{row} button[aria-haspopup]")).await?;
        page.script(
            "[...document.querySelectorAll('[role=menuitem]')].find(e => e.innerText.startsWith('Remove')).click(); return null",
        )
        .await?;
        page.text_when("dialog[open]", |text| text.contains("Frees 26")).await?;
        page.screenshot("remove-dialog").await?;
        page.click("#remove-now").await?;
        page.gone(&row).await?;
        page.screenshot("removed").await?;
        ensure!(!pulls::has(&node, &model).await?, "gone in the node too");
        Ok(())
    })
    .await
}
