//! One virtual processor of KVM.
//!
//! A kick is a signal that is blocked all the time but while the processor is in the kernel
//! (`KVM_SET_SIGNAL_MASK`). One that arrives early stays pending and makes the next `KVM_RUN`
//! return at once, so none is lost, and no handler is ever called.

#![expect(
    unsafe_code,
    reason = "KVM_SET_SIGNAL_MASK, and signals for one thread of this process"
)]

use super::KvmError;
use crate::vmm::devices::bus::Bus;
use crate::vmm::vcpus::{End, ExitKind, ExitRecord, Kick, Vcpu, Vcpus};
use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64, KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, KVMIO, user_pt_regs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::io;
use std::mem::offset_of;
use std::sync::Arc;
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

/// A core register by its offset in `struct kvm_regs`, whose beginning are those of a process.
const fn core(offset: usize) -> u64 {
    // Offsets are counted in 32-bit units.
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | (KVM_REG_ARM_CORE as u64) | (offset as u64 / 4)
}

/// General register `X<index>`, 31 for the stack pointer.
pub(super) const fn x(index: u8) -> u64 {
    core(offset_of!(user_pt_regs, regs) + index as usize * 8)
}
/// The program counter.
pub(super) const PC: u64 = core(offset_of!(user_pt_regs, pc));
/// The processor's state.
pub(super) const PSTATE: u64 = core(offset_of!(user_pt_regs, pstate));

/// See the module's documentation.
pub(super) struct KvmVcpu {
    index: u8,
    fd: VcpuFd,
    bus: Arc<Bus>,
}

impl KvmVcpu {
    /// For the thread that calls this, on which alone it may run.
    pub(super) fn new(index: u8, fd: VcpuFd, bus: Arc<Bus>) -> Result<Self, KvmError> {
        block_kicks().map_err(KvmError::call("block a signal"))?;
        let this = Self { index, fd, bus };
        this.admit_kicks()
            .map_err(KvmError::call("set a processor's signal mask"))?;
        Ok(this)
    }

    /// While the guest runs, the kick alone is admitted of what is blocked now.
    fn admit_kicks(&self) -> io::Result<()> {
        let mut blocked = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: a null pointer asks for the mask alone, and the mask is writable.
        let got = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), blocked.as_mut_ptr())
        };
        if got != 0 {
            return Err(io::Error::from_raw_os_error(got));
        }
        // SAFETY: it was zeroed, then filled by the call above; the signal's number is valid.
        let blocked = unsafe {
            libc::sigdelset(blocked.as_mut_ptr(), kick_signal());
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
        let set = unsafe { ioctl_with_ref(&self.fd, KVM_SET_SIGNAL_MASK(), &mask) };
        if set == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    pub(super) fn register(&self, id: u64) -> Result<u64, kvm_ioctls::Error> {
        let mut bytes = [0; 8];
        self.fd.get_one_reg(id, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn set_register(&self, id: u64, value: u64) -> Result<(), kvm_ioctls::Error> {
        self.fd.set_one_reg(id, &value.to_le_bytes())?;
        Ok(())
    }

    fn record(&self, vcpus: &Vcpus, kind: ExitKind, detail: u64) {
        let place = match kind {
            ExitKind::MmioRead | ExitKind::MmioWrite => self.bus.name(detail),
            _ => "",
        };
        vcpus.record(
            self.index,
            ExitRecord {
                kind,
                place,
                detail,
            },
        );
    }
}

impl Vcpu for KvmVcpu {
    fn step(&mut self, vcpus: &Vcpus) -> Result<(), End> {
        let (kind, detail, end) = match self.fd.run() {
            Ok(VcpuExit::MmioRead(address, data)) => {
                self.bus.read(address, data);
                (ExitKind::MmioRead, address, None)
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                self.bus.write(address, data);
                (ExitKind::MmioWrite, address, None)
            }
            Ok(VcpuExit::SystemEvent(event, _)) => {
                (ExitKind::Call, event.into(), Some(system_event(event)))
            }
            Ok(exit) => {
                let end = End::Fault(format!("KVM ended the guest: {exit:?}"));
                (ExitKind::Other, 0, Some(end))
            }
            Err(error) => match error.errno() {
                libc::EINTR => (ExitKind::Kicked, 0, None),
                libc::EAGAIN => (ExitKind::Other, 0, None),
                // An access to a device by an instruction that KVM cannot describe.
                libc::ENOSYS => {
                    let end = "the guest accessed a device in a way that cannot be emulated";
                    (ExitKind::Other, 0, Some(End::Fault(end.into())))
                }
                _ => {
                    let end = End::Fault(format!("KVM cannot run the guest: {error}"));
                    (ExitKind::Other, 0, Some(end))
                }
            },
        };
        self.record(vcpus, kind, detail);
        end.map_or(Ok(()), Err)
    }

    fn kick(&self) -> Box<dyn Kick> {
        // SAFETY: always succeeds, and is called on the processor's thread.
        Box::new(Signal(unsafe { libc::pthread_self() }))
    }

    fn describe(&mut self) -> String {
        let show = |id| match self.register(id) {
            Ok(value) => format!("{value:#x}"),
            Err(error) => error.to_string(),
        };
        format!(
            "pc {}, pstate {}, lr {}",
            show(PC),
            show(PSTATE),
            show(x(30))
        )
    }
}

fn system_event(event: u32) -> End {
    match event {
        KVM_SYSTEM_EVENT_SHUTDOWN => End::PowerOff,
        KVM_SYSTEM_EVENT_RESET => End::Reset,
        KVM_SYSTEM_EVENT_CRASH => End::Fault("the guest reported a crash".into()),
        other => End::Fault(format!(
            "the guest asked for the unknown system event {other}"
        )),
    }
}

/// The signal that is a kick. Nothing else in a worker uses real-time signals.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

fn block_kicks() -> io::Result<()> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is initialized by the first call; the second only reads it.
    let blocked = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), kick_signal());
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut())
    };
    match blocked {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// The thread that a kick is for.
struct Signal(libc::pthread_t);

// SAFETY: a `pthread_t` may be used from any thread; on some systems it is a pointer by type.
unsafe impl Send for Signal {}
// SAFETY: as above.
unsafe impl Sync for Signal {}

impl Kick for Signal {
    fn kick(&self) {
        // SAFETY: the thread is there while this is called, as `Kick` promises; it blocks the
        // signal, so that no handler and no default action comes into play.
        unsafe { libc::pthread_kill(self.0, kick_signal()) };
    }
}
