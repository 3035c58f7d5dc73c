//! Random guests and host programs against each other: nothing panics, nothing grows, every chain
//! comes back.

use super::super::device::FIRST_PORT;
use super::super::misbehave::{self, Step};
use super::super::packet::{Header, Operation, SocketType};
use proptest::prelude::*;

fn header() -> impl Strategy<Value = Header> {
    let op = prop_oneof![8 => 1_u16..8, 1 => any::<u16>()];
    let port = prop_oneof![20 => 0_u32..4, 8 => FIRST_PORT..FIRST_PORT + 8, 1 => any::<u32>()];
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
        1 => which.clone().prop_map(Step::Close),
        2 => (0..4_u32).prop_map(Step::Connect),
        1 => which.prop_map(Step::Cancel),
        1 => (0..3_usize).prop_map(Step::Listen),
        4 => (0..64_u16).prop_map(Step::Buffers),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_nothing_grows(steps in prop::collection::vec(step(), 1..150)) {
        misbehave::run(steps);
    }

    #[test]
    fn nothing_panics_whatever_the_bytes(data in prop::collection::vec(any::<u8>(), 0..1000)) {
        misbehave::guest_and_host(&data);
    }
}
