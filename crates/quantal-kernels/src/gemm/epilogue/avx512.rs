//! Codes on AVX-512, four registers of sums to one of bytes: after a tile of AMX or VNNI the end of its sums is the
//! larger part of the work wherever K is small.
//!
//! What the generic end clamps in float and adds as i32, this leaves to saturating packs where the result is the same:
//! `clamp(rne(x) + z, qmin, qmax)`, with the sum in an i16 that has room for both ends. So `x` must fit an i32, which
//! multipliers below 1 see to.

use std::arch::x86_64::{
    __m512, __m512i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm256_castsi256_si128, _mm256_extracti128_si256,
    _mm256_loadu_si256, _mm256_mask_storeu_epi8, _mm256_maskz_loadu_epi8, _mm256_storeu_si256, _mm512_add_epi32,
    _mm512_add_ps, _mm512_adds_epi16, _mm512_castsi256_si512, _mm512_castsi512_ps, _mm512_castsi512_si256,
    _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtps_epi32, _mm512_extracti64x4_epi64,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_blend_epi8, _mm512_mask_permutexvar_epi8, _mm512_max_epi8,
    _mm512_max_epu8, _mm512_max_ps, _mm512_min_epi8, _mm512_min_epu8, _mm512_min_ps, _mm512_movepi8_mask,
    _mm512_mul_ps, _mm512_mullo_epi32, _mm512_packs_epi16, _mm512_packs_epi32, _mm512_packus_epi16,
    _mm512_permutex2var_epi8, _mm512_permutexvar_epi32, _mm512_roundscale_ps, _mm512_set1_epi8, _mm512_set1_epi16,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32, _mm512_sub_ps,
};

use super::{Block, NO_ROW, RawCodes, RawEpilogue, RawOut};
use crate::{Isa, Level};

/// Columns that two registers hold, of which four are packed together.
const COLUMNS: usize = 32;
/// Most rows of a tile; blocks of more are left to the generic way.
const MAX_ROWS: usize = 64;
/// The rows of a tile of which all are wanted.
static ALL_ROWS: [u16; MAX_ROWS + ROWS] = {
    let mut rows = [0; MAX_ROWS + ROWS];
    let mut r = 0;
    while r < MAX_ROWS {
        rows[r] = r as u16;
        r += 1;
    }
    rows
};

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
    let RawOut::Codes(codes) = &epilogue.out else { return false };
    if block.rows > MAX_ROWS || !codes.packs || (!codes.table.is_null() && !bytes_permute) {
        return false;
    }
    // SAFETY: the features are those of the level; the rest is the caller's promise.
    unsafe {
        match &codes.add {
            None => with_residual::<NO_RESIDUAL>(bytes_permute, block, codes, epilogue.ldc),
            Some(add) if add.signed => with_residual::<SIGNED>(bytes_permute, block, codes, epilogue.ldc),
            Some(_) => with_residual::<UNSIGNED>(bytes_permute, block, codes, epilogue.ldc),
        }
    }
    true
}

/// # Safety
/// As [`finish`], on a CPU with AVX-512 VBMI if `bytes_permute`.
unsafe fn with_residual<const RESIDUAL: u8>(bytes_permute: bool, block: &Block, ends: &RawCodes, ldc: usize) {
    // SAFETY: handed on.
    unsafe {
        match (bytes_permute, block.row_terms.is_null(), block.summed) {
            (false, true, true) => plain::<RESIDUAL, SUMS>(block, ends, ldc),
            (false, true, false) => plain::<RESIDUAL, COLUMN_TERMS>(block, ends, ldc),
            (false, false, _) => plain::<RESIDUAL, ALL_TERMS>(block, ends, ldc),
            (true, true, true) => permuting::<RESIDUAL, SUMS>(block, ends, ldc),
            (true, true, false) => permuting::<RESIDUAL, COLUMN_TERMS>(block, ends, ldc),
            (true, false, _) => permuting::<RESIDUAL, ALL_TERMS>(block, ends, ldc),
        }
    }
}

/// The codes of a residual, for loops of their own: what a loop does not need must not cost it.
const NO_RESIDUAL: u8 = 0;
const UNSIGNED: u8 = 1;
const SIGNED: u8 = 2;

/// What is left to be added to the sums: nothing, what their columns add, or what columns and rows add.
const SUMS: u8 = 0;
const COLUMN_TERMS: u8 = 1;
const ALL_TERMS: u8 = 2;

