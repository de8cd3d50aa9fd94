//! Sixteen lanes of f32, the unit that every float kernel is written in.
//!
//! The width is the same on every instruction set (two registers on AVX2, one on AVX-512, an array in portable Rust),
//! so a sum over lanes has one order everywhere. Each operation is one IEEE operation per lane; where IEEE leaves a
//! choice (the minimum of NaNs), the x86 answer is the definition.

/// Lanes of one vector.
pub(super) const LANES: usize = 16;

/// Arithmetic on a vector of lanes, the same bits for each implementor. A token of this type proves that the CPU has
/// the instructions.
pub(super) trait Lanes: Copy {
    /// The lanes; integer operations see their bits.
    type V: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a·b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`: `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`: `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? x : y`: `y` where either is NaN.
    fn select_lt(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The whole part as the bits of an i32, for magnitudes below 2^31.
    fn truncate(self, a: Self::V) -> Self::V;
    fn bits_and(self, a: Self::V, b: Self::V) -> Self::V;
    fn bits_or(self, a: Self::V, b: Self::V) -> Self::V;
    /// Wrapping sum of the bits as i32.
    fn bits_add(self, a: Self::V, b: Self::V) -> Self::V;
    /// Wrapping difference of the bits as i32.
    fn bits_sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// The bits shifted left.
    fn bits_shl<const BY: i32>(self, a: Self::V) -> Self::V;
    /// The bits shifted right as i32: the sign is repeated.
    fn bits_sar<const BY: i32>(self, a: Self::V) -> Self::V;

    /// All lanes hold `bits`.
    #[inline(always)]
    fn splat_bits(self, bits: u32) -> Self::V {
        self.splat(f32::from_bits(bits))
    }

    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        self.bits_and(a, self.splat_bits(0x7FFF_FFFF))
    }
}

/// Sixteen lanes with memory access, and the size of the matrix tile that suits the registers.
pub(super) trait FloatIsa: Lanes {
    /// Rows of a matrix tile.
    const ROWS: usize;
    /// Vectors per row of a matrix tile.
    const VECTORS: usize;

    /// # Safety
    /// The CPU has the instructions.
    unsafe fn new() -> Self;

    /// # Safety
    /// `p` is good for reading 16 values.
    unsafe fn load(self, p: *const f32) -> Self::V;

    /// The first `n` ≤ 16 values from memory, 0.0 in the other lanes.
    ///
    /// # Safety
    /// `p` is good for reading `n` values.
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::V;

    /// # Safety
    /// `p` is good for writing 16 values.
    unsafe fn store(self, p: *mut f32, a: Self::V);

    /// Stores the first `n` ≤ 16 lanes.
    ///
    /// # Safety
    /// `p` is good for writing `n` values.
    unsafe fn store_part(self, p: *mut f32, a: Self::V, n: usize);

    /// The lanes in order.
    #[inline(always)]
    fn lanes(self, a: Self::V) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: `lanes` has 16 values.
        unsafe { self.store(lanes.as_mut_ptr(), a) };
        lanes
    }
}

/// One lane: the scalar versions of the mathematical functions.
#[derive(Clone, Copy)]
pub(super) struct One;

/// Sixteen lanes in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Lanes for One {
    type V = f32;

    fn splat(self, x: f32) -> f32 {
        x
    }
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    fn sqrt(self, a: f32) -> f32 {
        a.sqrt()
    }
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    fn min(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    fn select_lt(self, a: f32, b: f32, x: f32, y: f32) -> f32 {
        if a < b { x } else { y }
    }
    fn truncate(self, a: f32) -> f32 {
        f32::from_bits((a as i32).cast_unsigned())
    }
    fn bits_and(self, a: f32, b: f32) -> f32 {
        f32::from_bits(a.to_bits() & b.to_bits())
    }
    fn bits_or(self, a: f32, b: f32) -> f32 {
        f32::from_bits(a.to_bits() | b.to_bits())
    }
    fn bits_add(self, a: f32, b: f32) -> f32 {
        f32::from_bits(a.to_bits().wrapping_add(b.to_bits()))
    }
    fn bits_sub(self, a: f32, b: f32) -> f32 {
        f32::from_bits(a.to_bits().wrapping_sub(b.to_bits()))
    }
    fn bits_shl<const BY: i32>(self, a: f32) -> f32 {
        f32::from_bits(a.to_bits() << BY)
    }
    fn bits_sar<const BY: i32>(self, a: f32) -> f32 {
        f32::from_bits((a.to_bits().cast_signed() >> BY).cast_unsigned())
    }
}

/// Sixteen times the operation of `One`.
macro_rules! each_lane {
    ($($op:ident $(<const $n:ident>)? ($($a:ident),+);)*) => {$(
        #[inline(always)]
        fn $op $(<const $n: i32>)? (self, $($a: Self::V),+) -> Self::V {
            let mut y = [0.0; LANES];
            for l in 0..LANES {
                y[l] = One.$op $(::<$n>)? ($($a[l]),+);
            }
            y
        }
    )*};
}

impl Lanes for Portable {
    type V = [f32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    each_lane! {
        add(a, b); sub(a, b); mul(a, b); div(a, b); sqrt(a); fma(a, b, c); max(a, b); min(a, b);
        select_lt(a, b, x, y); truncate(a); bits_and(a, b); bits_or(a, b); bits_add(a, b); bits_sub(a, b);
        bits_shl<const BY>(a); bits_sar<const BY>(a);
    }
}

impl FloatIsa for Portable {
    const ROWS: usize = 4;
    const VECTORS: usize = 1;

    unsafe fn new() -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: 16 readable values, by this function's contract.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: `n` readable values, by this function's contract.
        unsafe { load_part_copied(p, n) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, a: Self::V) {
        // SAFETY: 16 writable values, by this function's contract.
        unsafe { p.cast::<Self::V>().write_unaligned(a) };
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, a: Self::V, n: usize) {
        // SAFETY: `n` writable values, by this function's contract.
        unsafe { store_part_copied(p, &a, n) };
    }
}

/// `load_part` by copying.
///
/// # Safety
/// `p` is good for reading `n` values.
#[inline(always)]
pub(super) unsafe fn load_part_copied(p: *const f32, n: usize) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    // SAFETY: `n` readable values, by this function's contract; at most 16 are taken.
    unsafe { std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(LANES)) };
    lanes
}

/// `store_part` by copying: masked stores are microcoded on AMD before Zen 4.
///
/// # Safety
/// `p` is good for writing `n` values.
#[inline(always)]
pub(super) unsafe fn store_part_copied(p: *mut f32, a: &[f32; LANES], n: usize) {
    // SAFETY: `n` writable values, by this function's contract; at most 16 are written.
    unsafe { std::ptr::copy_nonoverlapping(a.as_ptr(), p, n.min(LANES)) };
}
