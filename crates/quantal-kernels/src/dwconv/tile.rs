//! The two bodies of every depthwise kernel: interleaving pixels, and summing interleaved pixels.
//!
//! A register of bytes holds as many channels of one pixel. Interleaving pixels 2e, 2e + 1 … of a line gives entry `e`:
//! four registers whose 32-bit lanes hold what one lane of a dot product takes, 4 pixels as bytes ([`Form::Bytes`]) or 2
//! as i16 ([`Form::Pairs`]), of one channel each. It is done once a line, and serves every output whose window meets the
//! line: for stride 1, two neighbours read the same entries with their weights shifted by a pixel.
//!
//! Interleaving works within 128-bit lanes, so lane `i` of register `v` belongs to channel `16·(i / 4) + 4·v + i % 4`.
//! Packing four registers of results back to bytes undoes that order exactly: no permutation on either side.
// Indices are outputs and registers of a group.
#![allow(clippy::needless_range_loop)]

use crate::gemm::tile::Dot;
use crate::kernel::Form;
use crate::simd::{Bytes, Ends, Simd};

/// Registers in an entry.
pub(super) const VECTORS: usize = 4;
/// Most lines in a window.
pub(super) const MAX_LINES: usize = 16;
/// Most outputs that share the entries they read.
pub(super) const MAX_OUTPUTS: usize = 2;

/// A line to interleave.
pub(super) struct LineArgs {
    /// `2·entries + 2` pixels of one register each.
    pub(super) from: *const u8,
    /// Bytes from one pixel to the next.
    pub(super) pitch: usize,
    pub(super) entries: usize,
    pub(super) to: *mut u8,
}

/// A line of outputs to sum and round.
pub(super) struct RunArgs {
    /// The entries under the first output, one pointer for each line of the window.
    pub(super) lines: [*const u8; MAX_LINES],
    pub(super) line_count: usize,
    /// Dot products a line.
    pub(super) dots: usize,
    /// Entries from one group of outputs to the next.
    pub(super) advance: usize,
    /// `[lines, dots, outputs of a group, VECTORS]` registers.
    pub(super) weights: *const u8,
    /// What sums begin with, `[VECTORS]` registers.
    pub(super) add: *const i32,
    /// `[VECTORS]` registers.
    pub(super) multiplier: *const f32,
    /// Outputs: registers of codes.
    pub(super) outputs: usize,
    /// Bytes to store of the last output.
    pub(super) last: usize,
    pub(super) out: *mut u8,
    /// Bytes from one output to the next.
    pub(super) step: usize,
    pub(super) rounding: Rounding,
}

/// How sums become codes as u8, which are then xored with `flip`.
#[derive(Clone, Copy)]
pub(super) struct Rounding {
    pub(super) zero_point: i16,
    pub(super) low: u8,
    pub(super) high: u8,
    pub(super) flip: u8,
}

/// # Safety
/// As [`Simd`]; the pointers of `args` hold what [`LineArgs`] says.
#[inline(always)]
pub(super) unsafe fn interleave<D: Dot>(args: &LineArgs)
where
    D::Lanes: Bytes,
{
    let &LineArgs { from, pitch, entries, to } = args;
    let size = 4 * <D::Lanes as Simd>::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let zero = D::Lanes::splat(0);
        let mut last = pair::<D::Lanes>(from, pitch);
        for e in 0..entries {
            let next = pair::<D::Lanes>(from.add((2 * e + 2) * pitch), pitch);
            let (first, second) = match D::FORM {
                Form::Bytes => (D::Lanes::unpack16(last.0, next.0), D::Lanes::unpack16(last.1, next.1)),
                Form::Pairs => (D::Lanes::unpack8(last.0, zero), D::Lanes::unpack8(last.1, zero)),
            };
            last = next;
            let to = to.add(VECTORS * e * size);
            D::Lanes::store(to.cast(), first.0);
            D::Lanes::store(to.add(size).cast(), first.1);
            D::Lanes::store(to.add(2 * size).cast(), second.0);
            D::Lanes::store(to.add(3 * size).cast(), second.1);
        }
    }
}

/// The bytes of two neighbouring pixels in turns.
///
/// # Safety
/// As [`Simd`]; the pixels are a register each, `pitch` bytes apart.
#[inline(always)]
unsafe fn pair<S: Bytes>(from: *const u8, pitch: usize) -> (S::I, S::I) {
    // SAFETY: the caller's promise.
    unsafe { S::unpack8(S::load(from.cast()), S::load(from.add(pitch).cast())) }
}

/// Sums windows of `H` lines with `Q` dot products each (as `args` says, where they are 0) for groups of `G` outputs.
///
/// # Safety
/// As [`Simd`]; the pointers of `args` hold what [`RunArgs`] says; the products of sums and multipliers are below 2³¹.
#[inline(always)]
pub(super) unsafe fn run<D: Dot, const H: usize, const Q: usize, const G: usize>(args: &RunArgs)
where
    D::Lanes: Bytes,
{
    let lanes = <D::Lanes as Simd>::LANES;
    let size = 4 * lanes;
    let (line_count, dots) = (if H == 0 { args.line_count } else { H }, if Q == 0 { args.dots } else { Q });
    // The entries that a dot product skips: as many pixels as it takes.
    let stride = D::FORM.kr() / 2 * VECTORS * size;
    // SAFETY: the caller's promise.
    unsafe {
        let Rounding { zero_point, low, high, flip } = args.rounding;
        let ends = Ends {
            zero_point: D::Lanes::splat16(zero_point),
            low: D::Lanes::splat8(low),
            high: D::Lanes::splat8(high),
            flip: D::Lanes::splat8(flip),
            whole: (low, high, flip) == (0, 255, 0),
        };
        for group in 0..args.outputs.div_ceil(G) {
            let at = group * args.advance * VECTORS * size;
            let mut acc = [[D::Lanes::splat(0); VECTORS]; G];
            for v in 0..VECTORS {
                let add = D::Lanes::load(args.add.add(v * lanes));
                for g in 0..G {
                    acc[g][v] = add;
                }
            }
            let mut weights = args.weights;
            for line in 0..line_count {
                let mut entry = args.lines[line].add(at);
                for _ in 0..dots {
                    for v in 0..VECTORS {
                        let x = D::Lanes::load(entry.add(v * size).cast());
                        for g in 0..G {
                            let w = D::Lanes::load(weights.add((g * VECTORS + v) * size).cast());
                            acc[g][v] = D::dot(acc[g][v], x, w);
                        }
                    }
                    weights = weights.add(G * VECTORS * size);
                    entry = entry.wrapping_add(stride);
                }
            }
            for g in 0..G {
                let output = group * G + g;
                if output >= args.outputs {
                    break;
                }
                let mut rounded = acc[g];
                for v in 0..VECTORS {
                    let scaled =
                        D::Lanes::mul_f(D::Lanes::to_f(acc[g][v]), D::Lanes::load_f(args.multiplier.add(v * lanes)));
                    rounded[v] = D::Lanes::round(scaled);
                }
                let codes = D::Lanes::narrow(rounded, &ends);
                let out = args.out.add(output * args.step);
                if output + 1 == args.outputs && args.last < size {
                    let mut bytes = [0_u8; 64];
                    D::Lanes::store(bytes.as_mut_ptr().cast(), codes);
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), out, args.last);
                } else {
                    D::Lanes::store(out.cast(), codes);
                }
            }
        }
    }
}
