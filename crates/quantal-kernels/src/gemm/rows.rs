//! The rows of the kernel table: each ISA's dot product, and the tiles made of it.

use super::tile::{Dot, TileArgs, tile};
use crate::Level;
#[cfg(any(test, target_arch = "aarch64"))]
use crate::kernel::RowCodes;
use crate::kernel::{Form, GemmKernel, Steps, kernel};
use crate::simd::Simd;
use crate::simd::emulated::Lanes;
#[cfg(target_arch = "aarch64")]
use crate::simd::neon::Neon;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{Avx2, Avx512};

/// Two i16 against two i16 on `L` emulated lanes.
pub(crate) struct PlainPairs<const L: usize>;

impl<const L: usize> Dot for PlainPairs<L> {
    type Lanes = Lanes<L>;
    const FORM: Form = Form::Pairs;
    const INSTRUCTION: &'static str = "plain multiply-add";

    #[inline(always)]
    unsafe fn dot(acc: [i32; L], a: [i32; L], b: [i32; L]) -> [i32; L] {
        std::array::from_fn(|i| {
            let low = i32::from(a[i] as i16) * i32::from(b[i] as i16);
            acc[i].wrapping_add(low.wrapping_add((a[i] >> 16) * (b[i] >> 16)))
        })
    }
}

