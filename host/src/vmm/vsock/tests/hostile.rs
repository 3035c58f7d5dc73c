//! Guests that break the rules.

use super::super::credit::BUF_ALLOC;
use super::super::device::MOST_REPLIES;
use super::super::packet::{Header, Operation, Shutdown, SocketType};
use super::super::testing::{Guest, MEMORY, NEXT, SIZE, TX_BUFFERS, WRITE};
use super::{connect, opened_by_guest};
use crate::vmm::devices::virtio::chain::MOST_PIECES;
use std::io::{self, Read};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

/// What a packet on an open connection, or on none, leads to.
fn check(what: &str, open: bool, answered: bool, mutate: impl Fn(&mut Header)) {
    let mut guest = Guest::new();
    let stream = open.then(|| opened_by_guest(&mut guest, 1, 2));
    let mut header = Guest::header(Operation::RW, 1, 2);
    mutate(&mut header);
    guest.queue(&header, &[0; 8]);
    guest.work();
    let replies: Vec<Operation> = guest.inbox.iter().map(|(reply, _)| reply.op).collect();
    let expected = if answered {
        vec![Operation::RST]
    } else {
        vec![]
    };
    assert_eq!(replies, expected, "{what}");
    if answered {
        let (reply, _) = &guest.inbox[0];
        assert_eq!(
            (reply.src_cid, reply.dst_cid),
            (header.dst_cid, header.src_cid),
            "{what}"
        );
        assert_eq!(
            (reply.src_port, reply.dst_port),
            (header.dst_port, header.src_port),
            "{what}"
        );
    }
    let addressed = header.src_port == 1 && header.dst_port == 2 && header.dst_cid == 2;
    if let Some(mut stream) = stream
        && answered
        && addressed
        && header.socket_type == SocketType::STREAM
    {
        assert!(guest.device.connections.is_empty(), "{what}");
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn violations_are_reset() {
    check("data on no connection", false, true, |_| {});
    check("RST on no connection", false, false, |header| {
        header.op = Operation::RST;
    });
    check("RESPONSE to nothing", false, true, |header| {
        header.op = Operation::RESPONSE;
    });
    check(
        "unknown operation on no connection",
        false,
        true,
        |header| header.op = Operation(0),
    );
    check("another's address", true, false, |header| {
        header.src_cid = 4;
    });
    check("reserved half of the address", true, false, |header| {
        header.src_cid |= 1 << 32;
    });
    check("not the host's address", true, true, |header| {
        header.dst_cid = 7;
    });
    check("reserved half of the host's", true, true, |header| {
        header.dst_cid |= 1 << 32;
    });
    check("SEQPACKET", true, true, |header| {
        header.socket_type = SocketType(2);
    });
    check("type 0", true, true, |header| {
        header.socket_type = SocketType(0);
    });
    check("any port", true, true, |header| header.src_port = u32::MAX);
    check("to any port", true, true, |header| {
        header.dst_port = u32::MAX;
    });
    for op in [0, 1, 2, 8, 0xffff] {
        check("operation", true, true, |header| header.op = Operation(op));
    }
    check("longer than its descriptors", true, true, |header| {
        header.len = 9;
    });
    check("longest", true, true, |header| header.len = u32::MAX);
    check("consumed what never was", true, true, |header| {
        header.fwd_cnt = 1;
    });
    check("shorter than its descriptors", true, false, |header| {
        header.len = 3;
    });
}

#[test]
fn more_than_credit_is_reset() {
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 1, 2);
    let mut sent: usize = 0;
    while guest
        .inbox
        .back()
        .is_none_or(|(header, _)| header.op != Operation::RST)
    {
        guest.send_data(1, 2, &[1; 50_000]);
        sent += 50_000;
        assert!(sent < 10 << 20);
    }
    assert!(guest.device.connections.is_empty());
    // The socket's content is still there, the device's is not.
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() + BUF_ALLOC as usize + 50_000 >= sent);
}

#[test]
fn data_after_the_end_is_reset() {
    let mut guest = Guest::new();
    let _stream = opened_by_guest(&mut guest, 1, 2);
    guest.send_shutdown(
        1,
        2,
        Shutdown {
            send: true,
            receive: false,
        },
    );
    guest.send_data(1, 2, b"x");
    guest.receive_op(Operation::RST);
}

