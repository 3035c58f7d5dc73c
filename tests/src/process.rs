//! Processes of this machine, as `/proc` tells.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// A process number.
pub type Number = i32;

/// Whether the tests run as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Finds a program on `PATH`.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Makes every orphan among this process's descendants a child of this process, so that none can
/// get away unseen.
///
/// # Panics
/// When the kernel refuses.
pub fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    pid: Number,
    parent: Number,
    dead: bool,
}

/// Parses `/proc/PID/stat`: the name in parentheses may contain anything.
fn stat(pid: Number) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut rest = text.rsplit_once(") ")?.1.split(' ');
    let dead = matches!(rest.next()?, "Z" | "X");
    Some(Stat {
        pid,
        parent: rest.next()?.parse().ok()?,
        dead,
    })
}

fn all() -> Vec<Stat> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    names
        .filter_map(|name| stat(name.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// The children of a process, those that are dead and not waited for included.
#[must_use]
pub fn children(of: Number) -> BTreeSet<Number> {
    all()
        .into_iter()
        .filter(|each| each.parent == of)
        .map(|each| each.pid)
        .collect()
}

/// The living descendants of a process.
#[must_use]
pub fn descendants(of: Number) -> Vec<Number> {
    let all = all();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(
            all.iter()
                .filter(|each| each.parent == parent)
                .map(|each| each.pid),
        );
        next += 1;
    }
    found.remove(0);
    found.retain(|pid| all.iter().any(|each| each.pid == *pid && !each.dead));
    found
}

/// Whether a process is there and not dead.
#[must_use]
pub fn is_alive(pid: Number) -> bool {
    stat(pid).is_some_and(|stat| !stat.dead)
}

/// The number of this process.
#[must_use]
pub fn own() -> Number {
    rustix::process::getpid().as_raw_pid()
}

/// The session of this process: 0 where its leader is outside of the PID namespace, which
/// `rustix::process::getsid` takes for impossible.
///
/// # Panics
/// Without `/proc`.
#[must_use]
pub fn session() -> Number {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // Behind the name, which may contain anything: state, parent, group, session.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(3).unwrap().parse().unwrap()
}

/// A field of `/proc/PID/status`, in kilobytes for sizes.
#[must_use]
pub fn status(pid: Number, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What a process is, for messages.
#[must_use]
pub fn describe(pid: Number) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} {} [{}]", words.trim(), name.trim())
}

/// Waits for a process to end, without collecting its status. `false` when the deadline came first.
#[must_use]
pub fn wait_for_end(pid: Number, deadline: Instant) -> bool {
    let Some(pid) = Pid::from_raw(pid) else {
        return true;
    };
    // No such process: it has ended.
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("a deadline within this century");
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return outcome.expect("a pidfd can be polled") > 0,
        }
    }
}

/// Collects the status of a dead child, whoever started it.
pub fn reap(pid: Number) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Somebody else may have been quicker.
        let _ = waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
    }
}

/// Kills a process for good.
pub fn kill(pid: Number) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
