//! The supervisor's side of questions and answers.

#![expect(unsafe_code, reason = "sends and receives on a socket")]

use crate::questions::{ANSWER, Header, answer_from_bytes};
use crate::sys::{self, Errno, Sys, signed};
use ringfence_protocol::Decision;
use std::os::fd::RawFd;

/// Sends a question with its paths. Does not wait.
pub(super) fn send(questions: RawFd, header: &Header, paths: &[u8]) -> Sys<()> {
    let header = header.to_bytes();
    let mut parts = [header.as_slice(), paths].map(|part| libc::iovec {
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    });
    // SAFETY: all-zero bytes are a valid message header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = sys::small_size(parts.len());
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let args = [
        signed(questions),
        &raw const message as usize,
        signed(flags),
    ];
    // SAFETY: the kernel reads the message and what it points to, all of which outlive the call.
    sys::retry(|| unsafe { sys::call(libc::SYS_sendmsg, args) }).map(drop)
}

/// Receives an answer; nothing when it makes no sense. An error: nobody answers any more.
pub(super) fn receive(questions: RawFd) -> Sys<Option<(u64, Decision)>> {
    let mut bytes = [0_u8; ANSWER];
    let args = [
        signed(questions),
        bytes.as_mut_ptr() as usize,
        bytes.len(),
        signed(libc::MSG_DONTWAIT),
        0,
        0,
    ];
    // SAFETY: the kernel writes at most the length of the bytes to them.
    match sys::retry(|| unsafe { sys::call(libc::SYS_recvfrom, args) })? {
        0 => Err(Errno(libc::EPIPE)),
        len => Ok(bytes.get(..len).and_then(answer_from_bytes)),
    }
}