/// # Safety
/// As [`finish`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn plain<const RESIDUAL: u8, const TERMS: u8>(block: &Block, ends: &RawCodes, ldc: usize) {
    // SAFETY: handed on.
    unsafe { rows::<RESIDUAL, TERMS, false>(block, ends, ldc) }
}

/// # Safety
/// As [`finish`], on a CPU with AVX-512 VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
unsafe fn permuting<const RESIDUAL: u8, const TERMS: u8>(block: &Block, ends: &RawCodes, ldc: usize) {
    // SAFETY: handed on.
    unsafe { rows::<RESIDUAL, TERMS, true>(block, ends, ldc) }
}

/// Rows that are ended together: eight registers of sums hide the latency of each step.
const ROWS: usize = 4;

/// Pieces of four rows at a time, of 32 columns each.
///
/// # Safety
/// As [`finish`]; inlined into code with its features.
#[inline(always)]
unsafe fn rows<const RESIDUAL: u8, const TERMS: u8, const VBMI: bool>(block: &Block, ends: &RawCodes, ldc: usize) {
    // SAFETY: the caller's promise, as each step says; no more rows are taken than were listed.
    unsafe {
        let mut complete = block.rows.is_multiple_of(ROWS);
        for r in 0..block.rows {
            complete &= *block.pixels.add(r) != NO_ROW;
        }
        let mut some = [0; MAX_ROWS + ROWS];
        let (wanted, count) = if complete {
            (&ALL_ROWS, block.rows)
        } else {
            let count = wanted_rows(block, &mut some);
            (&some, count)
        };
        let splats = Splats::new(ends, VBMI && RESIDUAL == UNSIGNED);
        for col in (0..block.cols).step_by(COLUMNS) {
            let left = block.cols - col;
            let multipliers = block.columns.multiplier.as_ptr().add(col);
            let multipliers = [_mm512_loadu_ps(multipliers), _mm512_loadu_ps(multipliers.add(16))];
            let mut piece = Piece { block, ends, ldc, splats, col, multipliers, mask: u32::MAX };
            if left < COLUMNS {
                piece.mask = (1_u32 << left) - 1;
            }
            for i in (0..count).step_by(ROWS) {
                let rows = wanted.as_ptr().add(i).cast::<[u16; ROWS]>().read();
                if left >= COLUMNS {
                    piece.end::<RESIDUAL, TERMS, VBMI, true>(rows.map(usize::from));
                } else {
                    piece.end::<RESIDUAL, TERMS, VBMI, false>(rows.map(usize::from));
                }
            }
        }
    }
}

/// Lists the rows of a block that are wanted, and the last one again, so that they come in fours: gives their number
/// without that.
///
/// # Safety
/// As [`finish`]; the block has at most [`MAX_ROWS`] rows.
unsafe fn wanted_rows(block: &Block, rows: &mut [u16; MAX_ROWS + ROWS]) -> usize {
    let mut count = 0;
    for r in 0..block.rows {
        rows[count] = r as u16;
        // SAFETY: a block has a pixel for each row.
        count += usize::from(unsafe { *block.pixels.add(r) } != NO_ROW);
    }
    if count > 0 {
        let last = rows[count - 1];
        rows[count..count + ROWS].fill(last);
    }
    count
}

/// What all columns share, each in a register over the whole tile.
#[derive(Clone, Copy)]
struct Splats {
    lo: __m512,
    hi: __m512,
    zero_point: __m512i,
    qmin: __m512i,
    qmax: __m512i,
    /// Which byte of a residual goes into each lane of two registers.
    lanes: [__m512i; 2],
    /// Of the residual.
    add_zero_point: __m512,
    multiplier: __m512,
    sum_multiplier: __m512,
}

/// 2²³ as a float: with a code for its lowest byte, that and the code.
const MAGIC: i32 = 0x4b00_0000;
static LANES: [i32; 32] = {
    let mut lanes = [0; 32];
    let mut i = 0;
    while i < 32 {
        lanes[i] = i as i32;
        i += 1;
    }
    lanes
};

