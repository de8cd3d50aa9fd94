//! Sums and products of two tensors of codes.

#[cfg(test)]
mod tests;

use crate::chunks::{for_chunks, rows_per_task};
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::{clamp_ends, store_tail};
use crate::simd::{Simd, isa_fn, load_code};
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
    if b_is_one || same {
        let chunk = rows_per_task(n, 1, threads);
        for_chunks(out, chunk, n, threads, |i, out| span(i * chunk, if same { i * chunk } else { 0 }, out));
    } else {
        let repeat = n / cols / b_rows;
        let rows = rows_per_task(n / cols, cols, threads);
        for_chunks(out, rows * cols, n, threads, |i, out| {
            for (r, out) in out.chunks_exact_mut(cols).enumerate() {
                let row = i * rows + r;
                span(row * cols, row / repeat * cols, out);
            }
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