#[test]
fn a_wrong_answer_fails_the_connect() {
    for op in [
        Operation::RW,
        Operation::REQUEST,
        Operation::SHUTDOWN,
        Operation(77),
    ] {
        let mut guest = Guest::new();
        let connecting = connect(&guest, 5);
        let request = guest.receive_op(Operation::REQUEST);
        guest.send_op(op, 5, request.src_port);
        guest.receive_op(Operation::RST);
        let error = connecting.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(guest.device.connections.is_empty());
    }
}

/// Offers one chain of the given descriptors and sees that it comes back and that the device is as
/// good as before.
fn check_chain(what: &str, descriptors: &[(u64, u32, u16, u16)], delivered: &[u8]) {
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 1, 2);
    let mut header = Guest::header(Operation::RW, 1, 2);
    header.len = 8;
    let at = TX_BUFFERS + 50 * super::super::testing::TX_BUFFER;
    guest
        .mem
        .write_slice(&header.encode(), GuestAddress(at))
        .unwrap();
    guest
        .mem
        .write_slice(b"12345678", GuestAddress(at + 44))
        .unwrap();
    for (index, &(addr, len, flags, next)) in descriptors.iter().enumerate() {
        guest
            .tx
            .describe(&guest.mem, 20 + index as u16, at + addr, len, flags, next);
    }
    guest.tx.offer(&guest.mem, 20);
    guest.work();
    assert_eq!(
        guest.tx.outstanding(&guest.mem),
        0,
        "{what}: not given back"
    );
    guest.inbox.clear();
    if guest.device.connections.is_empty() {
        assert_eq!(delivered, b"", "{what}: the connection is gone");
        return;
    }
    guest.send_data(1, 2, b"ok");
    let mut expected = delivered.to_vec();
    expected.extend_from_slice(b"ok");
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected, "{what}");
}

#[test]
fn chains_of_all_shapes() {
    let far = MEMORY;
    check_chain("in one piece", &[(0, 52, 0, 0)], b"12345678");
    check_chain(
        "header in pieces",
        &[(0, 7, NEXT, 21), (7, 30, NEXT, 22), (37, 15, 0, 0)],
        b"12345678",
    );
    check_chain(
        "empty pieces",
        &[
            (0, 0, NEXT, 21),
            (0, 44, NEXT, 22),
            (0, 0, NEXT, 23),
            (44, 8, 0, 0),
        ],
        b"12345678",
    );
    check_chain("shorter than a header", &[(0, 43, 0, 0)], b"");
    check_chain("empty", &[(0, 0, 0, 0)], b"");
    check_chain("for writing", &[(0, 52, WRITE, 0)], b"");
    check_chain(
        "payload for writing",
        &[(0, 44, NEXT, 21), (44, 8, WRITE, 0)],
        b"",
    );
    check_chain("outside of memory", &[(far, 52, 0, 0)], b"");
    check_chain(
        "payload outside of memory",
        &[(0, 44, NEXT, 21), (far, 8, 0, 0)],
        b"",
    );
    check_chain("across the end of memory", &[(0, u32::MAX, 0, 0)], b"");
    check_chain(
        "wrapping addresses",
        &[(u64::MAX - (64 << 20), u32::MAX, 0, 0)],
        b"",
    );
    check_chain("to itself", &[(0, 44, NEXT, 20)], b"");
    check_chain("in a circle", &[(0, 44, NEXT, 21), (44, 8, NEXT, 20)], b"");
    check_chain("to nowhere", &[(0, 44, NEXT, SIZE)], b"");
    check_chain("indirect table of a wrong size", &[(0, 17, 4, 0)], b"");
    check_chain("indirect table outside of memory", &[(far, 32, 4, 0)], b"");
    let long: Vec<_> = (0..=MOST_PIECES as u16)
        .map(|i| (0, 1, NEXT, 21 + i))
        .collect();
    check_chain("too many pieces", &long, b"");
}

#[test]
fn buffers_of_all_shapes() {
    let mut guest = Guest::without_buffers();
    let mut odd = |addr: u64, len: u32, flags: u16| {
        let index = guest.rx.offered;
        guest.rx.describe(&guest.mem, index, addr, len, flags, 0);
        guest.rx.offer(&guest.mem, index);
    };
    odd(0x10_0000, 0, WRITE);
    odd(0x10_0000, 43, WRITE);
    odd(0x10_0000, 4096, 0);
    odd(MEMORY, 4096, WRITE);
    odd(u64::MAX, u32::MAX, WRITE);
    guest.offer_rx(5);
    guest.send_op(Operation::REQUEST, 1, 2);
    guest.receive_op(Operation::RST);
    assert_eq!(guest.rx.outstanding(&guest.mem), 0);
}

