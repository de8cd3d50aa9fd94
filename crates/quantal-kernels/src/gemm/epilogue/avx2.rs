//! Codes on AVX2, four registers of sums to one of bytes, as `avx512` does it: a tile of 16 columns has so few sums
//! that narrowing them eight at a time takes as long as their products wherever K is small.

use std::arch::x86_64::{
    __m256, __m256i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128, _mm256_add_epi32, _mm256_add_ps,
    _mm256_adds_epi16, _mm256_castsi256_si128, _mm256_cvtepi32_ps, _mm256_cvtps_epi32, _mm256_extracti128_si256,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_epi8, _mm256_max_epu8, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
    _mm256_mullo_epi32, _mm256_packs_epi16, _mm256_packs_epi32, _mm256_packus_epi16, _mm256_permutevar8x32_epi32,
    _mm256_round_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
};

use super::{Block, NO_ROW, RawCodes, RawEpilogue, RawOut, look_up};
use crate::simd::x86::Avx2;
use crate::simd::{Simd, load_code};
use crate::{Isa, Level};

/// Columns that are narrowed together.
const COLUMNS: usize = 16;

/// Ends a tile, if this is the way to do it; false if the generic way is left to be gone.
///
/// # Safety
/// As [`super::finish`], on a CPU with `isa`.
#[inline]
pub(super) unsafe fn finish(isa: Isa, block: &Block, epilogue: &RawEpilogue) -> bool {
    match isa.level() {
        Level::Avx2 | Level::AvxVnni => {}
        Level::Portable | Level::Avx512Vnni | Level::Amx | Level::Neon | Level::NeonDot => return false,
    }
    let RawOut::Codes(codes) = &epilogue.out else { return false };
    if !codes.packs {
        return false;
    }
    // SAFETY: the features are those of the level; the rest is the caller's promise.
    unsafe {
        match (codes.add.is_some(), block.row_terms.is_null()) {
            (false, true) => any_sign::<false, false>(block, codes, epilogue.ldc),
            (true, true) => any_sign::<true, false>(block, codes, epilogue.ldc),
            (false, false) => any_sign::<false, true>(block, codes, epilogue.ldc),
            (true, false) => any_sign::<true, true>(block, codes, epilogue.ldc),
        }
        if !codes.table.is_null() {
            tabled(block, codes, epilogue.ldc);
        }
    }
    true
}

/// # Safety
/// As [`look_up`], on a CPU with AVX2.
#[target_feature(enable = "avx2,fma")]
unsafe fn tabled(block: &Block, codes: &RawCodes, ldc: usize) {
    // SAFETY: handed on.
    unsafe { look_up::<Avx2>(block, codes, ldc) }
}

/// # Safety
/// As [`finish`].
#[target_feature(enable = "avx2,fma")]
unsafe fn any_sign<const ADD: bool, const TERMS: bool>(block: &Block, codes: &RawCodes, ldc: usize) {
    // SAFETY: handed on.
    unsafe {
        if codes.qmin < 0 {
            rows::<ADD, TERMS, true>(block, codes, ldc);
        } else {
            rows::<ADD, TERMS, false>(block, codes, ldc);
        }
    }
}

/// Two rows at a time, of 16 columns each. A row without another is paired with itself.
///
/// # Safety
/// As [`finish`]; inlined into code with its features.
#[inline(always)]
unsafe fn rows<const ADD: bool, const TERMS: bool, const SIGNED: bool>(block: &Block, ends: &RawCodes, ldc: usize) {
    // SAFETY: the caller's promise: a block has a pixel for each of its rows.
    unsafe {
        for col in (0..block.cols).step_by(COLUMNS) {
            let multipliers = block.columns.multiplier.as_ptr().add(col);
            let multipliers = [_mm256_loadu_ps(multipliers), _mm256_loadu_ps(multipliers.add(8))];
            let piece = Piece { block, ends, col, multipliers, left: block.cols - col };
            let mut r = 0;
            while r < block.rows {
                let s = if r + 1 < block.rows { r + 1 } else { r };
                if piece.left >= COLUMNS {
                    piece.pair::<ADD, TERMS, SIGNED, true>([r, s], ldc);
                } else {
                    piece.pair::<ADD, TERMS, SIGNED, false>([r, s], ldc);
                }
                r += 2;
            }
        }
    }
}

/// Up to 16 columns of a tile.
struct Piece<'a> {
    block: &'a Block<'a>,
    ends: &'a RawCodes,
    col: usize,
    multipliers: [__m256; 2],
    /// Columns that there are from `col` on.
    left: usize,
}

