//! Starts an execution: tries with all namespaces, then with those that the kernel grants.

use crate::clone;
use crate::dumpable;
use crate::identity::{self, Caller};
use crate::init;
use crate::namespaces::Attempt;
use crate::plan::{Identity, Plan};
use crate::prepare::{Prepared, prepare};
use crate::questions::Questions;
use crate::running::{Child, Running};
use crate::sys::{self, CloneArgs, Errno};
use crate::wire::{Event, Failure, Step};
use crate::{Layer, SpawnError, Spec, confine};
use std::ffi::c_void;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// Starts an execution and returns once its `execve` succeeded.
///
/// # Errors
/// [`SpawnError`] with the reason; nothing is left behind then.
pub fn spawn(spec: Spec) -> Result<Running, SpawnError> {
    if let Some(why) = confine::missing() {
        return Err(SpawnError::LayerUnavailable {
            layer: Layer::Landlock,
            why,
        });
    }
    let caller = identity::caller().map_err(|why| SpawnError::LayerUnavailable {
        layer: Layer::Capabilities,
        why,
    })?;
    if spec.require.contains(&Layer::Vm) {
        let why = "this is the sandbox on the host's own kernel; use the isolation vm".into();
        return Err(SpawnError::LayerUnavailable {
            layer: Layer::Vm,
            why,
        });
    }
    let spec = Arc::new(spec);
    let mut attempt = Attempt::first(spec.namespaces, caller);
    loop {
        let prepared = prepare(&spec, caller, &attempt)?;
        attempt = match start(prepared, &attempt, caller)? {
            Started::Running(running) => return Ok(*running),
            Started::Refused(next) => next,
        };
    }
}

/// What came of one try.
enum Started {
    Running(Box<Running>),
    /// The kernel refuses something that a sandbox can do without: try this instead.
    Refused(Attempt),
}

/// Makes one try.
fn start(prepared: Prepared, attempt: &Attempt, caller: Caller) -> Result<Started, SpawnError> {
    let Prepared {
        plan,
        kept,
        questions,
        ends,
        layers,
    } = prepared;
    let _guard = matches!(plan.identity, Identity::Own { .. }).then(dumpable::Guard::new);
    let process = clone_supervisor(&plan);
    drop((kept, questions));
    let process = match process {
        Ok(process) => process,
        Err(errno) => {
            plan.on_host.remove();
            let next = attempt.after_clone_error(errno.0, caller);
            return next.map(Started::Refused).ok_or(SpawnError::Prepare {
                step: "start the supervisor process",
                source: errno.into(),
            });
        }
    };
    let mut child = Child::new(ends.control, process, plan);
    match child.event() {
        Some(Event::Started) => {
            let mut streams = ends.streams;
            if let (Some(own), Some(terminal)) = (child.received.take(), &mut streams.terminal) {
                terminal.replace(own);
            }
            let mut running = Running::new(child, streams, layers);
            running.questions = ends.questions.map(Questions::new);
            Ok(Started::Running(Box::new(running)))
        }
        Some(Event::Failed(failure)) => {
            child.reap();
            child.plan.on_host.remove();
            // A root without `/proc` is refused here by this specification, not by the kernel.
            let is_asked_for = failure.step == Step::Proc && child.plan.requires_root;
            let next = (!is_asked_for).then(|| attempt.after_failure(failure, caller));
            match next.flatten() {
                Some(next) => Ok(Started::Refused(next)),
                None => Err(explain(&child.plan, failure)),
            }
        }
        _ => {
            let how = child.reap();
            child.plan.on_host.remove();
            let source = io::Error::other(format!("the supervisor process {how}"));
            Err(SpawnError::Prepare {
                step: "start the program",
                source,
            })
        }
    }
}