impl Splats {
    /// # Safety
    /// As [`rows`].
    #[inline(always)]
    unsafe fn new(ends: &RawCodes, magic: bool) -> Self {
        let add = ends.residual();
        let zero_point = (if magic { f32::from_bits(MAGIC as u32) } else { 0.0 }) - add.neg_zero_point as f32;
        // A compiler that knows them makes three instructions of the one permutation.
        let lanes = std::hint::black_box(&LANES).as_ptr();
        // SAFETY: `LANES` has two registers.
        unsafe {
            Self {
                lanes: [_mm512_loadu_si512(lanes.cast()), _mm512_loadu_si512(lanes.add(16).cast())],
                lo: _mm512_set1_ps(ends.lo),
                hi: _mm512_set1_ps(ends.hi),
                zero_point: _mm512_set1_epi16(ends.zero_point as i16),
                qmin: _mm512_set1_epi8(ends.qmin as i8),
                qmax: _mm512_set1_epi8(ends.qmax as i8),
                add_zero_point: _mm512_set1_ps(zero_point),
                multiplier: _mm512_set1_ps(add.multiplier),
                sum_multiplier: _mm512_set1_ps(add.sum_multiplier),
            }
        }
    }
}

/// Up to 32 columns of a tile.
struct Piece<'a> {
    block: &'a Block<'a>,
    ends: &'a RawCodes,
    /// Elements from one row of the output to the next.
    ldc: usize,
    splats: Splats,
    col: usize,
    multipliers: [__m512; 2],
    /// Columns that there are.
    mask: u32,
}

