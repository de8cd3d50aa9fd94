//! Any function of one 8-bit code, as a table of 256 bytes: equation (6) of `arith`.
//!
//! The table lies in registers where that is faster than memory: two permutations of 128 bytes with AVX-512 VBMI,
//! sixteen of 16 bytes with AVX2. [`lut`] walks a tensor; the epilogues of products and convolutions call
//! `Simd::look_up` on the bytes that they have just written.

use quantal_tensor::arith::{Affine, table};

use crate::chunks::for_chunks;
use crate::error::{KernelError, check_length};
use crate::simd::{Simd, isa_fn};
use crate::{Isa, Threads};

/// `out[i] = table[x[i]]`.
///
/// # Errors
/// If `out` is shorter than `x`.
pub fn lut(isa: Isa, table: &[u8; 256], x: &[u8], out: &mut [u8], threads: &Threads) -> Result<(), KernelError> {
    const CHUNK: usize = 1 << 14;
    check_length("the output", out.len(), x.len())?;
    for_chunks(&mut out[..x.len()], CHUNK, x.len() / 8, threads, |i, out| {
        let x = &x[i * CHUNK..][..out.len()];
        // SAFETY: both slices hold `out.len()` bytes.
        unsafe { look_up(isa, table, x.as_ptr(), out.as_mut_ptr(), [1, out.len(), 0]) }
    });
    Ok(())
}

/// The table that turns codes of `input` into codes of `output`: equation (2), then (1).
pub fn requantize_table(input: Affine, output: Affine) -> [u8; 256] {
    table(|x| x, input, output)
}

isa_fn! {
    /// `out[r·ld + c] = table[x[r·ld + c]]` for `[rows, cols, ld]`: in place if `x` and `out` are the same.
    ///
    /// # Safety
    /// `x` and `out` are valid for `rows` rows of `cols` bytes, `ld` apart; they are the same or do not overlap.
    pub(crate) unsafe fn look_up(table: &[u8; 256], x: *const u8, out: *mut u8, size: [usize; 3]) = look_up_body
}

/// # Safety
/// As [`look_up`] and [`Simd`].
#[inline(always)]
unsafe fn look_up_body<S: Simd>(table: &[u8; 256], x: *const u8, out: *mut u8, size: [usize; 3]) {
    // SAFETY: handed on.
    unsafe { S::look_up(table, x, out, size) }
}

