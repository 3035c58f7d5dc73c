//! The virtio-vsock packet header and the values in it, as plain data (virtio 1.2, section 5.10.6).
//!
//! Everything here is total: a [`Header`] decodes from any 44 bytes. Fields whose values the
//! specification enumerates are open ([`Operation`], [`SocketType`]): they hold what the guest
//! wrote, known or not, and the code above decides. Addresses are checked when they become a
//! [`GuestCid`] or a [`Port`].

use std::fmt;

/// The host's context identifier, `VMADDR_CID_HOST`.
pub(crate) const HOST_CID: u64 = 2;

/// Context identifier of a guest. Never one of the reserved ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GuestCid(u32);

/// A context identifier that no guest may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a guest's vsock CID; take one from 3 to 4294967294")]
pub(crate) struct ReservedCid(u64);

impl GuestCid {
    /// Every guest has a vsock device of its own, so all may have the same.
    pub(crate) const SOLE: Self = Self(3);
}

impl TryFrom<u64> for GuestCid {
    type Error = ReservedCid;

    /// 0 is the hypervisor, 1 the guest's own loopback, 2 the host, 2³²−1 "any"; the upper half is
    /// reserved by the specification.
    fn try_from(cid: u64) -> Result<Self, ReservedCid> {
        match u32::try_from(cid) {
            Ok(small) if small > 2 && small != u32::MAX => Ok(Self(small)),
            _ => Err(ReservedCid(cid)),
        }
    }
}

impl From<GuestCid> for u64 {
    fn from(cid: GuestCid) -> Self {
        Self::from(cid.0)
    }
}

/// A port of one side. Never `VMADDR_PORT_ANY`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Port(u32);

impl Port {
    /// `None` for `VMADDR_PORT_ANY`, which means "choose one" and addresses nobody.
    pub(crate) const fn new(port: u32) -> Option<Self> {
        if port == u32::MAX {
            None
        } else {
            Some(Self(port))
        }
    }

    pub(crate) const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `op` of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation(pub(crate) u16);

impl Operation {
    pub(crate) const REQUEST: Self = Self(1);
    pub(crate) const RESPONSE: Self = Self(2);
    pub(crate) const RST: Self = Self(3);
    pub(crate) const SHUTDOWN: Self = Self(4);
    pub(crate) const RW: Self = Self(5);
    pub(crate) const CREDIT_UPDATE: Self = Self(6);
    pub(crate) const CREDIT_REQUEST: Self = Self(7);
}

/// `type` of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketType(pub(crate) u16);

impl SocketType {
    pub(crate) const STREAM: Self = Self(1);
}

/// The bits of `flags` in a SHUTDOWN: which directions the sender is done with. Unknown bits are
/// dropped on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Shutdown {
    /// The sender will receive no more.
    pub(crate) receive: bool,
    /// The sender will send no more.
    pub(crate) send: bool,
}

impl Shutdown {
    pub(crate) const NONE: Self = Self {
        receive: false,
        send: false,
    };
    pub(crate) const BOTH: Self = Self {
        receive: true,
        send: true,
    };

    pub(crate) const fn from_flags(flags: u32) -> Self {
        Self {
            receive: flags & 1 != 0,
            send: flags & 2 != 0,
        }
    }

    pub(crate) const fn to_flags(self) -> u32 {
        self.receive as u32 | (self.send as u32) << 1
    }

    /// Directions closed in either: a closed direction never opens again.
    pub(crate) const fn union(self, other: Self) -> Self {
        Self {
            receive: self.receive || other.receive,
            send: self.send || other.send,
        }
    }
}

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src_cid: u64,
    pub(crate) dst_cid: u64,
    pub(crate) src_port: u32,
    pub(crate) dst_port: u32,
    pub(crate) len: u32,
    pub(crate) socket_type: SocketType,
    pub(crate) op: Operation,
    pub(crate) flags: u32,
    pub(crate) buf_alloc: u32,
    pub(crate) fwd_cnt: u32,
}

impl Header {
    /// Bytes on the wire.
    pub(crate) const LEN: usize = 44;

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let mut rest = bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            socket_type: SocketType(u16::from_le_bytes(take(&mut rest))),
            op: Operation(u16::from_le_bytes(take(&mut rest))),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut rest = bytes.as_mut_slice();
        put(&mut rest, &self.src_cid.to_le_bytes());
        put(&mut rest, &self.dst_cid.to_le_bytes());
        put(&mut rest, &self.src_port.to_le_bytes());
        put(&mut rest, &self.dst_port.to_le_bytes());
        put(&mut rest, &self.len.to_le_bytes());
        put(&mut rest, &self.socket_type.0.to_le_bytes());
        put(&mut rest, &self.op.0.to_le_bytes());
        put(&mut rest, &self.flags.to_le_bytes());
        put(&mut rest, &self.buf_alloc.to_le_bytes());
        put(&mut rest, &self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The RST that answers this packet, whatever it was addressed to; `None` for an RST, which is
    /// never answered.
    pub(crate) fn reset_reply(&self) -> Option<Self> {
        if self.op == Operation::RST {
            return None;
        }
        Some(Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            socket_type: self.socket_type,
            op: Operation::RST,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        })
    }
}

/// Takes the next field. The callers' fields add up to [`Header::LEN`]; were they more, the rest
/// would read as zero.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    match bytes.split_first_chunk::<N>() {
        Some((field, rest)) => {
            *bytes = rest;
            *field
        }
        None => [0; N],
    }
}

fn put(space: &mut &mut [u8], field: &[u8]) {
    if let Some((head, rest)) = std::mem::take(space).split_at_mut_checked(field.len()) {
        head.copy_from_slice(field);
        *space = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reserved_cids_are_refused() {
        for cid in [0, 1, 2, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            assert_eq!(GuestCid::try_from(cid), Err(ReservedCid(cid)));
        }
        for cid in [3, u64::from(u32::MAX - 1)] {
            assert_eq!(GuestCid::try_from(cid).map(u64::from), Ok(cid));
        }
    }

    #[test]
    fn fields_lie_where_the_specification_puts_them() {
        let bytes: [u8; Header::LEN] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let header = Header::decode(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.dst_port, 0x1716_1514);
        assert_eq!(header.len, 0x1b1a_1918);
        assert_eq!(header.socket_type, SocketType(0x1d1c));
        assert_eq!(header.op, Operation(0x1f1e));
        assert_eq!(header.fwd_cnt, 0x2b2a_2928);
    }

    #[test]
    fn resets_are_not_answered() {
        let mut header = Header::decode(&[0; Header::LEN]);
        assert!(header.reset_reply().is_some());
        header.op = Operation::RST;
        assert_eq!(header.reset_reply(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_and_encode_back(bytes in prop::array::uniform32(any::<u8>()),
                                            rest in prop::array::uniform12(any::<u8>())) {
            let mut all = [0; Header::LEN];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&rest);
            prop_assert_eq!(Header::decode(&all).encode(), all);
        }

        #[test]
        fn shutdown_flags_keep_only_known_bits(flags: u32) {
            prop_assert_eq!(Shutdown::from_flags(flags).to_flags(), flags & 3);
        }
    }
}
