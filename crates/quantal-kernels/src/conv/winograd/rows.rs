//! The rows of the table: for each instruction set a tile of i16 pairs and the transforms around it.

use super::transform::{InputArgs, OutputArgs, input, output};
use crate::Level;
use crate::gemm::peak::{Feed, multiply_adds, peak};
use crate::gemm::rows::PlainPairs;
use crate::gemm::tile::{Dot, TileArgs, tile};
#[cfg(target_arch = "x86_64")]
use crate::kernel::Form;
use crate::kernel::{GemmKernel, RowCodes, Steps};
use crate::simd::Simd;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{Avx2, Avx512};

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
                    lanes: <<$dot as Dot>::Lanes as Simd>::LANES,
                    kr: <$dot as Dot>::FORM.kr(),
                    form: <$dot as Dot>::FORM,
                    steps: Steps::Even,
                    instruction: <$dot as Dot>::INSTRUCTION,
                    run: 1,
                    row_codes: RowCodes::U8,
                    few: None,
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
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_add_epi32, _mm256_dpwssd_avx_epi32, _mm256_madd_epi16, _mm512_dpwssd_epi32,
    };

    use super::{Avx2, Avx512, Dot, Form};

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

    /// `vpdpwssd` of AVX-VNNI.
    pub(super) struct Dpwssd256;

    impl Dot for Dpwssd256 {
        type Lanes = Avx2;
        const FORM: Form = Form::Pairs;
        const INSTRUCTION: &'static str = "vpdpwssd ymm";
        #[inline(always)]
        unsafe fn dot(acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the trait's contract gives the features.
            unsafe { _mm256_dpwssd_avx_epi32(acc, a, b) }
        }
    }

    /// `vpdpwssd` of AVX-512 VNNI.
    pub(super) struct Dpwssd512;

    impl Dot for Dpwssd512 {
        type Lanes = Avx512;
        const FORM: Form = Form::Pairs;
        const INSTRUCTION: &'static str = "vpdpwssd zmm";
        #[inline(always)]
        unsafe fn dot(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the trait's contract gives the features.
            unsafe { _mm512_dpwssd_epi32(acc, a, b) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
winograd!(AVX2_6X16, conv_u8s8s32_6x16x2_avx2_winograd4x4, x86::Maddwd, Avx2, feature "avx2,fma", 2, [1 2 3 4 5 6]);

#[cfg(target_arch = "x86_64")]
winograd!(VNNI_6X16, conv_u8s8s32_6x16x2_avxvnni_winograd4x4, x86::Dpwssd256, AvxVnni, feature "avx2,fma,avxvnni", 2, [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
winograd!(AVX512_12X32, conv_u8s8s32_12x32x2_avx512vnni_winograd4x4, x86::Dpwssd512, Avx512Vnni, feature "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni", 2, [1 2 3 4 5 6 7 8 9 10 11 12]);
#[cfg(target_arch = "x86_64")]
winograd!(AVX512_6X64, conv_u8s8s32_6x64x2_avx512vnni_winograd4x4, x86::Dpwssd512, Avx512Vnni, feature "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni", 4, [1 2 3 4 5 6]);

/// Every row.
pub static WINOGRAD_KERNELS: &[&WinogradKernel] = &[
    #[cfg(target_arch = "x86_64")]
    &AVX512_12X32,
    #[cfg(target_arch = "x86_64")]
    &AVX512_6X64,
    #[cfg(target_arch = "x86_64")]
    &VNNI_6X16,
    #[cfg(target_arch = "x86_64")]
    &AVX2_6X16,
    &PORTABLE_4X8,
];
