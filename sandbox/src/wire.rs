//! What the caller and the supervisor say to each other, over a socket pair of their own.
//!
//! Records have a fixed size and travel whole (`SOCK_SEQPACKET`). The socket is also the lifeline:
//! when its other end is gone, so is the caller, and the supervisor kills everything.
//!
//! Both ends are this library in two processes of the same executable, so a record is its bytes;
//! the caller still checks every number, because a program that took over the supervisor must not
//! gain anything over the caller.

use crate::Ended;
use crate::seccomp::Denials;

/// A step between `clone` and `execve` that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Step {
    CloseFiles,
    Session,
    UserMap,
    Identity,
    PrivateMounts,
    RootMount,
    OpenTree,
    OpenGrant,
    Directory,
    Attach,
    AttachGrant,
    Proc,
    SyntheticFile,
    Symlink,
    PivotRoot,
    ReadOnlyRoot,
    Workspace,
    InputFile,
    LandlockRule,
    Hostname,
    Signals,
    Fork,
    Streams,
    WorkingDirectory,
    Limits,
    Capabilities,
    NoNewPrivs,
    Landlock,
    Seccomp,
    Execute,
}

impl Step {
    /// Every step, with what it does, in the words of an error: "could not ...".
    const ALL: &[(Self, &'static str)] = &[
        (Self::CloseFiles, "close inherited files"),
        (Self::Session, "start a session"),
        (Self::UserMap, "map its user into the user namespace"),
        (Self::Identity, "choose its user id"),
        (Self::PrivateMounts, "separate its mounts from the host's"),
        (Self::RootMount, "mount its private root"),
        (
            Self::OpenTree,
            "open a directory of the host for its private root",
        ),
        (Self::OpenGrant, "open a granted path again"),
        (Self::Directory, "make a directory in its private root"),
        (
            Self::Attach,
            "attach a directory of the host to its private root",
        ),
        (Self::AttachGrant, "attach a granted path"),
        (Self::Proc, "mount /proc"),
        (Self::SyntheticFile, "write a file of its private /etc"),
        (Self::Symlink, "make a symbolic link in its private root"),
        (Self::PivotRoot, "change to its private root"),
        (Self::ReadOnlyRoot, "make its private root read-only"),
        (Self::Workspace, "make its workspace"),
        (Self::InputFile, "write an input file"),
        (Self::LandlockRule, "add a Landlock rule"),
        (Self::Hostname, "set its host name"),
        (Self::Signals, "set up signal delivery"),
        (Self::Fork, "start the program's process"),
        (Self::Streams, "connect standard streams"),
        (Self::WorkingDirectory, "enter the workspace"),
        (Self::Limits, "set a resource limit"),
        (Self::Capabilities, "drop privileges"),
        (Self::NoNewPrivs, "set no_new_privs"),
        (Self::Landlock, "enforce Landlock"),
        (Self::Seccomp, "install the system call filter"),
        (Self::Execute, "execute the program"),
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .iter()
            .map(|(step, _)| *step)
            .find(|step| *step as u32 == number)
    }

    /// In the words of an error: "could not ...".
    pub(crate) fn text(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(step, _)| *step == self)
            .map_or("start", |(_, text)| text)
    }
}

/// A step that failed: which, on the how manieth item of its list, and the kernel's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) item: u32,
    pub(crate) errno: i32,
}

/// Why the supervisor ended an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The program's first process ended; its wait status says how.
    Leader,
    TimedOut,
    CpuExceeded,
    MemoryExceeded,
    OutputExceeded,
    Killed,
    /// The limit on processes leaves no room for the program itself.
    NoProcesses,
}

impl Cause {
    const ALL: [Self; 7] = [
        Self::Leader,
        Self::TimedOut,
        Self::CpuExceeded,
        Self::MemoryExceeded,
        Self::OutputExceeded,
        Self::Killed,
        Self::NoProcesses,
    ];

    const fn number(self) -> u32 {
        self as u32
    }

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.number() == number)
    }

    /// The cause that a caller's wish stands for.
    pub(crate) const fn requested(ended: Ended) -> Self {
        match ended {
            Ended::TimedOut => Self::TimedOut,
            Ended::CpuExceeded => Self::CpuExceeded,
            Ended::MemoryExceeded => Self::MemoryExceeded,
            Ended::OutputExceeded => Self::OutputExceeded,
            _ => Self::Killed,
        }
    }
}

/// How an execution ended and what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) cause: Cause,
    /// The wait status of the program's first process.
    pub(crate) status: i32,
    pub(crate) wall_nanos: u64,
    pub(crate) cpu_nanos: u64,
    pub(crate) peak_bytes: u64,
    /// The control group's count of processes that the kernel killed for memory.
    pub(crate) oom_kills: u64,
    /// Why the kernel gave no notifications, 0 if it did or need not.
    pub(crate) unmediated: i32,
    /// Why a private root has no `/proc`, 0 if it has one or there is none.
    pub(crate) no_proc: i32,
    /// What the filter denied.
    pub(crate) denials: Denials,
    pub(crate) reached: Reached,
}

/// Limits that were reached and ended nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The control group refused processes.
    pub(crate) processes: bool,
    /// The workspace has no room at the end.
    pub(crate) workspace: bool,
}

impl Reached {
    const fn to_bits(self) -> u32 {
        self.processes as u32 | (self.workspace as u32) << 1
    }

    /// `None`: there are other bits.
    fn from_bits(bits: u32) -> Option<Self> {
        let reached = Self {
            processes: bits & 1 != 0,
            workspace: bits & 2 != 0,
        };
        (reached.to_bits() == bits).then_some(reached)
    }
}

