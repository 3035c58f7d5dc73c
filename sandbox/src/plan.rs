//! Everything that the new processes need, prepared by the caller.
//!
//! After `clone` nothing may allocate, so whatever has a length or a format is made here: paths as
//! C strings, mount options, argument vectors, limits, filters.
//!
//! The supervisor runs in the caller's memory and reads the plan there, so the plan stays until the
//! supervisor has ended, and neither changes it, but for the descriptors in its atomics, which are
//! the supervisor's.

use crate::Spec;
use crate::clone::Stack;
use crate::grants::FileId;
use crate::init::OnHost;
use crate::questions;
use crate::rlimits::Bounded;
use crate::seccomp::Separated;
use crate::seccomp::bpf::Instruction;
use crate::sys;
use crate::wire::Cause;
use ringfence_protocol::{Decision, Operation};
use std::ffi::{CString, c_char};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

/// Who the program is.
#[derive(Debug)]
pub(crate) enum Identity {
    /// The caller is root and gives each sandbox a user of its own: `base` plus the supervisor's
    /// process number, which no two living sandboxes share, within `span`.
    Own { base: u32, span: u32 },
    /// The caller is not root; a user namespace maps the caller's own user to this one.
    Mapped {
        uid: u32,
        gid: u32,
        uid_map: Vec<u8>,
        gid_map: Vec<u8>,
    },
    /// The caller is not root and there is no user namespace.
    Same { uid: u32, gid: u32 },
}

/// A directory or file of the host that appears in the private root.
#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) source: CString,
    /// Its path had no links when it was judged: one that is there by now is not followed.
    pub(crate) without_links: bool,
    /// Relative to the private root.
    pub(crate) target: CString,
    /// Directories to be made before, from the top downwards.
    pub(crate) parents: Vec<CString>,
    pub(crate) directory: bool,
    pub(crate) writable: bool,
    pub(crate) device: bool,
    /// Of a grant, the file that was judged: no other one is bound. It stays open so that its
    /// number is not given to another.
    pub(crate) granted: Option<(FileId, OwnedFd)>,
    /// The place is there, because it is part of another bind.
    pub(crate) exists: bool,
    /// Of a grant, its place lies in what the program can write to.
    pub(crate) in_scratch: bool,
    /// The detached mount, while it is not yet attached.
    pub(crate) tree: AtomicI32,
}

/// The private root of a mount namespace.
#[derive(Debug)]
pub(crate) struct Root {
    /// A directory of the host over which the new root is mounted until it is the root.
    pub(crate) base: CString,
    /// Directories, from the top downwards.
    pub(crate) directories: Vec<CString>,
    /// Symbolic links: what they say, and where they are.
    pub(crate) links: Vec<(CString, CString)>,
    /// Files with fixed contents.
    pub(crate) files: Vec<(CString, Vec<u8>)>,
    pub(crate) binds: Vec<Bind>,
    /// Mount options of what the program can write to.
    pub(crate) scratch: CString,
    /// No byte may be written to it.
    pub(crate) no_room: bool,
}

/// The private directory on the host where there is no mount namespace.
#[derive(Debug)]
pub(crate) struct HostDirectory {
    /// The directory that holds all sandboxes' directories.
    pub(crate) parent: OwnedFd,
    /// This sandbox's directory, locked as long as somebody holds it open.
    pub(crate) directory: OwnedFd,
    /// Its name in `parent`.
    pub(crate) name: CString,
}

/// The control group of the program.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// The directory that holds the group's.
    pub(crate) parent: OwnedFd,
    /// The group's directory.
    pub(crate) directory: OwnedFd,
    /// Its name in `parent`.
    pub(crate) name: CString,
}

impl Drop for Cgroup {
    /// Removes a group that no program came to use. One that is in use stays.
    fn drop(&mut self) {
        let _ = sys::unlinkat(self.parent.as_raw_fd(), &self.name, libc::AT_REMOVEDIR);
    }
}

/// The content of an input file.
#[derive(Debug)]
pub(crate) enum Source {
    /// Those of the specification's input file with the same index.
    Bytes,
    File {
        file: OwnedFd,
        len: u64,
    },
}

