//! Waits for the root file system's block device.
//!
//! A driver that is built in has probed its devices before PID 1 starts, so that the device is
//! there at once. Otherwise the kernel announces it on a netlink socket.

use super::{InitError, step};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The first virtio-blk device.
pub(super) const DEVICE: &str = "/dev/vda";

/// The multicast group of the kernel's own events.
const KERNEL_EVENTS: u32 = 1;

/// A machine whose device comes later than this will not get one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns once the device is there.
pub(super) fn wait() -> Result<(), InitError> {
    if Path::new(DEVICE).exists() {
        return Ok(());
    }
    wait_for_event().map_err(step(format!("wait for {DEVICE}")))?
}

/// The outer error is the kernel's, the inner one says that the device did not come.
fn wait_for_event() -> io::Result<Result<(), InitError>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(KOBJECT_UEVENT),
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, KERNEL_EVENTS))?;
    let end = Instant::now() + PATIENCE;
    // Only now is an event between this look and the wait not lost.
    while !Path::new(DEVICE).exists() {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                let seconds = PATIENCE.as_secs();
                return Ok(Err(InitError::NoRootDevice {
                    device: DEVICE,
                    seconds,
                }));
            }
            Ok(_) => match rustix::net::recv(&socket, &mut [0; 4096], RecvFlags::DONTWAIT) {
                // Lost events do not matter: the device itself is looked for.
                Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            },
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Ok(()))
}
