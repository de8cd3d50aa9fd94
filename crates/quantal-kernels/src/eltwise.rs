//! Sums and products of two tensors of codes.

#[cfg(test)]
mod tests;

use crate::arena::with_scratch;
use crate::chunks::{for_chunks, rows_per_task};
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::{clamp_ends, store_tail};
use crate::simd::{Bytes, Ends, Simd, isa_fn, load_code};
use crate::{Isa, Threads};

/// One tensor of codes.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    /// The codes as bytes.
    pub codes: &'a [u8],
    /// Whether they are s8 rather than u8.
    pub signed: bool,
    /// Their zero point.
    pub zero_point: i32,
}

/// What the result's codes are.
#[derive(Clone, Copy, Debug)]
pub struct OutCodes {
    /// Their zero point.
    pub zero_point: i32,
    /// Smallest code.
    pub qmin: i32,
    /// Largest code.
    pub qmax: i32,
}

/// `out = a + b` by equation (4) of `arith`, with `m_a = s_a / s_y` and `m_b = s_b / s_y`; a difference has `−m_b`.
///
/// `a` and `out` are `[rows, cols]`. `b` is one code, or `[rows / r, cols]` for some `r` that divides `rows`, each row
/// serving `r` rows of `a`: `[C]` against channels-last pixels, or `[N, C]` against `[N, H·W, C]`.
///
/// # Errors
/// If the lengths do not fit together, or a zero point or range of codes does not fit 8 bits.
pub fn add(
    isa: Isa,
    a: Operand,
    m_a: f32,
    b: Operand,
    m_b: f32,
    cols: usize,
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    binary(isa, Kind::Add { m_a, m_b }, a, b, cols, y, out, threads)
}

/// `out = a · b` by equation (3) of `arith` on the exact product `(a − z_a)(b − z_b)`, with
/// `multiplier = s_a · s_b / s_y`. Shapes as in [`add`].
///
/// # Errors
/// As [`add`].
pub fn mul(
    isa: Isa,
    a: Operand,
    b: Operand,
    multiplier: f32,
    cols: usize,
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    binary(isa, Kind::Mul { multiplier }, a, b, cols, y, out, threads)
}

#[derive(Clone, Copy)]
enum Kind {
    Add { m_a: f32, m_b: f32 },
    Mul { multiplier: f32 },
}

/// `n` elements of a call.
struct Span {
    kind: Kind,
    a: *const u8,
    a_signed: bool,
    a_zero: i32,
    b: *const u8,
    b_signed: bool,
    b_zero: i32,
    /// Whether the byte at `b` serves all.
    b_is_one: bool,
    n: usize,
    zero_point: i32,
    lo: f32,
    hi: f32,
    out: *mut u8,
}

