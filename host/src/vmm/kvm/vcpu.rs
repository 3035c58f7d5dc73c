//! One virtual processor of KVM.

use super::KvmError;
use super::kick::{self, Signal};
use super::registers::{self, PC, PSTATE, x};
use crate::vmm::devices::bus::Bus;
use crate::vmm::vcpus::{End, ExitKind, ExitRecord, Kick, Vcpu, Vcpus};
use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::sync::Arc;

/// See the module's documentation.
pub(super) struct KvmVcpu {
    index: u8,
    fd: VcpuFd,
    bus: Arc<Bus>,
}

impl KvmVcpu {
    /// For the thread that calls this, on which alone it may run.
    pub(super) fn new(index: u8, fd: VcpuFd, bus: Arc<Bus>) -> Result<Self, KvmError> {
        kick::prepare(&fd)?;
        Ok(Self { index, fd, bus })
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
        Box::new(Signal::own())
    }

    fn describe(&mut self) -> String {
        let show = |id| match registers::get(&self.fd, id) {
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
