//! Codes on AVX-512, four registers of sums to one of bytes: after a tile of AMX or VNNI the end of its sums is the
//! larger part of the work wherever K is small.
//!
//! What the generic end clamps in float and adds as i32, this leaves to saturating packs where the result is the same:
//! `max(rne(min(x, hi)) + z, qmin)`, with the sum in an i16 that has room for both ends.

use std::arch::x86_64::{
    __m512, __m512i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm_loadu_si128, _mm_maskz_loadu_epi8,
    _mm_set1_epi8, _mm_xor_si128, _mm256_mask_storeu_epi8, _mm256_storeu_si256, _mm512_add_epi32, _mm512_add_ps,
    _mm512_adds_epi16, _mm512_castsi512_si256, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtps_epi32,
    _mm512_extracti64x4_epi64, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_blend_epi8, _mm512_max_epi8,
    _mm512_max_epu8, _mm512_max_ps, _mm512_min_ps, _mm512_movepi8_mask, _mm512_mul_ps, _mm512_mullo_epi32,
    _mm512_packs_epi16, _mm512_packs_epi32, _mm512_packus_epi16, _mm512_permutex2var_epi8, _mm512_permutexvar_epi32,
    _mm512_roundscale_ps, _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32,
};

use super::{Block, NO_ROW, RawEpilogue, RawOut, RawResidual};
use crate::{Isa, Level};

/// Columns that two registers hold, of which four are packed together.
const COLUMNS: usize = 32;
/// Most rows of a tile; blocks of more are left to the generic way.
const MAX_ROWS: usize = 64;
/// The rows of a tile of which all are wanted.
static ALL_ROWS: [u16; MAX_ROWS + 1] = {
    let mut rows = [0; MAX_ROWS + 1];
    let mut r = 0;
    while r < MAX_ROWS {
        rows[r] = r as u16;
        r += 1;
    }
    rows
};

/// What a body needs of an epilogue.
struct Ends<'a> {
    lo: f32,
    hi: f32,
    zero_point: i32,
    qmin: i32,
    /// Only with a residual.
    add: Option<&'a RawResidual>,
    table: *const u8,
    out: *mut u8,
}

/// Ends a tile, if this is the way to do it; false if the generic way is left to be gone.
///
/// # Safety
/// As [`super::finish`], on a CPU with `isa`.
pub(super) unsafe fn finish(isa: Isa, block: &Block, epilogue: &RawEpilogue) -> bool {
    let bytes_permute = match isa.level() {
        Level::Amx => true,
        Level::Avx512Vnni => false,
        Level::Portable | Level::Avx2 | Level::AvxVnni | Level::Neon | Level::NeonDot => return false,
    };
    let RawOut::Codes { zero_point, lo, hi, ref add, table, out, packs } = epilogue.out else { return false };
    if block.rows > MAX_ROWS || !packs || (!table.is_null() && !bytes_permute) {
        return false;
    }
    let add = add.as_ref();
    let qmin = add.map_or(lo, |add| add.lo) as i32 + zero_point;
    let ends = Ends { lo, hi, zero_point, qmin, add, table, out };
    let ldc = epilogue.ldc;
    // SAFETY: the features are those of the level; the rest is the caller's promise.
    unsafe {
        match (add.is_some(), !block.row_terms.is_null(), !table.is_null()) {
            (false, false, false) => plain::<false, false>(block, &ends, ldc),
            (true, false, false) => plain::<true, false>(block, &ends, ldc),
            (false, true, false) => plain::<false, true>(block, &ends, ldc),
            (true, true, false) => plain::<true, true>(block, &ends, ldc),
            (false, false, true) => tabled::<false, false>(block, &ends, ldc),
            (true, false, true) => tabled::<true, false>(block, &ends, ldc),
            (false, true, true) => tabled::<false, true>(block, &ends, ldc),
            (true, true, true) => tabled::<true, true>(block, &ends, ldc),
        }
    }
    true
}

/// # Safety
/// As [`finish`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn plain<const ADD: bool, const TERMS: bool>(block: &Block, ends: &Ends, ldc: usize) {
    // SAFETY: handed on.
    unsafe {
        if ends.qmin < 0 {
            rows::<ADD, TERMS, false, true>(block, ends, ldc);
        } else {
            rows::<ADD, TERMS, false, false>(block, ends, ldc);
        }
    }
}

