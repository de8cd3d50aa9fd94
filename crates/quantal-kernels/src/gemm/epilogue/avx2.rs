//! Codes on AVX2, four registers of sums to one of bytes, as `avx512` does it: a tile of 8 or 16 columns has so few
//! sums that narrowing each register by itself takes as long as their products wherever K is small.

use std::arch::x86_64::{
    __m256, __m256i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm_storel_epi64, _mm_storeu_si128,
    _mm_unpackhi_epi64, _mm256_add_epi32, _mm256_add_ps, _mm256_adds_epi16, _mm256_castsi256_si128, _mm256_cvtepi32_ps,
    _mm256_cvtps_epi32, _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_epi8,
    _mm256_max_epu8, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_mullo_epi32, _mm256_packs_epi16,
    _mm256_packs_epi32, _mm256_packus_epi16, _mm256_permutevar8x32_epi32, _mm256_round_ps, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
};

use super::{Block, NO_ROW, RawCodes, RawEpilogue, RawOut, look_up};
use crate::simd::x86::Avx2;
use crate::simd::{Simd, load_code};
use crate::{Isa, Level};

/// Columns of a register of sums.
const COLUMNS: usize = 8;

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

/// Two rows at a time of 16 columns each, then four of the up to 15 columns left. Where rows run out, the last one takes
/// their places.
///
/// # Safety
/// As [`finish`]; inlined into code with its features.
#[inline(always)]
unsafe fn rows<const ADD: bool, const TERMS: bool, const SIGNED: bool>(block: &Block, ends: &RawCodes, ldc: usize) {
    let (last, whole) = (block.rows - 1, block.cols - block.cols % (2 * COLUMNS));
    // SAFETY: the caller's promise: a block has a row at least, and a pixel for each of them.
    unsafe {
        for col in (0..whole).step_by(2 * COLUMNS) {
            let (left, right) = (Piece::new(block, ends, col), Piece::new(block, ends, col + COLUMNS));
            for r in (0..block.rows).step_by(2) {
                let (a, b) = (r, last.min(r + 1));
                let codes = left.codes::<SIGNED>([
                    left.rounded::<ADD, TERMS, true>(a),
                    right.rounded::<ADD, TERMS, true>(a),
                    left.rounded::<ADD, TERMS, true>(b),
                    right.rounded::<ADD, TERMS, true>(b),
                ]);
                for (r, codes) in [(a, _mm256_castsi256_si128(codes)), (b, _mm256_extracti128_si256::<1>(codes))] {
                    if let Some(out) = left.out(r, ldc) {
                        _mm_storeu_si128(out.cast(), codes);
                    }
                }
            }
        }
        for col in (whole..block.cols).step_by(COLUMNS) {
            let piece = Piece::new(block, ends, col);
            for r in (0..block.rows).step_by(4) {
                if piece.left >= COLUMNS {
                    piece.four::<ADD, TERMS, SIGNED, true>(r, ldc);
                } else {
                    piece.four::<ADD, TERMS, SIGNED, false>(r, ldc);
                }
            }
        }
    }
}

/// Up to 8 columns of a tile.
struct Piece<'a> {
    block: &'a Block<'a>,
    ends: &'a RawCodes,
    col: usize,
    multiplier: __m256,
    /// Columns that there are from `col` on.
    left: usize,
}

impl<'a> Piece<'a> {
    /// # Safety
    /// As [`rows`]; `col` is one of the tile.
    #[inline(always)]
    unsafe fn new(block: &'a Block<'a>, ends: &'a RawCodes, col: usize) -> Self {
        // SAFETY: whole registers may be read of the tile's columns.
        let multiplier = unsafe { _mm256_loadu_ps(block.columns.multiplier.as_ptr().add(col)) };
        Self { block, ends, col, multiplier, left: block.cols - col }
    }

    /// Where the codes of a row go, if anywhere.
    ///
    /// # Safety
    /// As [`rows`].
    #[inline(always)]
    unsafe fn out(&self, r: usize, ldc: usize) -> Option<*mut u8> {
        // SAFETY: rows and columns lie inside those that the epilogue was checked for.
        unsafe {
            let pixel = *self.block.pixels.add(r);
            (pixel != NO_ROW).then(|| self.ends.out.wrapping_add(pixel * ldc + self.block.first + self.col))
        }
    }