/// Starts the supervisor, which runs on the plan until it ends, and returns a descriptor of it.
#[expect(
    unsafe_code,
    reason = "a process that shares memory, for which the standard library has no call"
)]
fn clone_supervisor(plan: &Plan) -> Result<OwnedFd, Errno> {
    extern "C" fn supervisor(plan: *const c_void) -> ! {
        // SAFETY: it is the plan below, which stays as long as this process runs.
        init::run(unsafe { &*plan.cast::<Plan>() })
    }
    let mut process: i32 = -1;
    let args = CloneArgs {
        flags: plan.namespaces | u64::from(libc::CLONE_PIDFD.cast_unsigned()),
        pidfd: &raw mut process as u64,
        // No signal at its end: the caller's own handling of children is left alone.
        exit_signal: 0,
        ..CloneArgs::default()
    };
    // A handler of the caller's must not run in the new process.
    let blocked = sys::block_signals(sys::ALL_SIGNALS);
    // SAFETY: the plan and its stack are in a box that `Child` drops only after the process ended.
    // The new process runs `init::run`, which makes only raw system calls and never returns.
    let cloned = unsafe {
        let plan_at = std::ptr::from_ref(plan).cast();
        clone::clone(args, &plan.stack, supervisor, plan_at)
    };
    sys::block_signals(blocked);
    cloned?;
    // SAFETY: the kernel has stored a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(process) })
}

/// Turns a failed step into the caller's error.
fn explain(plan: &Plan, failure: Failure) -> SpawnError {
    let spec = &plan.spec;
    let Failure { step, item, errno } = failure;
    let source = io::Error::from_raw_os_error(errno);
    if let (libc::ENOMEM, Some(limit)) = (errno, spec.limits.memory) {
        let what = format!(
            "there is not enough memory to {}; the limit is {limit} bytes: raise it",
            step.text()
        );
        return SpawnError::InvalidInput { what };
    }
    let layer = match step {
        Step::Landlock => Some(Layer::Landlock),
        Step::Seccomp => Some(Layer::Seccomp),
        Step::NoNewPrivs => Some(Layer::NoNewPrivs),
        Step::Capabilities => Some(Layer::Capabilities),
        Step::Limits => Some(Layer::Rlimits),
        // Otherwise it goes on without.
        Step::Proc if plan.requires_root => Some(Layer::MountNs),
        _ => None,
    };
    if let Some(layer) = layer {
        let why = format!("the sandbox could not {}: {source}", step.text());
        return SpawnError::LayerUnavailable { layer, why };
    }
    if step == Step::Execute {
        return explain_execute(plan, errno, source);
    }
    let item = usize::try_from(item).unwrap_or(usize::MAX);
    let root = plan.root.as_ref();
    let name = match step {
        Step::OpenTree | Step::OpenGrant => root
            .and_then(|root| root.binds.get(item))
            .map(|bind| &bind.source),
        Step::Attach | Step::AttachGrant => root
            .and_then(|root| root.binds.get(item))
            .map(|bind| &bind.target),
        Step::Directory => root.and_then(|root| root.directories.get(item)),
        Step::Symlink => root
            .and_then(|root| root.links.get(item))
            .map(|(_, path)| path),
        Step::InputFile => plan.files.get(item).map(|file| &file.path),
        Step::LandlockRule => plan.rules.get(item).map(|rule| &rule.path),
        _ => None,
    };
    if step == Step::InputFile && matches!(errno, libc::ENOSPC | libc::EDQUOT) {
        let what = format!(
            "the input files do not fit into the workspace, which may hold {:?} bytes; \
             raise the workspace limit",
            spec.limits.workspace
        );
        return SpawnError::InvalidInput { what };
    }
    let detail = name.map_or_else(|| "in its own process".into(), |name| format!("{name:?}"));
    SpawnError::Setup {
        step: step.text(),
        detail,
        source,
    }
}

/// Turns `execve`'s error into the caller's.
fn explain_execute(plan: &Plan, errno: i32, source: io::Error) -> SpawnError {
    let program = plan.spec.program.clone();
    let path = PathBuf::from(plan.execution.path.to_string_lossy().into_owned());
    let not_executable = |why: String| SpawnError::NotExecutable {
        program: program.clone(),
        path: path.clone(),
        why,
    };
    match errno {
        libc::ENOENT => not_executable(
            "the interpreter that its first line or its ELF header names is not in the sandbox"
                .into(),
        ),
        libc::ENOEXEC => not_executable(
            "it is neither a program of this machine's kind nor a script with a \"#!\" line".into(),
        ),
        libc::EACCES | libc::EPERM => not_executable(format!(
            "permission was denied to it, to a directory above it, or to its interpreter: {source}"
        )),
        libc::E2BIG => {
            let count = plan.execution.argv.strings().len();
            let what = format!("the {count} arguments and the environment are too large for Linux");
            SpawnError::InvalidInput { what }
        }
        _ => not_executable(source.to_string()),
    }
}