/// A file for the workspace.
#[derive(Debug)]
pub(crate) struct PlannedFile {
    pub(crate) path: CString,
    pub(crate) parents: Vec<CString>,
    pub(crate) mode: u32,
    pub(crate) source: Source,
}

/// A Landlock rule on a path as the program will see it.
#[derive(Debug)]
pub(crate) struct PathRule {
    pub(crate) path: CString,
    /// The file itself where it is open already.
    pub(crate) file: Option<OwnedFd>,
    /// The path had no links when it was judged: one that is there by now is not followed.
    pub(crate) without_links: bool,
    pub(crate) access: u64,
    /// A path that is not there needs no rule.
    pub(crate) optional: bool,
}

/// What the supervisor does on the program's behalf, because no other layer confines it.
#[derive(Debug)]
pub(crate) struct Mediation {
    /// The filter of a supervised program, instead of the common one.
    pub(crate) own_filter: Option<Vec<Instruction>>,
    /// Beneath these the program may change things.
    pub(crate) roots: Vec<MediatedRoot>,
    /// Abstract sockets are the sandbox's own.
    pub(crate) abstract_sockets: bool,
    /// The program may have datagram sockets.
    pub(crate) datagrams: bool,
    pub(crate) supervision: Option<Supervised>,
}

/// What the caller is asked about.
#[derive(Debug)]
pub(crate) struct Supervised {
    /// The supervisor's end of the socket for questions.
    pub(crate) questions: RawFd,
    /// A bit for each operation that is asked about, by its [number](questions::number).
    pub(crate) operations: u32,
    /// No process of the program can send the supervisor a signal, whoever its user is.
    pub(crate) out_of_reach: bool,
    /// Lets the program's own first `execve` through the filter. Nobody but the plan knows it.
    pub(crate) pass: u64,
    /// The limit on the size of a file, which the kernel only applies to who changes it.
    pub(crate) file_size: Option<u64>,
    /// Nanoseconds.
    pub(crate) limit: u64,
    pub(crate) default: Decision,
}

impl Supervised {
    /// Whether the caller is asked about this.
    pub(crate) const fn asks(&self, operation: Operation) -> bool {
        self.operations & bit(operation) != 0
    }
}

/// The bit of an operation that is asked about.
pub(crate) const fn bit(operation: Operation) -> u32 {
    1 << questions::number(operation)
}

/// A directory or file of the host that the program may change.
#[derive(Debug)]
pub(crate) struct MediatedRoot {
    /// Without links.
    pub(crate) path: CString,
    /// As the caller named it, where that is another path.
    pub(crate) alias: Option<CString>,
    /// What was judged, where the path is one of the host's.
    pub(crate) file: Option<OwnedFd>,
    /// Its descriptor (`O_PATH`), once it is open.
    pub(crate) opened: AtomicI32,
}

/// A resource limit, soft and hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rlimit {
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// A vector of C strings as `execve` takes it.
#[derive(Debug)]
pub(crate) struct StringVector {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

#[expect(unsafe_code, reason = "the pointers are into what is owned here")]
// SAFETY: the pointers are to the bytes of `strings`, which move with this vector.
unsafe impl Send for StringVector {}
#[expect(unsafe_code, reason = "the pointers are into what is owned here")]
// SAFETY: nothing is changed after the vector was made.
unsafe impl Sync for StringVector {}

impl StringVector {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let ends = std::iter::once(std::ptr::null());
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain(ends)
            .collect();
        Self { strings, pointers }
    }

    /// The address of the pointers, which end with a null pointer.
    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }

    /// The strings themselves.
    pub(crate) fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// What is executed, and where.
#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) path: CString,
    pub(crate) argv: StringVector,
    pub(crate) envp: StringVector,
}

/// Numbers of the descriptors that the supervisor keeps. The caller owns them apart from the plan,
/// because it closes its copies as soon as the supervisor runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptors {
    pub(crate) stdin: RawFd,
    pub(crate) stdout: RawFd,
    pub(crate) stderr: RawFd,
    pub(crate) null: RawFd,
    pub(crate) control: RawFd,
    /// The caller's process.
    pub(crate) caller: RawFd,
    pub(crate) ruleset: RawFd,
}

