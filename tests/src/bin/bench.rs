//! `cargo xtask bench`: speed as ratios within one run, and sizes. Prints a table in Markdown that
//! goes into BENCHMARKS.md.
//!
//! `bench [--quick] [PART]...`: `--quick` takes fewer repetitions, to try the benchmark itself; parts
//! are `engine`, `first-byte`, `pull`, `models`, `idle`, `mesh`, `tasks`, `desktop`, all if none is named.

// A command-line program: its output is its purpose.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "bench/desktop.rs"]
mod desktop;
#[path = "bench/engine.rs"]
mod engine;
#[path = "bench/first_byte.rs"]
mod first_byte;
#[path = "bench/idle.rs"]
mod idle;
#[path = "bench/mesh.rs"]
mod mesh;
#[path = "bench/models.rs"]
mod models;
#[path = "bench/pull.rs"]
mod pull;
#[path = "bench/runner.rs"]
mod runner;
#[path = "bench/tasks.rs"]
mod tasks;

use anyhow::Result;

/// One line of the table.
struct Row {
    what: String,
    measured: String,
    bound: &'static str,
    /// `None`: reported, not bounded.
    met: Option<bool>,
}

fn main() -> Result<()> {
    #[cfg(target_os = "linux")]
    if let Some(done) = mesh::relayed::inside() {
        return done;
    }
    measure()
}

#[tokio::main]
async fn measure() -> Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |part: &str| {
        let wanted = parts.is_empty() || parts.iter().any(|named| named == part);
        if wanted {
            eprintln!("measuring: {part}");
        }
        wanted
    };
    let mut rows = Vec::new();
    if wanted("engine") {
        rows.extend(engine::measure(quick)?);
    }
    if wanted("first-byte") {
        rows.extend(first_byte::measure(quick).await?);
    }
    if wanted("pull") {
        rows.extend(pull::measure(quick).await?);
    }
    if wanted("models") {
        rows.extend(models::measure(quick).await?);
    }
    if wanted("idle") {
        rows.extend(idle::measure(quick).await?);
    }
    if wanted("mesh") {
        rows.extend(mesh::measure(quick).await?);
    }
    if wanted("tasks") {
        rows.extend(tasks::measure(quick).await?);
    }
    if wanted("desktop") {
        rows.extend(desktop::measure()?);
    }
    println!("| what | measured | bound | met |\n|---|---|---|---|");
    for Row { what, measured, bound, met } in rows {
        let met = match met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "–",
        };
        println!("| {what} | {measured} | {bound} | {met} |");
    }
    Ok(())
}

/// The value below which this share of the sorted values lies.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}
