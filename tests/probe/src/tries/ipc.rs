//! Objects of System V and POSIX IPC that somebody outside made. A value is the object's number or
//! name.

use super::Table;
use super::Try::Attempt;
use crate::sys::{NULL, call};
use std::ffi::CString;
use std::io;

pub(super) const TRIES: Table = &[
    ("shared-memory", Attempt(shared_memory)),
    ("shared-memory-state", Attempt(shared_memory_state)),
    ("shared-memory-removal", Attempt(shared_memory_removal)),
    ("semaphore", Attempt(semaphore)),
    ("semaphore-operation", Attempt(semaphore_operation)),
    ("message", Attempt(message)),
    ("posix-queue", Attempt(posix_queue)),
    ("posix-queue-removal", Attempt(posix_queue_removal)),
];

fn number(text: &str) -> io::Result<i32> {
    text.parse().map_err(io::Error::other)
}

fn done(_: usize) -> String {
    "done".into()
}

fn shared_memory(id: &str) -> io::Result<String> {
    call!(libc::SYS_shmat, number(id)?, NULL, libc::SHM_RDONLY).map(done)
}

fn shared_memory_state(id: &str) -> io::Result<String> {
    let mut state = [0_u64; 32];
    call!(
        libc::SYS_shmctl,
        number(id)?,
        libc::IPC_STAT,
        &mut state[..]
    )
    .map(done)
}

fn shared_memory_removal(id: &str) -> io::Result<String> {
    call!(libc::SYS_shmctl, number(id)?, libc::IPC_RMID, NULL).map(done)
}

fn semaphore(id: &str) -> io::Result<String> {
    const GETVAL: i32 = 12;
    call!(libc::SYS_semctl, number(id)?, 0, GETVAL, NULL).map(done)
}

/// Adds one.
fn semaphore_operation(id: &str) -> io::Result<String> {
    // `struct sembuf`: number, operation, flags, 16 bits each.
    let mut operation = [0_u8, 0, 1, 0, 0, 0, 0, 0];
    call!(libc::SYS_semop, number(id)?, &mut operation[..], 1).map(done)
}

/// Takes a message away.
fn message(id: &str) -> io::Result<String> {
    let mut buffer = [0_u64; 8];
    call!(
        libc::SYS_msgrcv,
        number(id)?,
        &mut buffer[..],
        8,
        0,
        libc::IPC_NOWAIT
    )
    .map(done)
}

fn posix_queue(name: &str) -> io::Result<String> {
    let name = CString::new(name).map_err(io::Error::other)?;
    call!(libc::SYS_mq_open, name.as_c_str(), libc::O_RDONLY, 0, NULL).map(done)
}

fn posix_queue_removal(name: &str) -> io::Result<String> {
    let name = CString::new(name).map_err(io::Error::other)?;
    call!(libc::SYS_mq_unlink, name.as_c_str()).map(done)
}
