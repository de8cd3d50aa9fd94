//! Depthwise convolutions of 8-bit codes, channels-last: each output channel sees its own input channel.
//!
//! Lanes run across channels and taps are taken in pairs: the codes of two taps are interleaved as i16 and multiplied
//! by interleaved i16 weights, exact for any 8-bit weights less any zero point, so neither signedness nor zero points of
//! the weights cost anything. Depthwise with more than one output per channel is a grouped [`crate::conv`].

#[cfg(test)]
mod tests;

use crate::conv::{check_same, check_size, check_weights};
use crate::error::{KernelError, check_length};
use crate::gemm::epilogue::{Block, Columns, Epilogue, RawEpilogue, finish};
use crate::kernel::MAX_NR;
use crate::simd::emulated::Lanes;
use crate::simd::{Simd, isa_fn};
use crate::{ConvGeometry, Isa, Threads};

/// Weights of a depthwise convolution.
pub struct PackedDwConv {
    isa: Isa,
    geometry: ConvGeometry,
    /// `[pairs of taps, channels, 2]`, zero points taken off, the odd last tap paired with zeros.
    weights: Vec<i16>,
    /// Σ of a channel's weights.
    sums: Vec<i32>,
    /// Offsets of the taps from the input pixel, padded to a whole pair.
    taps: Vec<[isize; 2]>,
}

impl PackedDwConv {
    /// Packs `[c, 1, kh, kw]` weights, two's complement if `signed`, of zero point `zero_points`: none (0), one, or one
    /// for each channel.
    ///
    /// # Errors
    /// If the shape is not depthwise with one output for each channel, or a slice is too short.
    pub fn pack(
        isa: Isa,
        geometry: &ConvGeometry,
        weights: &[u8],
        signed: bool,
        zero_points: &[i32],
    ) -> Result<Self, KernelError> {
        check_weights(geometry, weights.len())?;
        let &ConvGeometry { c_in: c, kernel: [kh, kw], dilation, pads, .. } = geometry;
        if geometry.groups != c || geometry.c_out != c {
            return Err(KernelError::Geometry("not a depthwise convolution with one output for each channel"));
        }
        crate::gemm::check_zero_points(zero_points, c)?;
        let count = kh * kw;
        if count > crate::pack::MAX_K_UNSIGNED {
            return Err(KernelError::TooDeep { k: count, most: crate::pack::MAX_K_UNSIGNED });
        }
        let mut taps: Vec<[isize; 2]> = Vec::with_capacity(count + 1);
        for ky in 0..kh {
            let dy = (ky * dilation[0]) as isize - pads[0] as isize;
            taps.extend((0..kw).map(|kx| [dy, (kx * dilation[1]) as isize - pads[1] as isize]));
        }
        if !count.is_multiple_of(2) {
            taps.push(taps[0]);
        }
        let mut packed = vec![0; taps.len() * c];
        let mut sums = vec![0; c];
        for (t, channel) in (0..count).flat_map(|t| (0..c).map(move |channel| (t, channel))) {
            let byte = weights[channel * count + t];
            let code = if signed { i32::from(byte as i8) } else { i32::from(byte) };
            let zero_point = match zero_points {
                [] => 0,
                [one] => *one,
                many => many[channel],
            };
            let w = code - zero_point;
            packed[(t / 2 * c + channel) * 2 + t % 2] = w as i16;
            sums[channel] += w;
        }
        Ok(Self { isa, geometry: *geometry, weights: packed, sums, taps })
    }

    /// The geometry that it was packed for.
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// The instruction set that it was packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

/// One depthwise convolution.
pub struct DwConvCall<'a> {
    /// `[batch, h, w, c]` codes as bytes.
    pub x: &'a [u8],
    /// Whether they are s8 rather than u8.
    pub x_signed: bool,
    /// Their zero point, in their own signedness.
    pub x_zero_point: i32,
    /// The sizes of the images, and all else as the weights were packed for.
    pub geometry: &'a ConvGeometry,
    /// The weights.
    pub weights: &'a PackedDwConv,
    /// What becomes of each sum: an output of `batch · h_out · w_out` rows and `c` columns.
    pub epilogue: Epilogue<'a>,
}

/// Output pixels whose sums are ended together.
const PIXELS: usize = 8;

/// Computes one depthwise convolution.
///
/// # Errors
/// If a slice is shorter than the sizes say, or a zero point or range of codes does not fit 8 bits.
pub fn dwconv(call: DwConvCall, threads: &Threads) -> Result<(), KernelError> {
    let DwConvCall { x, x_signed, x_zero_point, geometry: g, weights, epilogue } = call;
    let c = g.c_in;
    check_same(&weights.geometry, g)?;
    let (elements, pixels) = check_size(g)?;
    check_length("the input", x.len(), elements)?;
    let epilogue = RawEpilogue::new(epilogue, pixels, c)?;
    if pixels == 0 || c == 0 {
        return Ok(());
    }
    let image = Image { x, x_signed, x_zero_point, g, weights, epilogue: &epilogue };
    let lines = g.batch * g.h_out;
    let line_work = g.w_out * c * weights.taps.len() / 16;
    let tasks = if lines * line_work < 1 << 14 { 1 } else { lines.min(4 * threads.count()) };
    let task = |i: usize| image.lines(i * lines / tasks..(i + 1) * lines / tasks);
    if tasks == 1 {
        task(0);
    } else {
        threads.parallel_for(tasks, &task);
    }
    Ok(())
}