#[test]
fn a_buffer_without_room_for_data_is_given_back() {
    use std::io::Write;
    let mut guest = Guest::new();
    let mut stream = opened_by_guest(&mut guest, 1, 2);
    guest.recycle = false;
    // Uses up the buffers that are offered.
    while guest.rx.outstanding(&guest.mem) > 0 {
        guest.send_op(Operation::CREDIT_REQUEST, 1, 2);
    }
    guest.inbox.clear();
    guest.rx.describe(&guest.mem, 0, 0x10_0000, 44, WRITE, 0);
    guest.rx.offer(&guest.mem, 0);
    guest.offer_rx(1);
    stream.write_all(b"data").unwrap();
    assert_eq!(guest.receive().1, b"data");
}

#[test]
fn resets_wait_for_buffers_in_bounds() {
    let mut guest = Guest::without_buffers();
    // The same mistake is answered once.
    for _ in 0..1000 {
        guest.send_op(Operation::RW, 1, 1);
    }
    assert_eq!(guest.device.replies.len(), 1);
    // Different ones fill the queue; then packets stay in the ring.
    let mut port = 0;
    while guest.tx.outstanding(&guest.mem) < 10 {
        port += 1;
        guest.queue(&Guest::header(Operation::RW, port, 1), &[]);
        guest.work();
    }
    assert_eq!(guest.device.replies.len(), MOST_REPLIES);
    guest.recycle = true;
    for index in 0..SIZE {
        guest.offer_rx(index);
    }
    guest.work();
    assert_eq!(guest.tx.outstanding(&guest.mem), 0);
    assert_eq!(guest.inbox.len() as u32, port);
}

#[test]
fn a_guest_without_buffers_cannot_fill_the_device() {
    let mut guest = Guest::without_buffers();
    let accepted = super::listen(&mut guest, 80, 8);
    for port in 0..3000 {
        guest.send_op(Operation::REQUEST, port, 80);
        drop(accepted.recv().unwrap());
        guest.send_op(Operation::RST, port, 80);
        guest.work();
    }
    assert!(guest.device.speakers.len() <= guest.device.connections.len());
    assert!(guest.device.connections.len() <= 1);
}

#[test]
fn impossible_indices_stop_the_device_until_it_is_reset() {
    let mut guest = Guest::new();
    guest.tx.set_offered(&guest.mem, SIZE + 1);
    guest.work();
    assert!(guest.device.broken);
    guest.restart();
    guest.send_op(Operation::REQUEST, 1, 2);
    guest.receive_op(Operation::RST);
}

#[test]
fn a_head_outside_of_the_table_is_skipped() {
    let mut guest = Guest::new();
    guest.tx.offer(&guest.mem, SIZE);
    guest.tx.offer(&guest.mem, u16::MAX);
    guest.send_op(Operation::REQUEST, 1, 2);
    guest.receive_op(Operation::RST);
}

#[test]
fn rings_outside_of_memory_stop_the_device() {
    for ring in 0..2 {
        for part in 0..3 {
            let mut guest = Guest::new();
            let queue = if ring == 0 {
                &mut guest.rx_queue
            } else {
                &mut guest.tx_queue
            };
            let far = (Some(MEMORY as u32), Some(1));
            match part {
                0 => queue.set_desc_table_address(far.0, far.1),
                1 => queue.set_avail_ring_address(far.0, far.1),
                _ => queue.set_used_ring_address(far.0, far.1),
            }
            guest.queue(&Guest::header(Operation::RW, 1, 1), &[]);
            // What matters is that it returns.
            guest
                .device
                .serve(&guest.mem, &mut guest.rx_queue, &mut guest.tx_queue);
        }
    }
}

#[test]
fn the_configuration_space_ends() {
    let guest = Guest::new();
    assert_eq!(guest.device.config(0, 8), [3_u8, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.device.config(0, u32::MAX).len(), 8);
    assert_eq!(guest.device.config(6, 8), [0_u8, 0]);
    assert!(guest.device.config(u32::MAX, 4).is_empty());
}
