//! Registers of KVM's processors, by KVM's numbers.

use kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64, user_pt_regs};
#[cfg(feature = "hvf-over-kvm")]
use kvm_bindings::{KVM_REG_ARM64_SYSREG, kvm_regs};
use kvm_ioctls::VcpuFd;
use std::mem::offset_of;

/// A core register by its offset in `struct kvm_regs`, whose beginning are those of a process.
const fn core(offset: usize) -> u64 {
    // Offsets are counted in 32-bit units.
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | (KVM_REG_ARM_CORE as u64) | (offset as u64 / 4)
}

/// General register `X<index>`, 31 for the stack pointer.
pub(in crate::vmm) const fn x(index: u8) -> u64 {
    core(offset_of!(user_pt_regs, regs) + index as usize * 8)
}
/// The program counter.
pub(in crate::vmm) const PC: u64 = core(offset_of!(user_pt_regs, pc));
/// The processor's state.
pub(in crate::vmm) const PSTATE: u64 = core(offset_of!(user_pt_regs, pstate));

/// Where the guest's kernel was entered from, which KVM has among the core registers.
#[cfg(feature = "hvf-over-kvm")]
pub(in crate::vmm) const ELR_EL1: u64 = core(offset_of!(kvm_regs, elr_el1));

/// A system register by the fields of the instructions that access it.
#[cfg(feature = "hvf-over-kvm")]
pub(in crate::vmm) const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    let fields = op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2;
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | fields
}

/// Reads a register.
pub(in crate::vmm) fn get(vcpu: &VcpuFd, id: u64) -> Result<u64, kvm_ioctls::Error> {
    let mut bytes = [0; 8];
    vcpu.get_one_reg(id, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Writes a register.
pub(in crate::vmm) fn set(vcpu: &VcpuFd, id: u64, value: u64) -> Result<(), kvm_ioctls::Error> {
    vcpu.set_one_reg(id, &value.to_le_bytes())?;
    Ok(())
}
