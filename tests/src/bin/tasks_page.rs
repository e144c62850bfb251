//! Shows the built page with generated tasks, to look at the Tasks panel without a mesh:
//! `tasks_page [TASKS]`.

// A command-line program: its output is its purpose.
#![allow(clippy::print_stdout)]

use anyhow::Result;
use edgecoder_tests::tasks_page::TasksPage;

#[tokio::main]
async fn main() -> Result<()> {
    let tasks = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(100_000);
    let page = TasksPage::start("127.0.0.1:0", tasks).await?;
    println!("{}", page.address());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
