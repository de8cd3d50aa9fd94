//! AVX2 and AVX-512 registers.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, __m512, __m512i, _CMP_ORD_Q, _mm_loadl_epi64, _mm_loadu_si128, _mm_setr_epi8,
    _mm_storel_epi64, _mm_storeu_si128, _mm_unpackhi_epi8, _mm_unpacklo_epi8, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_ps, _mm256_and_si256, _mm256_andnot_ps, _mm256_broadcastsi128_si256, _mm256_castsi128_si256,
    _mm256_castsi256_si128, _mm256_cmp_ps, _mm256_cvtepi8_epi16, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps,
    _mm256_cvtepu8_epi16, _mm256_cvtepu8_epi32, _mm256_cvtps_epi32, _mm256_div_ps, _mm256_extracti128_si256,
    _mm256_i32gather_epi32, _mm256_inserti128_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_max_epi32, _mm256_max_ps, _mm256_min_epi32, _mm256_min_ps, _mm256_mul_ps, _mm256_mullo_epi32,
    _mm256_or_si256, _mm256_permutevar8x32_epi32, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi8,
    _mm256_setr_epi32, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_epi32,
    _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_cmp_ps_mask,
    _mm512_cvtepi8_epi16, _mm512_cvtepi8_epi32, _mm512_cvtepi32_epi8, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi16,
    _mm512_cvtepu8_epi32, _mm512_cvtps_epi32, _mm512_div_ps, _mm512_dpwssd_epi32, _mm512_i32gather_epi32,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_epi32, _mm512_maskz_mov_ps, _mm512_max_epi32,
    _mm512_max_ps, _mm512_min_epi32, _mm512_min_ps, _mm512_mul_ps, _mm512_mullo_epi32, _mm512_or_si512,
    _mm512_permutexvar_epi32, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32, _mm512_shuffle_epi8,
    _mm512_slli_epi32, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_sub_epi32,
};

use super::Simd;
use crate::lut;

/// 256-bit registers, AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// 512-bit registers, AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// Methods of [`Simd`] that are one expression of intrinsics each.
macro_rules! ops {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $e:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the trait's contract gives the features and the extent of the pointers.
            unsafe { $e }
        }
    )*};
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    type I = __m256i;
    type F = __m256;
    ops! {
        splat(v: i32) -> __m256i = _mm256_set1_epi32(v);
        load(p: *const i32) -> __m256i = _mm256_loadu_si256(p.cast());
        store(p: *mut i32, v: __m256i) = _mm256_storeu_si256(p.cast(), v);
        add(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        mul(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi32(a, b);
        minus(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
        max(a: __m256i, b: __m256i) -> __m256i = _mm256_max_epi32(a, b);
        min(a: __m256i, b: __m256i) -> __m256i = _mm256_min_epi32(a, b);
        gather(table: *const i32, i: __m256i) -> __m256i = _mm256_i32gather_epi32::<4>(table, i);
        splat_f(v: f32) -> __m256 = _mm256_set1_ps(v);
        load_f(p: *const f32) -> __m256 = _mm256_loadu_ps(p);
        store_f(p: *mut f32, v: __m256) = _mm256_storeu_ps(p, v);
        to_f(v: __m256i) -> __m256 = _mm256_cvtepi32_ps(v);
        add_f(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        mul_f(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        abs_f(v: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), v);
        max_f(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        div_f(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        zero_nan(v: __m256) -> __m256 = _mm256_and_ps(v, _mm256_cmp_ps::<_CMP_ORD_Q>(v, v));
        clamp_round(v: __m256, lo: __m256, hi: __m256) -> __m256i =
            _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(v, lo), hi));
        load_u8(p: *const u8) -> __m256i = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
        load_s8(p: *const u8) -> __m256i = _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()));
        store_bytes(p: *mut u8, v: __m256i) = _mm_storel_epi64(p.cast(), low_bytes(v));
    }

    #[inline(always)]
    unsafe fn store_triples(p: *mut u8, [a, b, c]: [__m256i; 3]) {
        // SAFETY: the trait's contract: 24 bytes.
        unsafe {
            let low = _mm256_set1_epi32(255);
            let (a, b) = (_mm256_and_si256(a, low), _mm256_slli_epi32::<8>(_mm256_and_si256(b, low)));
            let quads = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_slli_epi32::<16>(c));
            let triples = _mm256_shuffle_epi8(quads, _mm256_broadcastsi128_si256(three_of_four()));
            let dense = _mm256_permutevar8x32_epi32(triples, _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 7, 7));
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(dense));
            _mm_storel_epi64(p.add(16).cast(), _mm256_extracti128_si256::<1>(dense));
        }
    }

    #[inline(always)]
    unsafe fn dot_two<const SIGNED: bool>(acc: __m256i, x0: *const u8, x1: *const u8, w: *const i16) -> __m256i {
        // SAFETY: the trait's contract: 8 bytes at each x, 16 weights.
        unsafe {
            let x = _mm_unpacklo_epi8(_mm_loadl_epi64(x0.cast()), _mm_loadl_epi64(x1.cast()));
            let x = if SIGNED { _mm256_cvtepi8_epi16(x) } else { _mm256_cvtepu8_epi16(x) };
            _mm256_add_epi32(acc, _mm256_madd_epi16(x, _mm256_loadu_si256(w.cast())))
        }
    }

    #[inline(always)]
    unsafe fn look_up(table: &[u8; 256], x: *const u8, out: *mut u8, size: [usize; 3]) {
        // SAFETY: the trait's contract.
        unsafe { lut::x86::avx2(table, x, out, size) }
    }
}