kernel!(PORTABLE_4X8, gemm_u8s8s32_4x8x2_portable, PlainPairs<4>, Portable, 2, [1 2 3 4]);

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_add_epi32, _mm256_dpbusd_avx_epi32, _mm256_madd_epi16, _mm256_maddubs_epi16,
        _mm256_set1_epi16, _mm512_dpbusd_epi32,
    };

    use super::{Avx2, Avx512, Dot, Form, Simd};

    /// Dot products that are one expression each.
    macro_rules! dot {
        ($(#[$doc:meta])* $name:ident, $lanes:ty, $form:ident, $placed:literal, $instruction:literal, |$acc:ident, $a:ident, $b:ident| $e:expr) => {
            $(#[$doc])*
            pub(crate) struct $name;
            impl Dot for $name {
                type Lanes = $lanes;
                const FORM: Form = Form::$form;
                const PLACED: bool = $placed;
                const INSTRUCTION: &'static str = $instruction;
                #[inline(always)]
                unsafe fn dot(
                    $acc: <$lanes as Simd>::I,
                    $a: <$lanes as Simd>::I,
                    $b: <$lanes as Simd>::I,
                ) -> <$lanes as Simd>::I {
                    // SAFETY: the trait's contract gives the features.
                    unsafe { $e }
                }
            }
        };
    }
    dot!(
        /// `vpmaddwd`: exact for all operands.
        Maddwd, Avx2, Pairs, false, "vpmaddwd + vpaddd", |acc, a, b| _mm256_add_epi32(acc, _mm256_madd_epi16(a, b))
    );
    dot!(
        /// `vpmaddubsw`: half the bytes and more multiplies an instruction, in steps whose pairs cannot saturate it.
        Maddubs, Avx2, Bytes, true, "vpmaddubsw + vpmaddwd + vpaddd", |acc, a, b| _mm256_add_epi32(
            acc,
            _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1))
        )
    );
    dot!(
        /// `vpdpbusd` of AVX-VNNI.
        Dpbusd256, Avx2, Bytes, false, "vpdpbusd ymm", |acc, a, b| _mm256_dpbusd_avx_epi32(acc, a, b)
    );
    dot!(
        /// `vpdpbusd` of AVX-512 VNNI.
        Dpbusd512, Avx512, Bytes, false, "vpdpbusd zmm", |acc, a, b| _mm512_dpbusd_epi32(acc, a, b)
    );
    // The types are named where the rows are declared.
    const _: fn(__m256i, __m512i) = |_, _| ();
}
#[cfg(target_arch = "x86_64")]
use x86::{Dpbusd256, Dpbusd512, Maddubs, Maddwd};

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64 {
    use std::arch::aarch64::{
        int32x4_t, vaddq_s32, vget_low_s16, vmull_high_s16, vmull_s16, vpaddq_s32, vreinterpretq_s16_s32,
    };
    use std::arch::asm;

    use super::{Dot, Form, Neon, RowCodes};

    /// `smull`: exact for all operands.
    pub(crate) struct Smull;

    impl Dot for Smull {
        type Lanes = Neon;
        const FORM: Form = Form::Pairs;
        const INSTRUCTION: &'static str = "smull";

        #[inline(always)]
        unsafe fn dot(acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
            // SAFETY: every aarch64 CPU has NEON.
            unsafe {
                let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
                let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
                vaddq_s32(acc, vpaddq_s32(low, vmull_high_s16(a, b)))
            }
        }
    }

    /// `sdot`.
    pub(super) struct Sdot;

    impl Dot for Sdot {
        type Lanes = Neon;
        const FORM: Form = Form::Bytes;
        const ROW_CODES: RowCodes = RowCodes::S8;
        const INSTRUCTION: &'static str = "sdot";

        #[inline(always)]
        unsafe fn dot(mut acc: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
            // The intrinsic is not stable yet.
            // SAFETY: the trait's contract gives the feature; the instruction touches registers alone.
            unsafe {
                asm!(
                    "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
                    acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            acc
        }
    }
}
#[cfg(target_arch = "aarch64")]
use aarch64::{Sdot, Smull};

// NEON: 32 registers. 24 accumulators, four of B, one of A, and for `smull` two products.
#[cfg(target_arch = "aarch64")]
kernel!(NEON_6X16, gemm_u8s8s32_6x16x2_neon, Smull, Neon, 4, [1 2 3 4 5 6]);
#[cfg(target_arch = "aarch64")]
kernel!(NEON_DOT_6X16, gemm_s8s8s32_6x16x4_neondot, Sdot, NeonDot, feature "neon,dotprod", 4, [1 2 3 4 5 6]);

// AVX2: 16 registers. Six rows of two are 12 accumulators; what else a step holds at once is three or four. The narrow
// tiles are for few columns; the addresses of 12 rows would not fit the registers.
#[cfg(target_arch = "x86_64")]
kernel!(AVX2_6X16_U8, gemm_u8s8s32_6x16x4_avx2_placed, Maddubs, Avx2, feature "avx2,fma", 2, [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
kernel!(AVX2_6X16, gemm_u8s8s32_6x16x2_avx2_exact, Maddwd, Avx2, feature "avx2,fma", 2, [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
kernel!(AVX2_8X8_U8, gemm_u8s8s32_8x8x4_avx2_placed, Maddubs, Avx2, feature "avx2,fma", 1, [1 2 3 4 5 6 7 8]);
#[cfg(target_arch = "x86_64")]
kernel!(AVX2_8X8, gemm_u8s8s32_8x8x2_avx2_exact, Maddwd, Avx2, feature "avx2,fma", 1, [1 2 3 4 5 6 7 8]);
// AVX-VNNI: 16 registers, and no product to hold: a product is so cheap that a narrow tile gains nothing.
#[cfg(target_arch = "x86_64")]
kernel!(VNNI_6X16, gemm_u8s8s32_6x16x4_avxvnni, Dpbusd256, AvxVnni, feature "avx2,fma,avxvnni", 2, [1 2 3 4 5 6]);
// AVX-512: 32 registers. 24 accumulators hide the latency of `vpdpbusd` twice over; the narrow tile is for few columns.
#[cfg(target_arch = "x86_64")]
kernel!(AVX512_6X64, gemm_u8s8s32_6x64x4_avx512vnni, Dpbusd512, Avx512Vnni, feature "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni", 4, [1 2 3 4 5 6]);
#[cfg(target_arch = "x86_64")]
kernel!(AVX512_12X32, gemm_u8s8s32_12x32x4_avx512vnni, Dpbusd512, Avx512Vnni, feature "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni", 2, [1 2 3 4 5 6 7 8 9 10 11 12]);
#[cfg(target_arch = "x86_64")]
kernel!(AVX512_12X16, gemm_u8s8s32_12x16x4_avx512vnni, Dpbusd512, Avx512Vnni, feature "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni", 1, [1 2 3 4 5 6 7 8 9 10 11 12]);

/// Every row, best first within a level.
pub(crate) static ROWS: &[&GemmKernel] = &[
    #[cfg(target_arch = "x86_64")]
    &super::amx::AMX_32X32,
    #[cfg(target_arch = "x86_64")]
    &AVX512_6X64,
    #[cfg(target_arch = "x86_64")]
    &AVX512_12X32,
    #[cfg(target_arch = "x86_64")]
    &AVX512_12X16,
    #[cfg(target_arch = "x86_64")]
    &VNNI_6X16,
    #[cfg(target_arch = "x86_64")]
    &AVX2_6X16_U8,
    #[cfg(target_arch = "x86_64")]
    &AVX2_6X16,
    #[cfg(target_arch = "x86_64")]
    &AVX2_8X8_U8,
    #[cfg(target_arch = "x86_64")]
    &AVX2_8X8,
    #[cfg(target_arch = "aarch64")]
    &NEON_DOT_6X16,
    #[cfg(target_arch = "aarch64")]
    &NEON_6X16,
    &PORTABLE_4X8,
];

/// The same tiles on emulated registers, for testing on CPUs that lack the real ones.
#[cfg(test)]
pub(crate) mod twins {
    use super::super::tile::Reg;
    use super::{Dot, Form, GemmKernel, Lanes, Level, PlainPairs, RowCodes, Simd, Steps, TileArgs, kernel, tile};

    /// Four u8 against four s8 on `L` emulated lanes. `SATURATE` adds pairs as `vpmaddubsw` does, and fails where that
    /// would saturate.
    pub(crate) struct PlainBytes<const L: usize, const SATURATE: bool>;

    impl<const L: usize, const SATURATE: bool> Dot for PlainBytes<L, SATURATE> {
        type Lanes = Lanes<L>;
        const FORM: Form = Form::Bytes;
        const PLACED: bool = SATURATE;
        const INSTRUCTION: &'static str = "plain multiply-add";

        #[inline(always)]
        unsafe fn dot(acc: Reg<Self>, a: Reg<Self>, b: Reg<Self>) -> Reg<Self> {
            std::array::from_fn(|i| {
                let (x, w) = (a[i].to_le_bytes(), b[i].to_le_bytes());
                let product = |j: usize| i32::from(x[j]) * i32::from(w[j] as i8);
                let (low, high) = (product(0) + product(1), product(2) + product(3));
                if SATURATE {
                    assert!(i16::try_from(low).is_ok() && i16::try_from(high).is_ok(), "vpmaddubsw would saturate");
                }
                acc[i].wrapping_add(low + high)
            })
        }
    }

    /// Four s8 against four s8 on `L` emulated lanes.
    pub(super) struct PlainSignedBytes<const L: usize>;

    impl<const L: usize> Dot for PlainSignedBytes<L> {
        type Lanes = Lanes<L>;
        const FORM: Form = Form::Bytes;
        const ROW_CODES: RowCodes = RowCodes::S8;
        const INSTRUCTION: &'static str = "plain multiply-add";

        #[inline(always)]
        unsafe fn dot(acc: Reg<Self>, a: Reg<Self>, b: Reg<Self>) -> Reg<Self> {
            std::array::from_fn(|i| {
                let (x, w) = (a[i].to_le_bytes(), b[i].to_le_bytes());
                (0..4).fold(acc[i], |acc, j| acc.wrapping_add(i32::from(x[j] as i8) * i32::from(w[j] as i8)))
            })
        }
    }

    kernel!(TWIN_6X16_U8, twin_6x16x4_avx2_placed, PlainBytes<8, true>, Portable, 2, [1 2 3 4 5 6]);
    kernel!(TWIN_6X16_PAIRS, twin_6x16x2_avx2_exact, PlainPairs<8>, Portable, 2, [1 2 3 4 5 6]);
    kernel!(TWIN_8X8_U8, twin_8x8x4_avx2_placed, PlainBytes<8, true>, Portable, 1, [1 2 3 4 5 6 7 8]);
    kernel!(TWIN_8X8_PAIRS, twin_8x8x2_avx2_exact, PlainPairs<8>, Portable, 1, [1 2 3 4 5 6 7 8]);
    kernel!(TWIN_6X16, twin_6x16x4_avxvnni, PlainBytes<8, false>, Portable, 2, [1 2 3 4 5 6]);
    kernel!(TWIN_6X64, twin_6x64x4_avx512vnni, PlainBytes<16, false>, Portable, 4, [1 2 3 4 5 6]);
    kernel!(TWIN_12X32, twin_12x32x4_avx512vnni, PlainBytes<16, false>, Portable, 2, [1 2 3 4 5 6 7 8 9 10 11 12]);
    kernel!(TWIN_12X16, twin_12x16x4_avx512vnni, PlainBytes<16, false>, Portable, 1, [1 2 3 4 5 6 7 8 9 10 11 12]);

    kernel!(TWIN_6X16_S8, twin_6x16x4_neondot, PlainSignedBytes<4>, Portable, 4, [1 2 3 4 5 6]);

    pub(crate) static TWINS: &[&GemmKernel] = &[
        &super::super::amx::TWIN_32X32,
        &TWIN_6X16_S8,
        &TWIN_6X16_U8,
        &TWIN_6X16_PAIRS,
        &TWIN_8X8_U8,
        &TWIN_8X8_PAIRS,
        &TWIN_6X16,
        &TWIN_6X64,
        &TWIN_12X32,
        &TWIN_12X16,
    ];
}
