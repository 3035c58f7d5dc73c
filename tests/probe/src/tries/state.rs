//! What must be so for the process itself.

use super::Table;
use super::Try::{Attempt, State};
use crate::sys::{NULL, call};
use libc::c_int;
use std::io;

pub(super) const TRIES: Table = &[
    ("capabilities", State(capabilities)),
    ("bounding-set", State(bounding_set)),
    ("no-new-privs", State(no_new_privs)),
    ("seccomp", State(seccomp)),
    ("descriptors", State(descriptors)),
    ("session", State(session)),
    ("core-dumps", State(core_dumps)),
    ("streams-are-no-terminal", State(streams_are_no_terminal)),
    ("program-in-memory", State(program_in_memory)),
    ("not-uid", State(not_uid)),
    ("groups", State(groups)),
    (
        "set-uid-0",
        Attempt(|_| call!(libc::SYS_setuid, 0).map(done)),
    ),
    (
        "set-all-uids-0",
        Attempt(|_| call!(libc::SYS_setresuid, 0, 0, 0).map(done)),
    ),
    (
        "set-gid-0",
        Attempt(|_| call!(libc::SYS_setgid, 0).map(done)),
    ),
    (
        "set-groups",
        Attempt(|_| call!(libc::SYS_setgroups, 0, NULL).map(done)),
    ),
    ("set-fs-uid-0", Attempt(set_fs_uid)),
    ("raise-limit", Attempt(raise_limit)),
    ("raise-capability", Attempt(raise_capability)),
    ("leave-seccomp", Attempt(leave_seccomp)),
];

fn done(_: usize) -> String {
    "done".into()
}

fn text(error: &io::Error) -> String {
    error.to_string()
}

fn prctl(option: c_int, argument: usize) -> io::Result<usize> {
    call!(libc::SYS_prctl, option, argument, 0, 0, 0)
}

/// No capability in the sets that give any.
fn capabilities(_: &str) -> Result<String, String> {
    // Version 3 of the header, process 0; then effective, permitted, inheritable, twice 32 bits.
    let mut header = [0x2008_0522_u64];
    let mut sets = [0_u64; 3];
    call!(libc::SYS_capget, &mut header[..], &mut sets[..]).map_err(|error| text(&error))?;
    if sets != [0; 3] {
        return Err(format!("effective, permitted, inheritable: {sets:x?}"));
    }
    in_no_set("ambient", |capability| {
        call!(
            libc::SYS_prctl,
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_IS_SET,
            capability,
            0,
            0
        )
    })
}

/// No capability that an executed file could give.
fn bounding_set(_: &str) -> Result<String, String> {
    in_no_set("bounding", |capability| {
        prctl(libc::PR_CAPBSET_READ, capability)
    })
}

fn in_no_set(set: &str, state: impl Fn(usize) -> io::Result<usize>) -> Result<String, String> {
    match (0..64).find(|capability| matches!(state(*capability), Ok(1))) {
        Some(capability) => Err(format!("{set} set holds capability {capability}")),
        None => Ok("none".into()),
    }
}

fn no_new_privs(_: &str) -> Result<String, String> {
    match prctl(libc::PR_GET_NO_NEW_PRIVS, 0) {
        Ok(1) => Ok("set".into()),
        other => Err(format!("{other:?}")),
    }
}

/// Mode 2 is a filter.
fn seccomp(_: &str) -> Result<String, String> {
    match prctl(libc::PR_GET_SECCOMP, 0) {
        Ok(2) => Ok("2".into()),
        other => Err(format!("{other:?}")),
    }
}

/// The three standard streams and nothing else.
fn descriptors(_: &str) -> Result<String, String> {
    let open = (0..65536).filter(|number| call!(libc::SYS_fcntl, *number, libc::F_GETFD).is_ok());
    let open: Vec<i32> = open.collect();
    let list = format!("{open:?}");
    if open == [0, 1, 2] {
        Ok(list)
    } else {
        Err(list)
    }
}

/// Not in the session given by its number, and leader of or in one of this sandbox: the leader of
/// a session from outside of the PID namespace would be number 0.
fn session(outside: &str) -> Result<String, String> {
    let own = call!(libc::SYS_getsid, 0).map_err(|error| text(&error))?;
    if own == 0 || own.to_string() == outside {
        Err(own.to_string())
    } else {
        Ok("own".into())
    }
}