/// The low byte of each lane, in the low half of the register.
///
/// # Safety
/// The CPU has AVX2, and the caller is compiled for it.
#[inline(always)]
unsafe fn low_bytes(v: __m256i) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        let pick = _mm256_setr_epi8(
            0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
            0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        );
        let fours = _mm256_shuffle_epi8(v, pick);
        _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(fours, _mm256_setr_epi32(0, 4, 1, 1, 1, 1, 1, 1)))
    }
}

/// The shuffle that leaves three bytes of each four.
///
/// # Safety
/// None beyond the CPU's: every x86-64 has it.
#[inline(always)]
unsafe fn three_of_four() -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1) }
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    type I = __m512i;
    type F = __m512;
    ops! {
        splat(v: i32) -> __m512i = _mm512_set1_epi32(v);
        load(p: *const i32) -> __m512i = _mm512_loadu_si512(p.cast());
        store(p: *mut i32, v: __m512i) = _mm512_storeu_si512(p.cast(), v);
        add(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        mul(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        minus(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        max(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epi32(a, b);
        min(a: __m512i, b: __m512i) -> __m512i = _mm512_min_epi32(a, b);
        gather(table: *const i32, i: __m512i) -> __m512i = _mm512_i32gather_epi32::<4>(i, table);
        splat_f(v: f32) -> __m512 = _mm512_set1_ps(v);
        load_f(p: *const f32) -> __m512 = _mm512_loadu_ps(p);
        store_f(p: *mut f32, v: __m512) = _mm512_storeu_ps(p, v);
        to_f(v: __m512i) -> __m512 = _mm512_cvtepi32_ps(v);
        add_f(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        mul_f(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        abs_f(v: __m512) -> __m512 = _mm512_abs_ps(v);
        max_f(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        div_f(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        zero_nan(v: __m512) -> __m512 = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(v, v), v);
        clamp_round(v: __m512, lo: __m512, hi: __m512) -> __m512i =
            _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, lo), hi));
        load_u8(p: *const u8) -> __m512i = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
        load_s8(p: *const u8) -> __m512i = _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()));
        store_bytes(p: *mut u8, v: __m512i) = _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v));
    }

    #[inline(always)]
    unsafe fn store_triples(p: *mut u8, [a, b, c]: [__m512i; 3]) {
        // SAFETY: the trait's contract: 48 bytes.
        unsafe {
            let low = _mm512_set1_epi32(255);
            let (a, b) = (_mm512_and_si512(a, low), _mm512_slli_epi32::<8>(_mm512_and_si512(b, low)));
            let quads = _mm512_or_si512(_mm512_or_si512(a, b), _mm512_slli_epi32::<16>(c));
            let triples = _mm512_shuffle_epi8(quads, _mm512_broadcast_i32x4(three_of_four()));
            let order = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15, 15, 15, 15);
            _mm512_mask_storeu_epi32(p.cast(), 0xfff, _mm512_permutexvar_epi32(order, triples));
        }
    }

    #[inline(always)]
    unsafe fn dot_two<const SIGNED: bool>(acc: __m512i, x0: *const u8, x1: *const u8, w: *const i16) -> __m512i {
        // SAFETY: the trait's contract: 16 bytes at each x, 32 weights.
        unsafe {
            let (x0, x1) = (_mm_loadu_si128(x0.cast()), _mm_loadu_si128(x1.cast()));
            let x = _mm256_inserti128_si256::<1>(
                _mm256_castsi128_si256(_mm_unpacklo_epi8(x0, x1)),
                _mm_unpackhi_epi8(x0, x1),
            );
            let x = if SIGNED { _mm512_cvtepi8_epi16(x) } else { _mm512_cvtepu8_epi16(x) };
            _mm512_dpwssd_epi32(acc, x, _mm512_loadu_si512(w.cast()))
        }
    }

    #[inline(always)]
    unsafe fn look_up(table: &[u8; 256], x: *const u8, out: *mut u8, size: [usize; 3]) {
        // SAFETY: the trait's contract; VBMI is asked for, since not every CPU with VNNI has it.
        unsafe {
            if std::is_x86_feature_detected!("avx512vbmi") {
                lut::x86::vbmi(table, x, out, size);
            } else {
                lut::x86::avx2(table, x, out, size);
            }
        }
    }
}