/// Everything about one execution, ready to be carried out.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where the bytes of input files are.
    pub(crate) spec: Arc<Spec>,
    pub(crate) fds: Descriptors,
    /// Standard input is a pipe of the caller's or a terminal, not the null device.
    pub(crate) stdin_piped: bool,
    /// The standard streams are a terminal, which is to be the program's controlling one.
    pub(crate) terminal: bool,
    pub(crate) identity: Identity,
    /// Flags of `clone3` for the namespaces.
    pub(crate) namespaces: u64,
    /// With a mount namespace.
    pub(crate) root: Option<Root>,
    /// Nothing may be missing of the private root.
    pub(crate) requires_root: bool,
    pub(crate) on_host: OnHost,
    pub(crate) files: Vec<PlannedFile>,
    pub(crate) rules: Vec<PathRule>,
    /// Rules on the program's own directory of `/proc`, where that is the host's, by paths from
    /// there.
    pub(crate) proc_self: Vec<PathRule>,
    pub(crate) rlimits: Vec<Rlimit>,
    /// The highest capability that the kernel knows.
    pub(crate) last_capability: u32,
    pub(crate) separated: Separated,
    pub(crate) filter: &'static [Instruction],
    /// The filter that denies what the other one holds, for a kernel that gives no notifications.
    pub(crate) refusing: &'static [Instruction],
    pub(crate) mediation: Option<Mediation>,
    pub(crate) execution: Execution,
    /// Nanoseconds.
    pub(crate) wall: Option<u64>,
    /// The time limits count from [`Command::Begin`](crate::wire::Command::Begin) only.
    pub(crate) waits: bool,
    /// Nanoseconds.
    pub(crate) cpu: Option<u64>,
    /// Processors that can run at once.
    pub(crate) processors: u64,
    /// What bounds the program beside its own limits.
    pub(crate) bounded: Bounded,
    /// A limit is zero: hit before the program runs.
    pub(crate) spent: Option<Cause>,
    /// The caller wants the workspace afterwards.
    pub(crate) collect: bool,
    /// The ranges between the descriptors that the supervisor keeps.
    pub(crate) gaps: Vec<(u32, u32)>,
    /// What the supervisor runs on.
    pub(crate) stack: Stack,
    /// What the program's process runs on until it executes.
    pub(crate) program_stack: Stack,
}

impl Plan {
    /// Whether the sandbox has this namespace.
    pub(crate) const fn has_namespace(&self, flag: i32) -> bool {
        self.namespaces & flag.cast_unsigned() as u64 != 0
    }

    /// Finds the ranges between the descriptors that the supervisor keeps.
    pub(crate) fn find_gaps(&mut self) {
        let mut next: u32 = 3;
        for kept in self.descriptors() {
            let Ok(kept) = u32::try_from(kept) else {
                continue;
            };
            if kept > next {
                self.gaps.push((next, kept - 1));
            }
            next = kept.saturating_add(1).max(next);
        }
        self.gaps.push((next, u32::MAX));
    }

    /// All descriptors of the plan, in ascending order.
    fn descriptors(&self) -> Vec<RawFd> {
        let Descriptors {
            stdin,
            stdout,
            stderr,
            null,
            control,
            caller,
            ruleset,
        } = self.fds;
        let mediation = self.mediation.as_ref();
        let supervised = mediation.and_then(|mediation| mediation.supervision.as_ref());
        let roots = mediation.into_iter().flat_map(|mediation| &mediation.roots);
        let owned = self
            .on_host
            .directory
            .iter()
            .flat_map(|host| [&host.parent, &host.directory])
            .chain(
                self.on_host
                    .cgroup
                    .iter()
                    .flat_map(|group| [&group.parent, &group.directory]),
            )
            .chain(self.files.iter().filter_map(|file| match &file.source {
                Source::File { file, .. } => Some(file),
                Source::Bytes => None,
            }))
            .chain(self.rules.iter().filter_map(|rule| rule.file.as_ref()))
            .chain(roots.filter_map(|root| root.file.as_ref()))
            .map(AsRawFd::as_raw_fd);
        let mut all: Vec<RawFd> = [stdin, stdout, stderr, null, control, caller, ruleset]
            .into_iter()
            .chain(owned)
            .chain(supervised.map(|supervised| supervised.questions))
            .collect();
        all.sort_unstable();
        all
    }
}