    /// Ends the four rows from `r` on.
    ///
    /// # Safety
    /// As [`rows`]; the columns are all there if `FULL`.
    #[inline(always)]
    unsafe fn four<const ADD: bool, const TERMS: bool, const SIGNED: bool, const FULL: bool>(
        &self,
        r: usize,
        ldc: usize,
    ) {
        let last = self.block.rows - 1;
        let [a, b, c, d] = [r, last.min(r + 1), last.min(r + 2), last.min(r + 3)];
        // SAFETY: columns past the last are not stored; the sums of rows in vain are there, too.
        unsafe {
            let codes = self.codes::<SIGNED>([
                self.rounded::<ADD, TERMS, FULL>(a),
                self.rounded::<ADD, TERMS, FULL>(b),
                self.rounded::<ADD, TERMS, FULL>(c),
                self.rounded::<ADD, TERMS, FULL>(d),
            ]);
            let (ab, cd) = (_mm256_castsi256_si128(codes), _mm256_extracti128_si256::<1>(codes));
            let (b_codes, d_codes) = (_mm_unpackhi_epi64(ab, ab), _mm_unpackhi_epi64(cd, cd));
            for (r, codes) in [(a, ab), (b, b_codes), (c, cd), (d, d_codes)] {
                let Some(out) = self.out(r, ldc) else { continue };
                if FULL {
                    _mm_storel_epi64(out.cast(), codes);
                } else {
                    let mut last = [0_u8; COLUMNS];
                    _mm_storel_epi64(last.as_mut_ptr().cast(), codes);
                    std::ptr::copy_nonoverlapping(last.as_ptr(), out, self.left);
                }
            }
        }
    }

    /// The codes of four registers of rounded sums.
    ///
    /// # Safety
    /// As [`rows`].
    #[inline(always)]
    unsafe fn codes<const SIGNED: bool>(&self, [a, b, c, d]: [__m256i; 4]) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let zero_point = _mm256_set1_epi16(self.ends.zero_point as i16);
            let ab = _mm256_adds_epi16(_mm256_packs_epi32(a, b), zero_point);
            let cd = _mm256_adds_epi16(_mm256_packs_epi32(c, d), zero_point);
            let qmin = _mm256_set1_epi8(self.ends.qmin as i8);
            let codes = if SIGNED {
                _mm256_max_epi8(_mm256_packs_epi16(ab, cd), qmin)
            } else {
                _mm256_max_epu8(_mm256_packus_epi16(ab, cd), qmin)
            };
            // Packs work within 128 bits: each half has 4 codes of each register.
            _mm256_permutevar8x32_epi32(codes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        }
    }

    /// The centred codes of a row's 8 columns, not yet clamped from below.
    ///
    /// # Safety
    /// As [`Piece::four`].
    #[inline(always)]
    unsafe fn rounded<const ADD: bool, const TERMS: bool, const FULL: bool>(&self, r: usize) -> __m256i {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        let (block, ends, col) = (self.block, self.ends, self.col);
        // SAFETY: whole registers may be read of the tile and its columns; columns past the last are not loaded from a
        // residual.
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
            let x = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), self.multiplier);
            let Some(add) = ends.add.as_ref().filter(|_| ADD) else {
                return _mm256_cvtps_epi32(_mm256_min_ps(x, _mm256_set1_ps(ends.hi)));
            };
            let mut last = [0_u8; COLUMNS];
            let mut residual = last.as_ptr();
            let pixel = *block.pixels.add(r);
            if pixel != NO_ROW {
                let from = add.codes.add(pixel * add.ld + block.first + col);
                if FULL {
                    residual = from;
                } else {
                    std::ptr::copy_nonoverlapping(from, last.as_mut_ptr(), self.left);
                    residual = last.as_ptr();
                }
            }
            let x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(ends.lo)), _mm256_set1_ps(ends.hi));
            let code = _mm256_round_ps::<NEAREST>(x);
            let other = load_code::<Avx2>(residual, add.signed);
            let other = Avx2::add(other, _mm256_set1_epi32(add.neg_zero_point));
            let sum = _mm256_add_ps(
                _mm256_mul_ps(code, _mm256_set1_ps(add.sum_multiplier)),
                _mm256_mul_ps(_mm256_cvtepi32_ps(other), _mm256_set1_ps(add.multiplier)),
            );
            _mm256_cvtps_epi32(_mm256_min_ps(sum, _mm256_set1_ps(add.hi)))
        }
    }
}
