//! seccomp: which system calls exist. A list of what is allowed, so that what a later kernel adds is
//! refused. Refused calls fail with `EPERM`; programs see an ordinary error.
//!
//! What is not there on purpose: sockets, starting processes, tracing, mounting, namespaces, keys,
//! BPF, io_uring, userfaultfd; and what Landlock does not watch: changing modes, owners, times and
//! attributes of files.

use std::{collections::BTreeMap, env::consts::ARCH};

use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Whom the calls are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// `serve`: no file and no program.
    WebAssembly,
    /// An interpreter, which is yet to be started.
    Program,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Holds for this thread and all that it starts.
pub(super) fn confine(whom: For) -> anyhow::Result<()> {
    // The C library falls back to `clone`, whose flags a filter can see, only if this does not
    // exist.
    let absent = Rules::from([(libc::SYS_clone3, Vec::new())]);
    apply(absent, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()))?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    apply(allowed(whom)?, refuse, SeccompAction::Allow)
}

fn apply(rules: Rules, others: SeccompAction, these: SeccompAction) -> anyhow::Result<()> {
    let filter = SeccompFilter::new(rules, others, these, ARCH.try_into()?)?;
    apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(())
}

fn allowed(whom: For) -> anyhow::Result<Rules> {
    let mut plain = [MEMORY, THREADS, TIME, DESCRIPTORS, ABOUT_ITSELF].concat();
    plain.extend_from_slice(OLD_BASE);
    match whom {
        For::WebAssembly => plain.push(libc::SYS_memfd_create),
        For::Program => {
            plain.extend_from_slice(FILES);
            plain.extend_from_slice(OLD_FILES);
        }
    }
    let mut rules: Rules = plain.into_iter().map(|call| (call, Vec::new())).collect();
    // After `exec` the process has the same number.
    let own = u64::from(std::process::id());
    let thread = flags(libc::CLONE_THREAD | NEW_NAMESPACES);
    // Private, or a shared view of a file: shared memory without a file would escape its limit.
    let kind = flags(libc::MAP_SHARED | libc::MAP_PRIVATE);
    let anonymous = flags(libc::MAP_ANONYMOUS);
    let conditional = [
        (libc::SYS_clone, vec![bits(0, thread, flags(libc::CLONE_THREAD))?]),
        (
            libc::SYS_mmap,
            vec![
                bits(3, kind, flags(libc::MAP_PRIVATE))?,
                bits(3, kind | anonymous, flags(libc::MAP_SHARED))?,
                bits(3, kind | anonymous, kind)?,
            ],
        ),
        (libc::SYS_kill, vec![is(0, own)?]),
        (libc::SYS_tgkill, vec![is(0, own)?]),
        // To read limits, not to set them.
        (libc::SYS_prlimit64, vec![is_long(2, 0)?]),
        (libc::SYS_prctl, one_of(0, &PROCESS_OPTIONS)?),
        (libc::SYS_ioctl, one_of(1, &DESCRIPTOR_OPTIONS)?),
        (libc::SYS_fcntl, descriptor_commands()?),
    ];
    rules.extend(conditional);
    if whom == For::Program {
        rules.insert(libc::SYS_openat, opening(2)?);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_open, opening(1)?);
        // Event loops wake themselves through a pair. Only streams: a datagram can be sent to
        // any address.
        let pair = SeccompRule::new(vec![
            condition(0, SeccompCmpOp::Eq, flags(libc::AF_UNIX))?,
            condition(1, SeccompCmpOp::MaskedEq(0xf), flags(libc::SOCK_STREAM))?,
        ])?;
        rules.insert(libc::SYS_socketpair, vec![pair]);
    }
    Ok(rules)
}

/// `fcntl` without what sends signals: with an owner (`F_SETOWN`), a signal (`F_SETSIG`) and
/// `O_ASYNC` the kernel kills any process of the user on the program's behalf, as leases and
/// notifications would. Landlock knows of it only since Linux 6.12.
fn descriptor_commands() -> anyhow::Result<Vec<SeccompRule>> {
    let mut rules = one_of(1, &DESCRIPTOR_COMMANDS)?;
    rules.push(SeccompRule::new(vec![
        condition(1, SeccompCmpOp::Eq, flags(libc::F_SETFL))?,
        condition(2, SeccompCmpOp::MaskedEq(flags(libc::O_ASYNC)), 0)?,
    ])?);
    Ok(rules)
}