fn binary(
    isa: Isa,
    kind: Kind,
    a: Operand,
    b: Operand,
    cols: usize,
    y: OutCodes,
    out: &mut [u8],
    threads: &Threads,
) -> Result<(), KernelError> {
    let n = a.codes.len();
    check_length("the output", out.len(), n)?;
    let (lo, hi) = clamp_ends(y.zero_point, y.qmin, y.qmax)?;
    if n == 0 {
        return Ok(());
    }
    let b_is_one = b.codes.len() == 1;
    let same = b.codes.len() == n;
    let b_rows = b.codes.len() / cols.max(1);
    let fits = cols > 0 && n.is_multiple_of(cols) && b_rows > 0 && b_rows * cols == b.codes.len();
    if !(b_is_one || same || fits && (n / cols).is_multiple_of(b_rows)) {
        return Err(KernelError::Geometry("the shapes of the two operands do not fit together"));
    }
    let span = |at: usize, b_at: usize, out: &mut [u8]| {
        let span = Span {
            kind,
            a: a.codes[at..at + out.len()].as_ptr(),
            a_signed: a.signed,
            a_zero: a.zero_point,
            b: b.codes[b_at..b_at + if b_is_one { 1 } else { out.len() }].as_ptr(),
            b_signed: b.signed,
            b_zero: b.zero_point,
            b_is_one,
            n: out.len(),
            zero_point: y.zero_point,
            lo,
            hi,
            out: out.as_mut_ptr(),
        };
        // SAFETY: `a`, `b` and `out` were just sliced to the `n` bytes that the span reads and writes.
        unsafe { binary_span(isa, &span) }
    };
    let out = &mut out[..n];
    let ends = Narrowing::new(kind, [&a, &b], y);
    let whole = |at: usize, b: *const u8, b_floats: *const f32, rows: usize, cols: usize, out: &mut [u8]| {
        let args = Whole {
            kind,
            a: a.codes[at..at + rows * cols].as_ptr(),
            b,
            b_floats,
            rows,
            cols,
            ends: ends.unwrap_or_default(),
            out: out[..rows * cols].as_mut_ptr(),
        };
        // SAFETY: `a` and `out` were just sliced to the rows, and `b` or `b_floats` is what the caller of `whole` has
        // for one row; `cols` is at least a register wide.
        unsafe { whole_rows(isa, &args) }
    };
    let most_at_once = MAX_REGISTER;
    if b_is_one || same {
        let chunk = rows_per_task(n, 1, threads);
        for_chunks(out, chunk, n / 4, threads, |i, out| {
            if same && ends.is_some() && out.len() >= most_at_once {
                let b = &b.codes[i * chunk..][..out.len()];
                whole(i * chunk, b.as_ptr(), std::ptr::null(), 1, out.len(), out);
            } else {
                span(i * chunk, if same { i * chunk } else { 0 }, out);
            }
        });
        return Ok(());
    }
    let repeat = n / cols / b_rows;
    // A row of B that is narrower than a register is repeated to fill some.
    let width = if cols < most_at_once && most_at_once.is_multiple_of(cols) { most_at_once } else { cols };
    if ends.is_none() || width < most_at_once || repeat * cols < 4 * width {
        let rows = rows_per_task(n / cols, cols, threads);
        for_chunks(out, rows * cols, n, threads, |i, out| {
            for (r, out) in out.chunks_exact_mut(cols).enumerate() {
                let row = i * rows + r;
                span(row * cols, row / repeat * cols, out);
            }
        });
        return Ok(());
    }
    for (image, out) in out.chunks_exact_mut(repeat * cols).enumerate() {
        let (at, b_at) = (image * repeat * cols, image * cols);
        // `width` floats and as many again: the last register of a row overlaps the one before.
        with_scratch(8 * width, |scratch| {
            // Scratch is aligned to cache lines.
            #[allow(clippy::cast_ptr_alignment)]
            // SAFETY: scratch holds that many, aligned, and any bytes are floats.
            let floats = unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast::<f32>(), 2 * width) };
            let zero_point = b.zero_point;
            let value = |j: usize| {
                let code = b.codes[b_at + j % cols];
                (if b.signed { i32::from(code as i8) } else { i32::from(code) } - zero_point) as f32
            };
            lay_out(isa, width, floats, value);
            let floats = Floats(floats.as_ptr());
            let rows = rows_per_task(out.len() / width, width / 4, threads).max(1);
            for_chunks(out, rows * width, n / 4, threads, |i, out| {
                let (from, whole_rows) = (i * rows * width, out.len() / width);
                let floats = &floats;
                whole(at + from, std::ptr::null(), floats.0, whole_rows, width, &mut out[..whole_rows * width]);
                // What is left is less than a repeated row.
                for (r, out) in out[whole_rows * width..].chunks_exact_mut(cols).enumerate() {
                    span(at + from + whole_rows * width + r * cols, b_at, out);
                }
            });
        });
    }
    Ok(())
}

/// Bytes in the widest register.
const MAX_REGISTER: usize = 64;

struct Floats(*const f32);
// SAFETY: it is read only, while the borrow of what it points to is held.
unsafe impl Sync for Floats {}

/// How the bytes of the operands are read and those of the result made, as u8: for calls whose real results fit an i32.
#[derive(Clone, Copy, Default)]
struct Narrowing {
    flip_a: u8,
    flip_b: u8,
    neg_zero_a: i32,
    neg_zero_b: i32,
    zero_point: i16,
    low: u8,
    high: u8,
    flip: u8,
}

impl Narrowing {
    fn new(kind: Kind, [a, b]: [&Operand; 2], y: OutCodes) -> Option<Self> {
        let most = match kind {
            Kind::Add { m_a, m_b } => f64::from(m_a).abs() + f64::from(m_b).abs(),
            Kind::Mul { multiplier } => f64::from(multiplier).abs() * 512.0,
        };
        let zeros_fit = |o: &Operand| (-256..=256).contains(&o.zero_point);
        let shift = if y.qmin < 0 { 128 } else { 0 };
        let read = |o: &Operand| if o.signed { (0x80, -(o.zero_point + 128)) } else { (0, -o.zero_point) };
        if !(most * 512.0 < f64::from(1 << 30) && zeros_fit(a) && zeros_fit(b) && y.qmax + shift <= 255) {
            return None;
        }
        let ((flip_a, neg_zero_a), (flip_b, neg_zero_b)) = (read(a), read(b));
        Some(Self {
            flip_a,
            flip_b,
            neg_zero_a,
            neg_zero_b,
            zero_point: (y.zero_point + shift) as i16,
            low: (y.qmin + shift) as u8,
            high: (y.qmax + shift) as u8,
            flip: shift as u8,
        })
    }
}

