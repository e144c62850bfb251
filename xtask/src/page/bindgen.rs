//! wasm-bindgen as a library: from the module that rustc made to the one that a browser can load.

use std::path::PathBuf;

use anyhow::Result;

#[derive(Debug, clap::Args)]
pub(crate) struct BindgenOptions {
    #[arg(long)]
    wasm: PathBuf,
    #[arg(long)]
    out: PathBuf,
    /// Keep function names, so that a panic in the browser can be read
    #[arg(long)]
    keep_names: bool,
}

pub(crate) fn run(options: &BindgenOptions) -> Result<()> {
    wasm_bindgen_cli_support::Bindgen::new()
        .input_path(&options.wasm)
        .out_name("ui")
        .web(true)?
        .typescript(false)
        .remove_name_section(!options.keep_names)
        .remove_producers_section(true)
        .generate(&options.out)
}
