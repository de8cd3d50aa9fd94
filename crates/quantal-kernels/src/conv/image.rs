//! The rows of A of a convolution, without an image of columns.
//!
//! A block of lines of the output reads a strip of the image. The strip is copied once, with the zero point where the
//! image ends, and a tap of an output pixel is then at a fixed distance from the pixel's first tap: a row of A is that
//! address, and the same offsets for all rows. With a stride the taps of a line may be dealt out to planes, one for
//! each remainder of the coordinates by the stride, so that neighbouring output pixels read neighbouring pixels.
//!
//! A tile that wants 16 rows at one stride takes 16 neighbours of the padded line. Where such a run passes the end of a
//! line it computes a few rows in vain, and goes on with the next line.

use std::ops::Range;

use crate::ConvGeometry;
use crate::error::KernelError;
use crate::gemm::epilogue::NO_ROW;
use crate::gemm::source::{Laid, Wanted};
use crate::pack::{put_codes, put_fill};

/// Which pixels the rows of a phase read, relative to the output pixel.
pub(super) struct Window {
    /// The tap that is furthest up and to the left.
    low: [isize; 2],
    /// Distance from there to the one furthest down and to the right.
    reach: [usize; 2],
    /// The first tap of each span, from `low`.
    spans: Vec<[usize; 2]>,
    /// Taps in a span, all in one line of one plane.
    pub(super) taps: usize,
    /// Planes along each axis.
    planes: [usize; 2],
}

impl Window {
    /// Of taps at the offsets `at`, ascending, for images that are read every `step` pixels; `split` tells whether the
    /// image is dealt out to planes. Without planes, horizontally adjacent taps share a span.
    pub(super) fn new(at: &[[isize; 2]], step: [usize; 2], split: bool) -> Self {
        let ends = |axis: usize| {
            let along = || at.iter().map(move |tap| tap[axis]);
            (along().min().unwrap_or(0), along().max().unwrap_or(0))
        };
        let [(top, bottom), (left, right)] = [ends(0), ends(1)];
        let low = [top, left];
        let planes = if split { step } else { [1, 1] };
        let mut runs: Vec<([usize; 2], usize)> = Vec::new();
        for tap in at {
            let tap = [(tap[0] - low[0]) as usize, (tap[1] - low[1]) as usize];
            match runs.last_mut() {
                Some((first, count)) if planes[1] == 1 && [first[0], first[1] + *count] == tap => {
                    *count += 1;
                }
                _ => runs.push((tap, 1)),
            }
        }
        let taps = runs.first().map_or(1, |run| run.1);
        let spans: Vec<_> = if runs.iter().all(|run| run.1 == taps) {
            runs.into_iter().map(|run| run.0).collect()
        } else {
            at.iter().map(|tap| [(tap[0] - low[0]) as usize, (tap[1] - low[1]) as usize]).collect()
        };
        let taps = at.len().checked_div(spans.len()).unwrap_or(1);
        Self { low, reach: [(bottom - top) as usize, (right - left) as usize], spans, taps, planes }
    }

    /// The same for images whose axes changed places, if no window is higher than one line.
    pub(super) fn upright(&self) -> Option<Self> {
        let Self { low: [top, left], reach: [height, width], taps, planes: [planes_y, planes_x], .. } = *self;
        let spans = self.spans.iter().map(|&[y, x]| [x, y]).collect();
        let planes = [planes_x, planes_y];
        (height == 0 && planes_y == 1).then_some(Self { low: [left, top], reach: [width, height], spans, taps, planes })
    }
}

/// The images that one phase and one group of channels of a convolution reads.
pub(crate) struct Image<'a> {
    pub(super) x: &'a [u8],
    pub(super) g: ConvGeometry,
    /// First channel of the group.
    pub(super) first: usize,
    /// Channels of the group.
    pub(super) c: usize,
    pub(super) window: &'a Window,
    /// The zero point as it is read.
    pub(super) pad: u8,
    /// Input pixels from one output pixel to the next.
    pub(super) in_step: [usize; 2],
    pub(super) out_step: [usize; 2],
    pub(super) origin: [usize; 2],
    /// Output lines of the phase.
    pub(super) h_out: usize,
    /// Output pixels in a line of the phase.
    pub(super) w_out: usize,
}

/// How strips of so many lines lie in memory.
struct Strip {
    /// Input pixels from one output pixel to the next, within a plane.
    step: [usize; 2],
    /// Pixels in a line of a plane.
    width: usize,
    /// Lines of a plane.
    height: usize,
    /// Bytes of a pixel.
    pixel: usize,
    /// Pixels from one row of a run to the next.
    stride: usize,
    /// Bytes from the strip of one image to that of the next.
    size: usize,
    /// Rows of A for each line, those computed in vain included.
    pitch: usize,
}

