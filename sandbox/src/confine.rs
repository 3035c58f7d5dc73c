//! Landlock as the caller prepares it: which rights there are, the rule set, and the rules.
//!
//! The rule set handles every right of the kernel's version that this crate knows, so that what no
//! rule grants is denied: files, TCP ports (no rule grants one), abstract sockets and signals.
//! Rules name paths as the program will see them; the supervisor opens them, because with a private
//! root most exist only there.

use crate::Access;
use crate::grants::Opened;
use crate::plan::PathRule;
use crate::view::Readable;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset,
    RulesetAttr as _, Scope,
};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

/// Files and moves between directories (Linux 5.19): without them nothing runs.
const NEEDED: i32 = 2;
/// Cutting off a file can be confined (Linux 6.2).
const TRUNCATION: i32 = 3;
/// Abstract Unix sockets and signals can be confined (Linux 6.12).
const SCOPES: i32 = 6;
/// Connecting to a Unix socket by its path can be confined (Linux 7.1).
const PATH_SOCKETS: i32 = 9;

/// The kernel's version of Landlock's interface, 0 without Landlock.
pub(crate) fn version() -> i32 {
    static VERSION: OnceLock<i32> = OnceLock::new();
    *VERSION.get_or_init(|| {
        const LANDLOCK_CREATE_RULESET_VERSION: usize = 1;
        let args = [0, 0, LANDLOCK_CREATE_RULESET_VERSION];
        #[expect(unsafe_code, reason = "the landlock crate does not tell the version")]
        // SAFETY: with this flag the call takes no pointer and changes nothing.
        let version = unsafe { crate::sys::call(libc::SYS_landlock_create_ruleset, args) };
        let version = version
            .ok()
            .and_then(|version| i32::try_from(version).ok())
            .unwrap_or(0);
        lowered(version)
    })
}

/// Whether Landlock keeps the program from cutting off files that it may not write.
pub(crate) fn confines_truncation() -> bool {
    version() >= TRUNCATION
}

/// With debug assertions, tests can have an older kernel's version.
fn lowered(version: i32) -> i32 {
    if !cfg!(debug_assertions) {
        return version;
    }
    let wanted = std::env::var("RINGFENCE_TEST_LANDLOCK").ok();
    let wanted = wanted.and_then(|wanted| wanted.parse().ok());
    wanted.map_or(version, |wanted: i32| wanted.min(version))
}

/// Whether Landlock keeps the program from the abstract sockets of others.
pub(crate) fn confines_abstract_sockets() -> bool {
    version() >= SCOPES
}

/// Whether Landlock keeps the program's signals within the sandbox.
pub(crate) fn confines_signals() -> bool {
    version() >= SCOPES
}

/// Whether Landlock keeps the program from the sockets of others that have a path, such as a user's
/// D-Bus, through which a program outside could be started.
pub(crate) fn confines_path_sockets() -> bool {
    version() >= PATH_SOCKETS
}

/// Why Landlock cannot be had, if so.
pub(crate) fn missing() -> Option<String> {
    match version() {
        0 => Some(
            "the kernel has no Landlock; it takes Linux 5.19 or later with CONFIG_SECURITY_LANDLOCK \
             and \"landlock\" among the security modules (boot parameter lsm=)"
                .into(),
        ),
        version if version < NEEDED => Some(format!(
            "the kernel's Landlock is of version {version}, which cannot confine moves between \
             directories; version {NEEDED} came with Linux 5.19"
        )),
        _ => None,
    }
}

fn abi() -> ABI {
    ABI::from(version())
}

/// An empty rule set: everything that it handles is denied.
pub(crate) fn ruleset() -> Result<OwnedFd, String> {
    let abi = abi();
    let failed = |error: landlock::RulesetError| format!("the rule set was refused: {error}");
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .map_err(failed)?;
    if !AccessNet::from_all(abi).is_empty() {
        ruleset = ruleset
            .handle_access(AccessNet::from_all(abi))
            .map_err(failed)?;
    }
    if !Scope::from_all(abi).is_empty() {
        ruleset = ruleset.scope(Scope::from_all(abi)).map_err(failed)?;
    }
    let created = ruleset.create().map_err(failed)?;
    Option::from(created).ok_or_else(|| "the kernel gave no rule set".into())
}

