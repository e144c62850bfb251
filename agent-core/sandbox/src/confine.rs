//! The operating system's walls around this process.
//!
//! Linux: no new privileges, Landlock for files, seccomp for everything else; user, mount, network
//! and IPC namespaces on top where they are allowed. macOS: `sandbox-exec`. Elsewhere only
//! WebAssembly runs, whose walls are its own.

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

pub(crate) use system::{become_interpreter, inside, serve};

/// A program may write this much in all, MiB.
pub(crate) const DISK_MIB: u64 = 64;

/// Files and folders that a program may make.
pub(crate) const DISK_FILES: u64 = 4_096;