impl<'a> Image<'a> {
    /// Whether the image, the output and what the phase makes of it have one line each.
    pub(super) fn is_one_line(&self) -> bool {
        [self.g.h, self.g.h_out, self.h_out] == [1, 1, 1]
    }

    /// The same with its axes changed, for an image [of one line](Self::is_one_line).
    pub(super) fn upright(self, window: &'a Window) -> Self {
        let turned = |[y, x]: [usize; 2]| [x, y];
        let g = ConvGeometry { h: self.g.w, w: 1, h_out: self.g.w_out, w_out: self.g.h_out, ..self.g };
        let (in_step, out_step, origin) = (turned(self.in_step), turned(self.out_step), turned(self.origin));
        Self { g, window, in_step, out_step, origin, h_out: self.w_out, w_out: 1, ..self }
    }

    pub(crate) fn lines(&self) -> usize {
        if self.w_out == 0 { 0 } else { self.g.batch * self.h_out }
    }

    pub(crate) fn line_rows(&self) -> usize {
        self.w_out
    }

    pub(crate) fn line_bytes(&self, wanted: &Wanted) -> usize {
        self.strip(self.h_out, wanted).size.div_ceil(self.h_out)
    }

    /// One more than the last output pixel that its rows go to, 0 without rows.
    pub(crate) fn output_end(&self) -> usize {
        if self.lines() == 0 {
            return 0;
        }
        let last = [(self.h_out, 0), (self.w_out, 1)].map(|(n, a)| (n - 1) * self.out_step[a] + self.origin[a]);
        assert!(last[0] < self.g.h_out && last[1] < self.g.w_out, "a phase ends inside the output");

        self.output(self.g.batch - 1, self.h_out - 1, self.w_out - 1) + 1
    }

    /// `Ok` if the strip of a single line is of a sensible size, whatever a file says of windows and pads.
    pub(super) fn check(&self) -> Result<(), KernelError> {
        const MOST: u128 = 1 << 28;
        let [height, width] = [0, 1].map(|axis| self.window.reach[axis] as u128 + 1);
        let line = self.w_out as u128 * self.in_step[1] as u128 + width;
        if (height + self.in_step[0] as u128).saturating_mul(line).saturating_mul(2 * self.c as u128) > MOST {
            return Err(KernelError::Geometry("the window of a convolution reaches too far"));
        }
        Ok(())
    }