/// Opening files, with the flags in `argument`. Before Linux 6.2 Landlock lets a file be emptied
/// that may be opened in any way, and with both bits of the access mode every file may: so these
/// need one of the two modes in which it asks for the right to write.
fn opening(argument: u8) -> anyhow::Result<Vec<SeccompRule>> {
    let mode = flags(libc::O_ACCMODE);
    Ok(vec![
        bits(argument, mode | flags(libc::O_TRUNC), flags(libc::O_RDONLY))?,
        bits(argument, mode, flags(libc::O_WRONLY))?,
        bits(argument, mode, flags(libc::O_RDWR))?,
    ])
}

/// Arguments of the calls below are 32 bits wide for the kernel.
fn flags(value: c_int) -> u64 {
    u64::from(value.cast_unsigned())
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> anyhow::Result<SeccompCondition> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)?)
}

fn bits(argument: u8, mask: u64, value: u64) -> anyhow::Result<SeccompRule> {
    Ok(SeccompRule::new(vec![condition(argument, SeccompCmpOp::MaskedEq(mask), value)?])?)
}

fn is(argument: u8, value: u64) -> anyhow::Result<SeccompRule> {
    Ok(SeccompRule::new(vec![condition(argument, SeccompCmpOp::Eq, value)?])?)
}

fn is_long(argument: u8, value: u64) -> anyhow::Result<SeccompRule> {
    let long = SeccompCmpArgLen::Qword;
    let condition = SeccompCondition::new(argument, long, SeccompCmpOp::Eq, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

fn one_of(argument: u8, values: &[u64]) -> anyhow::Result<Vec<SeccompRule>> {
    values.iter().map(|&value| is(argument, value)).collect()
}

const NEW_NAMESPACES: c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Names of threads and of memory. Not the signal at the parent's death: it must stay.
const PROCESS_OPTIONS: [u64; 4] = [
    libc::PR_SET_NAME as u64,
    libc::PR_GET_NAME as u64,
    libc::PR_GET_DUMPABLE as u64,
    libc::PR_SET_VMA as u64,
];

/// Is it a terminal, how much is there to read, do not block, close at `exec`.
const DESCRIPTOR_OPTIONS: [u64; 6] =
    [libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX, libc::FIONCLEX];

/// Copies, flags of their own, locks, and the seals of memory files, in which wasmtime keeps what
/// the memory of a module begins with. `F_SETFL` is looked at more closely.
const DESCRIPTOR_COMMANDS: [u64; 12] = [
    libc::F_DUPFD as u64,
    libc::F_DUPFD_CLOEXEC as u64,
    libc::F_GETFD as u64,
    libc::F_SETFD as u64,
    libc::F_GETFL as u64,
    libc::F_GETLK as u64,
    libc::F_SETLK as u64,
    libc::F_SETLKW as u64,
    libc::F_OFD_GETLK as u64,
    libc::F_OFD_SETLK as u64,
    libc::F_OFD_SETLKW as u64,
    libc::F_ADD_SEALS as u64,
];

const MEMORY: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_msync,
    libc::SYS_munmap,
];

const THREADS: &[c_long] = &[
    // Does not exist, says the other filter, which is asked too.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getcpu,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

const TIME: &[c_long] = &[
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getitimer,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_setitimer,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_times,
];

const DESCRIPTORS: &[c_long] = &[
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_fstat,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pselect6,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
];

const ABOUT_ITSELF: &[c_long] = &[
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// `execve` starts the interpreter; without a way to make processes it only ever replaces one, and
/// Landlock leaves it nothing else to become. The socket calls are for the pair.
const FILES: &[c_long] = &[
    libc::SYS_chdir,
    libc::SYS_copy_file_range,
    libc::SYS_execve,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendfile,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_umask,
    libc::SYS_unlinkat,
];

/// Calls that newer architectures do without.
#[cfg(target_arch = "x86_64")]
const OLD_BASE: &[c_long] = &[
    libc::SYS_alarm,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_getpgrp,
    libc::SYS_getrlimit,
    libc::SYS_pause,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_BASE: &[c_long] = &[];

#[cfg(target_arch = "x86_64")]
const OLD_FILES: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_creat,
    libc::SYS_getdents,
    libc::SYS_link,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_FILES: &[c_long] = &[];
