//! The table of depthwise kernels: one row for each instruction set.

use super::tile::{LineArgs, RunArgs, interleave, run};
use crate::Level;
use crate::gemm::rows::PlainPairs;
#[cfg(target_arch = "aarch64")]
use crate::gemm::rows::aarch64::Smull;
#[cfg(target_arch = "x86_64")]
use crate::gemm::rows::x86::{Dpbusd256, Dpbusd512, Maddwd};
use crate::gemm::tile::Dot;
use crate::kernel::Form;
use crate::simd::Simd;

/// Sums and rounds a line of outputs.
pub(super) type Run = unsafe fn(&RunArgs);

/// One row of the table.
pub(crate) struct DwKernel {
    /// As coverage and profiles print it.
    pub(crate) name: &'static str,
    /// What the CPU must have.
    pub(crate) level: Level,
    /// What a dot product takes.
    pub(super) form: Form,
    /// Bytes in a register, which is the number of channels that it takes at once.
    pub(super) size: usize,
    pub(super) interleave: unsafe fn(&LineArgs),
    /// For 3×3, 5×5 and any other windows, with one output in a group and two.
    pub(super) runs: [[Run; 2]; 3],
}

impl DwKernel {
    /// The function for a window, with `outputs` in a group.
    pub(super) fn run(&self, window: [usize; 2], outputs: usize) -> Run {
        let row = match window {
            [3, 3] => 0,
            [5, 5] => 1,
            _ => 2,
        };
        self.runs[row][outputs - 1]
    }
}

/// Dot products that reach over `pixels`, `kr` of them each.
const fn dots(pixels: usize, kr: usize) -> usize {
    pixels.div_ceil(kr)
}

/// Declares a kernel: the table row `$row` and its `#[target_feature]` functions. `$unroll` is 1 if the lines of 3×3 and
/// 5×5 windows are unrolled, or 0.
macro_rules! dwkernel {
    ($row:ident, $name:ident, $dot:ty, $kr:literal, $level:ident, $unroll:literal $(, feature $feature:literal)?) => {
        mod $name {
            use super::*;
            $(#[target_feature(enable = $feature)])?
            unsafe fn line(args: &LineArgs) {
                // SAFETY: the features are those of `$dot`; the caller vouches for the CPU and the pointers.
                unsafe { interleave::<$dot>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn outputs<const H: usize, const Q: usize, const G: usize>(args: &RunArgs) {
                // SAFETY: the features are those of `$dot`; the caller vouches for the CPU and the pointers.
                unsafe { run::<$dot, H, Q, G>(args) }
            }
            pub(in crate::dwconv) static ROW: DwKernel = DwKernel {
                name: stringify!($name),
                level: Level::$level,
                form: <$dot as Dot>::FORM,
                size: 4 * <<$dot as Dot>::Lanes as Simd>::LANES,
                interleave: line,
                runs: [
                    [outputs::<{ 3 * $unroll }, { dots(3, $kr) }, 1>, outputs::<{ 3 * $unroll }, { dots(4, $kr) }, 2>],
                    [outputs::<{ 5 * $unroll }, { dots(5, $kr) }, 1>, outputs::<{ 5 * $unroll }, { dots(6, $kr) }, 2>],
                    [outputs::<0, 0, 1>, outputs::<0, 0, 2>],
                ],
            };
        }
        pub(in crate::dwconv) use $name::ROW as $row;
    };
}

dwkernel!(PORTABLE, dwconv_u8s8u8_16x2_portable, PlainPairs<4>, 2, Portable, 1);
// Not unrolled: with 16 registers and a product to add, the compiler takes all sums apart and spills the terms.
// Pairs as i16 rather than `vpmaddubsw`: exact for all weights, and for five taps not an instruction more.
#[cfg(target_arch = "x86_64")]
dwkernel!(AVX2, dwconv_u8s8u8_32x2_avx2, Maddwd, 2, Avx2, 0, feature "avx2,fma");
#[cfg(target_arch = "x86_64")]
dwkernel!(AVXVNNI, dwconv_u8s8u8_32x4_avxvnni, Dpbusd256, 4, AvxVnni, 1, feature "avx2,fma,avxvnni");
#[cfg(target_arch = "x86_64")]
dwkernel!(AVX512VNNI, dwconv_u8s8u8_64x4_avx512vnni, Dpbusd512, 4, Avx512Vnni, 1, feature "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni");

#[cfg(target_arch = "aarch64")]
dwkernel!(NEON, dwconv_u8s8u8_16x2_neon, Smull, 2, Neon, 1, feature "neon");

/// Every row, best first.
pub(crate) static ROWS: &[&DwKernel] = &[
    #[cfg(target_arch = "x86_64")]
    &AVX512VNNI,
    #[cfg(target_arch = "x86_64")]
    &AVXVNNI,
    #[cfg(target_arch = "x86_64")]
    &AVX2,
    #[cfg(target_arch = "aarch64")]
    &NEON,
    &PORTABLE,
];

/// The row for a level: the best that is not above it.
pub(super) fn select(level: Level) -> &'static DwKernel {
    ROWS.iter().find(|row| row.level <= level).expect("the portable row is below every level")
}

/// Rows on emulated registers, for testing on CPUs that lack the real ones.
#[cfg(test)]
pub(super) mod twins {
    use super::{Dot, DwKernel, Level, LineArgs, PlainPairs, RunArgs, Simd, dots, interleave, run};
    use crate::gemm::rows::twins::PlainBytes;

    dwkernel!(TWIN_PAIRS, twin_32x2, PlainPairs<8>, 2, Portable, 1);
    dwkernel!(TWIN_BYTES, twin_32x4, PlainBytes<8, false>, 4, Portable, 1);
    dwkernel!(TWIN_WIDE, twin_64x4, PlainBytes<16, false>, 4, Portable, 1);

    pub(in crate::dwconv) static TWINS: &[&DwKernel] = &[&TWIN_PAIRS, &TWIN_BYTES, &TWIN_WIDE];
}
