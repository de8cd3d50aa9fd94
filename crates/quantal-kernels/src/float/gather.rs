//! Rows of A brought together for the tiles: from a matrix, or from the windows of a convolution.

use super::gemm::AView;
use super::lanes::{FloatIsa, LANES};
use super::tile::{A_STRIDE, K_BLOCK};
use crate::ConvGeometry;

/// Where the rows of A come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// The rows of a matrix that holds `m` rows of `k`, as asserted by `gemm`.
    Matrix(AView<'a>),
    /// The windows of one group of an image, as asserted by `conv`: row = output pixel, column = (ky, kx, channel).
    Windows {
        /// `[batch, h, w, c_in]`.
        x: &'a [f32],
        geometry: &'a ConvGeometry,
        group: usize,
    },
}

/// Which part of A: rows `first … first + count`, columns `k0 … k0 + k`, with `k ≤ K_BLOCK`.
pub(super) struct Gather<'a> {
    pub(super) source: Source<'a>,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) k0: usize,
    pub(super) k: usize,
    /// `count` rows of `A_STRIDE` values.
    pub(super) to: *mut f32,
}

/// Copies the part, row r to `to + r·A_STRIDE`; padding becomes 0.0.
///
/// # Safety
/// The part lies within the source, and `to` is good for writing `count·A_STRIDE` values.
#[inline(always)]
pub(super) unsafe fn gather<I: FloatIsa>(isa: I, g: &Gather<'_>) {
    debug_assert!(g.k <= K_BLOCK, "a block of K");
    match g.source {
        Source::Matrix(a) if a.col_stride == 1 => {
            for r in 0..g.count {
                // SAFETY: row first + r and columns below k0 + k lie within the matrix, as asserted by `gemm`; a row
                // of `to` has room for k ≤ K_BLOCK values and 16 more.
                unsafe {
                    let from = a.data.as_ptr().add((g.first + r) * a.row_stride + g.k0);
                    copy(isa, from, g.to.add(r * A_STRIDE), g.k);
                }
            }
        }
        Source::Matrix(a) => {
            for k in 0..g.k {
                for r in 0..g.count {
                    // SAFETY: as above.
                    unsafe {
                        let from = a.data.as_ptr().add((g.first + r) * a.row_stride + (g.k0 + k) * a.col_stride);
                        *g.to.add(r * A_STRIDE + k) = *from;
                    }
                }
            }
        }
        Source::Windows { x, geometry, group } => {
            for r in 0..g.count {
                // SAFETY: pixel first + r < pixels_out, columns below geometry.k(), by the contract; room as above.
                unsafe { window(isa, x, geometry, group, g.first + r, g.k0, g.k, g.to.add(r * A_STRIDE)) };
            }
        }
    }
}

/// Copies columns `k0 … k0 + k` of one window.
///
/// # Safety
/// As for `gather`, for one row.
#[inline(always)]
unsafe fn window<I: FloatIsa>(
    isa: I,
    x: &[f32],
    g: &ConvGeometry,
    group: usize,
    pixel: usize,
    k0: usize,
    k: usize,
    to: *mut f32,
) {
    let channels = g.c_in / g.groups;
    let (ox, rest) = (pixel % g.w_out, pixel / g.w_out);
    let (oy, image) = (rest % g.h_out, rest / g.h_out);
    // Signed coordinates of the first tap; `ConvGeometry::valid` says that they fit.
    let y0 = (oy * g.stride[0]).cast_signed() - g.pads[0].cast_signed();
    let x0 = (ox * g.stride[1]).cast_signed() - g.pads[1].cast_signed();
    // Taps side by side in memory form one run: a whole row of the window, if nothing lies between the pixels.
    let joined = g.dilation[1] == 1 && g.groups == 1;
    let (mut at, end) = (k0, k0 + k);
    let mut to = to;
    while at < end {
        let (tap, channel) = (at / channels, at % channels);
        let (ky, kx) = (tap / g.kernel[1], tap % g.kernel[1]);
        let taps = if joined { g.kernel[1] - kx } else { 1 };
        let len = (taps * channels - channel).min(end - at);
        let iy = y0 + (ky * g.dilation[0]).cast_signed();
        let ix = x0 + (kx * g.dilation[1]).cast_signed();
        // SAFETY: the run is split at the image's edges, so that reads stay inside pixel rows of `x` (its length is
        // asserted by `conv`); writes advance by `len` in total, within the k values and 16 more of the row.
        unsafe {
            if iy < 0 || iy >= g.h.cast_signed() {
                zero(isa, to, len);
            } else {
                // The run in values, counted from the left edge of the image row.
                let channels = channels.cast_signed();
                let begin = ix * channels + channel.cast_signed();
                let (width, signed_len) = (g.w.cast_signed() * channels, len.cast_signed());
                let before = (-begin).clamp(0, signed_len);
                let after = (begin + signed_len - width).clamp(0, signed_len - before);
                let inside = signed_len - before - after;
                zero(isa, to, before.cast_unsigned());
                if inside > 0 {
                    let from = if joined {
                        (image * g.h + iy.cast_unsigned()) * g.w * g.c_in + (begin + before).cast_unsigned()
                    } else {
                        let pixel = (image * g.h + iy.cast_unsigned()) * g.w + ix.cast_unsigned();
                        pixel * g.c_in + group * channels.cast_unsigned() + channel
                    };
                    let to = to.offset(before);
                    copy(isa, x.as_ptr().add(from), to, inside.cast_unsigned());
                }
                zero(isa, to.offset(before + inside), after.cast_unsigned());
            }
            to = to.add(len);
        }
        at += len;
    }
}

/// Copies `n` values; up to 15 more may be written.
///
/// # Safety
/// `n` values readable, `n + 15` writable.
#[inline(always)]
unsafe fn copy<I: FloatIsa>(isa: I, from: *const f32, to: *mut f32, n: usize) {
    let mut i = 0;
    // SAFETY: full vectors below n, then one part; the last store is full and overshoots by at most 15.
    unsafe {
        while i + LANES <= n {
            isa.store(to.add(i), isa.load(from.add(i)));
            i += LANES;
        }
        if i < n {
            isa.store(to.add(i), isa.load_part(from.add(i), n - i));
        }
    }
}

/// Writes `n` zeros; up to 15 more may be written.
///
/// # Safety
/// `n + 15` values writable.
#[inline(always)]
unsafe fn zero<I: FloatIsa>(isa: I, to: *mut f32, n: usize) {
    let mut i = 0;
    while i < n {
        // SAFETY: `i < n`, so this overshoots by at most 15.
        unsafe { isa.store(to.add(i), isa.splat(0.0)) };
        i += LANES;
    }
}
