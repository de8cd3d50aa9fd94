//! Registers as bytes: interleaving, and narrowing to codes.

use super::Simd;
use super::emulated::Lanes;

/// How rounded sums become bytes: see [`Bytes::narrow`].
#[derive(Clone, Copy)]
pub(crate) struct Ends<I> {
    /// 16-bit lanes.
    pub(crate) zero_point: I,
    /// Bytes.
    pub(crate) low: I,
    /// Bytes.
    pub(crate) high: I,
    /// Bytes.
    pub(crate) flip: I,
    /// Whether `low` is 0, `high` 255 and `flip` 0: saturation does it all.
    pub(crate) whole: bool,
}

/// Operations on registers of `4·LANES` bytes. Unpacking and narrowing work within 128-bit lanes, as x86 does.
///
/// # Safety
/// As [`Simd`].
pub(crate) trait Bytes: Simd {
    unsafe fn splat8(v: u8) -> Self::I;
    unsafe fn splat16(v: i16) -> Self::I;
    unsafe fn xor(a: Self::I, b: Self::I) -> Self::I;
    /// The larger of two bytes, as u8.
    unsafe fn max8(a: Self::I, b: Self::I) -> Self::I;
    /// The bytes of `a` and `b` in turns: of the low and of the high half of each 128-bit lane.
    unsafe fn unpack8(a: Self::I, b: Self::I) -> (Self::I, Self::I);
    /// The same of 16-bit elements.
    unsafe fn unpack16(a: Self::I, b: Self::I) -> (Self::I, Self::I);
    /// `rne(v)` for lanes below 2³¹.
    unsafe fn round(v: Self::F) -> Self::I;
    /// `clamp(v + zero_point, low, high) ^ flip` as bytes, `low` and `high` being u8: 128-bit lane `l` of the result
    /// holds lanes `l` of `v[0]`, `v[1]`, `v[2]` and `v[3]`. Each step saturates beyond `low..=high`, so it is exact.
    unsafe fn narrow(v: [Self::I; 4], ends: &Ends<Self::I>) -> Self::I;
}

/// The bytes of a register.
fn bytes<const L: usize>(v: [i32; L]) -> impl Fn(usize) -> u8 {
    move |i| v[i / 4].to_le_bytes()[i % 4]
}

/// The register of the bytes that `byte` gives.
fn register<const L: usize>(byte: impl Fn(usize) -> u8) -> [i32; L] {
    std::array::from_fn(|i| i32::from_le_bytes(std::array::from_fn(|b| byte(4 * i + b))))
}

/// Elements of `E` bytes of `a` and `b` in turns, from one half of each lane of 16.
fn turns<const L: usize, const E: usize>(a: [i32; L], b: [i32; L], half: usize) -> [i32; L] {
    let (a, b) = (bytes(a), bytes(b));
    register(|i| {
        let (element, byte) = (i % 16 / E, i % E);
        let at = i / 16 * 16 + half + element / 2 * E + byte;
        if element % 2 == 0 { a(at) } else { b(at) }
    })
}

