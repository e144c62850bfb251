//! The Mesh panel in Chromium: with two thousand generated peers, and on real nodes.

use anyhow::{Result, ensure};
use edgecoder_tests::{
    mesh_page::{MeshPage, nearby},
    node::Options,
};
use serde_json::Value;

use crate::{browser::possible, support::page::Page};

const PEERS: usize = 2_000;

async fn number(page: &Page, script: &str) -> Result<f64> {
    Ok(page.script(script).await?.as_f64().unwrap_or(f64::NAN))
}

#[tokio::test]
async fn browser_two_thousand_peers_scroll_sort_and_filter() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let mesh = MeshPage::start("127.0.0.1:0", PEERS).await?;
    let page = Page::chromium("chromium-mesh", &mesh.address()).await?;
    page.run(async |page| {
        page.click("nav a[href=\"#/mesh\"]").await?;
        page.text_when("#peers", |text| text.contains("attic-mini")).await?;
        let rows = "return document.querySelectorAll('#peers tr[data-peer]').length";
        ensure!(number(page, rows).await? < 100.0, "only rows near the view are drawn");
        let counted = page.script("return document.querySelector('.peers').getAttribute('aria-rowcount')");
        ensure!(counted.await? == Value::from((PEERS + 1).to_string()));
        page.text_when("#mesh-legend", |text| text.contains("Direct") && text.contains("Relay")).await?;
        let labels = number(page, "return document.querySelectorAll('#mesh-map .mlab text').length").await?;
        ensure!(labels > 5.0 && labels < 40.0, "{labels} labels");
        page.screenshot("map").await?;

        // The last row, by the keyboard.
        page.script("document.querySelector('#peers tr[tabindex=\"0\"]').focus(); return null").await?;
        let end = "const row = document.activeElement; row.dispatchEvent(new KeyboardEvent('keydown', {key: 'End', bubbles: true, cancelable: true})); return null";
        page.script(end).await?;
        let focused = format!("#peers tr[aria-rowindex=\"{}\"]:focus", PEERS + 1);
        page.find(&focused).await?;
        ensure!(number(page, rows).await? < 100.0);
        page.screenshot("end").await?;

        page.script("document.getElementById('main').scrollTop = 0; return null").await?;
        page.type_into("#peer-filter", "sakura").await?;
        page.text_when("#peers-title", |text| text.contains("1 of 2")).await?;
        page.text_when("#peers tbody", |text| text.contains("sakura-m4") && text.contains("Relay")).await?;
        page.script("const f = document.getElementById('peer-filter'); f.value = ''; f.dispatchEvent(new Event('input', {bubbles: true})); return null").await?;
        page.click("[data-sort=\"Rep.\"]").await?;
        page.text_when("#peers tr[aria-rowindex=\"2\"] .p-rep", |text| text == "98").await?;
        page.click("[data-sort=\"Peer\"]").await?;
        page.text_when("#peers tr[aria-rowindex=\"2\"]", |text| text.starts_with("attic-mini")).await?;
        page.click("[data-sort=\"Peer\"]").await?;
        page.text_when("#peers tr[aria-rowindex=\"2\"]", |text| text.starts_with("seed-us-1")).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn browser_a_peer_is_opened_by_its_address_marked_and_blocked() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let mesh = MeshPage::start("127.0.0.1:0", 40).await?;
    let page = Page::chromium("chromium-peer", &mesh.address()).await?;
    page.run(async |page| {
        page.click("nav a[href=\"#/mesh\"]").await?;
        page.click(".peers tbody tr[aria-rowindex=\"3\"] .rowlink").await?;
        page.text_when("dialog[open]", |text| text.contains("kanal") && text.contains("Attempts"))
            .await?;
        page.text_when("#peer-standing", |text| text.contains("Reputation 97 of 100")).await?;
        let address = page.script("return location.hash").await?;
        ensure!(address.as_str().is_some_and(|a| a.starts_with("#/mesh/peer/")), "{address}");
        page.screenshot("drawer").await?;
        page.click("#peer-trust").await?;
        page.find("#peer-trust[aria-pressed=\"true\"]").await?;
        page.click("#peer-block").await?;
        page.text_when("dialog[open].dialog-ask", |text| text.contains("Block kanal?")).await?;
        page.screenshot("block").await?;
        page.click("#block-now").await?;
        page.gone("dialog[open]").await?;
        ensure!(mesh.mesh().blocked.len() == 1);
        page.click("#mesh-about summary").await?;
        page.text_when("#mesh-about", |text| text.contains("Unblock")).await?;
        page.screenshot("about").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn browser_nodes_on_this_network_wait_for_an_answer_and_tickets_are_shown_first() -> Result<()>
{
    if !possible() {
        return Ok(());
    }
    let mesh = MeshPage::start("127.0.0.1:0", 13).await?;
    mesh.change(|m| m.nearby = nearby());
    let page = Page::chromium("chromium-invite", &mesh.address()).await?;
    page.run(async |page| {
        page.click("nav a[href=\"#/mesh\"]").await?;
        page.text_when("#nearby", |text| {
            text.contains("maren-laptop asks") || text.contains("asks to join")
        })
        .await?;
        page.screenshot("nearby").await?;
        page.click("#nearby .btn--go").await?;
        page.text_when("#nearby", |text| !text.contains("maren-laptop")).await?;

        page.click("#mesh-invite").await?;
        page.text_when("#invite-ticket", |text| text.starts_with("ec1")).await?;
        page.screenshot("invite").await?;
        page.press("\u{e00c}").await?;
        page.gone("dialog[open]").await?;

        page.click("#mesh-join").await?;
        page.type_into("#join-ticket", "nonsense").await?;
        page.text_when("#join-note", |text| text.contains("damaged")).await?;
        page.script("document.getElementById('join-ticket').value = ''; return null").await?;
        page.type_into("#join-ticket", "ec1abc").await?;
        page.text_when("#join-facts", |text| text.contains("hafen-lab, private")).await?;
        page.text_when("#join-note", |text| text.contains("leaves commons")).await?;
        page.screenshot("join").await?;
        page.click("#join-now").await?;
        page.text_when(".topbar .sub", |text| text.starts_with("hafen-lab")).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn browser_a_node_alone_says_what_it_tries_and_can_be_joined_by_ticket() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let node = Options::default().with_page().without_model().start()?;
    let other = Options::default().with_page().without_model().start()?;
    let address =
        |http: &edgecoder_tests::http::Http| format!("{}/#token={}", http.url, http.token);
    let page = Page::chromium("chromium-alone", &address(&node.http)).await?;
    page.run(async |page| {
        page.click("nav a[href=\"#/mesh\"]").await?;
        page.text_when("#sources", |text| text.contains("LAN")).await?;
        page.click("#mesh-invite").await?;
        let ticket = page.text_when("#invite-ticket", |text| text.starts_with("ec1")).await?;
        for theme in ["dark", "light"] {
            let dress = format!("document.documentElement.dataset.theme = '{theme}'; return null");
            page.script(&dress).await?;
            let read = page.qr_code(".qr").await?;
            ensure!(read == ticket.trim().to_uppercase(), "a camera reads {read} in {theme}");
        }
        page.press("\u{e00c}").await?;

        page.goto(&address(&other.http)).await?;
        page.click("nav a[href=\"#/mesh\"]").await?;
        page.click("#mesh-join").await?;
        page.type_into("#join-ticket", ticket.trim()).await?;
        page.text_when("#join-facts", |text| text.contains("home")).await?;
        page.click("#join-now").await?;
        page.text_when("#peers", |text| text.contains("1 connected")).await?;
        page.text_when("nav a[href=\"#/mesh\"]", |text| text.contains('1')).await?;
        page.screenshot("joined").await?;
        Ok(())
    })
    .await
}
