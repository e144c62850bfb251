//! Namespaces: a user of its own without rights, no network device, and a small disk in memory.
//! They come on top of Landlock and seccomp; many systems forbid them to ordinary users.

use std::{fs, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid},
};

/// A program may write this much in all, MiB.
const DISK_MIB: u64 = 64;

/// Files and folders that a program may make.
const DISK_FILES: u64 = 4_096;

/// The number of `nobody`: a user without rights also where the node runs as root.
const NOBODY: u32 = 65_534;

/// What could be had.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entered {
    pub(super) user: bool,
    /// A disk of its own; without it the program must not write.
    pub(super) disk: bool,
}

impl Entered {
    /// For a list that began before.
    pub(super) fn words(self) -> &'static str {
        match (self.user, self.disk) {
            (true, true) => ", namespaces, a disk in memory",
            (true, false) => ", namespaces, no writing of files",
            (false, _) => ", no writing of files",
        }
    }
}

/// Enters them as far as they are allowed. A disk of bounded size then hides `dir`.
pub(super) fn enter(dir: &Path) -> Entered {
    let (user, group) = (geteuid(), getegid());
    let all = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if unshare(all).is_err() {
        return Entered::default();
    }
    // The kernel wants the groups given up before it maps one.
    let mapped = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("{NOBODY} {user} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("{NOBODY} {group} 1")));
    Entered { user: true, disk: mapped.is_ok() && small_disk(dir).is_ok() }
}

fn small_disk(dir: &Path) -> nix::Result<()> {
    let nothing = None::<&str>;
    // So that the mount below is seen nowhere else.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let bounds = format!("size={DISK_MIB}m,nr_inodes={DISK_FILES},mode=700");
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(bounds.as_str()))
}
