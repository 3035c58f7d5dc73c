//! How a processor of KVM's is interrupted.
//!
//! A kick is a signal that is blocked all the time but while the processor is in the kernel
//! (`KVM_SET_SIGNAL_MASK`). One that arrives early stays pending and makes the next `KVM_RUN`
//! return at once, so none is lost, and no handler is ever called.

#![expect(
    unsafe_code,
    reason = "KVM_SET_SIGNAL_MASK, and signals for one thread of this process"
)]

use super::KvmError;
use crate::vmm::vcpus::Kick;
use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use std::io;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

/// Bytes of the kernel's signal set.
const SIGNAL_SET: usize = 8;

/// `struct kvm_signal_mask` with the set behind it.
#[repr(C)]
struct SignalMask {
    header: kvm_bindings::kvm_signal_mask,
    set: [u8; SIGNAL_SET],
}

ioctl_iow_nr!(
    KVM_SET_SIGNAL_MASK,
    KVMIO,
    0x8b,
    kvm_bindings::kvm_signal_mask
);

/// Makes a processor one that can be kicked. For the thread that calls this, on which alone it may
/// run.
pub(in crate::vmm) fn prepare(vcpu: &VcpuFd) -> Result<(), KvmError> {
    block().map_err(KvmError::call("block a signal"))?;
    admit(vcpu).map_err(KvmError::call("set a processor's signal mask"))
}

/// While the guest runs, the kick alone is admitted of what is blocked now.
fn admit(vcpu: &VcpuFd) -> io::Result<()> {
    let mut blocked = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: a null pointer asks for the mask alone, and the mask is writable.
    let got =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), blocked.as_mut_ptr()) };
    if got != 0 {
        return Err(io::Error::from_raw_os_error(got));
    }
    // SAFETY: it was zeroed, then filled by the call above; the signal's number is valid.
    let blocked = unsafe {
        libc::sigdelset(blocked.as_mut_ptr(), signal());
        blocked.assume_init()
    };
    let mut mask = SignalMask {
        header: kvm_bindings::kvm_signal_mask::default(),
        set: [0; SIGNAL_SET],
    };
    mask.header.len = 8;
    // SAFETY: a `sigset_t` begins with the kernel's set, whose length this is.
    unsafe {
        std::ptr::copy_nonoverlapping(
            std::ptr::from_ref(&blocked).cast::<u8>(),
            mask.set.as_mut_ptr(),
            SIGNAL_SET,
        );
    }
    // SAFETY: the kernel reads the header and `len` bytes behind it.
    let set = unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The signal that is a kick. Nothing else in a worker uses real-time signals.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

fn block() -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is initialized by the first call; the second only reads it.
    let blocked = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal());
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut())
    };
    match blocked {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The thread that a kick is for.
pub(in crate::vmm) struct Signal(libc::pthread_t);

impl Signal {
    /// A kick for the calling thread.
    pub(in crate::vmm) fn own() -> Self {
        // SAFETY: always succeeds.
        Self(unsafe { libc::pthread_self() })
    }
}

/// Forgets a kick that the calling thread got, if it did.
#[cfg(feature = "hvf-over-kvm")]
pub(in crate::vmm) fn forget() {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the set is initialized by the first call; a null pointer asks for no details.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal());
        libc::sigtimedwait(set.as_ptr(), std::ptr::null_mut(), &raw const now);
    }
}

// SAFETY: a `pthread_t` may be used from any thread; on some systems it is a pointer by type.
unsafe impl Send for Signal {}
// SAFETY: as above.
unsafe impl Sync for Signal {}

impl Kick for Signal {
    fn kick(&self) {
        // SAFETY: the thread is there while this is called, as `Kick` promises; it blocks the
        // signal, so that no handler and no default action comes into play.
        unsafe { libc::pthread_kill(self.0, signal()) };
    }
}
