//! From a [`Spec`] to a [`Plan`]: everything that allocates, opens or can be refused early.

use crate::clone::Stack;
use crate::ends::{Ends, descriptors, questions};
use crate::identity::Caller;
use crate::init::OnHost;
use crate::namespaces::Attempt;
use crate::place::Place;
use crate::plan::{Descriptors, Execution, Identity, Plan, PlannedFile, Source, StringVector};
use crate::resolve::{Host, Resolved, is_open_to_all, resolve};
use crate::rlimits::{Bounded, rlimits, spent};
use crate::seccomp::{self, FilterError, Separated};
use crate::{
    Access, Content, InputFile, Layer, LayerState, SpawnError, Spec, Stdin, cgroup, confine,
    mediation, view,
};
use ringfence_protocol::Operation;
use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Bytes of one argument or variable at most, its NUL included: the kernel's `MAX_ARG_STRLEN`.
const MAX_STRING: usize = 128 << 10;

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

    let (cgroup, cgroup_state) = control_group(spec)?;
    require(spec, std::slice::from_ref(&cgroup_state))?;
    let bounded = Bounded {
        memory: cgroup.is_some(),
        processes: cgroup.is_some(),
        // A file of the host that the program may write can be larger.
        workspace: private || grants_writing(spec),
    };
    let place = Place::new(spec, caller, &resolved, attempt)?;
    let environment = environment(spec, &host, &resolved, &place)?;
    let execution = execution(spec, &resolved, environment)?;

    let separated = separated(spec, attempt, &identity);
    let failed = |error: FilterError| SpawnError::LayerUnavailable {
        layer: Layer::Seccomp,
        why: error.to_string(),
    };
    let filter = seccomp::filter(separated).map_err(failed)?;
    let refusing = seccomp::refusing(separated).map_err(failed)?;
    let (questions, asked) = questions(spec)?;
    let mediation = mediation::plan(
        spec,
        separated,
        [&place.workspace, &place.temporary],
        place.writable,
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
        stdin_piped: spec.stdin == Stdin::Piped || spec.terminal.is_some(),
        terminal: spec.terminal.is_some(),
        rlimits: rlimits(&spec.limits, bounded, &identity, spec.waits),
        identity,
        namespaces: attempt.flags(),
        root: place.root,
        requires_root: spec.require.contains(&Layer::MountNs),
        on_host: OnHost {
            directory: place.host,
            cgroup,
        },
        files,
        rules: place.rules,
        proc_self: match private {
            true => Vec::new(),
            false => confine::proc_self(),
        },
        last_capability: last_capability(),
        separated,
        filter,
        refusing,
        mediation,
        execution,
        wall: spec.limits.wall.and_then(nanos),
        cpu: spec.limits.cpu.and_then(nanos),
        waits: spec.waits,
        processors: processors(),
        spent: spent(&spec.limits, bounded),
        bounded,
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

/// What the other layers separate.
fn separated(spec: &Spec, attempt: &Attempt, identity: &Identity) -> Separated {
    let private = attempt.has(Layer::MountNs);
    Separated {
        // Whoever asks about connections is shown all of them.
        sockets: !asks(spec, Operation::Connect)
            && (attempt.has(Layer::NetNs) || confine::confines_abstract_sockets())
            && (private && !grants_reading(spec) || confine::confines_path_sockets()),
        names: attempt.has(Layer::NetNs),
        ipc: attempt.has(Layer::IpcNs),
        pids: attempt.has(Layer::PidNs),
        signals: attempt.has(Layer::PidNs)
            || confine::confines_signals()
            || matches!(identity, Identity::Own { .. }),
        root: private,
        truncation: private || confine::confines_truncation(),
        lasting_files: private && !grants_writing(spec),
    }
}

fn asks(spec: &Spec, operation: Operation) -> bool {
    let supervision = spec.supervision.as_ref();
    supervision.is_some_and(|supervision| supervision.operations.contains(&operation))
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

/// The group that bounds the program. Without it the program runs all the same, unless there is a
/// limit that only a group can hold.
fn control_group(spec: &Spec) -> Result<(Option<crate::plan::Cgroup>, LayerState), SpawnError> {
    let made = match cgroup::parent() {
        Ok(parent) => cgroup::create(parent, &spec.limits)
            .map_err(|error| format!("no group could be made in {parent:?}: {error}")),
        Err(why) => Err(why.clone()),
    };
    if let Some(count) = spec.limits.processors {
        crate::processors::bound(count, made.as_ref().map_err(String::as_str))?;
    }
    Ok(match made {
        Ok(group) => (Some(group), LayerState::active(Layer::Cgroup)),
        Err(why) => (None, LayerState::missing(Layer::Cgroup, why)),
    })
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
    if place.root.is_none() {
        // Git does without its file in `/etc` where there is none, and fails where it may not be read.
        variables.push(("GIT_CONFIG_NOSYSTEM".into(), "1".into()));
    }
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