struct Image<'a> {
    x: &'a [u8],
    x_signed: bool,
    x_zero_point: i32,
    g: &'a ConvGeometry,
    weights: &'a PackedDwConv,
    epilogue: &'a RawEpilogue,
}

/// Some channels of one output pixel.
struct PixelArgs {
    /// `2 · pairs` pointers to `cols` codes each.
    taps: *const *const u8,
    pairs: usize,
    /// `[pairs, channels, 2]` from the first channel on.
    weights: *const i16,
    channels: usize,
    cols: usize,
    signed: bool,
    sums: *mut i32,
}

impl Image<'_> {
    /// Output lines `lines`, counted over the whole batch.
    fn lines(&self, lines: std::ops::Range<usize>) {
        let Self { weights, g, .. } = *self;
        let c = g.c_in;
        let pad_code = [self.x_zero_point as u8; MAX_NR];
        let mut sums = SumRows([0; PIXELS * MAX_NR]);
        let mut taps = vec![pad_code.as_ptr(); weights.taps.len()];
        // The last chunk overlaps the one before rather than being narrow: the same bytes are written twice.
        for chunk in 0..c.div_ceil(MAX_NR) {
            let first = (chunk * MAX_NR).min(c.saturating_sub(MAX_NR));
            let cols = MAX_NR.min(c);
            // SAFETY: the chunk's columns lie inside the checked `c`.
            let columns = unsafe {
                Columns::new(self.epilogue, first, &weights.sums[first..first + cols], self.x_zero_point, |_| 0)
            };
            for line in lines.clone() {
                let (image, y) = (line / g.h_out, line % g.h_out);
                for x0 in (0..g.w_out).step_by(PIXELS) {
                    let rows = PIXELS.min(g.w_out - x0);
                    let mut pixels = [0; PIXELS];
                    for (r, pixel) in pixels.iter_mut().enumerate().take(rows) {
                        *pixel = line * g.w_out + x0 + r;
                        self.point(&mut taps, &pad_code, image, y, x0 + r, first);
                        let args = PixelArgs {
                            taps: taps.as_ptr(),
                            pairs: taps.len() / 2,
                            weights: weights.weights[2 * first..].as_ptr(),
                            channels: c,
                            cols,
                            signed: self.x_signed,
                            sums: sums.0[r * MAX_NR..].as_mut_ptr(),
                        };
                        // SAFETY: each tap points to `cols` codes, in the image or in `pad_code`; the weights hold
                        // `pairs · channels` pairs; `sums` has a row of `MAX_NR` for each pixel; narrow images take
                        // one channel at a time.
                        unsafe { if cols < 16 { narrow(&args) } else { sum_pixel(weights.isa, &args) } }
                    }
                    let block = Block {
                        sums: sums.0.as_ptr(),
                        ld: MAX_NR,
                        rows,
                        cols,
                        first,
                        columns: &columns,
                        pixels: pixels.as_ptr(),
                        row_terms: std::ptr::null(),
                    };
                    // SAFETY: pixels and columns are those of the checked output; lines belong to one task each.
                    unsafe { finish(weights.isa, &block, self.epilogue) }
                }
            }
        }
    }

    /// Points `taps` to channel `first` of the codes under output pixel `(y, x)`, or to the padding.
    fn point(&self, taps: &mut [*const u8], pad: &[u8], image: usize, y: usize, x: usize, first: usize) {
        let g = self.g;
        let (top, left) = ((y * g.stride[0]) as isize, (x * g.stride[1]) as isize);
        for (tap, &[dy, dx]) in taps.iter_mut().zip(&self.weights.taps) {
            let (y, x) = (top + dy, left + dx);
            let inside = (0..g.h as isize).contains(&y) && (0..g.w as isize).contains(&x);
            *tap = if inside {
                let pixel = (image * g.h + y as usize) * g.w + x as usize;
                self.x.as_ptr().wrapping_add(pixel * g.c_in + first)
            } else {
                pad.as_ptr()
            };
        }
    }
}

#[repr(align(64))]
struct SumRows([i32; PIXELS * MAX_NR]);

isa_fn! {
    /// # Safety
    /// The pointers hold what [`PixelArgs`] says, and `cols` is at least 16.
    unsafe fn sum_pixel(args: &PixelArgs) = sum_pixel_body
}

/// # Safety
/// As [`sum_pixel`], for any `cols`.
unsafe fn narrow(args: &PixelArgs) {
    // SAFETY: one lane reads no further than one channel.
    unsafe { sum_pixel_body::<Lanes<1>>(args) }
}

/// # Safety
/// As [`sum_pixel`] and [`Simd`].
#[inline(always)]
unsafe fn sum_pixel_body<S: Simd>(args: &PixelArgs) {
    let mut col = 0;
    while col < args.cols {
        // The last register overlaps the one before.
        let at = col.min(args.cols - S::LANES);
        // SAFETY: `at + LANES <= cols`, since `cols` is at least a register wide.
        unsafe {
            let mut sum = S::splat(0);
            for pair in 0..args.pairs {
                let (x0, x1) = ((*args.taps.add(2 * pair)).add(at), (*args.taps.add(2 * pair + 1)).add(at));
                let w = args.weights.add(2 * (pair * args.channels + at));
                sum =
                    if args.signed { S::dot_two::<true>(sum, x0, x1, w) } else { S::dot_two::<false>(sum, x0, x1, w) };
            }
            S::store(args.sums.add(at), sum);
        }
        col += S::LANES;
    }
}
