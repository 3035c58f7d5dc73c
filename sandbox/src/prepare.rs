//! From a [`Spec`] to a [`Plan`]: everything that allocates, opens or can be refused early.

use crate::clone::Stack;
use crate::identity::Caller;
use crate::init::OnHost;
use crate::namespaces::Attempt;
use crate::plan::{
    Descriptors, Execution, HostDirectory, Identity, PathRule, Plan, PlannedFile, Root, Source,
    StringVector,
};
use crate::resolve::{Host, Resolved, is_open_to_all, resolve};
use crate::rlimits::{Bounded, rlimits, spent};
use crate::seccomp::{Separated, filter};
use crate::{
    Access, Content, InputFile, Layer, LayerState, SpawnError, Spec, Stdin, cgroup, confine,
    grants, host_directory, mediation, view,
};
use ringfence_protocol::Operation;
use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Bytes of one argument or variable at most, its NUL included: the kernel's `MAX_ARG_STRLEN`.
const MAX_STRING: usize = 128 << 10;

/// The caller's ends of what a plan connects.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) stdout: PipeReader,
    pub(crate) stderr: PipeReader,
    pub(crate) control: OwnedFd,
    pub(crate) questions: Option<OwnedFd>,
}

/// A plan, and what stays with the caller.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// In a box, because the supervisor finds it there as long as it runs.
    pub(crate) plan: Box<Plan>,
    /// What the plan's descriptors are the numbers of. Once the supervisor runs these must be closed
    /// here: the end of the control socket tells of its death only when it alone holds it.
    pub(crate) kept: [OwnedFd; 7],
    /// The same, for the socket of questions.
    pub(crate) questions: Option<OwnedFd>,
    pub(crate) ends: Ends,
    pub(crate) layers: Vec<LayerState>,
}

/// Prepares one try.
pub(crate) fn prepare(
    spec: &Arc<Spec>,
    caller: Caller,
    attempt: &Attempt,
) -> Result<Prepared, SpawnError> {
    require(spec, attempt.states())?;
    let host = Host::current();
    let private = attempt.has(Layer::MountNs);
    let closed = caller.is_root() && !private;
    let reachable = |path: &Path| !closed || is_open_to_all(path);
    let resolved = resolve(&spec.program, &spec.files, &host, &reachable)?;
    let files = plan_files(spec)?;
    let identity = caller.identity(attempt.has(Layer::UserNs));

    let (cgroup, cgroup_state) = control_group(spec);
    require(spec, std::slice::from_ref(&cgroup_state))?;
    let bounded = Bounded {
        memory: cgroup.is_some(),
        processes: cgroup.is_some(),
    };
    let place = Place::new(spec, caller, &resolved, attempt)?;
    let environment = environment(spec, &host, &resolved, &place)?;
    let execution = execution(spec, &resolved, environment)?;

    let separated = Separated {
        // Whoever asks about connections is shown all of them.
        sockets: !asks(spec, Operation::Connect)
            && (attempt.has(Layer::NetNs) || confine::confines_abstract_sockets())
            && (private && !grants_reading(spec) || confine::confines_path_sockets()),
        ipc: attempt.has(Layer::IpcNs),
        pids: attempt.has(Layer::PidNs),
        signals: attempt.has(Layer::PidNs)
            || confine::confines_signals()
            || matches!(identity, Identity::Own { .. }),
        root: private,
        lasting_files: private && !grants_writing(spec),
    };
    let filter = filter(separated).map_err(|error| SpawnError::LayerUnavailable {
        layer: Layer::Seccomp,
        why: error.to_string(),
    })?;
    let (questions, asked) = questions(spec)?;
    let mediation = mediation::plan(
        spec,
        separated,
        [&place.workspace, &place.temporary],
        &place.writable,
        attempt,
        questions.as_ref(),
    )?;
    let (kept, mut ends) = descriptors(spec)?;
    ends.questions = asked;
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).ok();
    let [
        stdin,
        stdout,
        stderr,
        null,
        control,
        caller_process,
        ruleset,
    ] = kept.each_ref().map(AsRawFd::as_raw_fd);
    let fds = Descriptors {
        stdin,
        stdout,
        stderr,
        null,
        control,
        caller: caller_process,
        ruleset,
    };
    let stack = || {
        Stack::new().map_err(|source| SpawnError::Prepare {
            step: "make a stack",
            source,
        })
    };
    let mut plan = Plan {
        spec: Arc::clone(spec),
        fds,
        stdin_piped: spec.stdin == Stdin::Piped,
        rlimits: rlimits(&spec.limits, bounded, &identity, spec.waits),
        identity,
        namespaces: attempt.flags(),
        root: place.root,
        on_host: OnHost {
            directory: place.host,
            cgroup,
        },
        files,
        rules: place.rules,
        proc_self: (!private).then(confine::proc_self),
        last_capability: last_capability(),
        filter,
        mediation,
        execution,
        wall: spec.limits.wall.and_then(nanos),
        cpu: spec.limits.cpu.and_then(nanos),
        waits: spec.waits,
        processors: processors(),
        spent: spent(&spec.limits, bounded),
        collect: spec.collect,
        gaps: Vec::new(),
        stack: stack()?,
        program_stack: stack()?,
    };
    plan.find_gaps();
    let mut layers: Vec<LayerState> = Layer::REQUIRED
        .into_iter()
        .map(LayerState::active)
        .collect();
    layers.push(cgroup_state);
    layers.extend_from_slice(attempt.states());
    Ok(Prepared {
        plan: Box::new(plan),
        kept,
        questions,
        ends,
        layers,
    })
}