/// [`look_up`] byte by byte.
///
/// # Safety
/// As [`look_up`].
#[inline(always)]
pub(crate) unsafe fn plain(table: &[u8; 256], x: *const u8, out: *mut u8, [rows, cols, ld]: [usize; 3]) {
    for r in 0..rows {
        for i in r * ld..r * ld + cols {
            // SAFETY: the caller's promise.
            unsafe { *out.add(i) = table[usize::from(*x.add(i))] }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use std::arch::x86_64::{
        __m256i, _mm_loadu_si128, _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_set1_epi8,
        _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_storeu_si256, _mm256_sub_epi8, _mm256_subs_epi8,
        _mm256_xor_si256, _mm512_loadu_si512, _mm512_mask_blend_epi8, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8,
        _mm512_movepi8_mask, _mm512_permutex2var_epi8, _mm512_storeu_si512,
    };

    /// # Safety
    /// As [`super::look_up`], and the CPU has AVX-512 F, BW and VBMI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    pub(crate) unsafe fn vbmi(table: &[u8; 256], x: *const u8, out: *mut u8, [rows, cols, ld]: [usize; 3]) {
        // SAFETY: the table holds four registers; whole registers are read and written inside a row, and its last
        // bytes under a mask.
        unsafe {
            let [t0, t1, t2, t3] = [0, 64, 128, 192].map(|i| _mm512_loadu_si512(table.as_ptr().add(i).cast()));
            for r in 0..rows {
                let (x, out) = (x.add(r * ld), out.add(r * ld));
                for i in (0..cols).step_by(64) {
                    let (left, x, out) = (cols - i, x.add(i), out.add(i));
                    let mask = if left < 64 { (1 << left) - 1 } else { u64::MAX };
                    let q =
                        if left < 64 { _mm512_maskz_loadu_epi8(mask, x.cast()) } else { _mm512_loadu_si512(x.cast()) };
                    // Seven bits of the code choose within a half of the table, the eighth chooses the half.
                    let low = _mm512_permutex2var_epi8(t0, q, t1);
                    let high = _mm512_permutex2var_epi8(t2, q, t3);
                    let y = _mm512_mask_blend_epi8(_mm512_movepi8_mask(q), low, high);
                    if left < 64 {
                        _mm512_mask_storeu_epi8(out.cast(), mask, y);
                    } else {
                        _mm512_storeu_si512(out.cast(), y);
                    }
                }
            }
        }
    }

    /// Registers that share one walk over the table.
    const WIDE: usize = 4;

    /// # Safety
    /// As [`super::look_up`], and the CPU has AVX2.
    #[target_feature(enable = "avx2")]
    pub(crate) unsafe fn avx2(table: &[u8; 256], x: *const u8, out: *mut u8, [rows, cols, ld]: [usize; 3]) {
        // SAFETY: whole registers are read and written inside a row, the rest byte by byte.
        unsafe {
            if cols < 32 {
                return super::plain(table, x, out, [rows, cols, ld]);
            }
            let steps = steps(table);
            // Registers of one row, or of several where rows are narrow, share a walk over the table.
            let (mut at, mut held) = ([0; WIDE], 0);
            for r in 0..rows {
                for i in (0..cols - cols % 32).step_by(32) {
                    at[held] = r * ld + i;
                    held += 1;
                    if held == WIDE {
                        sixteen(&steps, x, out, at);
                        held = 0;
                    }
                }
                let done = r * ld + cols - cols % 32;
                super::plain(table, x.add(done), out.add(done), [1, cols % 32, 0]);
            }
            for &at in &at[..held] {
                sixteen(&steps, x, out, [at]);
            }
        }
    }

    /// The sixteen parts of a table in the form that [`sixteen`] sums: `t0`, `t_i ^ t_{i-1}` up to 7, and from 8 on
    /// `t_i ^ t_{i-1} ^ (the part that it leaves behind)`.
    ///
    /// # Safety
    /// The CPU has AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn steps(table: &[u8; 256]) -> [__m256i; 16] {
        let mut steps = [_mm256_setzero_si256(); 16];
        for (i, step) in steps.iter_mut().enumerate() {
            // SAFETY: part `i` of the table is 16 bytes.
            *step = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().add(16 * i).cast())) };
        }
        let parts = steps;
        for i in 1..16 {
            steps[i] = _mm256_xor_si256(parts[i], parts[i - 1]);
        }
        for i in 8..16 {
            steps[i] = _mm256_xor_si256(steps[i], steps[i - 8]);
        }
        steps
    }

    /// Looks up the registers at `at`.
    ///
    /// `vpshufb` gives 0 where bit 7 of the index is set and ignores bits 4 to 6, so with `16·i` taken off the code, part
    /// `i` counts as long as what is left is in 0..128: for codes below 128 parts `0..=h` (h the high nibble), whose steps
    /// xor to `t_h`; for the others, once they have come down below 128, parts `h−7..=h`, which xor to `t_h` as well. From
    /// part 8 on the subtraction saturates, so that codes below 128 stay below zero.
    ///
    /// # Safety
    /// The CPU has AVX2; `x` and `out` are valid for 32 bytes from each of `at` on.
    #[target_feature(enable = "avx2")]
    #[inline]
    #[allow(clippy::needless_range_loop)]
    unsafe fn sixteen<const N: usize>(steps: &[__m256i; 16], x: *const u8, out: *mut u8, at: [usize; N]) {
        // SAFETY: the caller's promise.
        unsafe {
            let nibble = _mm256_set1_epi8(16);
            let mut q = [_mm256_setzero_si256(); N];
            let mut y = q;
            for n in 0..N {
                q[n] = _mm256_loadu_si256(x.add(at[n]).cast());
                y[n] = _mm256_shuffle_epi8(steps[0], q[n]);
            }
            for (i, &step) in steps.iter().enumerate().skip(1) {
                for n in 0..N {
                    q[n] = if i < 9 { _mm256_sub_epi8(q[n], nibble) } else { _mm256_subs_epi8(q[n], nibble) };
                    y[n] = _mm256_xor_si256(y[n], _mm256_shuffle_epi8(step, q[n]));
                }
            }
            for n in 0..N {
                _mm256_storeu_si256(out.add(at[n]).cast(), y[n]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requantizing_to_the_same_parameters_changes_nothing() {
        let s8 = Affine { scale: 0.037, zero_point: -5, qmin: -128, qmax: 127 };
        assert!(requantize_table(s8, s8).iter().enumerate().all(|(i, &y)| usize::from(y) == i));
    }

    #[test]
    fn every_byte_goes_through_the_table() {
        // No two parts of the table are alike, nor do their entries repeat.
        let table: [u8; 256] = std::array::from_fn(|i| (i * 7 + i / 16 * i / 3 + 3) as u8);
        for isa in Isa::available() {
            for n in [0, 1, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 200, 256, 100_003] {
                let x: Vec<u8> = (0..n).map(|i| (i * 31 + i / 256) as u8).collect();
                let mut y = vec![0; n];
                lut(isa, &table, &x, &mut y, &Threads::new(3)).unwrap();
                assert!(x.iter().zip(&y).all(|(&x, &y)| y == table[usize::from(x)]), "{isa}: {n} bytes");
            }
            assert!(lut(isa, &table, &[0; 9], &mut [0; 5], &Threads::new(1)).is_err());
        }
    }

    #[test]
    fn rows_are_looked_up_in_place_and_what_lies_between_is_left() {
        let table: [u8; 256] = std::array::from_fn(|i| (i * 11 + 5) as u8);
        let (rows, ld) = (5, 301);
        for isa in Isa::available() {
            for cols in [1, 16, 31, 48, 64, 100, 161, 256, 300] {
                let x: Vec<u8> = (0..rows * ld).map(|i| (i * 37 + i / 256) as u8).collect();
                let mut y = x.clone();
                // SAFETY: `y` holds 5 rows of 301 bytes.
                unsafe { look_up(isa, &table, y.as_ptr(), y.as_mut_ptr(), [rows, cols, ld]) };
                for (i, (&x, &y)) in x.iter().zip(&y).enumerate() {
                    assert_eq!(
                        y,
                        if i % ld < cols { table[usize::from(x)] } else { x },
                        "{isa}: {cols} columns at {i}"
                    );
                }
            }
        }
    }
}
