//! What becomes of an accumulator: a code, a float or itself.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::Isa;
use crate::error::{KernelError, check_length};
use crate::kernel::MAX_NR;
use crate::simd::{Simd, isa_fn, load_code};

/// What becomes of the accumulators of an output `[m, n]` whose rows are `ldc` elements apart. Each has the bias of its
/// column added first (wrapping, as the sum itself).
pub enum Epilogue<'a> {
    /// Codes by equation (3) of `arith`, with the residual of (4) and a table of (6) if asked for.
    Codes {
        /// `[n]` in units of the accumulator, or none.
        bias: Option<&'a [i32]>,
        /// `s_x · s_w / s_y`, `[1]` or `[n]`, finite.
        multiplier: &'a [f32],
        /// Zero point of the codes.
        zero_point: i32,
        /// Smallest code, at least −128.
        qmin: i32,
        /// Largest code, at most 255.
        qmax: i32,
        /// Another tensor that is added to the codes.
        add: Option<Residual<'a>>,
        /// A function of the final byte.
        table: Option<&'a [u8; 256]>,
        /// The bytes of the codes.
        out: &'a mut [u8],
        /// Elements from one row to the next.
        ldc: usize,
    },
    /// `f32(acc) · scale`, plus a float bias.
    F32 {
        /// `[n]` in units of the accumulator, or none.
        bias: Option<&'a [i32]>,
        /// `s_x · s_w`, `[1]` or `[n]`.
        scale: &'a [f32],
        /// `[n]`, added last, or none.
        bias_f32: Option<&'a [f32]>,
        /// The floats.
        out: &'a mut [f32],
        /// Elements from one row to the next.
        ldc: usize,
    },
    /// The accumulators.
    I32 {
        /// `[n]`, or none.
        bias: Option<&'a [i32]>,
        /// The accumulators.
        out: &'a mut [i32],
        /// Elements from one row to the next.
        ldc: usize,
    },
}

/// A tensor of codes that is added, by equation (4), to the codes that a sum was rounded to: with `c` the code by (3),
/// `y = clamp(rne((c − z_c) · m_c + (r − z_r) · m_r) + z_y)`.
#[derive(Clone, Copy)]
pub struct Residual<'a> {
    /// The codes `r`, shaped as the output; none if they lie in the output, and are written over.
    pub codes: Option<&'a [u8]>,
    /// Whether they are s8.
    pub signed: bool,
    /// Elements from one row to the next; in the output those of the output.
    pub ld: usize,
    /// `z_r`.
    pub zero_point: i32,
    /// `m_r = s_r / s_y`.
    pub multiplier: f32,
    /// `m_c = s_c / s_y`.
    pub sum_multiplier: f32,
    /// `z_y`.
    pub out_zero_point: i32,
    /// Smallest code of the sum.
    pub qmin: i32,
    /// Largest code of the sum.
    pub qmax: i32,
}

/// An [`Epilogue`] with its bounds checked and its borrows forgotten, to be shared by tasks that write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct RawEpilogue {
    bias: *const i32,
    multiplier: *const f32,
    /// 0 if one multiplier serves all columns.
    multiplier_step: usize,
    bias_f32: *const f32,
    ldc: usize,
    out: RawOut,
    /// Rows and columns that all of the above, and a residual, were checked for.
    rows: usize,
    n: usize,
    /// Elements of the output from where it begins.
    len: usize,
}

#[derive(Clone, Copy)]
enum RawOut {
    Codes(RawCodes),
    F32(*mut f32),
    I32(*mut i32),
}

/// [`Epilogue::Codes`]. It is read where it lies: to copy it would cost as much as to end a small tile.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only x86 packs four registers"))]
struct RawCodes {
    /// Of the codes that are written.
    zero_point: i32,
    /// The ends of the codes that a sum is rounded to, as distances from their zero point.
    lo: f32,
    hi: f32,
    add: Option<RawResidual>,
    /// The ends of the codes that are written.
    qmin: i32,
    qmax: i32,
    /// Whether saturating packs may end them.
    packs: bool,
    table: *const u8,
    out: *mut u8,
}

/// A [`Residual`]. Its codes may be those of the output: an end reads each before it writes there, and never after.
#[derive(Clone, Copy)]
struct RawResidual {
    codes: *const u8,
    signed: bool,
    ld: usize,
    neg_zero_point: i32,
    multiplier: f32,
    sum_multiplier: f32,
    lo: f32,
    hi: f32,
}