fn asks(spec: &Spec, operation: Operation) -> bool {
    let supervision = spec.supervision.as_ref();
    supervision.is_some_and(|supervision| supervision.operations.contains(&operation))
}

/// The socket for questions, where the program is supervised: the supervisor's end, which is none of
/// the standard streams, and the caller's.
fn questions(spec: &Spec) -> Result<(Option<OwnedFd>, Option<OwnedFd>), SpawnError> {
    if spec.supervision.is_none() {
        return Ok((None, None));
    }
    let failed = |source| SpawnError::Prepare {
        step: "make a socket pair",
        source,
    };
    let (mut near, far) = socket_pair().map_err(failed)?;
    if near.as_raw_fd() <= 2 {
        near = near.try_clone().map_err(failed)?;
    }
    Ok((Some(near), Some(far)))
}

/// Whether something of the host is shown for reading, where a service's socket may be. A read-only
/// mount does not keep anybody from connecting to it.
fn grants_reading(spec: &Spec) -> bool {
    spec.grants.iter().any(|grant| grant.access == Access::Read)
}

/// Whether the program may change files of the host.
fn grants_writing(spec: &Spec) -> bool {
    spec.grants
        .iter()
        .any(|grant| grant.access == Access::ReadWrite)
}

/// Refuses when one of these layers is missing though it is required.
fn require(spec: &Spec, states: &[LayerState]) -> Result<(), SpawnError> {
    for state in states {
        if let crate::LayerStatus::Missing { why } = &state.status
            && spec.require.contains(&state.layer)
        {
            return Err(SpawnError::LayerUnavailable {
                layer: state.layer,
                why: why.clone(),
            });
        }
    }
    Ok(())
}

fn control_group(spec: &Spec) -> (Option<crate::plan::Cgroup>, LayerState) {
    let made = match cgroup::parent() {
        Ok(parent) => cgroup::create(parent, &spec.limits)
            .map_err(|error| format!("no group could be made in {parent:?}: {error}")),
        Err(why) => Err(why.clone()),
    };
    match made {
        Ok(group) => (Some(group), LayerState::active(Layer::Cgroup)),
        Err(why) => (None, LayerState::missing(Layer::Cgroup, why)),
    }
}

