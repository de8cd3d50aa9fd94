//! Convolutions of 8-bit codes over channels-last images, `[N, H, W, C]`, as products whose rows are gathered.
//!
//! A row of A holds the codes under one output pixel, tap by tap with channels innermost; it is read in pieces from a
//! padded copy of the lines that a task needs, and no image of columns ever exists (see `image`). What lies outside the
//! image is the zero point, which stands for real 0. A 1×1 convolution of stride 1 reads the image in place.
//!
//! A transposed convolution is the same thing several times: the output pixels that share a remainder by the stride are
//! reached by the same taps, and each such phase is a plain convolution that writes every stride-th pixel.
//!
//! Some 3×3 convolutions of stride 1 take another way to the same sums: [`winograd`].

pub(crate) mod image;
#[cfg(test)]
mod tests;
pub mod winograd;

use crate::error::{KernelError, check_length};
use crate::gemm::blocks::{Job, run};
use crate::gemm::check_zero_points;
use crate::gemm::epilogue::{Epilogue, RawEpilogue};
use crate::gemm::source::{Rows, Source};
use crate::kernel::GemmKernel;
use crate::pack::{BView, PackedB};
use crate::{ConvGeometry, Isa, Level, Threads};
use image::{Image, Window};
use std::sync::Arc;
use winograd::{PackedWinograd, WINOGRAD_KERNELS, WinogradKernel};

/// Elements of the input and pixels of the output, if neither overflows.
pub(crate) fn check_size(g: &ConvGeometry) -> Result<(usize, usize), KernelError> {
    const TOO_LARGE: KernelError = KernelError::Geometry("the size of an image overflows");
    let fits = |n: Option<usize>| n.filter(|&n| isize::try_from(n).is_ok()).ok_or(TOO_LARGE);
    fits(g.checked_output_len())?;
    let pixels = g.batch.checked_mul(g.h_out).and_then(|n| n.checked_mul(g.w_out));
    Ok((fits(g.checked_input_len())?, fits(pixels)?))
}

/// `Ok` if no window or stride is empty and no coordinate can overflow.
pub(crate) fn check_window(g: &ConvGeometry) -> Result<(), KernelError> {
    const MOST: usize = 1 << 30;
    let positive = g.kernel.into_iter().chain(g.stride).chain(g.dilation);
    let sizes = [g.h, g.w, g.h_out, g.w_out];
    if positive.clone().any(|x| x == 0) || positive.chain(g.pads).chain(sizes).any(|x| x >= MOST) {
        return Err(KernelError::Geometry("a kernel, stride, dilation, pad or side of an image is 0 or too large"));
    }
    Ok(())
}

/// `Ok` if the numbers make a convolution of so many weights.
pub(crate) fn check_weights(g: &ConvGeometry, weights: usize) -> Result<(), KernelError> {
    check_window(g)?;
    if g.groups == 0 || !g.c_in.is_multiple_of(g.groups) || !g.c_out.is_multiple_of(g.groups) {
        return Err(KernelError::Geometry("the groups of a convolution do not divide its channels"));
    }
    check_length("the weights", weights, g.checked_weight_len().unwrap_or(usize::MAX))
}

/// `Ok` if weights packed for `packed` serve `g`: images may differ in number and size, and nothing else.
pub(crate) fn check_same(packed: &ConvGeometry, g: &ConvGeometry) -> Result<(), KernelError> {
    check_window(g)?;
    let ConvGeometry { batch, h, w, h_out, w_out, .. } = *g;
    if *g == (ConvGeometry { batch, h, w, h_out, w_out, ..*packed }) {
        Ok(())
    } else {
        Err(KernelError::Geometry("the weights were packed for another convolution"))
    }
}

/// Phases of a transposed convolution, at most: strides of 64 along both axes.
const MOST_PHASES: usize = 1 << 12;

/// Channels from which a span of one tap fills the steps of a kernel well enough.
const LONG_SPAN: usize = 32;

/// One tap of a phase: its place in the kernel and its offset from the input pixel.
#[derive(Clone, Copy)]
struct Tap {
    ky: usize,
    kx: usize,
    dy: isize,
    dx: isize,
}

/// The output pixels that the same taps reach.
struct Phase {
    /// One B for each group of channels, rows in the order of the window's spans. Phases that no tap reaches share theirs.
    groups: Arc<[PackedB]>,
    window: Window,
    /// The first of its output pixels.
    origin: [usize; 2],
}