impl RawCodes {
    /// The residual, or one that is not to be read.
    fn residual(&self) -> &RawResidual {
        const NONE: &RawResidual = &RawResidual {
            codes: std::ptr::null(),
            signed: false,
            ld: 0,
            neg_zero_point: 0,
            multiplier: 0.0,
            sum_multiplier: 0.0,
            lo: 0.0,
            hi: 0.0,
        };
        self.add.as_ref().unwrap_or(NONE)
    }
}

// SAFETY: the pointers come from borrows that outlive the call which shares them. `RawEpilogue` only reads through all of
// them but `out`, and each task writes rows or columns of `out` that no other task does; of a residual in the output it
// reads the codes that it is about to write over.
unsafe impl Send for RawEpilogue {}
// SAFETY: as for `Send`.
unsafe impl Sync for RawEpilogue {}

/// Ends of the range of codes, as distances from the zero point.
pub(crate) fn clamp_ends(zero_point: i32, qmin: i32, qmax: i32) -> Result<(f32, f32), KernelError> {
    if !(-128..=255).contains(&qmin) || !(qmin..=255).contains(&qmax) || !(-128..=255).contains(&zero_point) {
        return Err(KernelError::Geometry("a zero point or range of codes does not fit 8 bits"));
    }
    Ok(((qmin - zero_point) as f32, (qmax - zero_point) as f32))
}

/// Whether saturating packs end codes as the arithmetic does: the range is one of u8 or of s8, and every float that is
/// rounded fits an i32. A sum is at most 2³¹ and its multiplier less than 1; a code is at most 255 from its zero point,
/// that of a residual at most 510.
fn saturating_packs(qmin: i32, qmax: i32, multiplier: &[f32], add: Option<&RawResidual>) -> bool {
    const TAME: f32 = (1 << 21) as f32;
    let one_sign = qmin >= 0 || qmax <= 127;
    let tame = |add: &RawResidual| {
        add.neg_zero_point.abs() <= 255 && add.multiplier.abs() < TAME && add.sum_multiplier.abs() < TAME
    };
    // No `all`: a loop that may stop early takes them one by one.
    let small = multiplier.iter().fold(true, |small, m| small & (m.abs() < 1.0));
    one_sign && small && add.is_none_or(tame)
}

/// Elements that `rows` rows of `n`, `ld` apart, reach over.
pub(crate) fn extent(rows: usize, n: usize, ld: usize) -> usize {
    if rows == 0 || n == 0 { 0 } else { (rows - 1).saturating_mul(ld).saturating_add(n) }
}

