//! Sums and products of two tensors of codes.

#[cfg(test)]
mod tests;
mod whole;

use crate::arena::with_scratch;
use crate::chunks::{for_chunks, rows_per_task};
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::{clamp_ends, store_tail};
use crate::simd::{Simd, isa_fn, load_code};
use crate::{Isa, Threads};
use whole::{Floats, MAX_REGISTER, Narrowing, Whole, lay_out, whole_rows};

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
