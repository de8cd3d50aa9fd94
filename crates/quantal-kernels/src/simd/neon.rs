//! NEON registers.

use std::arch::aarch64::{
    float32x4_t, int16x4_t, int32x4_t, vabsq_f32, vaddq_f32, vaddq_s32, vandq_u32, vbslq_f32, vceqq_f32, vcgtq_f32,
    vcvtnq_s32_f32, vcvtq_f32_s32, vdivq_f32, vdupq_n_f32, vdupq_n_s32, vget_low_s16, vld1q_f32, vld1q_s32, vld2_s16,
    vmaxq_f32, vmaxq_s32, vminq_f32, vminq_s32, vmlal_s16, vmovl_s8, vmovl_s16, vmovl_u8, vmulq_f32, vmulq_s32,
    vreinterpret_s8_u32, vreinterpret_u8_u32, vreinterpretq_f32_u32, vreinterpretq_s16_u16, vreinterpretq_u32_f32,
    vset_lane_u32, vst1q_f32, vst1q_s32, vsubq_s32,
};

use super::Simd;

/// 128-bit registers, NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Methods of [`Simd`] that are one expression of intrinsics each.
macro_rules! ops {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $e:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the trait's contract gives the features and the extent of the pointers.
            unsafe { $e }
        }
    )*};
}

/// Four bytes as i16.
///
/// # Safety
/// `p` is valid for 4 bytes.
#[inline(always)]
unsafe fn four<const SIGNED: bool>(p: *const u8) -> int16x4_t {
    // SAFETY: the caller's promise; every aarch64 CPU has NEON.
    unsafe {
        let bytes = vset_lane_u32::<0>(p.cast::<u32>().read_unaligned(), std::mem::zeroed());
        if SIGNED {
            vget_low_s16(vmovl_s8(vreinterpret_s8_u32(bytes)))
        } else {
            vget_low_s16(vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_u32(bytes))))
        }
    }
}

impl Simd for Neon {
    const LANES: usize = 4;
    type I = int32x4_t;
    type F = float32x4_t;
    ops! {
        splat(v: i32) -> int32x4_t = vdupq_n_s32(v);
        load(p: *const i32) -> int32x4_t = vld1q_s32(p);
        store(p: *mut i32, v: int32x4_t) = vst1q_s32(p, v);
        add(a: int32x4_t, b: int32x4_t) -> int32x4_t = vaddq_s32(a, b);
        mul(a: int32x4_t, b: int32x4_t) -> int32x4_t = vmulq_s32(a, b);
        minus(a: int32x4_t, b: int32x4_t) -> int32x4_t = vsubq_s32(a, b);
        max(a: int32x4_t, b: int32x4_t) -> int32x4_t = vmaxq_s32(a, b);
        min(a: int32x4_t, b: int32x4_t) -> int32x4_t = vminq_s32(a, b);
        splat_f(v: f32) -> float32x4_t = vdupq_n_f32(v);
        load_f(p: *const f32) -> float32x4_t = vld1q_f32(p);
        store_f(p: *mut f32, v: float32x4_t) = vst1q_f32(p, v);
        to_f(v: int32x4_t) -> float32x4_t = vcvtq_f32_s32(v);
        add_f(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        mul_f(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        abs_f(v: float32x4_t) -> float32x4_t = vabsq_f32(v);
        max_f(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcgtq_f32(a, b), a, b);
        div_f(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        zero_nan(v: float32x4_t) -> float32x4_t =
            vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), vceqq_f32(v, v)));
        clamp_round(v: float32x4_t, lo: float32x4_t, hi: float32x4_t) -> int32x4_t =
            vcvtnq_s32_f32(vminq_f32(vmaxq_f32(v, lo), hi));
        load_u8(p: *const u8) -> int32x4_t = vmovl_s16(four::<false>(p));
        load_s8(p: *const u8) -> int32x4_t = vmovl_s16(four::<true>(p));
        store_bytes(p: *mut u8, v: int32x4_t) = p.cast::<u32>().write_unaligned(low_bytes(v));
    }

    #[inline(always)]
    unsafe fn gather(table: *const i32, i: int32x4_t) -> int32x4_t {
        let mut lanes = [0; 4];
        // SAFETY: the trait's contract: the table is valid for every index.
        unsafe {
            vst1q_s32(lanes.as_mut_ptr(), i);
            let found = lanes.map(|i| *table.offset(i as isize));
            vld1q_s32(found.as_ptr())
        }
    }

    #[inline(always)]
    unsafe fn dot_two<const SIGNED: bool>(acc: int32x4_t, x0: *const u8, x1: *const u8, w: *const i16) -> int32x4_t {
        // SAFETY: the trait's contract: 4 bytes at each x, 8 weights.
        unsafe {
            let w = vld2_s16(w);
            vmlal_s16(vmlal_s16(acc, four::<SIGNED>(x0), w.0), four::<SIGNED>(x1), w.1)
        }
    }
}

/// The low byte of each lane.
///
/// # Safety
/// None beyond NEON, which every aarch64 CPU has.
#[inline(always)]
unsafe fn low_bytes(v: int32x4_t) -> u32 {
    use std::arch::aarch64::{vcombine_s16, vget_lane_u32, vmovn_s16, vmovn_s32, vreinterpret_u32_s8};
    // SAFETY: every aarch64 CPU has NEON.
    unsafe {
        let halves = vmovn_s32(v);
        vget_lane_u32::<0>(vreinterpret_u32_s8(vmovn_s16(vcombine_s16(halves, halves))))
    }
}