/// Where the program runs: a private root, or a directory of the host with rules.
struct Place {
    root: Option<Root>,
    host: Option<HostDirectory>,
    rules: Vec<PathRule>,
    workspace: PathBuf,
    temporary: PathBuf,
    /// What is granted for writing, as the program sees it, and by which other name.
    writable: Vec<(PathBuf, Option<PathBuf>)>,
}

impl Place {
    fn new(
        spec: &Spec,
        caller: Caller,
        resolved: &Resolved,
        attempt: &Attempt,
    ) -> Result<Self, SpawnError> {
        let grants = grants::open(&spec.grants, &spec.files)?;
        let writable = writable(&grants, attempt.has(Layer::MountNs));
        if attempt.has(Layer::MountNs) {
            let rules = confine::private_root(&grants);
            return Ok(Self {
                root: Some(view::private_root(resolved, grants, &spec.limits)?),
                host: None,
                rules,
                workspace: view::WORKSPACE.into(),
                temporary: "/tmp".into(),
                writable,
            });
        }
        grants::without_mounts(&grants, &why_no_mounts(attempt))?;
        let uid = match caller {
            Caller::Root { .. } => 0,
            Caller::User { uid, .. } => uid,
        };
        let (path, host) = host_directory::create(uid).map_err(|source| SpawnError::Prepare {
            step: "make a private directory in the system's temporary directory",
            source,
        })?;
        let readable = view::readable(resolved);
        Ok(Self {
            rules: confine::host_tree(&readable, grants, &path),
            root: None,
            host: Some(host),
            workspace: path.join("workspace"),
            temporary: path.join("tmp"),
            writable,
        })
    }
}

fn writable(grants: &[grants::Opened], private: bool) -> Vec<(PathBuf, Option<PathBuf>)> {
    let writable = grants
        .iter()
        .filter(|grant| grant.access == Access::ReadWrite);
    let names = writable.map(|grant| {
        if private {
            return (grant.target.clone(), None);
        }
        let alias = (grant.target != grant.source).then(|| grant.target.clone());
        (grant.source.clone(), alias)
    });
    names.collect()
}

fn why_no_mounts(attempt: &Attempt) -> String {
    let state = attempt
        .states()
        .iter()
        .find(|state| state.layer == Layer::MountNs);
    match state.map(|state| &state.status) {
        Some(crate::LayerStatus::Missing { why }) => format!("there is none: {why}"),
        _ => "there is none".into(),
    }
}

fn invalid(what: String) -> SpawnError {
    SpawnError::InvalidInput { what }
}

fn plan_files(spec: &Spec) -> Result<Vec<PlannedFile>, SpawnError> {
    let mut seen = BTreeSet::new();
    let mut total: u64 = 0;
    let mut planned = Vec::with_capacity(spec.files.len());
    for file in &spec.files {
        if !seen.insert(file.path.as_bytes()) {
            return Err(invalid(format!(
                "the input file {:?} is given twice",
                file.path.as_os_str()
            )));
        }
        let planned_file = plan_file(file)?;
        total = total.saturating_add(match (&planned_file.source, &file.content) {
            (Source::File { len, .. }, _) => *len,
            (Source::Bytes, Content::Bytes(bytes)) => bytes.len() as u64,
            (Source::Bytes, Content::File(_)) => 0,
        });
        planned.push(planned_file);
    }
    for file in &planned {
        if let Some(parent) = file
            .parents
            .iter()
            .find(|parent| seen.contains(parent.as_bytes()))
        {
            return Err(invalid(format!(
                "the input file {parent:?} would also be a directory"
            )));
        }
    }
    match spec.limits.workspace {
        Some(limit) if total > limit => Err(invalid(format!(
            "the input files have {total} bytes and the workspace may hold {limit}; \
             raise the workspace limit"
        ))),
        _ => Ok(planned),
    }
}