/// Rows at least a register wide.
struct Whole {
    kind: Kind,
    a: *const u8,
    /// `rows × cols` codes, or null.
    b: *const u8,
    /// Or what one row serves all rows: `b − z_b` as [`lay_out`] puts it.
    b_floats: *const f32,
    rows: usize,
    cols: usize,
    ends: Narrowing,
    out: *mut u8,
}

/// Columns at which the registers of a row begin: the last overlaps the one before rather than being partial.
fn registers(cols: usize, size: usize) -> impl Iterator<Item = usize> {
    (0..cols).step_by(size).map(move |col| col.min(cols - size))
}

/// Puts `value(j)` for each column of a row in the order of the lanes that [`Bytes::unpack8`] and `unpack16` give,
/// register by register.
fn lay_out(isa: Isa, cols: usize, floats: &mut [f32], value: impl Fn(usize) -> f32) {
    let size = register_bytes(isa);
    for (i, col) in registers(cols, size).enumerate() {
        for (at, to) in floats[i * size..][..size].iter_mut().enumerate() {
            let (v, lane) = (at / (size / 4), at % (size / 4));
            *to = value(col + 16 * (lane / 4) + 4 * v + lane % 4);
        }
    }
}

/// Bytes in a register of the body that [`isa_fn!`] runs.
fn register_bytes(isa: Isa) -> usize {
    let mut size = 0;
    // SAFETY: it writes one number.
    unsafe { register_size(isa, &mut size) };
    size
}

isa_fn! {
    /// # Safety
    /// None is needed.
    unsafe fn register_size(size: &mut usize) = register_size_body
}

/// # Safety
/// None is needed.
#[inline(always)]
unsafe fn register_size_body<S: Simd>(size: &mut usize) {
    *size = 4 * S::LANES;
}

isa_fn! {
    /// # Safety
    /// The pointers hold what [`Whole`] says, and `cols` is at least [`MAX_REGISTER`].
    unsafe fn whole_rows(args: &Whole) = whole_rows_body
}

/// # Safety
/// As [`whole_rows`] and [`Simd`].
#[inline(always)]
unsafe fn whole_rows_body<S: Bytes>(args: &Whole) {
    // SAFETY: handed on.
    unsafe {
        match (args.kind, args.b.is_null()) {
            (Kind::Add { m_a, m_b }, false) => whole_loop::<S, true, false>(args, m_a, m_b),
            (Kind::Add { m_a, m_b }, true) => whole_loop::<S, true, true>(args, m_a, m_b),
            (Kind::Mul { multiplier }, false) => whole_loop::<S, false, false>(args, multiplier, 0.0),
            (Kind::Mul { multiplier }, true) => whole_loop::<S, false, true>(args, multiplier, 0.0),
        }
    }
}

/// # Safety
/// As [`whole_rows`] and [`Simd`].
#[inline(always)]
unsafe fn whole_loop<S: Bytes, const ADD: bool, const ROW: bool>(args: &Whole, m_a: f32, m_b: f32) {
    let &Whole { a, b, b_floats, rows, cols, ref ends, out, .. } = args;
    let size = 4 * S::LANES;
    // SAFETY: `whole_rows`'s contract; every register lies in its row.
    unsafe {
        let narrow = Ends {
            zero_point: S::splat16(ends.zero_point),
            low: S::splat8(ends.low),
            high: S::splat8(ends.high),
            flip: S::splat8(ends.flip),
            whole: (ends.low, ends.high, ends.flip) == (0, 255, 0),
        };
        let (flip_a, flip_b) = (S::splat8(ends.flip_a), S::splat8(ends.flip_b));
        let (neg_a, neg_b) = (S::splat(ends.neg_zero_a), S::splat(ends.neg_zero_b));
        let (m_a, m_b) = (S::splat_f(m_a), S::splat_f(m_b));
        for row in 0..rows {
            let mut floats = b_floats;
            let mut next = 0;
            while next < cols {
                let at = row * cols + next.min(cols - size);
                next += size;
                let x = widen::<S>(S::xor(S::load(a.add(at).cast()), flip_a), neg_a);
                let y = if ROW {
                    let y = [
                        S::load_f(floats),
                        S::load_f(floats.add(S::LANES)),
                        S::load_f(floats.add(2 * S::LANES)),
                        S::load_f(floats.add(3 * S::LANES)),
                    ];
                    floats = floats.add(size);
                    y
                } else {
                    widen::<S>(S::xor(S::load(b.add(at).cast()), flip_b), neg_b)
                };
                let codes = [
                    combine::<S, ADD>(x[0], y[0], m_a, m_b),
                    combine::<S, ADD>(x[1], y[1], m_a, m_b),
                    combine::<S, ADD>(x[2], y[2], m_a, m_b),
                    combine::<S, ADD>(x[3], y[3], m_a, m_b),
                ];
                S::store(out.add(at).cast(), S::narrow(codes, &narrow));
            }
        }
    }
}

