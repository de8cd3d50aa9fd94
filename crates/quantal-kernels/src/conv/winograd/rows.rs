//! The rows of the table: for each instruction set a tile of i16 pairs and the transforms around it.

use super::transform::{InputArgs, OutputArgs, input, output};
use crate::Level;
use crate::gemm::peak::{Feed, multiply_adds, peak};
use crate::gemm::rows::PlainPairs;
use crate::gemm::tile::{Dot, TileArgs, tile};
#[cfg(target_arch = "x86_64")]
use crate::kernel::Form;
use crate::kernel::{Exact, GemmKernel, RowCodes};
use crate::simd::Simd;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::Avx2;

/// One row: a product of transformed operands, and the transforms for its instruction set.
pub struct WinogradKernel {
    /// The product, as a row of the table of those.
    pub product: GemmKernel,
    pub(super) input: unsafe fn(&InputArgs),
    pub(super) output: unsafe fn(&OutputArgs),
}

/// Declares a kernel: its row and the `#[target_feature]` functions.
macro_rules! winograd {
    ($row:ident, $name:ident, $dot:ty, $level:ident, $(feature $feature:literal,)? $nv:literal, [$($mr:literal)+]) => {
        mod $name {
            use super::*;
            $(#[target_feature(enable = $feature)])?
            unsafe fn rows<const MR: usize>(args: &TileArgs) {
                // SAFETY: the features are those of `$dot`; the caller vouches for the CPU and the pointers.
                unsafe { tile::<$dot, MR, $nv>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn to_products(args: &InputArgs) {
                // SAFETY: as in `rows`.
                unsafe { input::<<$dot as Dot>::Lanes>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn to_sums(args: &OutputArgs) {
                // SAFETY: as in `rows`.
                unsafe { output::<<$dot as Dot>::Lanes>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn registers(feed: Feed, rounds: u64) {
                // SAFETY: the features are those of `$dot`; the caller vouches for the CPU.
                unsafe { peak::<$dot>(feed, rounds) }
            }
            pub(super) static ROW: WinogradKernel = WinogradKernel {
                product: GemmKernel {
                    name: stringify!($name),
                    level: Level::$level,
                    mr: [$($mr),+].len(),
                    nr: $nv * <<$dot as Dot>::Lanes as Simd>::LANES,
                    kr: <$dot as Dot>::FORM.kr(),
                    form: <$dot as Dot>::FORM,
                    exact: Exact::Always,
                    instruction: <$dot as Dot>::INSTRUCTION,
                    run: 1,
                    row_codes: RowCodes::U8,
                    tiles: &[$(rows::<$mr>),+],
                    peak: Some((registers, multiply_adds::<$dot>())),
                },
                input: to_products,
                output: to_sums,
            };
        }
        use $name::ROW as $row;
    };
}

winograd!(PORTABLE_4X8, conv_u8s8s32_4x8x2_portable_winograd4x4, PlainPairs<4>, Portable, 2, [1 2 3 4]);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m256i, _mm256_add_epi32, _mm256_madd_epi16};

    use super::{Avx2, Dot, Form};

    /// `vpmaddwd`.
    pub(super) struct Maddwd;

    impl Dot for Maddwd {
        type Lanes = Avx2;
        const FORM: Form = Form::Pairs;
        const INSTRUCTION: &'static str = "vpmaddwd + vpaddd";
        #[inline(always)]
        unsafe fn dot(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the trait's contract gives the features.
            unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
winograd!(AVX2_6X16, conv_u8s8s32_6x16x2_avx2_winograd4x4, x86::Maddwd, Avx2, feature "avx2,fma", 2, [1 2 3 4 5 6]);

/// Every row.
pub static WINOGRAD_KERNELS: &[&WinogradKernel] = &[
    #[cfg(target_arch = "x86_64")]
    &AVX2_6X16,
    &PORTABLE_4X8,
];