/// Read and execute.
fn read() -> BitFlags<AccessFs> {
    AccessFs::from_read(abi())
}

/// Everything but device nodes.
fn write() -> BitFlags<AccessFs> {
    AccessFs::from_all(abi()) & !(AccessFs::MakeChar | AccessFs::MakeBlock)
}

/// Devices that hold nothing: read, write and ask.
fn device() -> BitFlags<AccessFs> {
    (AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev)
        & AccessFs::from_all(abi())
}

/// What a program may read of its own directory in the host's `/proc`. Not `net`, which is the
/// host's network, nor `task`, where that is again.
const OWN_PROC: &[&str] = &[
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "environ",
    "limits",
    "maps",
    "mountinfo",
    "mounts",
    "oom_score",
    "oom_score_adj",
    "smaps",
    "smaps_rollup",
    "stat",
    "statm",
    "status",
];

/// The rules on the program's own directory of the host's `/proc`, by paths from there.
pub(crate) fn proc_self() -> Vec<PathRule> {
    let listing = rule(Path::new("."), AccessFs::ReadDir.into(), false, false);
    let files = OWN_PROC
        .iter()
        .map(|name| rule(Path::new(name), AccessFs::ReadFile.into(), true, true));
    let descriptors = rule(Path::new("fdinfo"), AccessFs::ReadFile.into(), false, true);
    let rules = [listing, descriptors].into_iter().chain(files);
    rules.flatten().collect()
}

/// A rule on a path. Of a file only the rights that a file can have.
fn rule(
    path: &Path,
    access: BitFlags<AccessFs>,
    is_file: bool,
    optional: bool,
) -> Option<PathRule> {
    let access = if is_file {
        access & AccessFs::from_file(abi())
    } else {
        access
    };
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    Some(PathRule {
        path,
        file: None,
        without_links: false,
        access: access.bits(),
        optional,
    })
}

/// The rules in a private root: all that is there may be read, because nothing else was put there.
pub(crate) fn private_root(grants: &[Opened]) -> Vec<PathRule> {
    let mut rules = vec![
        rule(Path::new("/"), read(), false, false),
        rule(
            Path::new("/dev"),
            device() | AccessFs::ReadDir,
            false,
            false,
        ),
    ];
    for path in ["/workspace", "/tmp", "/dev/shm"] {
        rules.push(rule(Path::new(path), write(), false, false));
    }
    rules.extend(grants.iter().map(granted));
    rules.into_iter().flatten().collect()
}

/// A rule on a grant at its place in the sandbox.
fn granted(grant: &Opened) -> Option<PathRule> {
    let access = match grant.access {
        Access::Read => read(),
        // Whose sockets are there nobody knows.
        Access::ReadWrite => write() & !AccessFs::ResolveUnix,
    };
    rule(&grant.target, access, !grant.directory, false)
}

/// Files of the host's `/proc` that say something about the machine and nothing about processes.
const HOST_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/version",
    "/proc/filesystems",
    "/proc/sys/kernel/ngroups_max",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/max_map_count",
];

/// What the host has of processors.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// The rules on the host's own tree, where there is no private root.
pub(crate) fn host_tree(
    readable: &[Readable],
    grants: Vec<Opened>,
    private: &Path,
) -> Vec<PathRule> {
    let mut rules: Vec<Option<PathRule>> = readable
        .iter()
        .map(|shown| {
            let rule = rule(&shown.path, read(), !shown.directory, true);
            rule.map(|rule| PathRule {
                without_links: shown.without_links,
                ..rule
            })
        })
        .collect();
    for name in crate::view::devices() {
        rules.push(rule(&Path::new("/dev").join(name), device(), true, true));
    }
    let facts = read() & !AccessFs::Execute;
    for path in HOST_PROC {
        rules.push(rule(Path::new(path), facts, true, true));
    }
    rules.push(rule(Path::new(PROCESSORS), facts, false, true));
    for name in ["workspace", "tmp"] {
        rules.push(rule(&private.join(name), write(), false, false));
    }
    // On what was judged, whatever is at its path by now.
    rules.extend(grants.into_iter().map(|grant| {
        granted(&grant).map(|rule| PathRule {
            file: Some(grant.file),
            ..rule
        })
    }));
    rules.into_iter().flatten().collect()
}
