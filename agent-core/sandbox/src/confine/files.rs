//! Landlock: which files exist for this process, and the network and signals where the kernel's
//! Landlock knows them.

use std::path::Path;

use agent_api::sandbox::Interpreter;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
    path_beneath_rules,
};

/// The newest that this code knows; older kernels enforce what they can.
const NEWEST: ABI = ABI::V6;

/// The least that counts as confined: reading, writing and executing files.
const NEEDED: ABI = ABI::V1;

/// What programs and their libraries are made of on any Linux.
const SYSTEM_LIBRARIES: [&str; 9] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    // Debian's Node.js keeps a part of its own library there.
    "/usr/share/nodejs",
    "/usr/share/zoneinfo",
];

/// Single files that the C library reads.
const SYSTEM_FILES: [&str; 5] =
    ["/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/random", "/dev/zero"];

/// No file at all.
pub(super) fn nothing() -> anyhow::Result<()> {
    enforce(ruleset()?)
}

/// The folder of the program, and its interpreter to read. Where nothing bounds what is written
/// to the folder, it is only to read too.
pub(super) fn own_folder(
    dir: &Path,
    interpreter: &Interpreter,
    writable: bool,
) -> anyhow::Result<()> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // The dynamic linker is a program too, as the kernel sees it.
    let library = read | AccessFs::Execute;
    let no_devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeSock;
    let own: BitFlags<AccessFs> = if writable {
        AccessFs::from_all(NEWEST) & !(no_devices | AccessFs::Execute | AccessFs::IoctlDev)
    } else {
        read
    };
    let ruleset = ruleset()?
        .add_rules(path_beneath_rules([dir], own))?
        .add_rules(path_beneath_rules([&interpreter.path], library))?
        .add_rules(path_beneath_rules(&interpreter.libraries, library))?
        .add_rules(path_beneath_rules(SYSTEM_LIBRARIES, library))?
        .add_rules(path_beneath_rules(SYSTEM_FILES, read))?
        .add_rules(path_beneath_rules(["/dev/null"], read | AccessFs::WriteFile))?;
    enforce(ruleset)
}

fn ruleset() -> anyhow::Result<RulesetCreated> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    Ok(ruleset.create()?)
}

fn enforce(ruleset: RulesetCreated) -> anyhow::Result<()> {
    let status = ruleset.restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced {
        anyhow::bail!("the kernel does not enforce it");
    }
    Ok(())
}
