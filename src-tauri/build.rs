//! Reads `tauri.conf.json` and the capabilities. Only the commands listed here exist for the page:
//! a command that is registered but not listed (and not in a capability) is refused.

fn main() {
    let commands =
        tauri_build::AppManifest::new().commands(&["connect", "api", "cancel", "restart_now"]);
    if let Err(error) =
        tauri_build::try_build(tauri_build::Attributes::new().app_manifest(commands))
    {
        // A build script's message to the person building; stderr is where cargo shows it.
        #[allow(clippy::print_stderr, reason = "the output of a build script")]
        {
            eprintln!("{error:#}");
        }
        std::process::exit(1);
    }
}
