//! The operating system's walls around this process.
//!
//! Linux: no new privileges, Landlock for files, seccomp for everything else; user, mount, network
//! and IPC namespaces on top where they are allowed. macOS: `sandbox-exec`. Elsewhere only
//! WebAssembly runs, whose walls are its own.
//!
//! A program writes only to a disk in memory, whose size the kernel bounds whatever is deleted,
//! hidden or held open. Where mount namespaces are forbidden to the node (Docker, Ubuntu 24.04) and
//! on macOS there is none, and its folder is read-only: looking at a folder from outside bounds
//! nothing, and what a program left there would have to be found and deleted.
//!
//! What is not kept from a program: Landlock hides what is in files and folders, but not that they
//! exist. Whoever knows a path can ask for its size, its times and where a link leads.

#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod syscalls;

#[cfg(target_os = "linux")]
#[path = "confine/linux.rs"]
mod system;

#[cfg(target_os = "macos")]
#[path = "confine/macos.rs"]
mod system;

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
#[path = "confine/elsewhere.rs"]
mod system;

pub(crate) use system::{become_interpreter, inside, serve, threads};

/// Threads of one program: Node.js needs a dozen. Processes it may not start at all.
pub(crate) const THREADS: u64 = 64;