/// # Safety
/// As [`finish`], on a CPU with AVX-512 VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
unsafe fn tabled<const ADD: bool, const TERMS: bool>(block: &Block, ends: &Ends, ldc: usize) {
    // SAFETY: handed on.
    unsafe {
        if ends.qmin < 0 {
            rows::<ADD, TERMS, true, true>(block, ends, ldc);
        } else {
            rows::<ADD, TERMS, true, false>(block, ends, ldc);
        }
    }
}

/// Two pieces of rows at a time, of 32 columns each.
///
/// # Safety
/// As [`finish`]; inlined into code with its features.
#[inline(always)]
unsafe fn rows<const ADD: bool, const TERMS: bool, const TABLE: bool, const SIGNED: bool>(
    block: &Block,
    ends: &Ends,
    ldc: usize,
) {
    // SAFETY: the caller's promise, as each step says; no more pairs are taken than were listed.
    unsafe {
        let mut complete = block.rows.is_multiple_of(2);
        for r in 0..block.rows {
            complete &= *block.pixels.add(r) != NO_ROW;
        }
        let mut some = [0; MAX_ROWS + 1];
        let (wanted, pairs) = if complete {
            (&ALL_ROWS, block.rows / 2)
        } else {
            let pairs = wanted_rows(block, &mut some);
            (&some, pairs)
        };
        for col in (0..block.cols).step_by(COLUMNS) {
            let left = block.cols - col;
            let multipliers = block.columns.multiplier.as_ptr().add(col);
            let multipliers = [_mm512_loadu_ps(multipliers), _mm512_loadu_ps(multipliers.add(16))];
            let mut piece = Piece { block, ends, col, multipliers, mask: u32::MAX };
            if left >= COLUMNS {
                for i in 0..pairs {
                    let pair = [*wanted.get_unchecked(2 * i), *wanted.get_unchecked(2 * i + 1)];
                    piece.pair::<ADD, TERMS, TABLE, SIGNED, true>(pair, ldc);
                }
            } else {
                piece.mask = (1_u32 << left) - 1;
                for i in 0..pairs {
                    let pair = [*wanted.get_unchecked(2 * i), *wanted.get_unchecked(2 * i + 1)];
                    piece.pair::<ADD, TERMS, TABLE, SIGNED, false>(pair, ldc);
                }
            }
        }
    }
}

/// Lists the rows of a block that are wanted, and the last one again, so that they come in pairs: gives the pairs.
///
/// # Safety
/// As [`finish`]; the block has at most [`MAX_ROWS`] rows.
unsafe fn wanted_rows(block: &Block, rows: &mut [u16; MAX_ROWS + 1]) -> usize {
    let mut count = 0;
    for r in 0..block.rows {
        rows[count] = r as u16;
        // SAFETY: a block has a pixel for each row.
        count += usize::from(unsafe { *block.pixels.add(r) } != NO_ROW);
    }
    if count > 0 {
        rows[count] = rows[count - 1];
    }
    count.div_ceil(2)
}

/// Up to 32 columns of a tile.
struct Piece<'a> {
    block: &'a Block<'a>,
    ends: &'a Ends<'a>,
    col: usize,
    multipliers: [__m512; 2],
    /// Columns that there are.
    mask: u32,
}

