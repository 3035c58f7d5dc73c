//! Removing and renaming, by which what stands under a name may be lost.
//!
//! Whoever is asked about a deletion is asked about what is there: it is held open meanwhile, and
//! what is under the name when it comes to the deed must be the same file. If it is another one,
//! that one is asked about.
//!
//! The kernel has no call that removes or replaces just one inode, and none is needed to be safe from
//! the program: as long as deletions are asked about, each call by which it could take something away
//! from a name is held as well, and nobody but this one process performs them, one at a time. What
//! the program can still do by itself meanwhile is to make something under a free name; that is not
//! replaced (`RENAME_NOREPLACE`). Processes outside of the sandbox are not kept from anything.

#![expect(unsafe_code, reason = "a system call that takes strings")]

use super::act::Text;
use super::files::kind;
use super::resolve::Entry;
use super::{Fd, Performed, is_same};
use crate::plan::Supervised;
use crate::sys::{self, Errno, Sys, signed};
use ringfence_protocol::Operation;

/// Looks at a name that others make and remove all the time.
const LOOKS: u32 = 4;

/// A prepared removal.
#[derive(Debug)]
pub(super) struct Removal {
    entry: Entry,
    object: Fd,
    flags: i32,
}

impl Removal {
    pub(super) fn prepare(entry: Entry, flags: i32) -> Sys<Self> {
        if flags & !libc::AT_REMOVEDIR != 0 {
            return Err(Errno(libc::EINVAL));
        }
        Ok(Self {
            object: open(&entry)?,
            entry,
            flags,
        })
    }

    pub(super) fn describe(&self, text: &mut Text) -> Sys<()> {
        text.entry(&self.entry)
    }

    pub(super) fn perform(&mut self) -> Sys<Performed> {
        let now = open(&self.entry)?;
        if !is_same(&now, &self.object)? {
            self.object = now;
            return Ok(Performed::Changed);
        }
        sys::unlinkat(self.entry.directory.0, self.entry.name(), self.flags)?;
        Ok(Performed::Done)
    }
}

/// A prepared renaming.
#[derive(Debug)]
pub(super) struct Renaming {
    from: Entry,
    to: Entry,
    flags: u32,
    loses: Loses,
}

/// What is lost by a renaming, as far as somebody is to be asked about that.
#[derive(Debug)]
enum Loses {
    /// It is the renaming that is asked about, or nothing can be lost.
    NotAsked,
    /// The new name is free.
    Nothing,
    /// Both names stand for the same file already.
    Itself,
    Object(Fd),
    /// The new name is free, but the file system cannot promise to keep what somebody makes there.
    Anything,
}

impl Renaming {
    pub(super) fn prepare(
        from: Entry,
        to: Entry,
        flags: u32,
        asked: Option<&Supervised>,
    ) -> Sys<Self> {
        let asks = |operation| asked.is_some_and(|supervised| supervised.asks(operation));
        let may_replace = flags & (libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE) == 0;
        let loses = if asks(Operation::Delete) && !asks(Operation::Rename) && may_replace {
            look(&from, &to)?
        } else {
            Loses::NotAsked
        };
        Ok(Self {
            from,
            to,
            flags,
            loses,
        })
    }

    pub(super) const fn operation(&self) -> Option<Operation> {
        match self.loses {
            Loses::NotAsked => Some(Operation::Rename),
            Loses::Nothing | Loses::Itself => None,
            Loses::Object(_) | Loses::Anything => Some(Operation::Delete),
        }
    }

    /// The old path and the new one, or the path of what is lost.
    pub(super) fn describe(&self, text: &mut Text) -> Sys<()> {
        if matches!(self.loses, Loses::NotAsked) {
            text.entry(&self.from)?;
            text.divide();
        }
        text.entry(&self.to)
    }

    pub(super) fn perform(&mut self) -> Sys<Performed> {
        if matches!(self.loses, Loses::NotAsked) {
            return self.rename(self.flags);
        }
        for _ in 0..LOOKS {
            let now = look(&self.from, &self.to)?;
            match (&now, &self.loses) {
                (Loses::Nothing, Loses::Anything) | (Loses::Itself, _) => {
                    return self.rename(self.flags);
                }
                (Loses::Object(now), Loses::Object(asked)) if is_same(now, asked)? => {
                    return self.rename(self.flags);
                }
                (Loses::Object(_), _) => {
                    self.loses = now;
                    return Ok(Performed::Changed);
                }
                _ => {}
            }
            match self.rename(self.flags | libc::RENAME_NOREPLACE) {
                Err(Errno(libc::EEXIST)) => {}
                Err(Errno(libc::EINVAL)) => return self.without_promise(),
                done => return done,
            }
        }
        Err(Errno(libc::EBUSY))
    }

    /// Where the file system does not know `RENAME_NOREPLACE`. A directory replaces nothing but an
    /// empty one, and one that is moved into itself is refused in the same way.
    fn without_promise(&mut self) -> Sys<Performed> {
        if kind(&open(&self.from)?)? == libc::S_IFDIR {
            return self.rename(self.flags);
        }
        self.loses = Loses::Anything;
        Ok(Performed::Changed)
    }

    fn rename(&self, flags: u32) -> Sys<Performed> {
        let args = [
            signed(self.from.directory.0),
            self.from.name().as_ptr() as usize,
            signed(self.to.directory.0),
            self.to.name().as_ptr() as usize,
            flags as usize,
        ];
        // SAFETY: both names end with NUL and outlive the call.
        unsafe { sys::call(libc::SYS_renameat2, args) }?;
        Ok(Performed::Done)
    }
}

/// What is under a name, without following it.
fn open(entry: &Entry) -> Sys<Fd> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    sys::openat(entry.directory.0, entry.name(), flags, 0).map(Fd)
}

/// What would be lost if the one took the other's name.
fn look(from: &Entry, to: &Entry) -> Sys<Loses> {
    let source = open(from)?;
    match open(to) {
        Ok(object) if is_same(&object, &source)? => Ok(Loses::Itself),
        Ok(object) => Ok(Loses::Object(object)),
        Err(Errno(libc::ENOENT)) => Ok(Loses::Nothing),
        Err(errno) => Err(errno),
    }
}
