//! Sums and products a whole register of bytes at a time: widened to floats, and narrowed back without a permutation.

use super::{Kind, Operand, OutCodes};
use crate::Isa;
use crate::simd::{Bytes, Ends, Simd, isa_fn};

/// Bytes in the widest register.
pub(super) const MAX_REGISTER: usize = 64;

pub(super) struct Floats(pub(super) *const f32);
// SAFETY: it is read only, while the borrow of what it points to is held.
unsafe impl Sync for Floats {}

/// How the bytes of the operands are read and those of the result made, as u8: for calls whose real results fit an i32.
#[derive(Clone, Copy, Default)]
pub(super) struct Narrowing {
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
    pub(super) fn new(kind: Kind, [a, b]: [&Operand; 2], y: OutCodes) -> Option<Self> {
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
pub(super) struct Whole {
    pub(super) kind: Kind,
    pub(super) a: *const u8,
    /// `rows × cols` codes, or null.
    pub(super) b: *const u8,
    /// Or what one row serves all rows: `b − z_b` as [`lay_out`] puts it.
    pub(super) b_floats: *const f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) ends: Narrowing,
    pub(super) out: *mut u8,
}

/// Columns at which the registers of a row begin: the last overlaps the one before rather than being partial.
fn registers(cols: usize, size: usize) -> impl Iterator<Item = usize> {
    (0..cols).step_by(size).map(move |col| col.min(cols - size))
}

/// Puts `value(j)` for each column of a row in the order of the lanes that [`Bytes::unpack8`] and `unpack16` give,
/// register by register.
pub(super) fn lay_out(isa: Isa, cols: usize, floats: &mut [f32], value: impl Fn(usize) -> f32) {
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
    pub(super) unsafe fn whole_rows(args: &Whole) = whole_rows_body
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
