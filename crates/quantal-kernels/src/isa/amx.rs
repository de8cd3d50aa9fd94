//! Whether the tiles of AMX may be used: the CPU has them, and the system lets this process.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Bits of EDX in leaf 7 of `cpuid`: AMX-TILE and AMX-INT8.
const AMX_TILE_INT8: u32 = 1 << 24 | 1 << 25;
/// The bit of ECX in leaf 1 that says that `xgetbv` may be used.
const OSXSAVE: u32 = 1 << 27;
/// Bits of XCR0: the system saves the tiles' configuration and data.
const TILE_STATE: u32 = 1 << 17 | 1 << 18;

/// Asked once: Linux gives the permission to the whole process, for good.
pub(super) fn available() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| in_cpu() && saved_by_system() && permitted())
}

fn in_cpu() -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & AMX_TILE_INT8 == AMX_TILE_INT8
}

fn saved_by_system() -> bool {
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let low: u32;
    // SAFETY: OSXSAVE says that `xgetbv` exists; register 0 always does, and reading it has no side effect.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags)) };
    low & TILE_STATE == TILE_STATE
}

/// Linux makes room for the 8 KiB of tiles only in a process that asks for it, and refuses where a signal stack is too
/// small for them.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let status: u64;
    // SAFETY: the call takes two numbers and no pointer; the kernel changes no register but those named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    status == 0
}

/// No other system is known to need a permission, and none was tried.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}