impl Piece<'_> {
    /// # Safety
    /// As [`rows`]; the columns are all there if `FULL`.
    #[inline(always)]
    unsafe fn pair<const ADD: bool, const TERMS: bool, const SIGNED: bool, const FULL: bool>(
        &self,
        [r, s]: [usize; 2],
        ldc: usize,
    ) {
        // SAFETY: rows and columns lie inside those that the epilogue was checked for, and columns past the last are
        // neither loaded from a residual nor stored; the sums of rows in vain are there, too.
        unsafe {
            let (at, bt) = (*self.block.pixels.add(r), *self.block.pixels.add(s));
            let zero_point = _mm256_set1_epi16(self.ends.zero_point as i16);
            let a = _mm256_adds_epi16(self.row::<ADD, TERMS, FULL>(r, at), zero_point);
            let b = _mm256_adds_epi16(self.row::<ADD, TERMS, FULL>(s, bt), zero_point);
            let qmin = _mm256_set1_epi8(self.ends.qmin as i8);
            let codes = if SIGNED {
                _mm256_max_epi8(_mm256_packs_epi16(a, b), qmin)
            } else {
                _mm256_max_epu8(_mm256_packus_epi16(a, b), qmin)
            };
            // Packs work within 128 bits: each has 4 codes from each half of each row.
            let codes = _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            let out = self.ends.out.wrapping_add(self.block.first + self.col);
            for (pixel, codes) in [(at, _mm256_castsi256_si128(codes)), (bt, _mm256_extracti128_si256::<1>(codes))] {
                if pixel == NO_ROW {
                    continue;
                }
                let out = out.add(pixel * ldc);
                if FULL {
                    _mm_storeu_si128(out.cast(), codes);
                } else {
                    let mut last = [0_u8; COLUMNS];
                    _mm_storeu_si128(last.as_mut_ptr().cast(), codes);
                    std::ptr::copy_nonoverlapping(last.as_ptr(), out, self.left);
                }
            }
        }
    }

    /// The centred codes of a row, not yet clamped from below: of columns 0–3, 8–11, 4–7 and 12–15.
    ///
    /// # Safety
    /// As [`Piece::pair`].
    #[inline(always)]
    unsafe fn row<const ADD: bool, const TERMS: bool, const FULL: bool>(&self, r: usize, pixel: usize) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let mut last = [0_u8; COLUMNS];
            let mut residual = last.as_ptr();
            if let Some(add) = self.ends.add.as_ref().filter(|_| ADD && pixel != NO_ROW) {
                let from = add.codes.add(pixel * add.ld + self.block.first + self.col);
                if FULL {
                    residual = from;
                } else {
                    std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), self.left);
                }
            }
            let low = self.half::<ADD, TERMS>(r, residual, 0);
            _mm256_packs_epi32(low, self.half::<ADD, TERMS>(r, residual, 1))
        }
    }

    /// Eight of them.
    ///
    /// # Safety
    /// As [`Piece::pair`]; `residual` is valid for 16 bytes.
    #[inline(always)]
    unsafe fn half<const ADD: bool, const TERMS: bool>(&self, r: usize, residual: *const u8, half: usize) -> __m256i {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        let (block, ends, col) = (self.block, self.ends, self.col + 8 * half);
        // SAFETY: whole registers may be read of the tile and its columns.
        unsafe {
            let mut sum = _mm256_loadu_si256(block.sums.add(r * block.ld + col).cast());
            if !block.summed {
                sum = _mm256_add_epi32(sum, _mm256_loadu_si256(block.columns.add.as_ptr().add(col).cast()));
            }
            if TERMS {
                let factors = _mm256_loadu_si256(block.columns.neg_zero_point.as_ptr().add(col).cast());
                let term = _mm256_set1_epi32(*block.row_terms.add(r));
                sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(term, factors));
            }
            let x = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), self.multipliers[half]);
            let Some(add) = ends.add.as_ref().filter(|_| ADD) else {
                return _mm256_cvtps_epi32(_mm256_min_ps(x, _mm256_set1_ps(ends.hi)));
            };
            let x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(ends.lo)), _mm256_set1_ps(ends.hi));
            let code = _mm256_round_ps::<NEAREST>(x);
            let other = load_code::<Avx2>(residual.add(8 * half), add.signed);
            let other = Avx2::add(other, _mm256_set1_epi32(add.neg_zero_point));
            let sum = _mm256_add_ps(
                _mm256_mul_ps(code, _mm256_set1_ps(add.sum_multiplier)),
                _mm256_mul_ps(_mm256_cvtepi32_ps(other), _mm256_set1_ps(add.multiplier)),
            );
            _mm256_cvtps_epi32(_mm256_min_ps(sum, _mm256_set1_ps(add.hi)))
        }
    }
}