impl<const L: usize> Bytes for Lanes<L> {
    #[inline(always)]
    unsafe fn splat8(v: u8) -> [i32; L] {
        [i32::from_le_bytes([v; 4]); L]
    }
    #[inline(always)]
    unsafe fn splat16(v: i16) -> [i32; L] {
        let [a, b] = v.to_le_bytes();
        [i32::from_le_bytes([a, b, a, b]); L]
    }
    #[inline(always)]
    unsafe fn xor(a: [i32; L], b: [i32; L]) -> [i32; L] {
        std::array::from_fn(|i| a[i] ^ b[i])
    }
    #[inline(always)]
    unsafe fn max8(a: [i32; L], b: [i32; L]) -> [i32; L] {
        let (a, b) = (bytes(a), bytes(b));
        register(|i| a(i).max(b(i)))
    }
    #[inline(always)]
    unsafe fn unpack8(a: [i32; L], b: [i32; L]) -> ([i32; L], [i32; L]) {
        (turns::<L, 1>(a, b, 0), turns::<L, 1>(a, b, 8))
    }
    #[inline(always)]
    unsafe fn unpack16(a: [i32; L], b: [i32; L]) -> ([i32; L], [i32; L]) {
        (turns::<L, 2>(a, b, 0), turns::<L, 2>(a, b, 8))
    }
    #[inline(always)]
    unsafe fn round(v: [f32; L]) -> [i32; L] {
        // What is beyond ±65,536 saturates in `narrow` all the same.
        // SAFETY: plain Rust.
        unsafe { Self::clamp_round(v, [-65_536.0; L], [65_536.0; L]) }
    }
    #[inline(always)]
    unsafe fn narrow(v: [[i32; L]; 4], ends: &Ends<[i32; L]>) -> [i32; L] {
        let (low, high, flip) = (bytes(ends.low), bytes(ends.high), bytes(ends.flip));
        let zero_point = i32::from(ends.zero_point[0] as i16);
        register(|i| {
            let code = v[i % 16 / 4][i / 16 * 4 + i % 4] + zero_point;
            code.clamp(i32::from(low(i)), i32::from(high(i))) as u8 ^ flip(i)
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m256i, __m512, __m512i, _mm256_adds_epi16, _mm256_cvtps_epi32, _mm256_max_epu8, _mm256_min_epu8,
        _mm256_packs_epi32, _mm256_packus_epi16, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_unpackhi_epi8,
        _mm256_unpackhi_epi16, _mm256_unpacklo_epi8, _mm256_unpacklo_epi16, _mm256_xor_si256, _mm512_adds_epi16,
        _mm512_cvtps_epi32, _mm512_max_epu8, _mm512_min_epu8, _mm512_packs_epi32, _mm512_packus_epi16,
        _mm512_set1_epi8, _mm512_set1_epi16, _mm512_unpackhi_epi8, _mm512_unpackhi_epi16, _mm512_unpacklo_epi8,
        _mm512_unpacklo_epi16, _mm512_xor_si512,
    };

    use super::super::x86::{Avx2, Avx512};
    use super::{Bytes, Ends};

    /// The trait for one register width, whose intrinsics differ in name only.
    macro_rules! bytes {
        ($for:ty, $i:ty, $f:ty, $set8:ident, $set16:ident, [$lo8:ident, $hi8:ident, $lo16:ident, $hi16:ident], $cvt:ident,
            [$packs:ident, $packus:ident, $adds:ident, $min:ident, $max:ident, $xor:ident]) => {
            impl Bytes for $for {
                #[inline(always)]
                unsafe fn splat8(v: u8) -> $i {
                    // SAFETY: the trait's contract gives the features.
                    unsafe { $set8(v as i8) }
                }
                #[inline(always)]
                unsafe fn splat16(v: i16) -> $i {
                    // SAFETY: the trait's contract gives the features.
                    unsafe { $set16(v) }
                }
                #[inline(always)]
                unsafe fn xor(a: $i, b: $i) -> $i {
                    // SAFETY: the trait's contract gives the features.
                    unsafe { $xor(a, b) }
                }
                #[inline(always)]
                unsafe fn max8(a: $i, b: $i) -> $i {
                    // SAFETY: the trait's contract gives the features.
                    unsafe { $max(a, b) }
                }
                #[inline(always)]
                unsafe fn unpack8(a: $i, b: $i) -> ($i, $i) {
                    // SAFETY: the trait's contract gives the features.
                    unsafe { ($lo8(a, b), $hi8(a, b)) }
                }
                #[inline(always)]
                unsafe fn unpack16(a: $i, b: $i) -> ($i, $i) {
                    // SAFETY: the trait's contract gives the features.
                    unsafe { ($lo16(a, b), $hi16(a, b)) }
                }
                #[inline(always)]
                unsafe fn round(v: $f) -> $i {
                    // SAFETY: the trait's contract gives the features.
                    unsafe { $cvt(v) }
                }
                #[inline(always)]
                unsafe fn narrow(v: [$i; 4], ends: &Ends<$i>) -> $i {
                    // SAFETY: the trait's contract gives the features.
                    unsafe {
                        let first = $adds($packs(v[0], v[1]), ends.zero_point);
                        let second = $adds($packs(v[2], v[3]), ends.zero_point);
                        let codes = $packus(first, second);
                        if ends.whole { codes } else { $xor($min($max(codes, ends.low), ends.high), ends.flip) }
                    }
                }
            }
        };
    }
    bytes!(
        Avx2,
        __m256i,
        __m256,
        _mm256_set1_epi8,
        _mm256_set1_epi16,
        [_mm256_unpacklo_epi8, _mm256_unpackhi_epi8, _mm256_unpacklo_epi16, _mm256_unpackhi_epi16],
        _mm256_cvtps_epi32,
        [
            _mm256_packs_epi32,
            _mm256_packus_epi16,
            _mm256_adds_epi16,
            _mm256_min_epu8,
            _mm256_max_epu8,
            _mm256_xor_si256
        ]
    );
    bytes!(
        Avx512,
        __m512i,
        __m512,
        _mm512_set1_epi8,
        _mm512_set1_epi16,
        [_mm512_unpacklo_epi8, _mm512_unpackhi_epi8, _mm512_unpacklo_epi16, _mm512_unpackhi_epi16],
        _mm512_cvtps_epi32,
        [
            _mm512_packs_epi32,
            _mm512_packus_epi16,
            _mm512_adds_epi16,
            _mm512_min_epu8,
            _mm512_max_epu8,
            _mm512_xor_si512
        ]
    );
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::{
        float32x4_t, int32x4_t, uint8x16_t, vcombine_s16, vcombine_u8, vcvtnq_s32_f32, vdupq_n_s16, vdupq_n_u8,
        veorq_s32, veorq_u8, vmaxq_u8, vminq_u8, vqaddq_s16, vqmovn_s32, vqmovun_s16, vreinterpretq_s16_s32,
        vreinterpretq_s32_s16, vreinterpretq_s32_u8, vreinterpretq_u8_s32, vzip1q_s16, vzip1q_u8, vzip2q_s16,
        vzip2q_u8,
    };

    use super::super::neon::Neon;
    use super::{Bytes, Ends};

    impl Bytes for Neon {
        #[inline(always)]
        unsafe fn splat8(v: u8) -> int32x4_t {
            // SAFETY: every aarch64 CPU has NEON.
            unsafe { vreinterpretq_s32_u8(vdupq_n_u8(v)) }
        }
        #[inline(always)]
        unsafe fn splat16(v: i16) -> int32x4_t {
            // SAFETY: every aarch64 CPU has NEON.
            unsafe { vreinterpretq_s32_s16(vdupq_n_s16(v)) }
        }
        #[inline(always)]
        unsafe fn xor(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            // SAFETY: every aarch64 CPU has NEON.
            unsafe { veorq_s32(a, b) }
        }
        #[inline(always)]
        unsafe fn max8(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            // SAFETY: every aarch64 CPU has NEON.
            unsafe { vreinterpretq_s32_u8(vmaxq_u8(vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b))) }
        }
        #[inline(always)]
        unsafe fn unpack8(a: int32x4_t, b: int32x4_t) -> (int32x4_t, int32x4_t) {
            // SAFETY: every aarch64 CPU has NEON.
            unsafe {
                let (a, b) = (vreinterpretq_u8_s32(a), vreinterpretq_u8_s32(b));
                (vreinterpretq_s32_u8(vzip1q_u8(a, b)), vreinterpretq_s32_u8(vzip2q_u8(a, b)))
            }
        }
        #[inline(always)]
        unsafe fn unpack16(a: int32x4_t, b: int32x4_t) -> (int32x4_t, int32x4_t) {
            // SAFETY: every aarch64 CPU has NEON.
            unsafe {
                let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
                (vreinterpretq_s32_s16(vzip1q_s16(a, b)), vreinterpretq_s32_s16(vzip2q_s16(a, b)))
            }
        }
        #[inline(always)]
        unsafe fn round(v: float32x4_t) -> int32x4_t {
            // SAFETY: every aarch64 CPU has NEON.
            unsafe { vcvtnq_s32_f32(v) }
        }
        #[inline(always)]
        unsafe fn narrow(v: [int32x4_t; 4], ends: &Ends<int32x4_t>) -> int32x4_t {
            // SAFETY: every aarch64 CPU has NEON.
            unsafe {
                let zero_point = vreinterpretq_s16_s32(ends.zero_point);
                let first = vqaddq_s16(vcombine_s16(vqmovn_s32(v[0]), vqmovn_s32(v[1])), zero_point);
                let second = vqaddq_s16(vcombine_s16(vqmovn_s32(v[2]), vqmovn_s32(v[3])), zero_point);
                let codes: uint8x16_t = vcombine_u8(vqmovun_s16(first), vqmovun_s16(second));
                if ends.whole {
                    return vreinterpretq_s32_u8(codes);
                }
                let codes = vmaxq_u8(codes, vreinterpretq_u8_s32(ends.low));
                let codes = vminq_u8(codes, vreinterpretq_u8_s32(ends.high));
                vreinterpretq_s32_u8(veorq_u8(codes, vreinterpretq_u8_s32(ends.flip)))
            }
        }
    }
}