/// Weights of a convolution, packed for the kernel that will read them.
pub struct PackedConv {
    geometry: ConvGeometry,
    /// Instead of phases, where it is chosen.
    winograd: Option<PackedWinograd>,
    phases: Vec<Phase>,
    /// Input pixels from one output pixel of a phase to the next.
    in_step: [usize; 2],
    /// Output pixels from one output pixel of a phase to the next.
    out_step: [usize; 2],
}

impl PackedConv {
    /// Packs the weights of a convolution, `[c_out, c_in / groups, kh, kw]` bytes, two's complement if `signed`.
    ///
    /// # Errors
    /// If the shape makes no convolution, `weights` is too short, a sum is too deep for 32 bits or memory runs out.
    pub fn pack(isa: Isa, geometry: &ConvGeometry, weights: &[u8], signed: bool) -> Result<Self, KernelError> {
        check_weights(geometry, weights.len())?;
        if let Some(kernel) = winograd::select(isa, geometry)
            && let Some(packed) = Self::pack_winograd(isa, kernel, geometry, weights, signed)?
        {
            return Ok(packed);
        }
        Self::pack_direct(isa, None, geometry, weights, signed)
    }

    /// The same for a kernel of one's own choice: for benches.
    ///
    /// # Errors
    /// As [`PackedConv::pack`], or if this CPU lacks what the kernel needs, the kernel is not for such a convolution or
    /// it is not exact for `weights`.
    pub fn pack_for(
        isa: Isa,
        kernel: &'static GemmKernel,
        geometry: &ConvGeometry,
        weights: &[u8],
        signed: bool,
    ) -> Result<Self, KernelError> {
        match WINOGRAD_KERNELS.iter().find(|w| w.product == *kernel) {
            None => Self::pack_direct(isa, Some(kernel), geometry, weights, signed),
            Some(winograd) => Self::pack_winograd(isa, winograd, geometry, weights, signed)?
                .ok_or(KernelError::Geometry("the kernel is not exact for these weights")),
        }
    }

