//! The few vector operations that integer kernels need, once for each register width.
//!
//! A kernel is one generic body over [`Simd`]. The trait is private and holds only what a body uses; `#[target_feature]`
//! sits on the wrappers that [`isa_fn!`] and `kernel!` emit, and everything below them is `#[inline(always)]`.

pub(crate) mod bytes;
pub(crate) mod emulated;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use crate::lut;
pub(crate) use bytes::{Bytes, Ends};

/// One register width: `LANES` 32-bit integers or floats.
///
/// # Safety
/// Every method may only run in code that was compiled with the implementor's instruction set and on a CPU that has it;
/// pointers must be valid for `LANES` elements of what the method reads or writes, at any alignment.
pub(crate) trait Simd: Copy {
    /// 32-bit lanes in a register.
    const LANES: usize;
    /// A register of i32.
    type I: Copy;
    /// A register of f32.
    type F: Copy;

    unsafe fn splat(v: i32) -> Self::I;
    unsafe fn load(p: *const i32) -> Self::I;
    unsafe fn store(p: *mut i32, v: Self::I);
    /// Wrapping sum.
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I;
    /// Wrapping product.
    unsafe fn mul(a: Self::I, b: Self::I) -> Self::I;
    /// Wrapping difference.
    unsafe fn minus(a: Self::I, b: Self::I) -> Self::I;
    /// The larger of two signed integers.
    unsafe fn max(a: Self::I, b: Self::I) -> Self::I;
    /// The smaller of two signed integers.
    unsafe fn min(a: Self::I, b: Self::I) -> Self::I;
    /// `table[i]` for each lane; `table` must be valid for every index.
    unsafe fn gather(table: *const i32, i: Self::I) -> Self::I;
    unsafe fn splat_f(v: f32) -> Self::F;
    unsafe fn load_f(p: *const f32) -> Self::F;
    unsafe fn store_f(p: *mut f32, v: Self::F);
    unsafe fn to_f(v: Self::I) -> Self::F;
    unsafe fn add_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul_f(a: Self::F, b: Self::F) -> Self::F;
    /// The magnitudes.
    unsafe fn abs_f(v: Self::F) -> Self::F;
    /// `a` where it is larger, else `b`, also where `a` is NaN.
    unsafe fn max_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div_f(a: Self::F, b: Self::F) -> Self::F;
    /// `v` with NaN lanes turned to 0.
    unsafe fn zero_nan(v: Self::F) -> Self::F;
    /// `rne(clamp(v, lo, hi))`. For integers `lo` and `hi` this is the `clamp(rne(v), lo, hi)` of `arith`. No lane is NaN.
    unsafe fn clamp_round(v: Self::F, lo: Self::F, hi: Self::F) -> Self::I;
    /// `LANES` bytes, zero-extended.
    unsafe fn load_u8(p: *const u8) -> Self::I;
    /// `LANES` bytes, sign-extended.
    unsafe fn load_s8(p: *const u8) -> Self::I;
    /// The low byte of each lane.
    unsafe fn store_bytes(p: *mut u8, v: Self::I);
    /// The low bytes of three registers in turns, `3·LANES` of them.
    unsafe fn store_triples(p: *mut u8, v: [Self::I; 3]) {
        // SAFETY: no register has more than 16 lanes; the rest is the trait's contract.
        unsafe {
            let mut bytes = [[0; 16]; 3];
            for (bytes, v) in bytes.iter_mut().zip(v) {
                Self::store_bytes(bytes.as_mut_ptr(), v);
            }
            for i in 0..Self::LANES {
                p.add(3 * i).cast::<[u8; 3]>().write(bytes.map(|b| b[i]));
            }
        }
    }
    /// `acc[i] + x0[i]·w[2i] + x1[i]·w[2i+1]` for bytes `x0`, `x1` (two's complement if `SIGNED`) and `2·LANES` weights.
    unsafe fn dot_two<const SIGNED: bool>(acc: Self::I, x0: *const u8, x1: *const u8, w: *const i16) -> Self::I;
    /// `out[r·ld + c] = table[x[r·ld + c]]` for `[rows, cols, ld]`. `x` and `out` are the same or do not overlap, and
    /// valid for that much.
    unsafe fn look_up(table: &[u8; 256], x: *const u8, out: *mut u8, size: [usize; 3]) {
        // SAFETY: handed on.
        unsafe { lut::plain(table, x, out, size) }
    }
}

/// `load_u8` or `load_s8`.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(crate) unsafe fn load_code<S: Simd>(p: *const u8, signed: bool) -> S::I {
    // SAFETY: handed on unchanged.
    unsafe { if signed { S::load_s8(p) } else { S::load_u8(p) } }
}

/// Emits `fn name(isa, args…)` that runs `body::<S>(args…)` compiled for the widest registers of `isa`.
macro_rules! isa_fn {
    ($(#[$doc:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $vis unsafe fn $name(isa: $crate::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $ty),*) {
                // SAFETY: the features are enabled on this function; the rest is the caller's promise.
                unsafe { $body::<$crate::simd::x86::Avx2>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
            unsafe fn avx512($($arg: $ty),*) {
                // SAFETY: the features are enabled on this function; the rest is the caller's promise.
                unsafe { $body::<$crate::simd::x86::Avx512>($($arg),*) }
            }
            #[cfg(test)]
            if isa == $crate::Isa::PORTABLE {
                // SAFETY: plain Rust runs everywhere; the rest is the caller's promise.
                unsafe {
                    match $crate::testing::emulated_lanes() {
                        8 => return $body::<$crate::simd::emulated::Lanes<8>>($($arg),*),
                        16 => return $body::<$crate::simd::emulated::Lanes<16>>($($arg),*),
                        _ => {}
                    }
                }
            }
            // SAFETY: an `Isa` is made by detection alone, so the CPU has what the arm enables.
            unsafe {
                match isa.level() {
                    $crate::Level::Portable => $body::<$crate::simd::emulated::Lanes<4>>($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::Level::Avx2 | $crate::Level::AvxVnni => avx2($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::Level::Avx512Vnni | $crate::Level::Amx => avx512($($arg),*),
                    #[cfg(not(target_arch = "x86_64"))]
                    $crate::Level::Avx2
                    | $crate::Level::AvxVnni
                    | $crate::Level::Avx512Vnni
                    | $crate::Level::Amx => $body::<$crate::simd::emulated::Lanes<4>>($($arg),*),
                    #[cfg(target_arch = "aarch64")]
                    $crate::Level::Neon | $crate::Level::NeonDot => {
                        $body::<$crate::simd::neon::Neon>($($arg),*)
                    }
                    #[cfg(not(target_arch = "aarch64"))]
                    $crate::Level::Neon | $crate::Level::NeonDot => {
                        $body::<$crate::simd::emulated::Lanes<4>>($($arg),*)
                    }
                }
            }
        }
    };
}
pub(crate) use isa_fn;
