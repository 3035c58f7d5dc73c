//! Objects of IPC outside of a sandbox, which a test has its sandboxed programs look for.

use crate::sys::{NULL, call};
use std::ffi::CString;
use std::io::{self, Read as _};

const EVERYBODY: i32 = 0o666 | libc::IPC_CREAT;

/// Makes one object of each kind, for everybody to use, says their numbers, waits for the end of
/// standard input, and removes them. Says at last whether they were as before.
pub(crate) fn hold(name: &str) -> io::Result<()> {
    let (none, page) = (libc::IPC_PRIVATE, 4096);
    let memory = call!(libc::SYS_shmget, none, page, EVERYBODY)?;
    let semaphore = call!(libc::SYS_semget, none, 1, EVERYBODY)?;
    let queue = call!(libc::SYS_msgget, none, EVERYBODY)?;
    // The type of the message, then eight bytes.
    let mut message = [1_u64, 2];
    call!(libc::SYS_msgsnd, queue, &mut message[..], 8, 0)?;
    let posix = CString::new(name).map_err(io::Error::other)?;
    let flags = libc::O_CREAT | libc::O_RDWR;
    let opened = call!(libc::SYS_mq_open, posix.as_c_str(), flags, 0o666, NULL)?;
    println!("{memory} {semaphore} {queue}");

    io::stdin().read_to_end(&mut Vec::new())?;
    const GETVAL: i32 = 12;
    let value = call!(libc::SYS_semctl, semaphore, 0, GETVAL, NULL)?;
    let taken = call!(
        libc::SYS_msgrcv,
        queue,
        &mut message[..],
        8,
        0,
        libc::IPC_NOWAIT
    );
    let removed = [
        call!(libc::SYS_shmctl, memory, libc::IPC_RMID, NULL),
        call!(libc::SYS_semctl, semaphore, 0, libc::IPC_RMID, NULL),
        call!(libc::SYS_msgctl, queue, libc::IPC_RMID, NULL),
        call!(libc::SYS_mq_unlink, posix.as_c_str()),
    ];
    call!(libc::SYS_close, opened)?;
    let same = value == 0 && taken.is_ok() && removed.iter().all(Result::is_ok);
    println!("{}", if same { "same" } else { "changed" });
    Ok(())
}