/// The bytes of a register as u8 less a zero point, as floats in the order of [`Bytes::narrow`].
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn widen<S: Bytes>(x: S::I, neg_zero: S::I) -> [S::F; 4] {
    // SAFETY: handed on.
    unsafe {
        let zero = S::splat(0);
        let (low, high) = S::unpack8(x, zero);
        let ((a, b), (c, d)) = (S::unpack16(low, zero), S::unpack16(high, zero));
        [
            S::to_f(S::add(a, neg_zero)),
            S::to_f(S::add(b, neg_zero)),
            S::to_f(S::add(c, neg_zero)),
            S::to_f(S::add(d, neg_zero)),
        ]
    }
}

/// Equation (4) before it is rounded and clamped, or (3) on the product, which is exact in f32.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn combine<S: Bytes, const ADD: bool>(a: S::F, b: S::F, m_a: S::F, m_b: S::F) -> S::I {
    // SAFETY: handed on.
    unsafe { S::round(if ADD { S::add_f(S::mul_f(a, m_a), S::mul_f(b, m_b)) } else { S::mul_f(S::mul_f(a, b), m_a) }) }
}

isa_fn! {
    /// # Safety
    /// `a` and `out` are valid for `n` bytes, `b` for `n` or, if `b_is_one`, for one.
    unsafe fn binary_span(span: &Span) = binary_body
}

/// # Safety
/// As [`binary_span`] and [`Simd`].
#[inline(always)]
unsafe fn binary_body<S: Simd>(span: &Span) {
    // SAFETY: `binary_span`'s contract; where fewer than `LANES` bytes are left, they are copied to and from the stack.
    unsafe {
        let (lo, hi) = (S::splat_f(span.lo), S::splat_f(span.hi));
        let (neg_a, neg_b) = (S::splat(-span.a_zero), S::splat(-span.b_zero));
        let zero_point = S::splat(span.zero_point);
        let one = [if span.b_is_one { *span.b } else { 0 }; 16];
        for i in (0..span.n).step_by(S::LANES) {
            let left = span.n - i;
            let (mut a, mut b) = (span.a.add(i), if span.b_is_one { one.as_ptr() } else { span.b.wrapping_add(i) });
            let (mut last_a, mut last_b) = ([0; 16], [0; 16]);
            if left < S::LANES {
                std::ptr::copy_nonoverlapping(a, last_a.as_mut_ptr(), left);
                std::ptr::copy_nonoverlapping(b, last_b.as_mut_ptr(), left);
                (a, b) = (last_a.as_ptr(), last_b.as_ptr());
            }
            let a = S::to_f(S::add(load_code::<S>(a, span.a_signed), neg_a));
            let b = S::to_f(S::add(load_code::<S>(b, span.b_signed), neg_b));
            let value = match span.kind {
                Kind::Add { m_a, m_b } => {
                    S::zero_nan(S::add_f(S::mul_f(a, S::splat_f(m_a)), S::mul_f(b, S::splat_f(m_b))))
                }
                // The product of two 9-bit integers is exact in f32, so converting it afterwards gives the same.
                Kind::Mul { multiplier } => S::mul_f(S::mul_f(a, b), S::splat_f(multiplier)),
            };
            let code = S::add(S::clamp_round(value, lo, hi), zero_point);
            store_tail!(S::LANES, u8, span.out.add(i), left, |p| S::store_bytes(p, code));
        }
    }
}
