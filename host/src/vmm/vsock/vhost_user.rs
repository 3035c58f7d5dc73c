//! The device behind vhost-user: QEMU owns the virtio transport and shares the guest's memory, this
//! process serves the rings.
//!
//! Two threads per device, both of `vhost-user-backend`: one answers QEMU's messages, one waits
//! for kicks, for the device's poller and for its bell, and serves. When QEMU goes, the first ends
//! by itself; dropping a [`VhostUser`] ends both and closes every stream.
//!
//! The socket between them has no name in the file system, so nothing is left behind, however this
//! process ends.
//!
//! A guest that resets the device stops the rings. Streams are not ended then but when the rings
//! start again: a guest that reboots ends with its machine, and whoever reads from it should find
//! out that, and not that a stream broke for no reason.

use super::device::{BELL, Device, RING_SIZE, RINGS};
use super::host::VsockHost;
use super::packet::GuestCid;
use super::poll::MioPoller;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname, listen,
    socket_with,
};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

/// Index of the ring with packets for the guest (virtio 1.2, section 5.10.2).
const RX: usize = 0;
/// Index of the ring with packets of the guest.
const TX: usize = 1;

/// What the worker's event loop calls the device's poller. Smaller numbers are its own.
const POLLER_EVENT: u16 = 3;

/// Attempts to find an address that no other process meddles with.
const ATTEMPTS: usize = 16;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Why the device cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VhostUserError {
    /// The operating system refused something.
    #[error("cannot {step}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The vhost-user library refused something.
    #[error("vhost-user: {message}")]
    Library {
        /// Its words.
        message: String,
    },
}

impl VhostUserError {
    fn system(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { step, source }
    }

    fn library(error: impl ToString) -> Self {
        Self::Library {
            message: error.to_string(),
        }
    }
}

/// A device that is being served.
pub(crate) struct VhostUser {
    backend: Arc<Backend>,
    /// `None` only while dropping.
    daemon: Option<VhostUserDaemon<Arc<Backend>>>,
}

impl std::fmt::Debug for VhostUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhostUser").finish_non_exhaustive()
    }
}

impl VhostUser {
    /// Starts to serve a device for `guest`. The caller gets the door to it and the socket that
    /// QEMU is to speak vhost-user on.
    pub(crate) fn start(guest: GuestCid) -> Result<(Self, VsockHost, OwnedFd), VhostUserError> {
        let poller = MioPoller::new().map_err(VhostUserError::system("create a poller"))?;
        let (device, door) = Device::new(guest, poller)
            .map_err(VhostUserError::system("create the vsock device"))?;
        let memory = Memory::new(GuestMemoryMmap::new());
        let backend = Arc::new(Backend {
            state: Mutex::new(State {
                device,
                memory: memory.clone(),
                restarted: false,
            }),
            stop: AtomicBool::new(false),
        });
        let daemon = VhostUserDaemon::new("vsock-control".into(), Arc::clone(&backend), memory)
            .map_err(VhostUserError::library)?;
        // From here on the worker runs: whatever fails, it is ended by `drop`.
        let mut this = Self {
            backend,
            daemon: Some(daemon),
        };
        let qemu = this.connect()?;
        Ok((this, door, qemu))
    }

    fn connect(&mut self) -> Result<OwnedFd, VhostUserError> {
        let (listener, qemu) =
            connected_listener().map_err(VhostUserError::system("create the vhost-user socket"))?;
        let Some(daemon) = &mut self.daemon else {
            return Err(VhostUserError::library("the device is ending"));
        };
        daemon
            .start(&mut Listener::from(listener))
            .map_err(VhostUserError::library)?;
        let poller = self.backend.state().device.poller_mut().as_raw_fd();
        for worker in daemon.get_epoll_handlers() {
            worker
                .register_listener(poller, EventSet::IN, POLLER_EVENT.into())
                .map_err(VhostUserError::system("watch the vsock device's sockets"))?;
        }
        Ok(qemu)
    }
}

impl Drop for VhostUser {
    fn drop(&mut self) {
        self.backend.stop.store(true, Ordering::Release);
        self.backend.state().device.ring_bell();
        if let Some(mut daemon) = self.daemon.take() {
            daemon.request_shutdown();
            if let Err(error) = daemon.wait() {
                tracing::debug!(%error, "vhost-user: the conversation with QEMU has ended");
            }
        }
    }
}

/// A listening socket with exactly one connection in its queue, and the other end of that.
///
/// The library only takes listening sockets. This one's address is abstract and chosen by the
/// kernel, so anybody could connect. Its queue holds one connection, and ours got into it, so
/// nobody else's did.
fn connected_listener() -> io::Result<(UnixListener, OwnedFd)> {
    let new = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
    };
    for _ in 0..ATTEMPTS {
        let listener = new()?;
        bind(&listener, &SocketAddrUnix::new_unnamed())?;
        // The kernel lets one more wait than it was told.
        listen(&listener, 0)?;
        let client = new()?;
        if connect(&client, &getsockname(&listener)?).is_err() {
            continue;
        }
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(false)?;
        let client = UnixStream::from(client);
        client.set_nonblocking(false)?;
        return Ok((listener, client.into()));
    }
    Err(io::Error::other(
        "every address was taken by another process at once",
    ))
}

struct State {
    device: Device<MioPoller>,
    memory: Memory,
    /// The rings were stopped: the driver will start anew.
    restarted: bool,
}

struct Backend {
    state: Mutex<State>,
    stop: AtomicBool,
}

impl Backend {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn on_poller(&mut self) -> io::Result<()> {
        for (token, readiness) in self.device.poller_mut().events(Some(Duration::ZERO))? {
            if token == BELL {
                self.device.on_wishes();
            } else {
                self.device.on_readiness(token, readiness);
            }
        }
        Ok(())
    }

    fn serve(&mut self, rx: &VringMutex, tx: &VringMutex) -> io::Result<()> {
        let mut rx = rx.get_mut();
        let mut tx = tx.get_mut();
        let started = |ring: &vhost_user_backend::VringState| {
            ring.is_enabled() && virtio_queue::QueueT::ready(ring.get_queue())
        };
        if !started(&rx) || !started(&tx) {
            return Ok(());
        }
        if std::mem::take(&mut self.restarted) {
            self.device.reset();
        }
        let memory = self.memory.memory();
        let served = self
            .device
            .serve(memory.deref(), rx.get_queue_mut(), tx.get_queue_mut());
        if served.interrupt_rx {
            rx.signal_used_queue()?;
        }
        if served.interrupt_tx {
            tx.signal_used_queue()?;
        }
        if served.more {
            self.device.ring_bell();
        }
        Ok(())
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        RINGS
    }

    fn max_queue_size(&self) -> usize {
        RING_SIZE.into()
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    /// The library has told the rings already.
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.state().device.config(offset, size)
    }

    /// The memory was replaced in place, where `State` sees it.
    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        Ok(())
    }

    fn reset_device(&self) {
        self.state().restarted = true;
    }

    fn stop_vring(&self, _index: u32) -> io::Result<()> {
        // Taking the lock also waits for a call of `serve` to end.
        self.state().restarted = true;
        Ok(())
    }

    /// An error ends the worker.
    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        rings: &[VringMutex],
        _worker: usize,
    ) -> io::Result<()> {
        if self.stop.load(Ordering::Acquire) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut state = self.state();
        if event == POLLER_EVENT {
            state.on_poller()?;
        }
        match (rings.get(RX), rings.get(TX)) {
            (Some(rx), Some(tx)) => state.serve(rx, tx),
            _ => Ok(()),
        }
    }
}