/// A dump of the program's memory would be left on the host.
fn core_dumps(_: &str) -> Result<String, String> {
    let mut limit = [u64::MAX; 2];
    call!(
        libc::SYS_prlimit64,
        0,
        libc::RLIMIT_CORE,
        NULL,
        &mut limit[..]
    )
    .map_err(|error| text(&error))?;
    if limit == [0, 0] {
        Ok("none".into())
    } else {
        Err(format!("{limit:?}"))
    }
}

/// None of the three streams is the caller's terminal.
fn streams_are_no_terminal(_: &str) -> Result<String, String> {
    let terminal = (0..3).find(|stream| {
        let mut attributes = [0_u64; 16];
        call!(libc::SYS_ioctl, *stream, libc::TCGETS, &mut attributes[..]).is_ok()
    });
    match terminal {
        Some(stream) => Err(format!("stream {stream} is")),
        None => Ok("none".into()),
    }
}

/// This program, executed from memory that has no path, is refused another try all the same.
fn program_in_memory(other: &str) -> Result<String, String> {
    let run = || {
        let memory = call!(libc::SYS_memfd_create, c"program", 0)?;
        let path = format!("/proc/self/fd/{memory}");
        // Not copied: that sets the mode too, which is for files of the sandbox alone.
        std::fs::write(&path, std::fs::read("/proc/self/exe")?)?;
        std::process::Command::new(&path).arg(other).output()
    };
    let output = run().map_err(|error| format!("it does not run: {error}"))?;
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.code() {
        Some(0) if answer.contains(" refused ") => Ok("refused".into()),
        _ => Err(answer),
    }
}

/// Real, effective and saved user number all differ from the one given.
fn not_uid(uid: &str) -> Result<String, String> {
    let mut ids = [0_u64; 3];
    let (real, rest) = ids.split_at_mut(1);
    let (effective, saved) = rest.split_at_mut(1);
    call!(libc::SYS_getresuid, real, effective, saved).map_err(|error| text(&error))?;
    let list = format!("{ids:?}");
    if ids.iter().any(|id| id.to_string() == uid) {
        Err(list)
    } else {
        Ok(list)
    }
}

/// No supplementary group of the caller's: none at all, or only those that a user namespace shows
/// as the overflow group.
fn groups(_: &str) -> Result<String, String> {
    let mut groups = [0_u8; 4 * 1024];
    let count = call!(libc::SYS_getgroups, 1024, &mut groups[..]).map_err(|error| text(&error))?;
    let list = groups.chunks_exact(4).take(count);
    let list: Vec<_> = list
        .map(|four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
        .collect();
    if list.iter().all(|group| *group == 65534) {
        Ok(format!("{list:?}"))
    } else {
        Err(format!("{list:?}"))
    }
}

/// `setfsuid` never fails; a second call says what the first one did.
fn set_fs_uid(_: &str) -> io::Result<String> {
    call!(libc::SYS_setfsuid, 0)?;
    match call!(libc::SYS_setfsuid, -1)? {
        0 => Ok("0".into()),
        _ => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

fn raise_limit(_: &str) -> io::Result<String> {
    let mut limit = [0_u64; 2];
    call!(
        libc::SYS_prlimit64,
        0,
        libc::RLIMIT_CORE,
        NULL,
        &mut limit[..]
    )?;
    let mut raised = [1_u64 << 40; 2];
    call!(
        libc::SYS_prlimit64,
        0,
        libc::RLIMIT_CORE,
        &mut raised[..],
        NULL
    )
    .map(done)
}

fn raise_capability(_: &str) -> io::Result<String> {
    let mut header = [0x2008_0522_u64];
    let mut sets = [u64::MAX, 0, 0];
    call!(libc::SYS_capset, &mut header[..], &mut sets[..]).map(done)
}

/// The way back to no filter that the interface suggests and the kernel refuses.
fn leave_seccomp(_: &str) -> io::Result<String> {
    prctl(libc::PR_SET_SECCOMP, 0).map(done)
}