/// From the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Started,
    Failed(Failure),
    Ended(Summary),
}

/// To the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Kill(Cause),
    Signal(i32),
    /// What was used so far is not the program's: it only waits from now on.
    Idle,
    /// What the program is for begins, at this time of the monotonic clock.
    Begin(u64),
}

/// Bytes of a record.
pub(crate) const RECORD: usize = 80;

/// A record as it travels.
pub(crate) type Record = [u8; RECORD];

/// Fills a record field by field.
struct Writer {
    record: Record,
    at: usize,
}

impl Writer {
    const fn new(kind: u32) -> Self {
        Self {
            record: [0; RECORD],
            at: 0,
        }
        .u32(kind)
    }

    const fn u32(mut self, value: u32) -> Self {
        let bytes = value.to_le_bytes();
        let mut index = 0;
        while index < bytes.len() {
            self.record[self.at] = bytes[index];
            self.at += 1;
            index += 1;
        }
        self
    }

    const fn u64(self, value: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        self.u32(value as u32).u32((value >> 32) as u32)
    }

    const fn i32(self, value: i32) -> Self {
        self.u32(value.cast_unsigned())
    }
}

/// Reads a record field by field.
struct Reader<'r>(&'r [u8]);

impl Reader<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let (low, high) = (self.u32()?, self.u32()?);
        Some(u64::from(low) | u64::from(high) << 32)
    }

    fn i32(&mut self) -> Option<i32> {
        self.u32().map(u32::cast_signed)
    }
}

impl Event {
    pub(crate) const fn to_record(self) -> Record {
        match self {
            Self::Started => Writer::new(1).record,
            Self::Failed(failure) => {
                let Failure { step, item, errno } = failure;
                Writer::new(2).u32(step as u32).u32(item).i32(errno).record
            }
            Self::Ended(summary) => {
                let writer = Writer::new(3)
                    .u32(summary.cause.number())
                    .i32(summary.status);
                let writer = writer.u64(summary.wall_nanos).u64(summary.cpu_nanos);
                let writer = writer.u64(summary.peak_bytes).u64(summary.oom_kills);
                let [first, second, third] = summary.denials.0;
                let writer = writer.i32(summary.unmediated).i32(summary.no_proc);
                let writer = writer.u64(first).u64(second).u64(third);
                writer.u32(summary.reached.to_bits()).record
            }
        }
    }

    pub(crate) fn from_record(record: &[u8]) -> Option<Self> {
        let mut reader = Reader(record);
        match reader.u32()? {
            1 => Some(Self::Started),
            2 => {
                let step = Step::from_number(reader.u32()?)?;
                Some(Self::Failed(Failure {
                    step,
                    item: reader.u32()?,
                    errno: reader.i32()?,
                }))
            }
            3 => Some(Self::Ended(Summary {
                cause: Cause::from_number(reader.u32()?)?,
                status: reader.i32()?,
                wall_nanos: reader.u64()?,
                cpu_nanos: reader.u64()?,
                peak_bytes: reader.u64()?,
                oom_kills: reader.u64()?,
                unmediated: reader.i32()?,
                no_proc: reader.i32()?,
                denials: Denials([reader.u64()?, reader.u64()?, reader.u64()?]),
                reached: Reached::from_bits(reader.u32()?)?,
            })),
            _ => None,
        }
    }
}

impl Command {
    pub(crate) const fn to_record(self) -> Record {
        match self {
            Self::Kill(cause) => Writer::new(1).u32(cause.number()).record,
            Self::Signal(signal) => Writer::new(2).i32(signal).record,
            Self::Idle => Writer::new(3).record,
            Self::Begin(time) => Writer::new(4).u64(time).record,
        }
    }

    pub(crate) fn from_record(record: &[u8]) -> Option<Self> {
        let mut reader = Reader(record);
        match reader.u32()? {
            1 => Cause::from_number(reader.u32()?).map(Self::Kill),
            2 => reader.i32().map(Self::Signal),
            3 => Some(Self::Idle),
            4 => reader.u64().map(Self::Begin),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        for (step, text) in Step::ALL {
            assert_eq!(step.text(), *text);
            let failure = Failure {
                step: *step,
                item: 7,
                errno: libc::ENOSPC,
            };
            let event = Event::Failed(failure);
            assert_eq!(Event::from_record(&event.to_record()), Some(event));
        }
        for cause in Cause::ALL {
            let event = Event::Ended(Summary {
                cause,
                status: -1,
                wall_nanos: u64::MAX,
                cpu_nanos: 1 << 40,
                peak_bytes: 3,
                oom_kills: 4,
                unmediated: libc::EBUSY,
                no_proc: libc::EPERM,
                denials: Denials([u64::MAX, 2, 1 << 63]),
                reached: Reached {
                    processes: cause == Cause::Leader,
                    workspace: cause != Cause::TimedOut,
                },
            });
            assert_eq!(Event::from_record(&event.to_record()), Some(event));
            let command = Command::Kill(cause);
            assert_eq!(Command::from_record(&command.to_record()), Some(command));
        }
        for command in [
            Command::Signal(-3),
            Command::Idle,
            Command::Begin(u64::MAX - 1),
        ] {
            assert_eq!(Command::from_record(&command.to_record()), Some(command));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for len in 0..12 {
            let ended = Event::Failed(Failure {
                step: Step::Fork,
                item: 0,
                errno: 0,
            })
            .to_record();
            assert_eq!(Event::from_record(&ended[..len]), None);
        }
        assert_eq!(Event::from_record(&[9; RECORD]), None);
        assert_eq!(Command::from_record(&[9; RECORD]), None);
    }
}