fn plan_file(file: &InputFile) -> Result<PlannedFile, SpawnError> {
    let path = Path::new(file.path.as_os_str());
    let parents: Vec<&Path> = path
        .ancestors()
        .skip(1)
        .filter(|parent| !parent.as_os_str().is_empty())
        .collect();
    let source = match &file.content {
        Content::Bytes(_) => Source::Bytes,
        Content::File(content) => open_content(file, content)?,
    };
    Ok(PlannedFile {
        path: view::c_string(path)?,
        parents: parents
            .into_iter()
            .rev()
            .map(view::c_string)
            .collect::<Result<_, _>>()?,
        mode: file.mode & 0o777 | 0o600,
        source,
    })
}

fn open_content(file: &InputFile, content: &File) -> Result<Source, SpawnError> {
    let name = file.path.as_os_str();
    let unreadable =
        |error: io::Error| invalid(format!("the input file {name:?} cannot be read: {error}"));
    let metadata = content.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(invalid(format!(
            "the input file {name:?} is not a regular file"
        )));
    }
    let file = content.try_clone().map_err(unreadable)?;
    Ok(Source::File {
        file: file.into(),
        len: metadata.len(),
    })
}

/// The whole environment, in the order of precedence: the sandbox's own, then the caller's.
fn environment(
    spec: &Spec,
    host: &Host,
    resolved: &Resolved,
    place: &Place,
) -> Result<Vec<CString>, SpawnError> {
    let mut variables: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), resolved.search.clone()),
        ("HOME".into(), place.workspace.clone().into()),
        ("TMPDIR".into(), place.temporary.clone().into()),
        ("WORKSPACE".into(), place.workspace.clone().into()),
        ("USER".into(), "sandbox".into()),
    ];
    for name in ["LANG", "TERM"] {
        if let Some(value) = host.variable(name) {
            variables.push((name.into(), value.into()));
        }
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            return Err(invalid(format!(
                "{name:?} is no name of an environment variable"
            )));
        }
        variables.retain(|(known, _)| known != name);
        variables.push((name.clone(), value.clone()));
    }
    let joined = variables.into_iter().map(|(name, value)| {
        let mut bytes = name.into_vec();
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        string(bytes, "an environment variable")
    });
    joined.collect()
}

/// A string for `execve`, within what the kernel takes.
fn string(bytes: Vec<u8>, what: &str) -> Result<CString, SpawnError> {
    if bytes.len() >= MAX_STRING {
        return Err(invalid(format!(
            "{what} has {} bytes, and Linux takes at most {} in one; pass it as a file or on \
             standard input",
            bytes.len(),
            MAX_STRING - 1
        )));
    }
    CString::new(bytes).map_err(|nul| {
        let position = nul.nul_position();
        invalid(format!(
            "{what} contains a NUL byte at {position}, which Linux cannot pass"
        ))
    })
}

fn execution(
    spec: &Spec,
    resolved: &Resolved,
    environment: Vec<CString>,
) -> Result<Execution, SpawnError> {
    let own_name = std::iter::once(spec.program.as_os_str());
    let arguments = own_name.chain(spec.args.iter().map(OsString::as_os_str));
    let argv: Vec<CString> = arguments
        .map(|argument: &OsStr| string(argument.as_bytes().to_vec(), "an argument"))
        .collect::<Result<_, _>>()?;
    let cost = |strings: &[CString]| -> u64 {
        strings
            .iter()
            .map(|string| string.as_bytes().len() as u64 + 1 + 8)
            .sum()
    };
    let (total, most) = (cost(&argv) + cost(&environment), total_limit());
    if total > most {
        return Err(invalid(format!(
            "arguments and environment take {total} bytes, and Linux takes at most {most}; pass \
             them as a file or on standard input"
        )));
    }
    Ok(Execution {
        path: view::c_string(&resolved.path)?,
        argv: StringVector::new(argv),
        envp: StringVector::new(environment),
    })
}

