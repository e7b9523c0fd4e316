//! VMware's backdoor: an `in` at port 0x5658 with a magic number in EAX is answered by the hypervisor, in all registers.
//!
//! On any other machine that port may be anything, so nobody calls it before the machine's DMI says VMware.
#![expect(unsafe_code, reason = "one instruction that no Rust function makes")]

use crate::guestinfo::{Hypervisor, Registers};
use std::arch::asm;
use std::path::Path;

const MAGIC: u32 = 0x564d_5868;

/// The right to call it.
#[derive(Debug)]
pub struct Backdoor(());

impl Backdoor {
    /// Takes the right, on a machine whose firmware tables are VMware's.
    pub fn open(dmi: &Path) -> Result<Backdoor, String> {
        let vendor = std::fs::read_to_string(dmi.join("sys_vendor")).unwrap_or_default();
        if !vendor.starts_with("VMware") {
            return Err(format!("this machine is no VMware guest (its maker is '{}')", vendor.trim()));
        }
        // SAFETY: changes what this process may do, and none of its memory.
        if unsafe { libc::iopl(3) } != 0 {
            return Err(format!("no access to VMware's backdoor: {}; run as root", std::io::Error::last_os_error()));
        }
        Ok(Backdoor(()))
    }
}

impl Hypervisor for Backdoor {
    fn call(&mut self, registers: Registers) -> Registers {
        let Registers { ebx, mut ecx, mut edx, mut esi, mut edi } = registers;
        let mut wide = u64::from(ebx);
        // SAFETY: `open` saw a VMware guest and got the right to do I/O; the hypervisor writes registers alone, all of
        // which are named; RBX, which the compiler keeps for itself, is put back.
        unsafe {
            asm!(
                "xchg {ebx:r}, rbx", "in eax, dx", "xchg {ebx:r}, rbx",
                ebx = inout(reg) wide,
                inout("eax") MAGIC => _, inout("ecx") ecx, inout("edx") edx, inout("esi") esi, inout("edi") edi,
                options(nostack, nomem),
            );
        }
        Registers { ebx: u32::try_from(wide & u64::from(u32::MAX)).unwrap_or_default(), ecx, edx, esi, edi }
    }
}
