//! Registers as arrays: the portable kernels, and the twins on which wide tiles are tested where the CPU lacks them.

use super::Simd;

/// A register of `L` lanes in plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<const L: usize>;

/// An unaligned array read.
///
/// # Safety
/// `p` is valid for `L` elements.
#[inline(always)]
pub(crate) unsafe fn read<T: Copy, const L: usize>(p: *const T) -> [T; L] {
    // SAFETY: the caller's promise.
    unsafe { p.cast::<[T; L]>().read_unaligned() }
}

impl<const L: usize> Simd for Lanes<L> {
    const LANES: usize = L;
    type I = [i32; L];
    type F = [f32; L];

    #[inline(always)]
    unsafe fn splat(v: i32) -> [i32; L] {
        [v; L]
    }
    #[inline(always)]
    unsafe fn load(p: *const i32) -> [i32; L] {
        // SAFETY: the trait's contract.
        unsafe { read(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut i32, v: [i32; L]) {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[i32; L]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: [i32; L], b: [i32; L]) -> [i32; L] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn mul(a: [i32; L], b: [i32; L]) -> [i32; L] {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    unsafe fn minus(a: [i32; L], b: [i32; L]) -> [i32; L] {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn max(a: [i32; L], b: [i32; L]) -> [i32; L] {
        std::array::from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    unsafe fn min(a: [i32; L], b: [i32; L]) -> [i32; L] {
        std::array::from_fn(|i| a[i].min(b[i]))
    }
    #[inline(always)]
    unsafe fn gather(table: *const i32, i: [i32; L]) -> [i32; L] {
        // SAFETY: the trait's contract.
        i.map(|i| unsafe { *table.offset(i as isize) })
    }
    #[inline(always)]
    unsafe fn splat_f(v: f32) -> [f32; L] {
        [v; L]
    }
    #[inline(always)]
    unsafe fn load_f(p: *const f32) -> [f32; L] {
        // SAFETY: the trait's contract.
        unsafe { read(p) }
    }
    #[inline(always)]
    unsafe fn store_f(p: *mut f32, v: [f32; L]) {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[f32; L]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn to_f(v: [i32; L]) -> [f32; L] {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn add_f(a: [f32; L], b: [f32; L]) -> [f32; L] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn mul_f(a: [f32; L], b: [f32; L]) -> [f32; L] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn abs_f(v: [f32; L]) -> [f32; L] {
        v.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn max_f(a: [f32; L], b: [f32; L]) -> [f32; L] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn div_f(a: [f32; L], b: [f32; L]) -> [f32; L] {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn zero_nan(v: [f32; L]) -> [f32; L] {
        v.map(|x| if x.is_nan() { 0.0 } else { x })
    }
    #[inline(always)]
    unsafe fn clamp_round(v: [f32; L], lo: [f32; L], hi: [f32; L]) -> [i32; L] {
        // Adding 1.5·2^23 leaves no bits below one, so the addition itself rounds half to even; the clamp to a few
        // hundred keeps it in range, and no call to a rounding function is made on CPUs that lack the instruction.
        const SHIFT: f32 = 12_582_912.0;
        std::array::from_fn(|i| (v[i].max(lo[i]).min(hi[i]) + SHIFT).to_bits() as i32 - SHIFT.to_bits() as i32)
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> [i32; L] {
        // SAFETY: the trait's contract.
        unsafe { read::<u8, L>(p) }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn load_s8(p: *const u8) -> [i32; L] {
        // SAFETY: the trait's contract.
        unsafe { read::<i8, L>(p.cast()) }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: [i32; L]) {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[u8; L]>().write_unaligned(v.map(|x| x as u8)) }
    }
    #[inline(always)]
    unsafe fn dot_two<const SIGNED: bool>(acc: [i32; L], x0: *const u8, x1: *const u8, w: *const i16) -> [i32; L] {
        // SAFETY: the trait's contract.
        let (x0, x1, w) = unsafe {
            (super::load_code::<Self>(x0, SIGNED), super::load_code::<Self>(x1, SIGNED), read::<[i16; 2], L>(w.cast()))
        };
        std::array::from_fn(|i| acc[i].wrapping_add(x0[i] * i32::from(w[i][0]) + x1[i] * i32::from(w[i][1])))
    }
}
