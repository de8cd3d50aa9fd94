//! The lanes on x86-64: two registers with AVX2 and FMA, one with AVX-512.

use std::arch::x86_64::*;

use super::lanes::{FloatIsa, LANES, Lanes, store_part_copied};

/// AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// AVX-512 F, BW and VL.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Operations that are one instruction on each half.
macro_rules! halves {
    ($($op:ident($($a:ident),+) = $intrinsic:path $(, $cast:path, $back:path)?;)*) => {$(
        #[inline(always)]
        fn $op(self, $($a: Self::V),+) -> Self::V {
            // SAFETY: the token proves that the CPU has AVX2 and FMA.
            unsafe { [halves!(@one 0, $intrinsic, ($($a),+), [$($cast, $back)?]),
                      halves!(@one 1, $intrinsic, ($($a),+), [$($cast, $back)?])] }
        }
    )*};
    (@one $i:tt, $intrinsic:path, ($($a:ident),+), []) => { $intrinsic($($a[$i]),+) };
    (@one $i:tt, $intrinsic:path, ($($a:ident),+), [$cast:path, $back:path]) => {
        $back($intrinsic($($cast($a[$i])),+))
    };
}

impl Lanes for Avx2 {
    type V = [__m256; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the token proves that the CPU has AVX2 and FMA.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    halves! {
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        sqrt(a) = _mm256_sqrt_ps;
        fma(a, b, c) = _mm256_fmadd_ps;
        max(a, b) = _mm256_max_ps;
        min(a, b) = _mm256_min_ps;
        bits_and(a, b) = _mm256_and_ps;
        bits_or(a, b) = _mm256_or_ps;
        bits_add(a, b) = _mm256_add_epi32, _mm256_castps_si256, _mm256_castsi256_ps;
        bits_sub(a, b) = _mm256_sub_epi32, _mm256_castps_si256, _mm256_castsi256_ps;
        truncate(a) = _mm256_cvttps_epi32, std::convert::identity, _mm256_castsi256_ps;
    }

    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        // SAFETY: the token proves that the CPU has AVX2 and FMA.
        unsafe {
            [
                _mm256_blendv_ps(y[0], x[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
                _mm256_blendv_ps(y[1], x[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
            ]
        }
    }

    #[inline(always)]
    fn bits_shl<const BY: i32>(self, a: Self::V) -> Self::V {
        // SAFETY: the token proves that the CPU has AVX2 and FMA.
        unsafe {
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<BY>(_mm256_castps_si256(a[0]))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<BY>(_mm256_castps_si256(a[1]))),
            ]
        }
    }

    #[inline(always)]
    fn bits_sar<const BY: i32>(self, a: Self::V) -> Self::V {
        // SAFETY: the token proves that the CPU has AVX2 and FMA.
        unsafe {
            [
                _mm256_castsi256_ps(_mm256_srai_epi32::<BY>(_mm256_castps_si256(a[0]))),
                _mm256_castsi256_ps(_mm256_srai_epi32::<BY>(_mm256_castps_si256(a[1]))),
            ]
        }
    }
}

/// All bits set, then none: `n` lanes of mask start at `MASK[8 − n]`.
static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl FloatIsa for Avx2 {
    const ROWS: usize = 6;
    const VECTORS: usize = 1;

    unsafe fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the token proves AVX2; 16 readable values, by this function's contract.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }

    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::V {
        let (low, high) = (n.min(8), n.saturating_sub(8).min(8));
        // SAFETY: the token proves AVX2; `MASK` is read at 8 − (0 … 8), 8 values; the masks name the first `n` values,
        // readable by this function's contract, and masked lanes are not accessed.
        unsafe {
            let low = _mm256_loadu_si256(MASK.as_ptr().add(8 - low).cast());
            let high = _mm256_loadu_si256(MASK.as_ptr().add(8 - high).cast());
            [_mm256_maskload_ps(p, low), _mm256_maskload_ps(p.wrapping_add(8), high)]
        }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, a: Self::V) {
        // SAFETY: the token proves AVX2; 16 writable values, by this function's contract.
        unsafe {
            _mm256_storeu_ps(p, a[0]);
            _mm256_storeu_ps(p.add(8), a[1]);
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, a: Self::V, n: usize) {
        // SAFETY: `n` writable values, by this function's contract.
        unsafe { store_part_copied(p, &self.lanes(a), n) };
    }
}

/// Operations that are one instruction.
macro_rules! whole {
    ($($op:ident($($a:ident),+) = $intrinsic:path $(, $cast:path, $back:path)?;)*) => {$(
        #[inline(always)]
        fn $op(self, $($a: Self::V),+) -> Self::V {
            // SAFETY: the token proves that the CPU has AVX-512 F.
            unsafe { whole!(@one $intrinsic, ($($a),+), [$($cast, $back)?]) }
        }
    )*};
    (@one $intrinsic:path, ($($a:ident),+), []) => { $intrinsic($($a),+) };
    (@one $intrinsic:path, ($($a:ident),+), [$cast:path, $back:path]) => { $back($intrinsic($($cast($a)),+)) };
}

impl Lanes for Avx512 {
    type V = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: the token proves that the CPU has AVX-512 F.
        unsafe { _mm512_set1_ps(x) }
    }
    whole! {
        add(a, b) = _mm512_add_ps;
        sub(a, b) = _mm512_sub_ps;
        mul(a, b) = _mm512_mul_ps;
        div(a, b) = _mm512_div_ps;
        sqrt(a) = _mm512_sqrt_ps;
        fma(a, b, c) = _mm512_fmadd_ps;
        max(a, b) = _mm512_max_ps;
        min(a, b) = _mm512_min_ps;
        bits_and(a, b) = _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps;
        bits_or(a, b) = _mm512_or_si512, _mm512_castps_si512, _mm512_castsi512_ps;
        bits_add(a, b) = _mm512_add_epi32, _mm512_castps_si512, _mm512_castsi512_ps;
        bits_sub(a, b) = _mm512_sub_epi32, _mm512_castps_si512, _mm512_castsi512_ps;
        truncate(a) = _mm512_cvttps_epi32, std::convert::identity, _mm512_castsi512_ps;
    }

    #[inline(always)]
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        // SAFETY: the token proves that the CPU has AVX-512 F.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }

    #[inline(always)]
    fn bits_shl<const BY: i32>(self, a: Self::V) -> Self::V {
        // SAFETY: the token proves that the CPU has AVX-512 F.
        unsafe {
            // The intrinsic counts in u32; a register of counts compiles to the same shift.
            _mm512_castsi512_ps(_mm512_sllv_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(BY)))
        }
    }

    #[inline(always)]
    fn bits_sar<const BY: i32>(self, a: Self::V) -> Self::V {
        // SAFETY: the token proves that the CPU has AVX-512 F.
        unsafe { _mm512_castsi512_ps(_mm512_srav_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(BY))) }
    }
}

/// The mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}

impl FloatIsa for Avx512 {
    const ROWS: usize = 14;
    const VECTORS: usize = 2;

    unsafe fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the token proves AVX-512 F; 16 readable values, by this function's contract.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: the token proves AVX-512 F; `n` readable values, by this function's contract, and masked lanes are
        // not accessed.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, a: Self::V) {
        // SAFETY: the token proves AVX-512 F; 16 writable values, by this function's contract.
        unsafe { _mm512_storeu_ps(p, a) };
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, a: Self::V, n: usize) {
        // SAFETY: the token proves AVX-512 F; `n` writable values, by this function's contract, and masked lanes are
        // not accessed.
        unsafe { _mm512_mask_storeu_ps(p, first(n), a) };
    }
}