/// Bytes of all strings and pointers together: a quarter of the stack limit, at least 128 KiB, at
/// most 6 MiB, less a page for the path and what the kernel adds.
fn total_limit() -> u64 {
    let mut stack = libc::rlimit64 {
        rlim_cur: 8 << 20,
        rlim_max: 0,
    };
    #[expect(unsafe_code, reason = "the standard library does not know limits")]
    // SAFETY: the kernel writes one `rlimit64`, which outlives the call.
    let _ = unsafe {
        let args = [0, libc::RLIMIT_STACK as usize, 0, &raw mut stack as usize];
        crate::sys::call(libc::SYS_prlimit64, args)
    };
    (stack.rlim_cur / 4)
        .clamp(128 << 10, 6 << 20)
        .saturating_sub(4096)
}

/// The descriptors in the order of [`Descriptors`], and the caller's ends.
fn descriptors(spec: &Spec) -> Result<([OwnedFd; 7], Ends), SpawnError> {
    let failed = |step| move |source| SpawnError::Prepare { step, source };
    let pipe = || io::pipe().map_err(failed("make a pipe"));
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = OwnedFd::from(null.map_err(failed("open /dev/null"))?);
    let (stdin, stdin_end) = match spec.stdin {
        Stdin::Null => (null.try_clone().map_err(failed("open /dev/null"))?, None),
        Stdin::Piped => {
            let (reader, writer) = pipe()?;
            (reader.into(), Some(writer))
        }
    };
    let (stdout_end, stdout) = pipe()?;
    let (stderr_end, stderr) = pipe()?;
    let (control, control_end) = socket_pair().map_err(failed("make a socket pair"))?;
    let ruleset = confine::ruleset().map_err(|why| SpawnError::LayerUnavailable {
        layer: Layer::Landlock,
        why,
    })?;
    let caller = own_process().map_err(failed("open this process"))?;
    let kept = [
        stdin,
        stdout.into(),
        stderr.into(),
        null,
        control,
        caller,
        ruleset,
    ];
    let ends = Ends {
        stdin: stdin_end,
        stdout: stdout_end,
        stderr: stderr_end,
        control: control_end,
        questions: None,
    };
    Ok((
        above_streams(kept).map_err(failed("move a descriptor"))?,
        ends,
    ))
}

/// A process that has closed its own standard streams gets their numbers for new descriptors; the
/// supervisor needs those three numbers.
fn above_streams(kept: [OwnedFd; 7]) -> io::Result<[OwnedFd; 7]> {
    let mut failed = None;
    let moved = kept.map(|fd| {
        if fd.as_raw_fd() > 2 {
            return fd;
        }
        // `try_clone` never gives one of the three.
        fd.try_clone().unwrap_or_else(|error| {
            failed = Some(error);
            fd
        })
    });
    failed.map_or(Ok(moved), Err)
}

#[expect(unsafe_code, reason = "the standard library has no such sockets")]
fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the call writes two descriptors to the array.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are open and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

#[expect(
    unsafe_code,
    reason = "the standard library has no process descriptors of oneself"
)]
fn own_process() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { crate::sys::call(libc::SYS_pidfd_open, [std::process::id() as usize, 0]) }?;
    let fd = i32::try_from(fd).map_err(|_range| io::ErrorKind::InvalidData)?;
    // SAFETY: the descriptor is open and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn last_capability() -> u32 {
    static LAST: OnceLock<u32> = OnceLock::new();
    *LAST.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
        // Numbers that the kernel does not know are refused without harm.
        text.trim().parse().unwrap_or(63).min(63)
    })
}

/// How many processors this process may use.
fn processors() -> u64 {
    static COUNT: OnceLock<u64> = OnceLock::new();
    let count = || std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    *COUNT.get_or_init(count)
}

#[cfg(any(test, feature = "fuzzing"))]
#[path = "prepare_misbehave.rs"]
pub(crate) mod misbehave;
#[cfg(test)]
#[path = "prepare_tests.rs"]
mod tests;
