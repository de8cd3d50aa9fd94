//! What the transforms need of a register beyond [`Simd`]: the same bits as twice as many i16, and a few more i32
//! operations. All of them wrap around.

use crate::simd::Simd;
use crate::simd::emulated::Lanes;
#[cfg(target_arch = "x86_64")]
use crate::simd::x86::{Avx2, Avx512};

/// Registers that also hold `2 · LANES` i16.
///
/// # Safety
/// As [`Simd`].
pub(super) trait Shorts: Simd {
    /// `2 · LANES` bytes, zero-extended to i16.
    unsafe fn widen(p: *const u8) -> Self::I;
    /// An i16 in each lane.
    unsafe fn splat_short(v: i16) -> Self::I;
    /// Sums of i16.
    unsafe fn add_short(a: Self::I, b: Self::I) -> Self::I;
    /// Differences of i16.
    unsafe fn sub_short(a: Self::I, b: Self::I) -> Self::I;
    /// i16 times 4.
    unsafe fn times_4_short(a: Self::I) -> Self::I;
    /// Exclusive or.
    unsafe fn xor(a: Self::I, b: Self::I) -> Self::I;
    /// Differences of i32.
    unsafe fn sub(a: Self::I, b: Self::I) -> Self::I;
    /// i32 shifted right by `bits`, keeping the sign.
    unsafe fn shift_right(a: Self::I, bits: u32) -> Self::I;
}

/// Combines i16 lanes of two registers of emulated i32 lanes.
fn zip_shorts<const L: usize>(a: [i32; L], b: [i32; L], f: impl Fn(i16, i16) -> i16) -> [i32; L] {
    let half = |a: i32, b: i32| i32::from(f(a as i16, b as i16) as u16);
    std::array::from_fn(|i| half(a[i], b[i]) | (half(a[i] >> 16, b[i] >> 16) << 16))
}

impl<const L: usize> Shorts for Lanes<L> {
    #[inline(always)]
    unsafe fn widen(p: *const u8) -> [i32; L] {
        // SAFETY: the trait's contract: `2 · L` bytes.
        unsafe { std::array::from_fn(|i| i32::from(*p.add(2 * i)) | (i32::from(*p.add(2 * i + 1)) << 16)) }
    }
    #[inline(always)]
    unsafe fn splat_short(v: i16) -> [i32; L] {
        [i32::from(v as u16) | (i32::from(v) << 16); L]
    }
    #[inline(always)]
    unsafe fn add_short(a: [i32; L], b: [i32; L]) -> [i32; L] {
        zip_shorts(a, b, i16::wrapping_add)
    }
    #[inline(always)]
    unsafe fn sub_short(a: [i32; L], b: [i32; L]) -> [i32; L] {
        zip_shorts(a, b, i16::wrapping_sub)
    }
    #[inline(always)]
    unsafe fn times_4_short(a: [i32; L]) -> [i32; L] {
        zip_shorts(a, a, |a, _| a.wrapping_mul(4))
    }
    #[inline(always)]
    unsafe fn xor(a: [i32; L], b: [i32; L]) -> [i32; L] {
        std::array::from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [i32; L], b: [i32; L]) -> [i32; L] {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn shift_right(a: [i32; L], bits: u32) -> [i32; L] {
        a.map(|v| v >> bits)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm_cvtsi32_si128, _mm_loadu_si128, _mm256_add_epi16, _mm256_cvtepu8_epi16,
        _mm256_loadu_si256, _mm256_set1_epi16, _mm256_slli_epi16, _mm256_sra_epi32, _mm256_sub_epi16, _mm256_sub_epi32,
        _mm256_xor_si256, _mm512_add_epi16, _mm512_cvtepu8_epi16, _mm512_set1_epi16, _mm512_slli_epi16,
        _mm512_sra_epi32, _mm512_sub_epi16, _mm512_sub_epi32, _mm512_xor_si512,
    };

    use super::{Avx2, Avx512, Shorts};

    /// Methods that are one expression of intrinsics each.
    macro_rules! ops {
        ($($name:ident($($arg:ident: $ty:ty),*) -> $ret:ty = $e:expr;)*) => {$(
            #[inline(always)]
            unsafe fn $name($($arg: $ty),*) -> $ret {
                // SAFETY: the trait's contract gives the features and the extent of the pointers.
                unsafe { $e }
            }
        )*};
    }

    impl Shorts for Avx2 {
        ops! {
            widen(p: *const u8) -> __m256i = _mm256_cvtepu8_epi16(_mm_loadu_si128(p.cast()));
            splat_short(v: i16) -> __m256i = _mm256_set1_epi16(v);
            add_short(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi16(a, b);
            sub_short(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi16(a, b);
            times_4_short(a: __m256i) -> __m256i = _mm256_slli_epi16::<2>(a);
            xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
            sub(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
            shift_right(a: __m256i, bits: u32) -> __m256i = _mm256_sra_epi32(a, _mm_cvtsi32_si128(bits as i32));
        }
    }

    impl Shorts for Avx512 {
        ops! {
            widen(p: *const u8) -> __m512i = _mm512_cvtepu8_epi16(_mm256_loadu_si256(p.cast()));
            splat_short(v: i16) -> __m512i = _mm512_set1_epi16(v);
            add_short(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi16(a, b);
            sub_short(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi16(a, b);
            times_4_short(a: __m512i) -> __m512i = _mm512_slli_epi16::<2>(a);
            xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
            sub(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
            shift_right(a: __m512i, bits: u32) -> __m512i = _mm512_sra_epi32(a, _mm_cvtsi32_si128(bits as i32));
        }
    }
}
