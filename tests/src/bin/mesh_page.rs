//! Shows the built page with generated peers, to look at the Mesh panel without a mesh:
//! `mesh_page [PEERS]`.

// A command-line program: its output is its purpose.
#![allow(clippy::print_stdout)]

use anyhow::Result;
use edgecoder_tests::mesh_page::{MeshPage, nearby};

#[tokio::main]
async fn main() -> Result<()> {
    let peers = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(2_000);
    let page = MeshPage::start("127.0.0.1:0", peers).await?;
    page.change(|mesh| mesh.nearby = nearby());
    println!("{}", page.address());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