impl RawEpilogue {
    /// Checks that every slice of `epilogue` holds what `rows` rows of `n` columns need.
    pub(crate) fn new(epilogue: Epilogue, rows: usize, n: usize) -> Result<Self, KernelError> {
        let check_bias = |bias: Option<&[i32]>| match bias {
            None => Ok(std::ptr::null()),
            Some(b) => check_length("the bias", b.len(), n).map(|()| b.as_ptr()),
        };
        let check_multiplier = |m: &[f32]| {
            let step = usize::from(m.len() != 1);
            check_length("the multiplier", m.len(), if step == 0 { 1 } else { n }).map(|()| (m.as_ptr(), step))
        };
        let check_ld = |ld: usize| {
            if rows > 1 && ld < n { Err(KernelError::Geometry("rows of the output overlap")) } else { Ok(()) }
        };
        match epilogue {
            Epilogue::Codes { bias, multiplier, zero_point, qmin, qmax, add, table, out, ldc } => {
                check_ld(ldc)?;
                let len = out.len();
                check_length("the output", len, extent(rows, n, ldc))?;
                let (lo, hi) = clamp_ends(zero_point, qmin, qmax)?;
                let multipliers = multiplier;
                let (multiplier, multiplier_step) = check_multiplier(multipliers)?;
                let out = out.as_mut_ptr();
                let (add, zero_point, qmin, qmax) = match add {
                    None => (None, zero_point, qmin, qmax),
                    Some(r) => {
                        if let Some(codes) = r.codes {
                            check_length("the residual", codes.len(), extent(rows, n, r.ld))?;
                        }
                        let (lo, hi) = clamp_ends(r.out_zero_point, r.qmin, r.qmax)?;
                        let (codes, ld) = r.codes.map_or((out.cast_const(), ldc), |codes| (codes.as_ptr(), r.ld));
                        let raw = RawResidual {
                            codes,
                            signed: r.signed,
                            ld,
                            neg_zero_point: -r.zero_point,
                            multiplier: r.multiplier,
                            sum_multiplier: r.sum_multiplier,
                            lo,
                            hi,
                        };
                        (Some(raw), r.out_zero_point, r.qmin, r.qmax)
                    }
                };
                let table = table.map_or(std::ptr::null(), |t| t.as_ptr());
                let packs = saturating_packs(qmin, qmax, multipliers, add.as_ref());
                let out = RawOut::Codes(RawCodes { zero_point, lo, hi, add, qmin, qmax, packs, table, out });
                let (bias, bias_f32) = (check_bias(bias)?, std::ptr::null());
                Ok(Self { bias, multiplier, multiplier_step, bias_f32, ldc, out, rows, n, len })
            }
            Epilogue::F32 { bias, scale, bias_f32, out, ldc } => {
                check_ld(ldc)?;
                let len = out.len();
                check_length("the output", len, extent(rows, n, ldc))?;
                let (multiplier, multiplier_step) = check_multiplier(scale)?;
                if let Some(b) = bias_f32 {
                    check_length("the float bias", b.len(), n)?;
                }
                let bias_f32 = bias_f32.map_or(std::ptr::null(), <[f32]>::as_ptr);
                let out = RawOut::F32(out.as_mut_ptr());
                let bias = check_bias(bias)?;
                Ok(Self { bias, multiplier, multiplier_step, bias_f32, ldc, out, rows, n, len })
            }
            Epilogue::I32 { bias, out, ldc } => {
                check_ld(ldc)?;
                let len = out.len();
                check_length("the output", len, extent(rows, n, ldc))?;
                let out = RawOut::I32(out.as_mut_ptr());
                let (bias, none) = (check_bias(bias)?, std::ptr::null());
                Ok(Self { bias, multiplier: none, multiplier_step: 0, bias_f32: none, ldc, out, rows, n, len })
            }
        }
    }
}

impl RawEpilogue {
    /// Asserts that rows below `rows` and columns below `n` are among those that it was checked for: once for each
    /// product, before the first of its tiles.
    pub(crate) fn assert_holds(&self, rows: usize, n: usize) {
        assert!(rows <= self.rows && n <= self.n, "{rows} × {n} of an output of {} × {}", self.rows, self.n);
    }

    /// The same, for an output that begins `offset` elements later.
    ///
    /// # Panics
    /// When its rows would then end outside of the slice.
    pub(crate) fn at(mut self, offset: usize) -> Self {
        let room = self.len.checked_sub(offset);
        let room = room.filter(|&len| extent(self.rows, self.n, self.ldc) <= len).expect("an output in its slice");
        self.len = room;

        match &mut self.out {
            RawOut::Codes(codes) => codes.out = codes.out.wrapping_add(offset),
            RawOut::F32(out) => *out = out.wrapping_add(offset),
            RawOut::I32(out) => *out = out.wrapping_add(offset),
        }
        self
    }
}

/// What the columns of one panel add and multiply by, padded so that whole registers may be read.
#[repr(align(64))]
pub(crate) struct Columns {
    /// What each sum has added: tiles may start from it.
    pub(crate) add: [i32; MAX_NR],
    multiplier: [f32; MAX_NR],
    bias_f32: [f32; MAX_NR],
    /// −z_b of each column; read only where rows have terms.
    neg_zero_point: [i32; MAX_NR],
}

impl Columns {
    /// Those of no panel yet.
    pub(crate) const NONE: Self =
        Self { add: [0; MAX_NR], multiplier: [0.0; MAX_NR], bias_f32: [0.0; MAX_NR], neg_zero_point: [0; MAX_NR] };