impl Piece<'_> {
    /// # Safety
    /// As [`rows`]; the rows are wanted, and the columns are all there if `FULL`.
    #[inline(always)]
    unsafe fn pair<const ADD: bool, const TERMS: bool, const TABLE: bool, const SIGNED: bool, const FULL: bool>(
        &self,
        rows: [u16; 2],
        ldc: usize,
    ) {
        // SAFETY: rows and columns lie inside those that the epilogue was checked for, and columns past the last are
        // neither loaded from a residual nor stored.
        unsafe {
            let (r, s) = (usize::from(rows[0]), usize::from(rows[1]));
            let (at, bt) = (*self.block.pixels.add(r), *self.block.pixels.add(s));
            let (a, b) = (self.half::<ADD, TERMS, FULL>(r, at, 0), self.half::<ADD, TERMS, FULL>(r, at, 1));
            let (c, d) = (self.half::<ADD, TERMS, FULL>(s, bt, 0), self.half::<ADD, TERMS, FULL>(s, bt, 1));
            let zero_point = _mm512_set1_epi16(self.ends.zero_point as i16);
            let ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero_point);
            let cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero_point);
            // Packs work within 128 bits: each has four codes of a, of b, of c and of d.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let qmin = _mm512_set1_epi8(self.ends.qmin as i8);
            let codes = if SIGNED {
                _mm512_max_epi8(_mm512_packs_epi16(ab, cd), qmin)
            } else {
                _mm512_max_epu8(_mm512_packus_epi16(ab, cd), qmin)
            };
            let mut codes = _mm512_permutexvar_epi32(order, codes);
            if TABLE {
                codes = look_up(self.ends.table, codes);
            }
            let (low, high) = (_mm512_castsi512_si256(codes), _mm512_extracti64x4_epi64::<1>(codes));
            let out = self.ends.out.add(self.block.first + self.col);
            if FULL {
                _mm256_storeu_si256(out.add(at * ldc).cast(), low);
                _mm256_storeu_si256(out.add(bt * ldc).cast(), high);
            } else {
                _mm256_mask_storeu_epi8(out.add(at * ldc).cast(), self.mask, low);
                _mm256_mask_storeu_epi8(out.add(bt * ldc).cast(), self.mask, high);
            }
        }
    }

    /// The centred codes of 16 columns of a row, not yet clamped from below.
    ///
    /// # Safety
    /// As [`Piece::pair`].
    #[inline(always)]
    unsafe fn half<const ADD: bool, const TERMS: bool, const FULL: bool>(
        &self,
        r: usize,
        pixel: usize,
        half: usize,
    ) -> __m512i {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        let (block, ends, col) = (self.block, self.ends, self.col + 16 * half);
        // SAFETY: whole registers may be read of the tile and its columns, where there is a column of theirs; of a
        // residual only what there is.
        unsafe {
            if !FULL && self.mask >> (16 * half) == 0 {
                return _mm512_set1_epi32(0);
            }
            let mut sum = _mm512_loadu_si512(block.sums.add(r * block.ld + col).cast());
            if !block.summed {
                sum = _mm512_add_epi32(sum, _mm512_loadu_si512(block.columns.add.as_ptr().add(col).cast()));
            }
            if TERMS {
                let factors = _mm512_loadu_si512(block.columns.neg_zero_point.as_ptr().add(col).cast());
                let term = _mm512_set1_epi32(*block.row_terms.add(r));
                sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(term, factors));
            }
            let x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), self.multipliers[half]);
            let Some(add) = ends.add.filter(|_| ADD) else {
                return _mm512_cvtps_epi32(_mm512_min_ps(x, _mm512_set1_ps(ends.hi)));
            };
            let x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(ends.lo)), _mm512_set1_ps(ends.hi));
            let code = _mm512_roundscale_ps::<NEAREST>(x);
            let from = add.codes.add(pixel * add.ld + block.first + col);
            let bytes = if FULL {
                _mm_loadu_si128(from.cast())
            } else {
                _mm_maskz_loadu_epi8((self.mask >> (16 * half)) as u16, from.cast())
            };
            // s8 as u8 that is 128 larger.
            let (flip, shift) = if add.signed { (-128, -128) } else { (0, 0) };
            let other = _mm512_cvtepu8_epi32(_mm_xor_si128(bytes, _mm_set1_epi8(flip)));
            let other = _mm512_add_epi32(other, _mm512_set1_epi32(add.neg_zero_point + shift));
            let sum = _mm512_add_ps(
                _mm512_mul_ps(code, _mm512_set1_ps(add.sum_multiplier)),
                _mm512_mul_ps(_mm512_cvtepi32_ps(other), _mm512_set1_ps(add.multiplier)),
            );
            _mm512_cvtps_epi32(_mm512_min_ps(sum, _mm512_set1_ps(add.hi)))
        }
    }
}

/// # Safety
/// `table` has 256 bytes; the caller is compiled for AVX-512 VBMI, and the CPU has it.
#[inline(always)]
unsafe fn look_up(table: *const u8, codes: __m512i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let (first, second) = (_mm512_loadu_si512(table.cast()), _mm512_loadu_si512(table.add(64).cast()));
        let (third, fourth) = (_mm512_loadu_si512(table.add(128).cast()), _mm512_loadu_si512(table.add(192).cast()));
        let low = _mm512_permutex2var_epi8(first, codes, second);
        let high = _mm512_permutex2var_epi8(third, codes, fourth);
        _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high)
    }
}
