//! The tile of AMX: 32 × 32 accumulators in four tile registers, 64 elements of K a step.
//!
//! A tile register has 16 rows of 64 bytes. Two take 16 rows of A each, two take 16 groups of B for 16 columns each,
//! which is how a panel lies anyway, so a step is 4 loads and 4 products. B is loaded with the hint that it will not be
//! wanted again soon: where K is large, a panel is larger than L1, and would drive A out of it.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;

#[cfg(target_arch = "x86_64")]
use super::rows::AVX512_12X32;
#[cfg(test)]
use super::rows::twins::TWIN_12X32;
use super::tile::TileArgs;
use crate::Level;
use crate::kernel::{Form, GemmKernel, RowCodes, Steps};

/// Rows of a tile register.
pub(crate) const ROWS: usize = 16;
/// Columns of a panel: two tile registers.
const NR: usize = 32;
/// Up to so many rows are left to `vpdpbusd`, whose panels of as many columns are the same: a tile register multiplies 16.
const FEW_ROWS: usize = 4;
/// Bytes of a row of a tile register.
const ROW_BYTES: usize = 64;

/// A row of the table.
const fn row(name: &'static str, level: Level, tiles: &'static [unsafe fn(&TileArgs)]) -> GemmKernel {
    GemmKernel {
        name,
        level,
        mr: 2 * ROWS,
        nr: NR,
        lanes: NR / 2,
        kr: ROW_BYTES,
        form: Form::Bytes,
        steps: Steps::Even,
        instruction: "tdpbusd",
        run: ROWS,
        row_codes: RowCodes::Either,
        few: None,
        tiles,
        peak: None,
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) static AMX_32X32: GemmKernel = GemmKernel {
    peak: Some((x86::peak, 4 * (ROWS * ROWS * ROW_BYTES) as u64)),
    few: Some((FEW_ROWS, &AVX512_12X32)),
    ..row("gemm_u8s8s32_32x32x64_amx", Level::Amx, &[x86::one_run, x86::two_runs])
};

/// The same in plain Rust, for testing on CPUs without AMX.
#[cfg(test)]
pub(crate) static TWIN_32X32: GemmKernel = GemmKernel {
    few: Some((FEW_ROWS, &TWIN_12X32)),
    ..row("twin_32x32x64_amx512", Level::Portable, &[twin::tile::<1>, twin::tile::<2>])
};

/// Tile registers of 16 rows of 64 bytes each, on this thread and until it is dropped.
#[cfg(target_arch = "x86_64")]
pub(super) struct Configured(());

/// What `ldtilecfg` reads.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

#[cfg(target_arch = "x86_64")]
impl Configured {
    /// For the kernels of AMX; nothing for all others.
    pub(super) fn new(kernel: &GemmKernel) -> Option<Self> {
        // SAFETY: a kernel of this level is selected only where AMX was detected.
        (kernel.level == Level::Amx).then(|| unsafe { Self::load() })
    }

    /// # Safety
    /// The CPU has AMX, and the process the permission to use it.
    unsafe fn load() -> Self {
        static ALL: Config = {
            let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
            let mut i = 0;
            while i < 8 {
                row_bytes[i] = ROW_BYTES as u16;
                rows[i] = ROWS as u8;
                i += 1;
            }
            Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
        };
        // SAFETY: the caller's promise, and the configuration is valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const ALL, options(nostack, readonly, preserves_flags)) };
        Self(())
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: it was made where AMX was detected.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::mem::offset_of;

    use super::{NR, ROW_BYTES, ROWS, TileArgs, asm};

    /// All of K for a tile whose second run of rows starts at `$second`: `$init` loads the accumulators, `$step` is one
    /// step of the loop, and `$store` what is stored after it. Tile registers 0 to 3 are accumulators, 4 and 5 hold A, 6 and 7 B.
    macro_rules! product {
        ($args:expr, $second:expr, init [$($init:expr,)*], step [$($step:expr,)*], store [$($store:expr,)*]) => {
            asm!(
                // With a stride of 0 each row starts from the same.
                "mov {a0}, qword ptr [{args} + {INIT}]",
                "xor {left:e}, {left:e}",
                $($init,)*
                "test {spans}, {spans}",
                "jz 4f",
                "2:",
                "mov {a1}, qword ptr [{offsets}]",
                "add {offsets}, 8",
                "lea {a0}, [{first} + {a1}]",
                "add {a1}, {second}",
                "mov {left}, {steps}",
                "3:",
                $($step,)*
                "add {a0}, 64",
                "add {a1}, 64",
                "add {b}, 2048",
                // Some lines of the next panel: 8, or 16 where the address is odd.
                "test {ahead}, {ahead}",
                "jz 5f",
                "prefetcht1 [{ahead}]",
                "prefetcht1 [{ahead} + 64]",
                "prefetcht1 [{ahead} + 128]",
                "prefetcht1 [{ahead} + 192]",
                "prefetcht1 [{ahead} + 256]",
                "prefetcht1 [{ahead} + 320]",
                "prefetcht1 [{ahead} + 384]",
                "prefetcht1 [{ahead} + 448]",
                "add {ahead}, 512",
                "test {ahead:l}, 1",
                "jz 5f",
                "prefetcht1 [{ahead}]",
                "prefetcht1 [{ahead} + 64]",
                "prefetcht1 [{ahead} + 128]",
                "prefetcht1 [{ahead} + 192]",
                "prefetcht1 [{ahead} + 256]",
                "prefetcht1 [{ahead} + 320]",
                "prefetcht1 [{ahead} + 384]",
                "prefetcht1 [{ahead} + 448]",
                "add {ahead}, 512",
                "5:",
                "dec {left}",
                "jnz 3b",
                "dec {spans}",
                "jnz 2b",
                "4:",
                "mov {a0}, qword ptr [{args} + {SUMS}]",
                $($store,)*
                INIT = const offset_of!(TileArgs, init),
                SUMS = const offset_of!(TileArgs, sums),
                args = in(reg) &raw const *$args,
                first = in(reg) *$args.starts,
                second = in(reg) $second,
                stride = in(reg) $args.stride,
                offsets = inout(reg) $args.offsets => _,
                spans = inout(reg) $args.spans => _,
                steps = in(reg) $args.groups * 4 / ROW_BYTES,
                b = inout(reg) $args.panel => _,
                pitch = in(reg) 4 * NR,
                ahead = inout(reg) $args.ahead => _,
                a0 = out(reg) _,
                a1 = out(reg) _,
                left = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }

    /// The tiles of one signedness of A.
    macro_rules! signedness {
        ($name:ident, $dot:literal) => {
            mod $name {
                use super::{NR, ROW_BYTES, TileArgs, asm, offset_of};

                /// # Safety
                /// As [`super::one_run`].
                pub(super) unsafe fn rows16_columns16(args: &TileArgs) {
                    // SAFETY: the caller's promise; 16 rows of A, 16 columns of B and of the sums are touched.
                    unsafe {
                        product!(args, *args.starts, init [
                            "tileloadd tmm0, [{a0} + {left}]",
                        ], step [
                            "tileloaddt1 tmm6, [{b} + {pitch}]",
                            "tileloadd tmm4, [{a0} + {stride}]",
                            concat!($dot, " tmm0, tmm4, tmm6"),
                        ], store [
                            "tilestored [{a0} + {pitch}], tmm0",
                        ]);
                    }
                }

                /// # Safety
                /// As [`super::one_run`].
                pub(super) unsafe fn rows16_columns32(args: &TileArgs) {
                    // SAFETY: the caller's promise; 16 rows of A, 32 columns of B and of the sums are touched.
                    unsafe {
                        product!(args, *args.starts, init [
                            "tileloadd tmm0, [{a0} + {left}]",
                            "tileloadd tmm1, [{a0} + {left} + 64]",
                        ], step [
                            "tileloaddt1 tmm6, [{b} + {pitch}]",
                            "tileloadd tmm4, [{a0} + {stride}]",
                            "tileloaddt1 tmm7, [{b} + {pitch} + 64]",
                            concat!($dot, " tmm0, tmm4, tmm6"),
                            concat!($dot, " tmm1, tmm4, tmm7"),
                        ], store [
                            "tilestored [{a0} + {pitch}], tmm0",
                            "tilestored [{a0} + {pitch} + 64], tmm1",
                        ]);
                    }
                }

                /// # Safety
                /// As [`super::two_runs`].
                pub(super) unsafe fn rows32_columns16(args: &TileArgs) {
                    // SAFETY: the caller's promise; 32 rows of A, 16 columns of B and of the sums are touched.
                    unsafe {
                        product!(args, *args.starts.add(1), init [
                            "tileloadd tmm0, [{a0} + {left}]",
                            "tileloadd tmm2, [{a0} + {left}]",
                        ], step [
                            "tileloaddt1 tmm6, [{b} + {pitch}]",
                            "tileloadd tmm4, [{a0} + {stride}]",
                            "tileloadd tmm5, [{a1} + {stride}]",
                            concat!($dot, " tmm0, tmm4, tmm6"),
                            concat!($dot, " tmm2, tmm5, tmm6"),
                        ], store [
                            "tilestored [{a0} + {pitch}], tmm0",
                            "tilestored [{a0} + {pitch} + 2048], tmm2",
                        ]);
                    }
                }

                /// # Safety
                /// As [`super::two_runs`].
                pub(super) unsafe fn rows32_columns32(args: &TileArgs) {
                    // SAFETY: the caller's promise; 32 rows of A, 32 columns of B and of the sums are touched.
                    unsafe {
                        product!(args, *args.starts.add(1), init [
                            "tileloadd tmm0, [{a0} + {left}]",
                            "tileloadd tmm1, [{a0} + {left} + 64]",
                            "tileloadd tmm2, [{a0} + {left}]",
                            "tileloadd tmm3, [{a0} + {left} + 64]",
                        ], step [
                            "tileloaddt1 tmm6, [{b} + {pitch}]",
                            "tileloadd tmm4, [{a0} + {stride}]",
                            "tileloaddt1 tmm7, [{b} + {pitch} + 64]",
                            concat!($dot, " tmm0, tmm4, tmm6"),
                            "tileloadd tmm5, [{a1} + {stride}]",
                            concat!($dot, " tmm1, tmm4, tmm7"),
                            concat!($dot, " tmm2, tmm5, tmm6"),
                            concat!($dot, " tmm3, tmm5, tmm7"),
                        ], store [
                            "tilestored [{a0} + {pitch}], tmm0",
                            "tilestored [{a0} + {pitch} + 64], tmm1",
                            "tilestored [{a0} + {pitch} + 2048], tmm2",
                            "tilestored [{a0} + {pitch} + 2112], tmm3",
                        ]);
                    }
                }
            }
        };
    }
    signedness!(u8_rows, "tdpbusd");
    signedness!(s8_rows, "tdpbssd");

    /// Rounds of four products on registers.
    ///
    /// # Safety
    /// The CPU has AMX, and the process the permission to use it.
    pub(super) unsafe fn peak(_: super::super::peak::Feed, rounds: u64) {
        // SAFETY: the caller's promise; no memory is touched.
        unsafe {
            let _configured = super::Configured::load();
            asm!(
                "test {rounds}, {rounds}",
                "jz 3f",
                "2:",
                "tdpbusd tmm0, tmm4, tmm6",
                "tdpbusd tmm1, tmm4, tmm7",
                "tdpbusd tmm2, tmm5, tmm6",
                "tdpbusd tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "3:",
                rounds = inout(reg) rounds => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                options(nomem, nostack),
            );
        }
    }

    /// A tile of 16 rows.
    ///
    /// # Safety
    /// `args` holds what [`TileArgs`] says with a run of 16 rows, the CPU has AMX, and [`super::Configured`] lives.
    pub(super) unsafe fn one_run(args: &TileArgs) {
        // SAFETY: handed on.
        unsafe {
            match (args.signed, args.cols <= ROWS) {
                (false, false) => u8_rows::rows16_columns32(args),
                (false, true) => u8_rows::rows16_columns16(args),
                (true, false) => s8_rows::rows16_columns32(args),
                (true, true) => s8_rows::rows16_columns16(args),
            }
        }
    }

    /// A tile of 32 rows.
    ///
    /// # Safety
    /// As [`one_run`], with two runs.
    pub(super) unsafe fn two_runs(args: &TileArgs) {
        // SAFETY: handed on.
        unsafe {
            match (args.signed, args.cols <= ROWS) {
                (false, false) => u8_rows::rows32_columns32(args),
                (false, true) => u8_rows::rows32_columns16(args),
                (true, false) => s8_rows::rows32_columns32(args),
                (true, true) => s8_rows::rows32_columns16(args),
            }
        }
    }
}

/// The tile in plain Rust.
#[cfg(test)]
mod twin {
    use super::{NR, ROWS, TileArgs};

    /// # Safety
    /// `args` holds what [`TileArgs`] says with `RUNS` runs of 16 rows.
    pub(super) unsafe fn tile<const RUNS: usize>(args: &TileArgs) {
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = 4 * args.groups;
            for r in 0..RUNS * ROWS {
                let row = (*args.starts.add(r / ROWS)).add(r % ROWS * args.stride);
                for j in 0..args.cols {
                    let mut sum = *args.init.add(j);
                    for span in 0..args.spans {
                        let codes = std::slice::from_raw_parts(row.add(*args.offsets.add(span)), bytes);
                        for (i, &code) in codes.iter().enumerate() {
                            let code = if args.signed { i32::from(code as i8) } else { i32::from(code) };
                            let weight = *args.panel.add((span * bytes + i) / 4 * 4 * NR + 4 * j + i % 4) as i8;
                            sum = sum.wrapping_add(code * i32::from(weight));
                        }
                    }
                    *args.sums.add(r * NR + j) = sum;
                }
            }
        }
    }
}