    /// Sets those of output columns `first..first + sums.len()`: the bias less `a_zero` times the column's sum, and the
    /// rest. What lies behind them stays.
    ///
    /// # Safety
    /// The columns lie inside the `n` that `epilogue` was checked for; `sums` has at most [`MAX_NR`].
    pub(crate) unsafe fn set(
        &mut self,
        epilogue: &RawEpilogue,
        first: usize,
        sums: &[i32],
        a_zero: i32,
        neg_zero_point: impl Fn(usize) -> i32,
    ) {
        debug_assert!(first + sums.len() <= epilogue.n, "columns of the output");
        // SAFETY: `first + j` is a checked column for each `j` below the number of sums, and a null or one-element array
        // is not indexed by it.
        unsafe {
            let adds = self.add.iter_mut().zip(sums);
            if epilogue.bias.is_null() {
                adds.for_each(|(add, sum)| *add = a_zero.wrapping_mul(*sum).wrapping_neg());
            } else {
                let bias = std::slice::from_raw_parts(epilogue.bias.add(first), sums.len());
                adds.zip(bias).for_each(|((add, sum), bias)| *add = bias.wrapping_sub(a_zero.wrapping_mul(*sum)));
            }
            if !epilogue.multiplier.is_null() {
                if epilogue.multiplier_step == 0 {
                    self.multiplier[..sums.len()].fill(*epilogue.multiplier);
                } else {
                    let multiplier = std::slice::from_raw_parts(epilogue.multiplier.add(first), sums.len());
                    self.multiplier[..sums.len()].copy_from_slice(multiplier);
                }
            }
            if !epilogue.bias_f32.is_null() {
                let bias = std::slice::from_raw_parts(epilogue.bias_f32.add(first), sums.len());
                self.bias_f32[..sums.len()].copy_from_slice(bias);
            }
        }
        for (j, z) in self.neg_zero_point[..sums.len()].iter_mut().enumerate() {
            *z = neg_zero_point(j);
        }
    }
}

/// A row of a tile that is computed in vain.
pub(crate) const NO_ROW: usize = usize::MAX;

/// One tile of accumulators and where it goes.
pub(crate) struct Block<'a> {
    /// `rows × ld` accumulators, readable in whole registers.
    pub(crate) sums: *const i32,
    pub(crate) ld: usize,
    /// Rows; one at least.
    pub(crate) rows: usize,
    /// Columns to write.
    pub(crate) cols: usize,
    /// Column of the output that the tile starts at.
    pub(crate) first: usize,
    pub(crate) columns: &'a Columns,
    /// Whether the accumulators hold what the columns add.
    pub(crate) summed: bool,
    /// Row of the output for each row of the tile, or [`NO_ROW`].
    pub(crate) pixels: *const usize,
    /// For each row the factor of the columns' `−z_b`, or null.
    pub(crate) row_terms: *const i32,
}

#[cfg(debug_assertions)]
impl Block<'_> {
    /// Asserts that its rows and columns are among those that `epilogue` was checked for.
    fn assert_in(&self, epilogue: &RawEpilogue) {
        epilogue.assert_holds(0, self.first + self.cols);
        for r in 0..self.rows {
            // SAFETY: a block has a pixel for each of its rows.
            let pixel = unsafe { *self.pixels.add(r) };
            assert!(pixel == NO_ROW || pixel < epilogue.rows, "row {pixel} of {}", epilogue.rows);
        }
    }
}

isa_fn! {
    /// The end for every instruction set.
    ///
    /// # Safety
    /// As [`finish`].
    unsafe fn finish_any(block: &Block, epilogue: &RawEpilogue) = finish_body
}

/// Ends the sums of one tile.
///
/// # Safety
/// `block`'s pointers hold what its fields say, and the rows and columns that it names lie inside those that `epilogue`
/// was checked for. Where a residual lies in the output, no row and column of it is ended twice.
pub(crate) unsafe fn finish(isa: Isa, block: &Block, epilogue: &RawEpilogue) {
    #[cfg(debug_assertions)]
    block.assert_in(epilogue);
    // SAFETY: handed on; an `Isa` is of this CPU.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if avx512::finish(isa, block, epilogue) || avx2::finish(isa, block, epilogue) {
            return;
        }
        finish_any(isa, block, epilogue);
    }
}

