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
        // SAFETY: the contract of this function.
        Source::Windows { x, geometry, group } => unsafe { windows(isa, x, geometry, group, g) },
    }
}

/// Copies columns `k0 … k0 + k` of windows in a row.
///
/// # Safety
/// As for `gather`.
#[inline(always)]
unsafe fn windows<I: FloatIsa>(isa: I, x: &[f32], g: &ConvGeometry, group: usize, part: &Gather<'_>) {
    let channels = g.c_in / g.groups;
    // Taps side by side in memory form one run: a whole row of the window, if nothing lies between the pixels.
    let joined = g.dilation[1] == 1 && g.groups == 1;
    let (run, across) = if joined { (channels * g.kernel[1], 1) } else { (channels, g.kernel[1]) };
    if part.k == 0 {
        return;
    }
    // From the first tap of a window to the end of its last one, for windows that lie in the image.
    let extent = [0, 1].map(|i| ((g.kernel[i] - 1) * g.dilation[i] + 1).cast_signed());
    let (line, height) = (g.w * g.c_in, g.dilation[0] * g.w * g.c_in);
    // Where the columns begin: a run, an offset in it, and what is left of it.
    let (first_run, skip) = (part.k0 / run, part.k0 % run);
    let (first_ky, first_kx) = (first_run / across, first_run % across);
    let (mut ox, rest) = (part.first % g.w_out, part.first / g.w_out);
    let (mut oy, mut image) = (rest % g.h_out, rest / g.h_out);
    for r in 0..part.count {
        // Signed coordinates of the first tap; `ConvGeometry::valid` says that they fit.
        let y0 = (oy * g.stride[0]).cast_signed() - g.pads[0].cast_signed();
        let x0 = (ox * g.stride[1]).cast_signed() - g.pads[1].cast_signed();
        let mut to = part.to.wrapping_add(r * A_STRIDE);
        let (mut ky, mut kx, mut skip, mut left) = (first_ky, first_kx, skip, part.k);
        let inside = y0 >= 0 && x0 >= 0 && y0 + extent[0] <= g.h.cast_signed() && x0 + extent[1] <= g.w.cast_signed();
        if joined && inside {
            let first = (image * g.h + y0.cast_unsigned()) * line + x0.cast_unsigned() * g.c_in;
            if first + (g.kernel[0] - 1) * height + run + LANES <= x.len() {
                while left > 0 {
                    let len = (run - skip).min(left);
                    // SAFETY: the run lies in the image, and 16 values after its end in `x`; a row of `to` has room for
                    // k ≤ K_BLOCK values and 16 more.
                    unsafe { copy_whole(isa, x.as_ptr().add(first + ky * height + skip), to, len) };
                    to = to.wrapping_add(len);
                    (left, skip, ky) = (left - len, 0, ky + 1);
                }
            }
        }
        while left > 0 {
            let len = (run - skip).min(left);
            let iy = y0 + (ky * g.dilation[0]).cast_signed();
            let ix = x0 + (kx * g.dilation[1]).cast_signed();
            let row = Row { x, g, group, joined, image, iy, ix };
            // SAFETY: windows below pixels_out and columns below geometry.k(), by the contract; a row of `to` has room
            // for k ≤ K_BLOCK values and 16 more.
            unsafe { copy_run(isa, &row, skip, len, to) };
            to = to.wrapping_add(len);
            left -= len;
            skip = 0;
            kx += 1;
            if kx == across {
                (kx, ky) = (0, ky + 1);
            }
        }
        ox += 1;
        if ox == g.w_out {
            (ox, oy) = (0, oy + 1);
            if oy == g.h_out {
                (oy, image) = (0, image + 1);
            }
        }
    }
}

/// A run of taps: where it begins, inside the image or not.
struct Row<'a> {
    x: &'a [f32],
    g: &'a ConvGeometry,
    group: usize,
    /// Whether the run goes over several pixels, or stays within the channels of a group.
    joined: bool,
    image: usize,
    iy: isize,
    ix: isize,
}

/// Copies `len` values of a run from value `skip` on, with zeros outside of the image.
///
/// # Safety
/// `x` covers the geometry; `to` is good for writing `len` values and 15 more.
#[inline(always)]
unsafe fn copy_run<I: FloatIsa>(isa: I, row: &Row<'_>, skip: usize, len: usize, to: *mut f32) {
    let g = row.g;
    if row.iy < 0 || row.iy >= g.h.cast_signed() {
        // SAFETY: the contract of this function.
        return unsafe { zero(isa, to, len) };
    }
    // The run in values of the group, counted from the left edge of the image row.
    let channels = (g.c_in / if row.joined { 1 } else { g.groups }).cast_signed();
    let begin = row.ix * channels + skip.cast_signed();
    let (width, signed_len) = (g.w.cast_signed() * channels, len.cast_signed());
    let before = (-begin).clamp(0, signed_len);
    let after = (begin + signed_len - width).clamp(0, signed_len - before);
    let inside = signed_len - before - after;
    // SAFETY: the run is cut at the image's edges, so reads stay inside a pixel row of `x`; writes are in order, so
    // that what one overshoots the next one covers, and the last one by at most 15.
    unsafe {
        zero(isa, to, before.cast_unsigned());
        if inside > 0 {
            let image_row = (row.image * g.h + row.iy.cast_unsigned()) * g.w;
            let from = if row.joined {
                image_row * g.c_in + (begin + before).cast_unsigned()
            } else {
                (image_row + row.ix.cast_unsigned()) * g.c_in + row.group * channels.cast_unsigned() + skip
            };
            let (inside, to) = (inside.cast_unsigned(), to.offset(before));
            if from + inside + LANES <= row.x.len() {
                copy_whole(isa, row.x.as_ptr().add(from), to, inside);
            } else {
                copy(isa, row.x.as_ptr().add(from), to, inside);
            }
        }
        zero(isa, to.offset(before + inside), after.cast_unsigned());
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

/// Copies `n` values; up to 15 more are read and written.
///
/// # Safety
/// `n + 15` values readable and writable.
#[inline(always)]
unsafe fn copy_whole<I: FloatIsa>(isa: I, from: *const f32, to: *mut f32, n: usize) {
    let mut i = 0;
    while i < n {
        // SAFETY: `i < n`, so this overshoots by at most 15.
        unsafe { isa.store(to.add(i), isa.load(from.add(i))) };
        i += LANES;
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