    fn pack_direct(
        isa: Isa,
        kernel: Option<&'static GemmKernel>,
        geometry: &ConvGeometry,
        weights: &[u8],
        signed: bool,
    ) -> Result<Self, KernelError> {
        check_weights(geometry, weights.len())?;
        let &ConvGeometry { c_in, c_out, kernel: [kh, kw], dilation, pads, groups, .. } = geometry;
        let (c, n) = (c_in / groups, c_out / groups);
        let offset = |i: usize, axis: usize| (i * dilation[axis]) as isize - pads[axis] as isize;
        let taps = (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx)));
        let taps = taps.map(|(ky, kx)| Tap { ky, kx, dy: offset(ky, 0), dx: offset(kx, 1) }).collect();
        let at = |g: usize, o: usize, t: &Tap| ((g * n + o) * c * kh + t.ky) * kw + t.kx;
        let view = View { weights, signed, stride: kh * kw };
        let phase = Phase::pack(isa, kernel, geometry, &view, taps, geometry.stride, [0, 0], at)?;
        let (in_step, out_step) = (geometry.stride, [1, 1]);
        Ok(Self { geometry: *geometry, winograd: None, phases: vec![phase], in_step, out_step })
    }

    /// `None` if the kernel would not be exact for the weights.
    fn pack_winograd(
        isa: Isa,
        kernel: &'static WinogradKernel,
        geometry: &ConvGeometry,
        weights: &[u8],
        signed: bool,
    ) -> Result<Option<Self>, KernelError> {
        check_weights(geometry, weights.len())?;
        let packed = PackedWinograd::pack(isa, kernel, geometry, weights, signed)?;
        let (in_step, out_step) = ([1, 1], [1, 1]);
        let winograd = |w| Self { geometry: *geometry, winograd: Some(w), phases: Vec::new(), in_step, out_step };
        Ok(packed.map(winograd))
    }

    /// Packs the weights of a transposed convolution, `[c_in, c_out / groups, kh, kw]` bytes.
    ///
    /// # Errors
    /// As [`PackedConv::pack`], or if the strides make too many phases.
    pub fn pack_transposed(
        isa: Isa,
        geometry: &ConvGeometry,
        weights: &[u8],
        signed: bool,
    ) -> Result<Self, KernelError> {
        Self::pack_phases(isa, None, geometry, weights, signed)
    }

    /// The same for `kernel`, or for the best one.
    fn pack_phases(
        isa: Isa,
        kernel: Option<&'static GemmKernel>,
        geometry: &ConvGeometry,
        weights: &[u8],
        signed: bool,
    ) -> Result<Self, KernelError> {
        check_weights(geometry, weights.len())?;
        let &ConvGeometry { c_in, c_out, kernel: [kh, kw], stride, dilation, pads, groups, .. } = geometry;
        let count = stride[0].saturating_mul(stride[1]);
        if count > MOST_PHASES {
            return Err(KernelError::TooManyPhases { phases: count, most: MOST_PHASES });
        }
        let (c, n) = (c_in / groups, c_out / groups);
        let at = |g: usize, o: usize, t: &Tap| ((g * c * n + o) * kh + t.ky) * kw + t.kx;
        let view = View { weights, signed, stride: n * kh * kw };
        // Output pixel p of an axis gets tap k from input pixel (p + pad − k·dilation) / stride, where that is whole.
        let source = |p: usize, k: usize, axis: usize| {
            let from = (p + pads[axis]) as isize - (k * dilation[axis]) as isize;
            (from % stride[axis] as isize == 0).then_some(from / stride[axis] as isize)
        };
        let mut phases = Vec::new();
        let mut unreached: Option<Arc<[PackedB]>> = None;
        for y in 0..stride[0] {
            for x in 0..stride[1] {
                let mut taps = Vec::new();
                for ky in 0..kh {
                    for kx in 0..kw {
                        if let (Some(dy), Some(dx)) = (source(y, ky, 0), source(x, kx, 1)) {
                            taps.push(Tap { ky, kx, dy, dx });
                        }
                    }
                }
                if let Some(groups) = unreached.as_ref().filter(|_| taps.is_empty()) {
                    let (groups, window) = (Arc::clone(groups), Window::new(&[], [1, 1], false));
                    phases.push(Phase { groups, window, origin: [y, x] });
                    continue;
                }
                let empty = taps.is_empty();
                let phase = Phase::pack(isa, kernel, geometry, &view, taps, [1, 1], [y, x], at)?;
                if empty {
                    unreached = Some(Arc::clone(&phase.groups));
                }
                phases.push(phase);
            }
        }
        Ok(Self { geometry: *geometry, winograd: None, phases, in_step: [1, 1], out_step: stride })
    }

    /// The kernel that reads the weights.
    pub fn kernel(&self) -> &'static GemmKernel {
        self.winograd.as_ref().map_or_else(|| self.phases[0].groups[0].kernel(), |w| &w.kernel().product)
    }

    /// The kernel that computes `pixels` outputs: where those are rows of a matrix, few of them may go to another one that
    /// reads the same panels.
    pub fn kernel_for(&self, pixels: usize) -> &'static GemmKernel {
        match self.winograd {
            None if self.reads_rows() => self.phases[0].groups[0].kernel_for(pixels),
            _ => self.kernel(),
        }
    }

    /// Whether input pixels, as they lie, are the rows of A.
    fn reads_rows(&self) -> bool {
        let g = &self.geometry;
        g.kernel == [1, 1] && [self.in_step, self.out_step] == [[1, 1]; 2] && g.pads == [0; 4]
    }

    /// The geometry that it was packed for.
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }
}

/// Weights as they lie in the model.
struct View<'a> {
    weights: &'a [u8],
    signed: bool,
    /// From one input channel to the next.
    stride: usize,
}

impl Phase {
    /// `at` says where the weight of the first input channel of a group, an output channel and a tap lies.
    fn pack(
        isa: Isa,
        kernel: Option<&'static GemmKernel>,
        geometry: &ConvGeometry,
        &View { weights, signed, stride }: &View<'_>,
        mut taps: Vec<Tap>,
        in_step: [usize; 2],
        origin: [usize; 2],
        at: impl Fn(usize, usize, &Tap) -> usize,
    ) -> Result<Self, KernelError> {
        taps.sort_by_key(|t| (t.dy, t.dx));
        let offsets: Vec<_> = taps.iter().map(|t| [t.dy, t.dx]).collect();
        // One tap reads one pixel of each window, and the others need not be copied. With more, planes keep runs of
        // rows long, at the price of spans of single taps.
        let long = isa.level() == Level::Amx && geometry.c_in / geometry.groups >= LONG_SPAN;
        let window = Window::new(&offsets, in_step, taps.len() == 1 || long);
        let (c, n) = (geometry.c_in / geometry.groups, geometry.c_out / geometry.groups);
        let k = taps.len() * c;
        let mut groups = Vec::with_capacity(geometry.groups);
        let mut codes = Vec::new();
        if let [tap] = &taps[..]
            && c > 0
            && n > 0
        {
            // One tap: the weights are a matrix as they lie.
            for g in 0..geometry.groups {
                let first = at(g, 0, tap);
                let stride_n = if n > 1 { at(g, 1, tap) - first } else { 1 };
                let view = BView { bytes: &weights[first..], signed, k, n, stride_k: stride, stride_n };
                groups.push(PackedB::pack_spans(isa, kernel, &view, window.taps * c)?);
            }
            return Ok(Self { groups: groups.into(), window, origin });
        }
        codes.try_reserve_exact(k * n).map_err(|_| KernelError::OutOfMemory { bytes: k * n })?;
        for g in 0..geometry.groups {
            codes.clear();
            for o in 0..n {
                for tap in &taps {
                    codes.extend(weights[at(g, o, tap)..].iter().step_by(stride).take(c).copied());
                }
            }
            let view = BView::transposed(&codes, signed, k, n);
            groups.push(PackedB::pack_spans(isa, kernel, &view, window.taps * c)?);
        }
        Ok(Self { groups: groups.into(), window, origin })
    }
}

