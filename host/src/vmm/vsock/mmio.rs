//! The device behind virtio-mmio, for the engines of our own.
//!
//! One thread per device owns everything of it. It waits for the sockets, for host programs and for
//! the driver, and serves the rings. The transport talks to it by messages and a waker; only a
//! reset waits for an answer, which comes after a bounded amount of work. Dropping a [`Vsock`] ends
//! the thread and closes every stream.
//!
//! A guest that resets the device stops the rings. Streams are not ended then but when the rings
//! start again: a guest that reboots ends with its machine, and whoever reads from it should find
//! out that, and not that a stream broke for no reason.

use super::device::{BELL, Device, RING_SIZE};
use super::host::VsockHost;
use super::packet::GuestCid;
use super::poll::{MioPoller, Token};
use crate::vmm::devices::virtio::{Activation, COMMON_FEATURES, Unserved, VirtioDevice, read_at};
use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

/// Rings to the guest, from the guest, and for events, of which there are none.
const RING_SIZES: [u16; 3] = [RING_SIZE; 3];

/// The poller's token of the waker. Connections count up from the bell's.
const WAKER: Token = Token(u64::MAX);

/// Why the device cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} for the vsock device")]
pub(crate) struct StartError {
    step: &'static str,
    #[source]
    source: io::Error,
}

impl StartError {
    fn at(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self { step, source }
    }
}

/// What the transport tells the thread.
enum Message {
    /// Serve these rings.
    Serve(Activation),
    /// Forget the rings, then answer.
    Rest(SyncSender<()>),
}

/// A device and its thread.
pub(crate) struct Vsock {
    guest: GuestCid,
    /// `None` only while dropping.
    messages: Option<Sender<Message>>,
    waker: mio::Waker,
    thread: Option<JoinHandle<()>>,
    /// One for each of the rings that are served.
    #[cfg(target_os = "linux")]
    kicks: [vmm_sys_util::eventfd::EventFd; super::device::RINGS],
}

impl std::fmt::Debug for Vsock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vsock")
            .field("guest", &self.guest)
            .finish_non_exhaustive()
    }
}

impl Vsock {
    /// Starts a device for `guest`, and gives the door to it.
    ///
    /// # Errors
    /// When the operating system gives no descriptor or no thread.
    pub(crate) fn start(guest: GuestCid) -> Result<(Self, VsockHost), StartError> {
        let poller = MioPoller::new().map_err(StartError::at("create a poller"))?;
        let waker = poller
            .waker(WAKER)
            .map_err(StartError::at("create a waker"))?;
        #[cfg(target_os = "linux")]
        let kicks = kicks(&poller).map_err(StartError::at("create an eventfd"))?;
        let (device, door) =
            Device::new(guest, poller).map_err(StartError::at("create a mailbox"))?;
        let (messages, receiver) = channel();
        let mut worker = Worker {
            device,
            messages: receiver,
            rings: None,
            restarted: false,
        };
        let thread = std::thread::Builder::new()
            .name("vsock".into())
            .spawn(move || worker.run())
            .map_err(StartError::at("start a thread"))?;
        let this = Self {
            guest,
            messages: Some(messages),
            waker,
            thread: Some(thread),
            #[cfg(target_os = "linux")]
            kicks,
        };
        Ok((this, door))
    }

    fn tell(&self, message: Message) -> Result<(), Unserved> {
        let gone = Unserved("the vsock device's thread has ended");
        let messages = self.messages.as_ref().ok_or(gone)?;
        messages.send(message).map_err(|_| gone)?;
        self.waker
            .wake()
            .map_err(|_| Unserved("the vsock device's thread cannot be woken"))
    }
}

/// Eventfds that wake the poller as the waker does. They are edge-triggered and count further than
/// anybody can write, so nobody has to read them.
#[cfg(target_os = "linux")]
fn kicks(poller: &MioPoller) -> io::Result<[vmm_sys_util::eventfd::EventFd; super::device::RINGS]> {
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    let kick = || {
        let kick = EventFd::new(EFD_NONBLOCK)?;
        poller.add_kick(&kick, WAKER)?;
        Ok::<_, io::Error>(kick)
    };
    Ok([kick()?, kick()?])
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &RING_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_at(&u64::from(self.guest).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Unserved> {
        self.tell(Message::Serve(activation))
    }

    fn notify(&mut self, _queue: u32) {
        // The thread looks at both rings. That it cannot be woken was told when it was activated.
        let _ = self.waker.wake();
    }

    fn reset(&mut self) {
        let (answer, answered) = sync_channel(1);
        if self.tell(Message::Rest(answer)).is_ok() {
            // An error means that the thread has ended, which is rest enough.
            let _ = answered.recv();
        }
    }

    #[cfg(target_os = "linux")]
    fn notifiers(&self) -> io::Result<Vec<crate::vmm::devices::virtio::Notifier>> {
        let notifier = |(queue, kick): (u32, &vmm_sys_util::eventfd::EventFd)| {
            Ok(crate::vmm::devices::virtio::Notifier {
                queue,
                event: kick.try_clone()?,
            })
        };
        (0..).zip(&self.kicks).map(notifier).collect()
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.messages = None;
        // Without a waker that works the thread would not hear of it.
        if self.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            // It has nothing to say, and a panic of its was printed.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Worker {
    device: Device<MioPoller>,
    messages: Receiver<Message>,
    rings: Option<Activation>,
    /// The rings were stopped: the driver starts anew.
    restarted: bool,
}

impl Worker {
    /// Until the [`Vsock`] is dropped.
    fn run(&mut self) {
        let mut more = false;
        loop {
            let timeout = more.then_some(Duration::ZERO);
            let events = match self.device.poller_mut().events(timeout) {
                Ok(events) => events,
                Err(error) => {
                    tracing::error!(%error, "vsock: cannot wait; the device ends");
                    return;
                }
            };
            for (token, readiness) in events {
                match token {
                    BELL => self.device.on_wishes(),
                    WAKER => {}
                    _ => self.device.on_readiness(token, readiness),
                }
            }
            if !self.listen() {
                return;
            }
            more = self.serve();
        }
    }

    /// Takes the transport's messages; whether there can be more.
    fn listen(&mut self) -> bool {
        loop {
            match self.messages.try_recv() {
                Ok(Message::Serve(rings)) => {
                    if std::mem::take(&mut self.restarted) {
                        self.device.reset();
                    }
                    self.rings = Some(rings);
                }
                Ok(Message::Rest(answer)) => {
                    self.rings = None;
                    self.restarted = true;
                    // Whoever waits for it has room for it.
                    let _ = answer.try_send(());
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Serves the rings; whether there is more to do at once.
    fn serve(&mut self) -> bool {
        let Some(rings) = &mut self.rings else {
            return false;
        };
        let [rx, tx, ..] = rings.queues.as_mut_slice() else {
            return false;
        };
        let was_broken = self.device.broken;
        let served = self.device.serve(rings.memory.as_ref(), rx, tx);
        if served.interrupt_rx || served.interrupt_tx {
            rings.interrupt.used_buffers();
        }
        if self.device.broken && !was_broken {
            rings
                .interrupt
                .needs_reset("it broke a ring of the vsock device");
        }
        served.more
    }
}