/// # Safety
/// As [`finish`] and [`Simd`].
#[inline(always)]
unsafe fn finish_body<S: Simd>(block: &Block, epilogue: &RawEpilogue) {
    // One loop for each combination that is often met: what a loop does not need must not cost it registers.
    // SAFETY: handed on.
    unsafe {
        match (&epilogue.out, block.row_terms.is_null()) {
            (RawOut::Codes(codes), summed) => match (&codes.add, summed) {
                (None, true) => finish_codes::<S, false, false>(block, codes, epilogue.ldc),
                (None, false) => finish_codes::<S, true, false>(block, codes, epilogue.ldc),
                (Some(_), true) => finish_codes::<S, false, true>(block, codes, epilogue.ldc),
                (Some(_), false) => finish_codes::<S, true, true>(block, codes, epilogue.ldc),
            },
            (RawOut::F32(out), _) => finish_floats::<S>(block, epilogue, *out),
            (RawOut::I32(out), _) => finish_sums::<S>(block, epilogue, *out),
        }
    }
}

/// # Safety
/// As [`finish`] and [`Simd`]; `codes` have a residual if `ADD`, and `block` has row terms if `TERMS`.
#[inline(always)]
unsafe fn finish_codes<S: Simd, const TERMS: bool, const ADD: bool>(block: &Block, codes: &RawCodes, ldc: usize) {
    let &RawCodes { zero_point, lo, hi, table, out, .. } = codes;
    let add = codes.residual();
    let &Block { cols, first, .. } = block;
    let whole = cols - cols % S::LANES;
    for r in 0..block.rows {
        // SAFETY: `finish`'s contract: whole registers may be read of the tile and its columns, also past `cols`;
        // outputs and residuals go through the stack where fewer than `LANES` columns are left.
        unsafe {
            let (lo, hi, zero_point) = (S::splat_f(lo), S::splat_f(hi), S::splat(zero_point));
            let pixel = *block.pixels.add(r);
            if pixel == NO_ROW {
                continue;
            }
            let out = out.add(pixel * ldc + first);
            let residual = add.codes.wrapping_add(pixel * add.ld + first);
            let multiplier = block.columns.multiplier.as_ptr();
            for col in (0..whole).step_by(S::LANES) {
                let scaled = S::mul_f(S::to_f(total::<S, TERMS>(block, r, col)), S::load_f(multiplier.add(col)));
                let mut code = S::clamp_round(scaled, lo, hi);
                if ADD {
                    code = add_residual::<S>(code, residual.add(col), add);
                }
                S::store_bytes(out.add(col), S::add(code, zero_point));
            }
            if whole < cols {
                let scaled = S::mul_f(S::to_f(total::<S, TERMS>(block, r, whole)), S::load_f(multiplier.add(whole)));
                let mut code = S::clamp_round(scaled, lo, hi);
                let mut last = [0; 16];
                if ADD {
                    std::ptr::copy_nonoverlapping(residual.add(whole), last.as_mut_ptr(), cols - whole);
                    code = add_residual::<S>(code, last.as_ptr(), add);
                }
                S::store_bytes(last.as_mut_ptr(), S::add(code, zero_point));
                std::ptr::copy_nonoverlapping(last.as_ptr(), out.add(whole), cols - whole);
            }
        }
    }
    if !table.is_null() {
        // SAFETY: these are the table and the bytes of `codes`, the bytes written above.
        unsafe { look_up::<S>(block, codes, ldc) }
    }
}

/// Puts the codes of a tile, just written, through their table.
///
/// # Safety
/// As [`finish`] and [`Simd`]; `codes` have a table.
#[inline(always)]
unsafe fn look_up<S: Simd>(block: &Block, codes: &RawCodes, ldc: usize) {
    // Only now: bytes that were just stored a few at a time cannot yet be loaded as one register.
    let mut r = 0;
    while r < block.rows {
        // SAFETY: the table has 256 entries, and the bytes of wanted rows are there.
        unsafe {
            let pixel = *block.pixels.add(r);
            if pixel == NO_ROW {
                r += 1;
                continue;
            }
            let run = (r..block.rows).take_while(|&i| *block.pixels.add(i) == pixel + (i - r)).count();
            let out = codes.out.add(pixel * ldc + block.first);
            S::look_up(&*codes.table.cast(), out, out, [run, block.cols, ldc]);
            r += run;
        }
    }
}

