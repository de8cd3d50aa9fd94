//! The lanes on aarch64: four registers of NEON.

use std::arch::aarch64::*;

use super::lanes::{FloatIsa, LANES, Lanes, load_part_copied, store_part_copied};

/// NEON, which every aarch64 CPU has.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// Operations that are one instruction on each quarter.
macro_rules! quarters {
    ($($op:ident($($a:ident),+) = $e:expr;)*) => {$(
        #[inline(always)]
        fn $op(self, $($a: Self::V),+) -> Self::V {
            // SAFETY: every aarch64 CPU has NEON.
            std::array::from_fn(|q| unsafe { $(let $a = $a[q];)+ $e })
        }
    )*};
}

/// A function of the bits of one register.
macro_rules! on_bits {
    ($f:ident($($a:ident),+)) => { vreinterpretq_f32_s32($f($(vreinterpretq_s32_f32($a)),+)) };
}

impl Lanes for Neon {
    type V = [float32x4_t; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: every aarch64 CPU has NEON.
        unsafe { [vdupq_n_f32(x); 4] }
    }
    quarters! {
        add(a, b) = vaddq_f32(a, b);
        sub(a, b) = vsubq_f32(a, b);
        mul(a, b) = vmulq_f32(a, b);
        div(a, b) = vdivq_f32(a, b);
        sqrt(a) = vsqrtq_f32(a);
        fma(a, b, c) = vfmaq_f32(c, a, b);
        truncate(a) = vreinterpretq_f32_s32(vcvtq_s32_f32(a));
        // `fmax` gives NaN where x86 gives the second operand, so the choice is made by a comparison.
        max(a, b) = vbslq_f32(vcgtq_f32(a, b), a, b);
        min(a, b) = vbslq_f32(vcltq_f32(a, b), a, b);
        select_lt(a, b, x, y) = vbslq_f32(vcltq_f32(a, b), x, y);
        bits_and(a, b) = on_bits!(vandq_s32(a, b));
        bits_or(a, b) = on_bits!(vorrq_s32(a, b));
        bits_add(a, b) = on_bits!(vaddq_s32(a, b));
        bits_sub(a, b) = on_bits!(vsubq_s32(a, b));
    }

    #[inline(always)]
    fn bits_shl<const BY: i32>(self, a: Self::V) -> Self::V {
        // SAFETY: every aarch64 CPU has NEON.
        a.map(|a| unsafe { vreinterpretq_f32_s32(vshlq_s32(vreinterpretq_s32_f32(a), vdupq_n_s32(BY))) })
    }

    #[inline(always)]
    fn bits_sar<const BY: i32>(self, a: Self::V) -> Self::V {
        // SAFETY: every aarch64 CPU has NEON. A negative count shifts right.
        a.map(|a| unsafe { vreinterpretq_f32_s32(vshlq_s32(vreinterpretq_s32_f32(a), vdupq_n_s32(-BY))) })
    }
}

impl FloatIsa for Neon {
    const ROWS: usize = 6;
    const VECTORS: usize = 1;

    unsafe fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: 16 readable values, by this function's contract.
        std::array::from_fn(|q| unsafe { vld1q_f32(p.add(4 * q)) })
    }

    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize) -> Self::V {
        // SAFETY: `n` readable values, by this function's contract; the copy has 16.
        unsafe { self.load(load_part_copied(p, n).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, a: Self::V) {
        for (q, a) in a.into_iter().enumerate() {
            // SAFETY: 16 writable values, by this function's contract.
            unsafe { vst1q_f32(p.add(4 * q), a) };
        }
    }

    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, a: Self::V, n: usize) {
        let lanes: [f32; LANES] = self.lanes(a);
        // SAFETY: `n` writable values, by this function's contract.
        unsafe { store_part_copied(p, &lanes, n) };
    }
}
