//! Sockets of every family. A value is an address, a name or a path.

use super::Table;
use super::Try::Attempt;
use crate::sys::call;
use libc::c_int;
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

pub(super) const TRIES: Table = &[
    (
        "tcp-connect",
        Attempt(|to| TcpStream::connect(to).map(|_| "connected".into())),
    ),
    (
        "tcp-bind",
        Attempt(|at| TcpListener::bind(at).map(|_| "listens".into())),
    ),
    (
        "udp-bind",
        Attempt(|at| UdpSocket::bind(at).map(|_| "bound".into())),
    ),
    ("udp-send", Attempt(udp_send)),
    (
        "tcp-socket",
        Attempt(|_| socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
    ),
    (
        "tcp6-socket",
        Attempt(|_| socket(libc::AF_INET6, libc::SOCK_STREAM, 0)),
    ),
    (
        "udp-socket",
        Attempt(|_| socket(libc::AF_INET, libc::SOCK_DGRAM, 0)),
    ),
    (
        "udp6-socket",
        Attempt(|_| socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)),
    ),
    (
        "mptcp-socket",
        Attempt(|_| socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)),
    ),
    (
        "sctp-socket",
        Attempt(|_| socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)),
    ),
    (
        "ping-socket",
        Attempt(|_| socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)),
    ),
    (
        "raw-socket",
        Attempt(|_| socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    ),
    ("raw-socket-cloexec", Attempt(raw_socket_cloexec)),
    (
        "raw6-socket",
        Attempt(|_| socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)),
    ),
    (
        "netlink-socket",
        Attempt(|_| socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)),
    ),
    (
        "netfilter-socket",
        Attempt(|_| socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)),
    ),
    (
        "netlink-socket-flags",
        Attempt(|_| {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE)
        }),
    ),
    ("tcp-pair", Attempt(|_| pair(libc::AF_INET))),
    ("netlink-pair", Attempt(|_| pair(libc::AF_NETLINK))),
    ("tipc-pair", Attempt(|_| pair(libc::AF_TIPC))),
    ("receive-descriptor", Attempt(receive_descriptor)),
    (
        "unix-connect-through-link",
        Attempt(unix_connect_through_link),
    ),
    (
        "packet-socket",
        Attempt(|_| socket(libc::AF_PACKET, libc::SOCK_RAW, ETH_P_ALL)),
    ),
    (
        "vsock-socket",
        Attempt(|_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ),
    ("vsock-connect", Attempt(vsock_connect)),
    (
        "alg-socket",
        Attempt(|_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    ),
    (
        "key-socket",
        Attempt(|_| socket(libc::AF_KEY, libc::SOCK_RAW, 2)),
    ),
    ("xdp-socket", Attempt(|_| socket(AF_XDP, libc::SOCK_RAW, 0))),
    (
        "tipc-socket",
        Attempt(|_| socket(libc::AF_TIPC, libc::SOCK_STREAM, 0)),
    ),
    (
        "can-socket",
        Attempt(|_| socket(libc::AF_CAN, libc::SOCK_RAW, 1)),
    ),
    (
        "bluetooth-socket",
        Attempt(|_| socket(libc::AF_BLUETOOTH, libc::SOCK_RAW, 1)),
    ),
    (
        "rds-socket",
        Attempt(|_| socket(libc::AF_RDS, libc::SOCK_SEQPACKET, 0)),
    ),
    (
        "smc-socket",
        Attempt(|_| socket(AF_SMC, libc::SOCK_STREAM, 0)),
    ),
    (
        "qipcrtr-socket",
        Attempt(|_| socket(AF_QIPCRTR, libc::SOCK_DGRAM, 0)),
    ),
    ("high-bits-socket", Attempt(high_bits_socket)),
    (
        "unix-connect",
        Attempt(|path| UnixStream::connect(path).map(|_| "connected".into())),
    ),
    ("unix-send", Attempt(unix_send)),
    ("unix-send-by-pair", Attempt(unix_send_by_pair)),
    ("unix-connect-by-pair", Attempt(unix_connect_by_pair)),
    ("abstract-connect", Attempt(abstract_connect)),
    ("abstract-send", Attempt(abstract_send)),
    ("abstract-bind", Attempt(abstract_bind)),
    ("abstract-autobind", Attempt(abstract_autobind)),
    (
        "abstract-autobind-by-connect",
        Attempt(abstract_autobind_by_connect),
    ),
];

const ETH_P_ALL: c_int = 0x0300;
const AF_XDP: c_int = 44;
const AF_SMC: c_int = 43;
const AF_QIPCRTR: c_int = 42;

fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<String> {
    call!(libc::SYS_socket, family, kind, protocol).map(|_| "created".into())
}

fn pair(family: c_int) -> io::Result<String> {
    let mut both = [0_u64];
    call!(
        libc::SYS_socketpair,
        family,
        libc::SOCK_STREAM,
        0,
        &mut both[..]
    )
    .map(|_| "created".into())
}

/// Takes a descriptor that somebody sent over standard input, should that be a socket.
fn receive_descriptor(_: &str) -> io::Result<String> {
    let mut data = [0_u8; 1];
    let mut control = [0_u64; 8];
    let mut vector = [data.as_mut_ptr().expose_provenance() as u64, 1];
    // `struct msghdr`: name and its length, vector and its length, control and its length, flags.
    let mut message = [
        0,
        0,
        vector.as_mut_ptr().expose_provenance() as u64,
        1,
        control.as_mut_ptr().expose_provenance() as u64,
        64,
        0,
    ];
    let received = call!(libc::SYS_recvmsg, 0, &mut message[..], libc::MSG_DONTWAIT)?;
    Ok(format!("{received} bytes, control {control:?}"))
}

/// The workspace is writable, so a link in it may name any socket.
fn unix_connect_through_link(path: &str) -> io::Result<String> {
    let link = format!("socket-{}", std::process::id());
    std::os::unix::fs::symlink(path, &link)?;
    UnixStream::connect(link).map(|_| "connected".into())
}

/// A filter that compares the kind without masking its flags lets this through.
fn raw_socket_cloexec(_: &str) -> io::Result<String> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    socket(libc::AF_INET, kind, libc::IPPROTO_ICMP)
}

