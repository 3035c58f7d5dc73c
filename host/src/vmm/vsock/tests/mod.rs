//! The device as a guest and a host program see it, through real rings and real sockets.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests may fail"
)]

mod hostile;
mod random;
mod streams;
mod transport;

use super::host::Refused;
use super::packet::{Header, Operation};
use super::testing::Guest;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

/// Listens on a port of the host; the device has noticed when this returns.
fn listen(guest: &mut Guest, port: u32, backlog: usize) -> Receiver<UnixStream> {
    let (streams, accepted) = sync_channel(backlog);
    let accept = Box::new(move |stream| streams.try_send(stream).map_err(|_| Refused));
    // The port stays open until the device goes.
    std::mem::forget(guest.door.listen(port, accept).unwrap());
    guest.work();
    accepted
}

/// Connects from the host; the answer is the test's to give.
fn connect(guest: &Guest, port: u32) -> JoinHandle<io::Result<UnixStream>> {
    let door = guest.door.clone();
    std::thread::spawn(move || door.connect(port, LONG))
}

/// An open connection that the guest opened: its port, the host's, and the host's end.
fn opened_by_guest(guest: &mut Guest, guest_port: u32, host_port: u32) -> UnixStream {
    let accepted = listen(guest, host_port, 1);
    guest.send_op(Operation::REQUEST, guest_port, host_port);
    guest.receive_op(Operation::RESPONSE);
    accepted.recv_timeout(LONG).unwrap()
}

/// An open connection that the host opened: the host's port and end.
fn opened_by_host(guest: &mut Guest, guest_port: u32, response: &Header) -> (u32, UnixStream) {
    let connecting = connect(guest, guest_port);
    let request = guest.receive_op(Operation::REQUEST);
    let mut response = *response;
    response.op = Operation::RESPONSE;
    response.src_port = guest_port;
    response.dst_port = request.src_port;
    guest.send(response, &[]);
    (request.src_port, connecting.join().unwrap().unwrap())
}
