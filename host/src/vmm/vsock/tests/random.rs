//! Random guests and host programs against each other: nothing panics, nothing grows, every chain
//! comes back.

use super::super::credit::BUF_ALLOC;
use super::super::device::{MOST_CONNECTIONS, MOST_REPLIES};
use super::super::host::Refused;
use super::super::packet::{Header, Operation, SocketType};
use super::guest::Guest;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::sync_channel;

#[derive(Debug, Clone)]
enum Step {
    /// A packet, and how much payload really follows.
    Packet {
        header: Header,
        payload: usize,
    },
    /// A host program writes, reads, half-closes or goes.
    Write(usize, usize),
    Read(usize),
    ShutWrite(usize),
    ShutRead(usize),
    Close(usize),
    Buffers(u16),
    Restart,
}

fn header() -> impl Strategy<Value = Header> {
    let op = prop_oneof![8 => 1_u16..8, 1 => any::<u16>()];
    let port = prop_oneof![20 => 0_u32..4, 1 => any::<u32>()];
    let cid = |usual: u64| prop_oneof![40 => Just(usual), 1 => any::<u64>()];
    let count = prop_oneof![3 => Just(0_u32), 2 => 0_u32..100_000, 1 => any::<u32>()];
    let alloc = prop_oneof![3 => Just(1_u32 << 18), 2 => 0_u32..10_000, 1 => any::<u32>()];
    let kind = prop_oneof![40 => Just(1_u16), 1 => any::<u16>()];
    let len = prop_oneof![1 => Just(0_u32), 3 => 0_u32..65_536, 1 => any::<u32>()];
    (
        cid(3),
        cid(2),
        port.clone(),
        port,
        len,
        kind,
        op,
        0_u32..8,
        alloc,
        count,
    )
        .prop_map(
            |(src_cid, dst_cid, src_port, dst_port, len, kind, op, flags, buf_alloc, fwd_cnt)| {
                Header {
                    src_cid,
                    dst_cid,
                    src_port,
                    dst_port,
                    len,
                    socket_type: SocketType(kind),
                    op: Operation(op),
                    flags,
                    buf_alloc,
                    fwd_cnt,
                }
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..8_usize;
    prop_oneof![
        12 => (header(), any::<bool>(), 0..65_536_usize).prop_map(|(header, honest, other)| {
            let payload = if honest { (header.len as usize).min(70_000) } else { other };
            Step::Packet { header, payload }
        }),
        4 => (which.clone(), 1..100_000_usize).prop_map(|(i, len)| Step::Write(i, len)),
        4 => which.clone().prop_map(Step::Read),
        1 => which.clone().prop_map(Step::ShutWrite),
        1 => which.clone().prop_map(Step::ShutRead),
        1 => which.prop_map(Step::Close),
        4 => (0..64_u16).prop_map(Step::Buffers),
        1 => Just(Step::Restart),
    ]
}

fn run(steps: Vec<Step>) {
    let mut guest = Guest::without_buffers();
    let mut streams: Vec<UnixStream> = Vec::new();
    let (accept, accepted) = sync_channel::<UnixStream>(4);
    let mut listening = Vec::new();
    for port in 0..3 {
        let accept = accept.clone();
        let take = Box::new(move |stream| accept.try_send(stream).map_err(|_| Refused));
        listening.push(guest.door.listen(port, take).unwrap());
    }
    let mut buffer = vec![0; 200_000];
    for step in steps {
        match step {
            Step::Packet { header, payload } => {
                if guest.tx.outstanding(&guest.mem) < 40 {
                    guest.queue(&header, &buffer[..payload]);
                }
            }
            Step::Write(i, len) => {
                if let Some(stream) = streams.get_mut(i) {
                    let _ = stream.write(&buffer[..len]);
                }
            }
            Step::Read(i) => {
                if let Some(stream) = streams.get_mut(i) {
                    let _ = stream.read(&mut buffer);
                }
            }
            Step::ShutWrite(i) => {
                streams
                    .get(i)
                    .map(|stream| stream.shutdown(Shutdown::Write));
            }
            Step::ShutRead(i) => {
                streams.get(i).map(|stream| stream.shutdown(Shutdown::Read));
            }
            Step::Close(i) => {
                if i < streams.len() {
                    streams.remove(i);
                }
            }
            Step::Buffers(count) => {
                for _ in 0..count {
                    if guest.rx.outstanding(&guest.mem) < 100 {
                        guest.offer_rx(guest.rx.offered % 128);
                    }
                }
            }
            Step::Restart => guest.restart(),
        }
        guest.work();
        while let Ok(stream) = accepted.try_recv() {
            stream.set_nonblocking(true).unwrap();
            streams.push(stream);
        }
        check(&guest);
        guest.inbox.clear();
    }
    // With buffers enough, everything that waits gets through and the rings are empty.
    guest.inbox.clear();
    guest.recycle = true;
    while guest.rx.outstanding(&guest.mem) < 100 {
        guest.offer_rx(guest.rx.offered % 128);
    }
    guest.work();
    assert_eq!(guest.tx.outstanding(&guest.mem), 0);
    assert!(guest.device.replies.is_empty() && guest.device.speakers.is_empty());
    drop(streams);
    guest.work();
    check(&guest);
}

fn check(guest: &Guest) {
    let device = &guest.device;
    assert!(!device.broken);
    assert!(device.connections.len() <= MOST_CONNECTIONS);
    assert!(device.replies.len() <= MOST_REPLIES);
    assert!(device.speakers.len() <= device.connections.len());
    for connection in device.connections.values() {
        assert!(connection.held() <= BUF_ALLOC as usize);
        assert!(!connection.is_gone());
        assert_eq!(
            connection.queued,
            device.speakers.contains(&connection.token)
        );
        assert!(connection.queued || !connection.wants_to_speak());
    }
    for (header, payload) in &guest.inbox {
        assert_eq!(header.len as usize, payload.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_nothing_grows(steps in prop::collection::vec(step(), 1..150)) {
        run(steps);
    }
}