/// One convolution, plain or transposed as its weights were packed.
pub struct ConvCall<'a> {
    /// `[batch, h, w, c_in]` codes as bytes.
    pub x: &'a [u8],
    /// Whether they are s8 rather than u8.
    pub x_signed: bool,
    /// Their zero point, in their own signedness.
    pub x_zero_point: i32,
    /// The sizes of the images, and all else as the weights were packed for. For a transposed convolution `h` and `w`
    /// are of its input, `h_out` and `w_out` of its output; what is needed of the pads below and to the right follows.
    pub geometry: &'a ConvGeometry,
    /// The weights.
    pub weights: &'a PackedConv,
    /// Zero points of the weights in their own signedness: none (all 0), one, or one for each output channel.
    pub w_zero_points: &'a [i32],
    /// What becomes of each sum: an output of `batch · h_out · w_out` rows and `c_out` columns.
    pub epilogue: Epilogue<'a>,
}

/// Computes one convolution. The bits do not depend on the kernel nor on the number of threads.
///
/// # Errors
/// If a slice is shorter than the sizes say, or a zero point or range of codes does not fit 8 bits.
pub fn conv(call: ConvCall, threads: &Threads) -> Result<(), KernelError> {
    let ConvCall { x, x_signed, x_zero_point, geometry: g, weights, w_zero_points, epilogue } = call;
    check_same(&weights.geometry, g)?;
    let (elements, pixels) = check_size(g)?;
    check_length("the input", x.len(), elements)?;
    check_zero_points(w_zero_points, g.c_out)?;
    let epilogue = RawEpilogue::new(epilogue, pixels, g.c_out)?;
    let (c, n) = (g.c_in / g.groups, g.c_out / g.groups);
    if let Some(weights) = &weights.winograd {
        let (flip, x_zero) = if x_signed { (0x80, x_zero_point + 128) } else { (0, x_zero_point) };
        winograd::run(&winograd::Job { weights, g, x, flip, x_zero, w_zero_points, epilogue: &epilogue }, threads);
        return Ok(());
    }
    let in_place = weights.reads_rows() && [g.h_out, g.w_out] == [g.h, g.w] && elements > 0;
    for phase in &weights.phases {
        let steps =
            |axis: usize, whole: usize| whole.saturating_sub(phase.origin[axis]).div_ceil(weights.out_step[axis]);
        let (h_out, w_out) = (steps(0, g.h_out), steps(1, g.w_out));
        // Strides larger than the output leave phases whose first pixel is past its edge.
        if h_out == 0 || w_out == 0 {
            continue;
        }
        for (group, b) in phase.groups.iter().enumerate() {
            let image = Image {
                x,
                g: *g,
                first: group * c,
                c,
                window: &phase.window,
                pad: (x_zero_point + b.kernel().row_codes.of(x_signed).2) as u8,
                in_step: weights.in_step,
                out_step: weights.out_step,
                origin: phase.origin,
                h_out,
                w_out,
            };
            // One long line is turned upright, for lines are what tasks and blocks are made of.
            let upright = if image.is_one_line() { phase.window.upright() } else { None };
            let image = match &upright {
                None => image,
                Some(window) => image.upright(window),
            };
            image.check()?;
            let source = if in_place {
                Source::Rows(Rows { a: &x[group * c..], stride: g.c_in, m: pixels })
            } else {
                Source::Image(&image)
            };
            let zero_points = if w_zero_points.len() > 1 { &w_zero_points[group * n..][..n] } else { w_zero_points };
            let job = Job::new(b, source, x_signed, x_zero_point, zero_points, &epilogue, group * n);
            run(&job, threads);
        }
    }
    Ok(())
}