impl Piece<'_> {
    /// # Safety
    /// As [`rows`]; the rows are wanted, and the columns are all there if `FULL`.
    #[inline(always)]
    unsafe fn end<const RESIDUAL: u8, const TERMS: u8, const VBMI: bool, const FULL: bool>(&self, rows: [usize; ROWS]) {
        // Packs work within 128 bits: each has four codes of each of its registers.
        // SAFETY: rows and columns lie inside those that the epilogue was checked for, and columns past the last are
        // neither loaded from a residual nor stored.
        unsafe {
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let pixels = rows.map(|r| *self.block.pixels.add(r));
            let sums = self.codes::<RESIDUAL, TERMS, VBMI, FULL>(rows, pixels);
            let out = self.ends.out.add(self.block.first + self.col);
            for (i, [a, b, c, d]) in
                [[sums[0], sums[1], sums[2], sums[3]], [sums[4], sums[5], sums[6], sums[7]]].into_iter().enumerate()
            {
                let mut codes = _mm512_permutexvar_epi32(order, self.packed([a, b], [c, d]));
                if VBMI && !self.ends.table.is_null() {
                    codes = look_up(self.ends.table, codes);
                }
                let (low, high) = (_mm512_castsi512_si256(codes), _mm512_extracti64x4_epi64::<1>(codes));
                let (to_a, to_b) = (out.add(pixels[2 * i] * self.ldc), out.add(pixels[2 * i + 1] * self.ldc));
                if FULL {
                    _mm256_storeu_si256(to_a.cast(), low);
                    _mm256_storeu_si256(to_b.cast(), high);
                } else {
                    _mm256_mask_storeu_epi8(to_a.cast(), self.mask, low);
                    _mm256_mask_storeu_epi8(to_b.cast(), self.mask, high);
                }
            }
        }
    }

    /// Two rows of centred codes as bytes, clamped.
    ///
    /// # Safety
    /// As [`Piece::end`].
    #[inline(always)]
    unsafe fn packed(&self, [a, b]: [__m512i; 2], [c, d]: [__m512i; 2]) -> __m512i {
        let Splats { zero_point, qmin, qmax, .. } = self.splats;
        // SAFETY: registers only.
        unsafe {
            let ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero_point);
            let cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero_point);
            if self.ends.qmin < 0 {
                _mm512_min_epi8(_mm512_max_epi8(_mm512_packs_epi16(ab, cd), qmin), qmax)
            } else if (self.ends.qmin, self.ends.qmax) == (0, 255) {
                _mm512_packus_epi16(ab, cd)
            } else {
                _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(ab, cd), qmin), qmax)
            }
        }
    }

    /// The centred codes of 32 columns of four rows, not yet clamped. Each step is taken for all eight registers before
    /// the next one: a scheduler that sees chains one after the other waits for their latencies.
    ///
    /// # Safety
    /// As [`Piece::end`].
    #[inline(always)]
    unsafe fn codes<const RESIDUAL: u8, const TERMS: u8, const VBMI: bool, const FULL: bool>(
        &self,
        rows: [usize; ROWS],
        pixels: [usize; ROWS],
    ) -> [__m512i; 2 * ROWS] {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        let Splats { lo, hi, multiplier, sum_multiplier, .. } = self.splats;
        // SAFETY: handed on.
        unsafe {
            let mut x = [_mm512_set1_ps(0.0); 2 * ROWS];
            for (i, x) in x.iter_mut().enumerate() {
                *x = self.scaled::<TERMS, FULL>(rows[i / 2], i % 2);
            }
            if RESIDUAL != NO_RESIDUAL {
                for x in &mut x {
                    *x = _mm512_max_ps(*x, lo);
                }
                for x in &mut x {
                    *x = _mm512_min_ps(*x, hi);
                }
                for x in &mut x {
                    *x = _mm512_roundscale_ps::<NEAREST>(*x);
                }
                // No closures around intrinsics, here or below: one that is not inlined lacks the features.
                let mut others = [_mm512_set1_ps(0.0); 2 * ROWS];
                for (i, &at) in pixels.iter().enumerate() {
                    [others[2 * i], others[2 * i + 1]] = self.others::<RESIDUAL, VBMI, FULL>(at);
                }
                for x in &mut x {
                    *x = _mm512_mul_ps(*x, sum_multiplier);
                }
                for other in &mut others {
                    *other = _mm512_mul_ps(*other, multiplier);
                }
                for (x, other) in x.iter_mut().zip(others) {
                    *x = _mm512_add_ps(*x, other);
                }
            }
            let mut codes = [_mm512_set1_epi32(0); 2 * ROWS];
            for (code, x) in codes.iter_mut().zip(x) {
                *code = _mm512_cvtps_epi32(x);
            }
            codes
        }
    }

    /// The sums of 16 columns of a row times their multipliers.
    ///
    /// # Safety
    /// As [`Piece::end`].
    #[inline(always)]
    unsafe fn scaled<const TERMS: u8, const FULL: bool>(&self, r: usize, half: usize) -> __m512 {
        let (block, col) = (self.block, self.col + 16 * half);
        // SAFETY: whole registers may be read of the tile and its columns, where there is a column of theirs.
        unsafe {
            if !FULL && self.mask >> (16 * half) == 0 {
                return _mm512_set1_ps(0.0);
            }
            let mut sum = _mm512_loadu_si512(block.sums.add(r * block.ld + col).cast());
            if TERMS == COLUMN_TERMS || (TERMS == ALL_TERMS && !block.summed) {
                sum = _mm512_add_epi32(sum, _mm512_loadu_si512(block.columns.add.as_ptr().add(col).cast()));
            }
            if TERMS == ALL_TERMS {
                let factors = _mm512_loadu_si512(block.columns.neg_zero_point.as_ptr().add(col).cast());
                let term = _mm512_set1_epi32(*block.row_terms.add(r));
                sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(term, factors));
            }
            _mm512_mul_ps(_mm512_cvtepi32_ps(sum), self.multipliers[half])
        }
    }

    /// The centred codes of 32 columns of the residual.
    ///
    /// # Safety
    /// As [`Piece::end`]; there is a residual, of the signedness that `RESIDUAL` says.
    #[inline(always)]
    unsafe fn others<const RESIDUAL: u8, const VBMI: bool, const FULL: bool>(&self, pixel: usize) -> [__m512; 2] {
        let add = self.ends.residual();
        // SAFETY: only those columns are loaded that there are.
        unsafe {
            let from = add.codes.add(pixel * add.ld + self.block.first + self.col);
            let bytes =
                if FULL { _mm256_loadu_si256(from.cast()) } else { _mm256_maskz_loadu_epi8(self.mask, from.cast()) };
            let floats = if VBMI && RESIDUAL == UNSIGNED {
                // A byte for the lowest of each 2²³.
                const LOWEST: u64 = 0x1111_1111_1111_1111;
                let (bytes, magic, [first, second]) =
                    (_mm512_castsi256_si512(bytes), _mm512_set1_epi32(MAGIC), self.splats.lanes);
                [
                    _mm512_castsi512_ps(_mm512_mask_permutexvar_epi8(magic, LOWEST, first, bytes)),
                    _mm512_castsi512_ps(_mm512_mask_permutexvar_epi8(magic, LOWEST, second, bytes)),
                ]
            } else {
                let (low, high) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
                let wide = if RESIDUAL == SIGNED {
                    [_mm512_cvtepi8_epi32(low), _mm512_cvtepi8_epi32(high)]
                } else {
                    [_mm512_cvtepu8_epi32(low), _mm512_cvtepu8_epi32(high)]
                };
                [_mm512_cvtepi32_ps(wide[0]), _mm512_cvtepi32_ps(wide[1])]
            };
            let zero_point = self.splats.add_zero_point;
            [_mm512_sub_ps(floats[0], zero_point), _mm512_sub_ps(floats[1], zero_point)]
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