/// The kernel takes the low 32 bits of the family; a filter that compares 64 sees another number.
fn high_bits_socket(_: &str) -> io::Result<String> {
    let family = (1_u64 << 32) | 2;
    call!(libc::SYS_socket, family, libc::SOCK_STREAM, 0).map(|_| "created".into())
}

fn udp_send(to: &str) -> io::Result<String> {
    UdpSocket::bind("0.0.0.0:0")?
        .send_to(b"x", to)
        .map(|_| "sent".into())
}

/// The host of a guest is address 2.
fn vsock_connect(port: &str) -> io::Result<String> {
    let port: u32 = port.parse().map_err(io::Error::other)?;
    let socket = call!(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
    // `struct sockaddr_vm`: family, two reserved bytes, port, address, flags.
    let mut address = [0_u8; 16];
    address[0] = 40;
    address[4..8].copy_from_slice(&port.to_ne_bytes());
    address[8..12].copy_from_slice(&2_u32.to_ne_bytes());
    call!(libc::SYS_connect, socket, &mut address[..], 16).map(|_| "connected".into())
}

fn unix_send(path: &str) -> io::Result<String> {
    UnixDatagram::unbound()?
        .send_to(b"x", path)
        .map(|_| "sent".into())
}

/// A socket of a pair can be used for any other address, if it is one for datagrams.
fn unix_send_by_pair(path: &str) -> io::Result<String> {
    let (socket, _other) = UnixDatagram::pair()?;
    socket.send_to(b"x", path).map(|_| "sent".into())
}

fn unix_connect_by_pair(path: &str) -> io::Result<String> {
    let (socket, _other) = UnixDatagram::pair()?;
    socket.connect(path)?;
    socket.send(b"x").map(|_| "sent".into())
}

fn abstract_connect(name: &str) -> io::Result<String> {
    let address = SocketAddr::from_abstract_name(name)?;
    UnixStream::connect_addr(&address).map(|_| "connected".into())
}

/// Waits where a service is expected.
fn abstract_bind(name: &str) -> io::Result<String> {
    let address = SocketAddr::from_abstract_name(name)?;
    UnixListener::bind_addr(&address).map(|_| "listens".into())
}

/// An address without a name makes the kernel choose an abstract one.
fn abstract_autobind(_: &str) -> io::Result<String> {
    let socket = call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let mut family = 1_u16.to_ne_bytes();
    call!(libc::SYS_bind, socket, &mut family[..], 2)?;
    call!(libc::SYS_listen, socket, 1).map(|_| "listens".into())
}

/// So does a connection of a socket that wants to be told who sends, whatever becomes of it.
fn abstract_autobind_by_connect(_: &str) -> io::Result<String> {
    let socket = call!(libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let mut on = 1_u32.to_ne_bytes();
    let level = libc::SOL_SOCKET;
    call!(
        libc::SYS_setsockopt,
        socket,
        level,
        libc::SO_PASSCRED,
        &mut on[..],
        4
    )?;
    let mut address = *b"\x01\x00nowhere\0";
    let _ = call!(libc::SYS_connect, socket, &mut address[..], 10);
    let (mut name, mut len) = ([0_u8; 110], 110_u32.to_ne_bytes());
    call!(libc::SYS_getsockname, socket, &mut name[..], &mut len[..])?;
    match u32::from_ne_bytes(len) {
        2 => Err(io::Error::from_raw_os_error(libc::EPERM)),
        len => Ok(format!("a name of {len} bytes")),
    }
}

fn abstract_send(name: &str) -> io::Result<String> {
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?
        .send_to_addr(b"x", &address)
        .map(|_| "sent".into())
}
