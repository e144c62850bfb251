//! One page in one browser, driven through WebDriver. The same for WebKitGTK's webview and for
//! Chromium.

use std::{process::Command, process::Stdio};

use anyhow::{Context as _, Result};
use edgecoder_tests::{
    node::eventually,
    programs::{self, PATIENCE},
};
use fantoccini::{Client, ClientBuilder, Locator, elements::Element, key::Key, wd::Capabilities};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use super::{
    desktop::Desktop,
    process::{Group, free_port, listening},
};

#[derive(Debug)]
pub(crate) struct Page {
    client: Client,
    name: &'static str,
    _driver: Group,
}

impl Page {
    /// Headless Chromium at an address.
    pub(crate) async fn chromium(name: &'static str, url: &str) -> Result<Self> {
        let port = free_port()?;
        let driver = Group::spawn(
            Command::new("chromedriver")
                .arg(format!("--port={port}"))
                .arg("--silent")
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )?;
        listening(port)?;
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"args": [
                "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--no-first-run", "--window-size=1200,943", "--force-color-profile=srgb",
            ]},
        });
        let page = Self::connect(name, driver, port, capabilities).await?;
        page.client.goto(url).await?;
        Ok(page)
    }

    /// The app's own window, in the webview it really uses.
    pub(crate) async fn window(
        name: &'static str,
        desktop: &Desktop,
        program: &std::path::Path,
        dress: impl FnOnce(&Desktop, &mut Command),
    ) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("WebKitWebDriver");
        command
            .args([format!("--port={port}"), "--host=127.0.0.1".into()])
            .env("TAURI_WEBVIEW_AUTOMATION", "true")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        dress(desktop, &mut command);
        let driver = Group::spawn(&mut command)?;
        listening(port)?;
        let capabilities = json!({"webkitgtk:browserOptions": {"binary": program, "args": []}});
        Self::connect(name, driver, port, capabilities).await
    }

    async fn connect(
        name: &'static str,
        driver: Group,
        port: u16,
        capabilities: Value,
    ) -> Result<Self> {
        let capabilities: Capabilities = serde_json::from_value(capabilities)?;
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .context("a session with the browser")?;
        Ok(Self { client, name, _driver: driver })
    }

    /// Runs the steps, then closes the session whatever came of them; a failure leaves a picture.
    pub(crate) async fn run<T>(self, steps: impl AsyncFnOnce(&Self) -> Result<T>) -> Result<T> {
        let result = steps(&self).await;
        if result.is_err() {
            let _ = self.screenshot("failed").await;
        }
        let _ = self.client.clone().close().await;
        result
    }

    pub(crate) async fn find(&self, css: &str) -> Result<Element> {
        let wait = self.client.wait().at_most(PATIENCE);
        wait.for_element(Locator::Css(css)).await.with_context(|| format!("looking for {css}"))
    }

    pub(crate) async fn has(&self, css: &str) -> bool {
        self.client.find_all(Locator::Css(css)).await.is_ok_and(|found| !found.is_empty())
    }

    pub(crate) async fn click(&self, css: &str) -> Result<()> {
        self.find(css).await?.click().await.with_context(|| format!("clicking {css}"))
    }

    /// What the element shows. Asked of the page: WebKit's driver calls text that is cut off with
    /// an ellipsis invisible.
    pub(crate) async fn text(&self, css: &str) -> Result<String> {
        let css = serde_json::to_string(css)?;
        let script =
            format!("const e = document.querySelector({css}); return e ? e.innerText : null");
        let text = self.script(&script).await?;
        text.as_str().map(str::to_owned).with_context(|| format!("{css} is not there"))
    }

    /// Waits until the element's text is as wanted.
    pub(crate) async fn text_when(
        &self,
        css: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let seen = std::sync::Mutex::new(String::new());
        let read = || async {
            let Ok(text) = self.text(css).await else { return false };
            let fits = wanted(&text);
            *seen.lock().expect("not poisoned") = text;
            fits
        };
        let waited = eventually(css, read).await;
        let seen = seen.into_inner()?;
        waited.with_context(|| format!("{css} last said {seen:?}"))?;
        Ok(seen)
    }

    pub(crate) async fn gone(&self, css: &str) -> Result<()> {
        eventually(&format!("{css} goes away"), || async { !self.has(css).await }).await
    }

    pub(crate) async fn type_into(&self, css: &str, text: &str) -> Result<()> {
        self.find(css).await?.send_keys(text).await.with_context(|| format!("typing into {css}"))
    }

    /// Presses a key with nothing focused.
    pub(crate) async fn press(&self, key: &str) -> Result<()> {
        self.script("document.activeElement && document.activeElement.blur(); return null").await?;
        self.find("body").await?.send_keys(key).await.context("pressing a key")
    }

    pub(crate) async fn press_escape(&self) -> Result<()> {
        self.find("body").await?.send_keys(&char::from(Key::Escape).to_string()).await?;
        Ok(())
    }

    pub(crate) async fn script(&self, script: &str) -> Result<Value> {
        self.client.execute(script, Vec::new()).await.with_context(|| format!("running {script}"))
    }

    /// Leaves a picture in the screenshot folder.
    pub(crate) async fn screenshot(&self, what: &str) -> Result<()> {
        self.settled().await?;
        let png = self.client.screenshot().await?;
        let path = programs::screenshots().join(format!("{}-{what}.png", self.name));
        std::fs::write(&path, png).with_context(|| format!("writing {}", path.display()))
    }

    /// What a phone's camera reads from the QR code in an element, as the screen shows it.
    pub(crate) async fn qr_code(&self, css: &str) -> Result<String> {
        self.settled().await?;
        let picture = self.find(css).await?.screenshot().await?;
        let mut decoder = png::Decoder::new(std::io::Cursor::new(picture));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info()?;
        let mut bytes = vec![0; reader.output_buffer_size().context("a small picture")?];
        let info = reader.next_frame(&mut bytes)?;
        let (width, height) = (usize::try_from(info.width)?, usize::try_from(info.height)?);
        let samples = info.color_type.samples();
        let grey = |x, y| bytes[(y * width + x) * samples];
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, grey);
        let grids = image.detect_grids();
        let grid = grids.first().with_context(|| format!("no QR code is seen in {css}"))?;
        let (_, text) = grid.decode().with_context(|| format!("the QR code in {css}"))?;
        Ok(text)
    }

    async fn settled(&self) -> Result<()> {
        // The picture may otherwise show the frame before the last change, or half a fade.
        let settled = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => {
            const ending = document.getAnimations().filter(a => a.effect.getComputedTiming().iterations !== Infinity);
            Promise.all(ending.map(a => a.finished.catch(() => null))).then(() => requestAnimationFrame(() => done(null)));
        }));";
        self.client.execute_async(settled, Vec::new()).await?;
        Ok(())
    }

    pub(crate) async fn goto(&self, url: &str) -> Result<()> {
        self.client.goto(url).await.with_context(|| format!("going to {url}"))
    }
}