/// # Safety
/// As [`finish`] and [`Simd`]; `out` is that of `epilogue`.
#[inline(always)]
unsafe fn finish_floats<S: Simd>(block: &Block, epilogue: &RawEpilogue, out: *mut f32) {
    for r in 0..block.rows {
        // SAFETY: as in `finish_codes`.
        unsafe {
            let pixel = *block.pixels.add(r);
            if pixel == NO_ROW {
                continue;
            }
            let out = out.add(pixel * epilogue.ldc + block.first);
            for col in (0..block.cols).step_by(S::LANES) {
                let sum = any_total::<S>(block, r, col);
                let mut value = S::mul_f(S::to_f(sum), S::load_f(block.columns.multiplier.as_ptr().add(col)));
                if !epilogue.bias_f32.is_null() {
                    value = S::add_f(value, S::load_f(block.columns.bias_f32.as_ptr().add(col)));
                }
                store_tail!(S::LANES, f32, out.add(col), block.cols - col, |p| S::store_f(p, value));
            }
        }
    }
}

/// # Safety
/// As [`finish`] and [`Simd`]; `out` is that of `epilogue`.
#[inline(always)]
unsafe fn finish_sums<S: Simd>(block: &Block, epilogue: &RawEpilogue, out: *mut i32) {
    for r in 0..block.rows {
        // SAFETY: as in `finish_codes`.
        unsafe {
            let pixel = *block.pixels.add(r);
            if pixel == NO_ROW {
                continue;
            }
            let out = out.add(pixel * epilogue.ldc + block.first);
            for col in (0..block.cols).step_by(S::LANES) {
                let sum = any_total::<S>(block, r, col);
                store_tail!(S::LANES, i32, out.add(col), block.cols - col, |p| S::store(p, sum));
            }
        }
    }
}

/// # Safety
/// As [`total`].
#[inline(always)]
unsafe fn any_total<S: Simd>(block: &Block, r: usize, col: usize) -> S::I {
    // SAFETY: handed on.
    unsafe {
        if block.row_terms.is_null() { total::<S, false>(block, r, col) } else { total::<S, true>(block, r, col) }
    }
}

/// A register of sums with what their columns and, if `TERMS`, their row add.
///
/// # Safety
/// As [`finish`] and [`Simd`]; `r` and `col` are inside `block`, which has row terms if `TERMS`.
#[inline(always)]
unsafe fn total<S: Simd, const TERMS: bool>(block: &Block, r: usize, col: usize) -> S::I {
    // SAFETY: the caller's promise.
    unsafe {
        let columns = block.columns;
        let mut sum = S::load(block.sums.add(r * block.ld + col));
        if !block.summed {
            sum = S::add(sum, S::load(columns.add.as_ptr().add(col)));
        }
        if !TERMS {
            return sum;
        }
        let zero_points = S::load(columns.neg_zero_point.as_ptr().add(col));
        S::add(sum, S::mul(S::splat(*block.row_terms.add(r)), zero_points))
    }
}

/// Equation (4) for the centred codes of a sum and the codes at `from`.
///
/// # Safety
/// As [`Simd`]; `from` is valid for `LANES` bytes.
#[inline(always)]
unsafe fn add_residual<S: Simd>(code: S::I, from: *const u8, add: &RawResidual) -> S::I {
    // SAFETY: the caller's promise.
    unsafe {
        let other = S::add(load_code::<S>(from, add.signed), S::splat(add.neg_zero_point));
        let sum = S::add_f(
            S::mul_f(S::to_f(code), S::splat_f(add.sum_multiplier)),
            S::mul_f(S::to_f(other), S::splat_f(add.multiplier)),
        );
        S::clamp_round(S::zero_nan(sum), S::splat_f(add.lo), S::splat_f(add.hi))
    }
}

/// Stores a register of `LANES` elements, or the first `left` of it, at `to`. A macro, because a closure would not be
/// compiled with the instruction set of its surroundings. `to` must be valid for `min(left, LANES)` elements.
macro_rules! store_tail {
    ($lanes:expr, $ty:ty, $to:expr, $left:expr, |$p:ident| $store:expr) => {{
        let (to, mut last): (*mut $ty, _) = ($to, [<$ty>::default(); 16]);
        let $p = if $left >= $lanes { to } else { last.as_mut_ptr() };
        $store;
        if $left < $lanes {
            std::ptr::copy_nonoverlapping(last.as_ptr(), to, $left);
        }
    }};
}
pub(crate) use store_tail;