    /// Planes that have a tap in them.
    fn planes(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.window.planes[axis].min(self.window.reach[axis] + 1))
    }

    /// For at most `lines` lines of one image.
    fn strip(&self, lines: usize, wanted: &Wanted) -> Strip {
        let &Window { reach, planes, .. } = self.window;
        let step = [self.in_step[0] / planes[0], self.in_step[1] / planes[1]];
        let width = (self.w_out - 1) * step[1] + reach[1] / planes[1] + 1;
        let height = (lines - 1) * step[0] + reach[0] / planes[0] + 1;
        let pixel = self.c * wanted.form.element_bytes();
        let [planes_y, planes_x] = self.planes();
        // A run goes on from one line to the next only if that is again one step further.
        let whole_runs = self.w_out.next_multiple_of(wanted.run);
        let (pitch, stride) = match step {
            _ if self.w_out == 1 => (1, step[0] * width),
            [1, 1] => (width.min(whole_runs), 1),
            _ => (whole_runs, step[1]),
        };
        Strip { step, width, height, pixel, stride, size: planes_y * planes_x * height * width * pixel, pitch }
    }

    /// The images that `lines` are of, and of each the range of its lines.
    fn parts(&self, lines: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let (h, lines) = (self.h_out, lines.clone());
        (lines.start / h..lines.end.div_ceil(h)).map(move |image| {
            let first = image * h;
            (image, lines.start.max(first) - first..lines.end.min(first + h) - first)
        })
    }

    pub(crate) fn scratch_bytes(&self, lines: &Range<usize>, wanted: &Wanted) -> usize {
        let strip = self.strip(lines.len().min(self.h_out), wanted);
        // The last run may pass the last line, and the last span of a pixel its end.
        let slack = wanted.run * strip.stride * strip.pixel + wanted.span_bytes;
        self.parts(lines).count() * strip.size + slack
    }

    pub(crate) fn lay(&self, lines: Range<usize>, wanted: &Wanted, scratch: &mut [u8], laid: &mut Laid) {
        let strip = self.strip(lines.len().min(self.h_out), wanted);
        laid.stride = strip.stride * strip.pixel;
        self.offsets(&strip, &mut laid.offsets);
        for (i, (image, lines)) in self.parts(&lines).enumerate() {
            let at = i * strip.size;
            self.copy(image, lines.start, &strip, wanted, &mut scratch[at..at + strip.size]);
        }

        // One pointer for all: a run may pass the end of its own strip, and no strip is written any more.
        let base = scratch.as_ptr();
        for (i, (image, lines)) in self.parts(&lines).enumerate() {
            self.rows(image, lines, &strip, wanted.run, base.wrapping_add(i * strip.size), laid);
        }
    }

    /// Bytes from the first tap of a pixel to each span.
    fn offsets(&self, strip: &Strip, offsets: &mut Vec<usize>) {
        let ([planes_y, planes_x], across) = (self.window.planes, self.planes()[1]);
        offsets.extend(self.window.spans.iter().map(|&[y, x]| {
            let plane = y % planes_y * across + x % planes_x;
            ((plane * strip.height + y / planes_y) * strip.width + x / planes_x) * strip.pixel
        }));
    }

    /// The rows of A for `lines` of `image`, whose strip is at `base`.
    fn rows(&self, image: usize, lines: Range<usize>, strip: &Strip, run: usize, base: *const u8, laid: &mut Laid) {
        let start = |line: usize, x: usize| {
            base.wrapping_add((line * strip.step[0] * strip.width + x * strip.step[1]) * strip.pixel)
        };
        let first = laid.pixels.len();
        for line in lines {
            laid.pixels.extend((0..self.w_out).map(|x| self.output(image, line, x)));
            laid.pixels.resize(laid.pixels.len() + strip.pitch - self.w_out, NO_ROW);
        }
        // What follows the last pixel of the last line is of no use.
        let rows = (laid.pixels.len() - first + self.w_out - strip.pitch).next_multiple_of(run);
        laid.pixels.resize(first + rows, NO_ROW);
        laid.starts.extend((0..rows).step_by(run).map(|r| start(r / strip.pitch, r % strip.pitch)));
    }

    /// The output pixel of a row.
    fn output(&self, image: usize, line: usize, x: usize) -> usize {
        let (y, x) = (line * self.out_step[0] + self.origin[0], x * self.out_step[1] + self.origin[1]);
        (image * self.g.h_out + y) * self.g.w_out + x
    }

    /// Fills the strip of `image` whose first line of the output is `line`.
    fn copy(&self, image: usize, line: usize, strip: &Strip, wanted: &Wanted, to: &mut [u8]) {
        if to.is_empty() {
            return;
        }
        let (planes, planes_x) = (self.window.planes, self.planes()[1]);
        let width = strip.width * strip.pixel;
        for (i, to) in to.chunks_exact_mut(strip.height * width).enumerate() {
            let (py, px) = (i / planes_x, i % planes_x);
            let top = (line * self.in_step[0] + py) as isize + self.window.low[0];
            let left = px as isize + self.window.low[1];
            for (j, to) in to.chunks_exact_mut(width).enumerate() {
                self.copy_line(image, top + (j * planes[0]) as isize, left, planes[1], wanted, to);
            }
        }
    }

    /// Fills a line with every `step`th pixel of line `y` from `left` on.
    fn copy_line(&self, image: usize, y: isize, left: isize, step: usize, wanted: &Wanted, to: &mut [u8]) {
        let (c, form) = (self.c, wanted.form);
        let count = to.len() / (c * form.element_bytes());
        if y < 0 || y >= self.g.h as isize {
            put_fill(to, form, 0, count * c, self.pad);
            return;
        }
        // The first of the line's pixels that is not left of the image, and the first that is right of it.
        let steps_to = |x: isize| ((x - left).max(0) as usize).div_ceil(step).min(count);
        let (from, until) = (steps_to(0), steps_to(self.g.w as isize));
        put_fill(to, form, 0, from * c, self.pad);
        if from < until {
            let x = (left + (from * step) as isize) as usize;
            let codes = &self.x[((image * self.g.h + y as usize) * self.g.w + x) * self.g.c_in + self.first..];
            // Copies may write over what follows them, so all goes from left to right.
            if step == 1 && c == self.g.c_in {
                put_codes(to, form, from * c, codes, (until - from) * c, wanted.flip);
            } else {
                for (i, codes) in (from..until).zip(codes.chunks(step * self.g.c_in)) {
                    put_codes(to, form, i * c, codes, c, wanted.flip);
                }
            }
        }
        let until = until.max(from);
        put_fill(to, form, until * c, (count - until) * c, self.pad);
    }
}
