//! Depthwise convolutions to codes in strips: a ring of interleaved lines that stays in L1, and a row of outputs at a
//! time summed from it and rounded in registers.

use std::ops::Range;

use super::rows::{DwKernel, Run, select};
use super::tile::{LineArgs, MAX_LINES, MAX_OUTPUTS, Rounding, RunArgs, VECTORS};
use crate::arena::{Lines, with_scratch};
use crate::error::{KernelError, check_length};
use crate::gemm::Epilogue;
use crate::gemm::epilogue::{clamp_ends, extent};
use crate::kernel::Form;
use crate::lut::look_up;
use crate::{ConvGeometry, Isa, Threads};

/// Most bytes of interleaved lines: what fits in 48 KiB of L1 with the weights and the outputs, and nearly in 32.
const RING_BYTES: usize = 28 << 10;
/// Codes (times lines of a window) below which a task is not worth its hand-over.
const TASK_WORK: usize = 1 << 16;
/// Channels of the widest register.
const MAX_SIZE: usize = 64;

/// Weights in the order that a kernel reads.
pub(super) struct Strips {
    kernel: &'static DwKernel,
    /// How many neighbouring pixels fill a register: 1, or `size / c` where that is whole.
    pixels: usize,
    /// Outputs in a group.
    outputs: usize,
    /// Dot products a line.
    dots: usize,
    run: Run,
    /// `[chunks, lines, dots, outputs, VECTORS]` registers.
    weights: Lines,
    /// The largest magnitude that products of u8 by a channel's weights add up to.
    reach: Vec<i64>,
}

/// What becomes of the sums: codes, in the terms of [`Epilogue`].
pub(super) struct CodesEnd<'a> {
    bias: Option<&'a [i32]>,
    multiplier: &'a [f32],
    rounding: Rounding,
    table: Option<&'a [u8; 256]>,
    out: *mut u8,
    ldc: usize,
    /// Rows that the output was checked to hold.
    rows: usize,
}

// SAFETY: `out` comes from a borrow that outlives the call, and each task writes pixels or channels that no other does.
unsafe impl Sync for CodesEnd<'_> {}

/// One call.
pub(super) struct StripCall<'a> {
    pub(super) isa: Isa,
    pub(super) x: &'a [u8],
    pub(super) x_signed: bool,
    pub(super) x_zero_point: i32,
    pub(super) g: &'a ConvGeometry,
    pub(super) sums: &'a [i32],
    pub(super) end: CodesEnd<'a>,
}

impl Strips {
    /// Packs the weights `w(channel, tap)` for the best kernel of `isa`, or gives `None` where the window or the weights
    /// are not of the usual kind: strides 1 and 2, no dilation, at least a register of channels (or a whole number of
    /// pixels in a register), weights that fit 8 bits once their zero point is off.
    pub(super) fn pack(isa: Isa, g: &ConvGeometry, w: impl Fn(usize, usize) -> i32) -> Option<Self> {
        Self::pack_for(select(isa.level()), g, w)
    }

    pub(super) fn pack_for(
        kernel: &'static DwKernel,
        g: &ConvGeometry,
        w: impl Fn(usize, usize) -> i32,
    ) -> Option<Self> {
        let &ConvGeometry { c_in: c, kernel: [lines, taps], stride, dilation, .. } = g;
        let size = kernel.size;
        let pixels = if c >= size { 1 } else { size / c.max(1) };
        let served = (c >= size || pixels * c == size && c.is_multiple_of(8) && stride[1] == 1)
            && dilation == [1, 1]
            && (1..=2).contains(&stride[1])
            && (1..=MAX_LINES).contains(&lines)
            && (1..=MAX_LINES).contains(&taps)
            && pixels <= 8;
        let narrow = |v: i32| match kernel.form {
            Form::Bytes => i8::try_from(v).is_ok(),
            Form::Pairs => i16::try_from(v).is_ok(),
        };
        if !served || !(0..c * lines * taps).all(|i| narrow(w(i / (lines * taps), i % (lines * taps)))) {
            return None;
        }
        let outputs = if pixels == 1 && stride[1] == 1 { MAX_OUTPUTS } else { 1 };
        let kr = kernel.form.kr();
        let dots = (taps + outputs - 1).div_ceil(kr);
        let chunk_bytes = lines * dots * outputs * VECTORS * size;
        let chunks = if pixels == 1 { c.div_ceil(size) } else { 1 };
        let mut weights = Lines::Lasting(None);
        let room = weights.reserve(chunks * chunk_bytes)?;
        for (at, lane) in room[..chunks * chunk_bytes].chunks_exact_mut(4).enumerate() {
            let (i, v) = (at % (size / 4), at / (size / 4) % VECTORS);
            let (output, at) = (at / size % outputs, at / size / outputs);
            let (dot, line, chunk) = (at % dots, at / dots % lines, at / dots / lines);
            let channel = (first_channel(c, size, chunk) + 16 * (i / 4) + 4 * v + i % 4) % c;
            for b in 0..kr {
                // The second output of a group begins a pixel later.
                let tap = (dot * kr + b).checked_sub(output).filter(|&t| t < taps);
                let value = tap.map_or(0, |t| w(channel, line * taps + t));
                match kernel.form {
                    Form::Bytes => lane[b] = value as u8,
                    Form::Pairs => lane[2 * b..2 * b + 2].copy_from_slice(&(value as i16).to_ne_bytes()),
                }
            }
        }
        let reach = |channel| (0..lines * taps).map(|t| i64::from(w(channel, t).abs())).sum::<i64>() * 255;
        let run = kernel.run([lines, taps], outputs);
        Some(Self { kernel, pixels, outputs, dots, run, weights, reach: (0..c).map(reach).collect() })
    }

    /// The kernel's name.
    pub(super) fn name(&self) -> &'static str {
        self.kernel.name
    }

    /// Whether rows of the output may be further apart than its channels: not where a register holds several pixels.
    pub(super) fn writes_rows_apart(&self) -> bool {
        self.pixels == 1
    }

    /// The end that `epilogue` asks for, or `None` where the general kernel has to serve it: other results than codes,
    /// residuals, and sums so large that the scaled sum might not fit an i32.
    pub(super) fn end<'a>(
        &self,
        epilogue: &mut Epilogue<'a>,
        rows: usize,
        zero: i32,
        sums: &[i32],
    ) -> Result<Option<CodesEnd<'a>>, KernelError> {
        let c = self.reach.len();
        let Epilogue::Codes { bias, multiplier, zero_point, qmin, qmax, add: None, table, out, ldc } = epilogue else {
            return Ok(None);
        };
        let (bias, multiplier, table, ldc) = (*bias, *multiplier, *table, *ldc);
        clamp_ends(*zero_point, *qmin, *qmax)?;
        check_length("the output", out.len(), extent(rows, c, ldc))?;
        check_length("the bias", bias.map_or(c, <[i32]>::len), c)?;
        check_length("the multiplier", multiplier.len(), if multiplier.len() == 1 { 1 } else { c })?;
        let step = usize::from(multiplier.len() != 1);
        let fits = |channel: usize| {
            let begin = i64::from(bias.map_or(0, |b| b[channel])) - i64::from(zero) * i64::from(sums[channel]);
            let most = (self.reach[channel] + begin.abs()) as f64;
            most * f64::from(multiplier[channel * step].abs()).max(1.0) < f64::from(1 << 30)
        };
        // Signed codes are made as u8 and flipped.
        let shift = if *qmin < 0 { 128 } else { 0 };
        if ldc < c || !self.writes_rows_apart() && ldc != c || *qmax + shift > 255 || !(0..c).all(fits) {
            return Ok(None);
        }
        let rounding = Rounding {
            zero_point: (*zero_point + shift) as i16,
            low: (*qmin + shift) as u8,
            high: (*qmax + shift) as u8,
            flip: shift as u8,
        };
        Ok(Some(CodesEnd { bias, multiplier, rounding, table, out: out.as_mut_ptr(), ldc, rows }))
    }

    /// Computes a call of at least one output, whose slices hold what its geometry says.
    ///
    /// # Panics
    /// When the output is larger than the end was checked for.
    pub(super) fn compute(&self, call: &StripCall, threads: &Threads) {
        let g = call.g;
        assert!(g.pixels_out() <= call.end.rows, "{} pixels of an output of {}", g.pixels_out(), call.end.rows);
        let chunks = if self.pixels == 1 { g.c_in.div_ceil(self.kernel.size) } else { 1 };
        // Where the last chunk overlaps the one before, both are of one task.
        let units = if self.pixels == 1 && !g.c_in.is_multiple_of(self.kernel.size) { chunks - 1 } else { chunks };
        let units = units.max(1);
        let lines = g.batch * g.h_out;
        let work = lines * g.w_out * g.c_in * g.kernel[0];
        let wanted = if threads.count() == 1 { 1 } else { (work / TASK_WORK).clamp(1, 4 * threads.count()) };
        // Channels are cut first: a band of lines has lines of its neighbours to interleave besides its own.
        let by_unit = wanted.min(units);
        let bands = (wanted / by_unit).clamp(1, lines.max(1));
        let task = |i: usize| {
            let (unit, band) = (i % by_unit, i / by_unit);
            let to = if unit + 1 == by_unit { chunks } else { (unit + 1) * units / by_unit };
            for chunk in unit * units / by_unit..to {
                self.chunk(call, chunk, band * lines / bands..(band + 1) * lines / bands);
            }
        };
        let tasks = by_unit * bands;
        if tasks == 1 {
            task(0);
        } else {
            threads.parallel_for(tasks, &task);
        }
    }

    /// One chunk of channels of output lines `lines`, counted over the whole batch.
    fn chunk(&self, call: &StripCall, chunk: usize, lines: Range<usize>) {
        let &StripCall { g, ref end, .. } = call;
        let (size, c) = (self.kernel.size, g.c_in);
        let first = first_channel(c, size, chunk);
        let (add, multiplier) = self.columns(call, first);
        let chunk_bytes = g.kernel[0] * self.dots * self.outputs * VECTORS * size;
        let weights = &self.weights.bytes()[chunk * chunk_bytes..];
        // Groups of outputs, and the entries that a run of them reads.
        let vectors = g.w_out.div_ceil(self.pixels);
        let groups = vectors.div_ceil(self.outputs);
        let advance = (self.pixels / 2).max(1);
        let skip = self.kernel.form.kr() / 2;
        let entries = |groups: usize| (groups - 1) * advance + (self.dots - 1) * skip + 1;
        let entry = VECTORS * size;
        let most = (RING_BYTES / g.kernel[0] / entry).saturating_sub(self.dots * skip) / advance;
        let strips = groups.div_ceil(most.max(8));
        let strip = groups.div_ceil(strips);
        let line_bytes = entries(strip) * entry;
        let pitch = if self.pixels == 1 { size } else { c };
        let stage_bytes = ((2 * entries(strip) + 2) * pitch + size).next_multiple_of(64);
        with_scratch(stage_bytes + (g.kernel[0] + 1) * line_bytes, |scratch| {
            let (stage, ring) = scratch.split_at_mut(stage_bytes);
            let (padding, ring) = ring.split_at_mut(line_bytes);
            let pad = (if call.x_signed { call.x_zero_point + 128 } else { call.x_zero_point }) as u8;
            match self.kernel.form {
                Form::Bytes => padding.fill(pad),
                Form::Pairs => padding.as_chunks_mut::<2>().0.fill(u16::from(pad).to_ne_bytes()),
            }
            for from in (0..groups).step_by(strip) {
                let count = strip.min(groups - from);
                // Pixels are counted from the left padding on.
                let left = 2 * from * advance;
                let outputs = (from * self.outputs)..((from + count) * self.outputs).min(vectors);
                let whole = outputs.end * self.pixels <= g.w_out;
                let last = if whole { size } else { (g.w_out - (outputs.end - 1) * self.pixels) * c };
                // The next image line to interleave, and the image that it is of.
                let (mut next, mut image) = (0, usize::MAX);
                for line in lines.clone() {
                    if image != line / g.h_out {
                        (next, image) = (0, line / g.h_out);
                    }
                    let top = ((line % g.h_out) * g.stride[0]) as isize - g.pads[0] as isize;
                    let mut pointers = [padding.as_ptr(); MAX_LINES];
                    for (ky, pointer) in pointers[..g.kernel[0]].iter_mut().enumerate() {
                        let Ok(y) = usize::try_from(top + ky as isize) else { continue };
                        if y >= g.h {
                            continue;
                        }
                        let slot = &mut ring[y % g.kernel[0] * line_bytes..][..line_bytes];
                        if y >= next {
                            self.line(call, pad, stage, [image, y, left], first, entries(count), slot);
                            next = y + 1;
                        }
                        *pointer = slot.as_ptr();
                    }
                    let out = (line * g.w_out + outputs.start * self.pixels) * end.ldc + first;
                    let args = RunArgs {
                        lines: pointers,
                        line_count: g.kernel[0],
                        dots: self.dots,
                        advance,
                        weights: weights.as_ptr(),
                        add: add.0.as_ptr(),
                        multiplier: multiplier.0.as_ptr(),
                        outputs: outputs.len(),
                        last,
                        out: end.out.wrapping_add(out),
                        step: self.pixels * end.ldc,
                        rounding: end.rounding,
                    };
                    // SAFETY: as above; each line holds the entries of `count` groups, weights and columns were packed
                    // for the same kernel, `end` saw to it that scaled sums fit, and the outputs are those of the
                    // checked output: `size` channels of each pixel or, where a register holds many, all channels of
                    // neighbouring pixels, which are `c` apart, and in the last one those inside the line.
                    unsafe {
                        (self.run)(&args);
                        if let Some(table) = end.table {
                            let written = (outputs.len() - 1) * size + last;
                            let rows = if self.pixels == 1 { [outputs.len(), size, end.ldc] } else { [1, written, 0] };
                            look_up(call.isa, table, args.out, args.out, rows);
                        }
                    }
                }
            }
        });
    }

    /// What sums of a chunk begin with, and their multipliers, in the order of the lanes.
    fn columns(&self, call: &StripCall, first: usize) -> (Aligned<i32>, Aligned<f32>) {
        let (size, c, end) = (self.kernel.size, call.g.c_in, &call.end);
        let zero = if call.x_signed { call.x_zero_point + 128 } else { call.x_zero_point };
        let (mut add, mut multiplier) = (Aligned([0; MAX_SIZE]), Aligned([0.0; MAX_SIZE]));
        let step = usize::from(end.multiplier.len() != 1);
        for lane in 0..size / 16 {
            for (v, k) in (0..VECTORS).flat_map(|v| (0..4).map(move |k| (v, k))) {
                let column = 16 * lane + 4 * v + k;
                let channel = if self.pixels == 1 { first + column } else { column % c };
                let at = v * (size / 4) + 4 * lane + k;
                let bias = end.bias.map_or(0, |b| b[channel]);
                add.0[at] = bias.wrapping_sub(zero.wrapping_mul(call.sums[channel]));
                multiplier.0[at] = end.multiplier[channel * step];
            }
        }
        (add, multiplier)
    }

    /// Interleaves an image line under a strip, from its pixel `left` on, counted with the padding.
    fn line(
        &self,
        call: &StripCall,
        pad: u8,
        stage: &mut [u8],
        [image, y, left]: [usize; 3],
        first: usize,
        entries: usize,
        slot: &mut [u8],
    ) {
        let &StripCall { x, g, .. } = call;
        let (c, size) = (g.c_in, self.kernel.size);
        let pitch = if self.pixels == 1 { size } else { c };
        let mut staged = |range: Range<usize>| {
            if range.is_empty() {
                return;
            }
            let pixels = 2 * range.len() + 2;
            self.stage(
                call,
                pad,
                &mut stage[..pixels * pitch + size - pitch],
                [image, y, left + 2 * range.start],
                first,
            );
            let to = slot[range.start * VECTORS * size..][..range.len() * VECTORS * size].as_mut_ptr();
            let args = LineArgs { from: stage.as_ptr(), pitch, entries: range.len(), to };
            // SAFETY: the kernel was selected for a detected `Isa`; the stage holds the pixels of the entries, and `to`
            // was just sliced to them.
            unsafe { (self.kernel.interleave)(&args) };
        };
        // Entries of pixels inside the line are read in place: entry `e` takes pixels `2e` to `2e + 3` from `left` on.
        let from = g.pads[1].saturating_sub(left).div_ceil(2);
        let to = (g.w + g.pads[1]).saturating_sub(left + 2) / 2;
        let inside = from..to.min(entries);
        if self.pixels > 1 || call.x_signed || inside.len() < 4 {
            return staged(0..entries);
        }
        staged(0..inside.start);
        staged(inside.end..entries);
        let pixel = left + 2 * inside.start - g.pads[1];
        let pixels = &x[((image * g.h + y) * g.w + pixel) * c..][..(2 * inside.len() + 2) * c];
        let to = slot[inside.start * VECTORS * size..][..inside.len() * VECTORS * size].as_mut_ptr();
        let args = LineArgs { from: pixels[first..].as_ptr(), pitch: c, entries: inside.len(), to };
        // SAFETY: as above; each pixel holds `size` channels from `first` on.
        unsafe { (self.kernel.interleave)(&args) };
    }

    /// Copies the pixels of an image line under a strip, as u8 and with the padding around them.
    fn stage(&self, call: &StripCall, pad: u8, stage: &mut [u8], [image, y, left]: [usize; 3], first: usize) {
        let &StripCall { x, g, .. } = call;
        let (c, size) = (g.c_in, self.kernel.size);
        let pad = if call.x_signed { pad ^ 0x80 } else { pad };
        let line = &x[(image * g.h + y) * g.w * c..][..g.w * c];
        if self.pixels == 1 {
            match size {
                64 => gather::<64>(stage, line, c, first, left.wrapping_sub(g.pads[1]), pad),
                32 => gather::<32>(stage, line, c, first, left.wrapping_sub(g.pads[1]), pad),
                _ => gather::<16>(stage, line, c, first, left.wrapping_sub(g.pads[1]), pad),
            }
        } else {
            // The stage's pixel `i` is the line's pixel `left + i − pad`.
            let count = stage.len() / c;
            let begin = g.pads[1].saturating_sub(left).min(count);
            let from = (left + begin).saturating_sub(g.pads[1]).min(g.w);
            let inside = (g.w - from).min(count - begin);
            stage[..begin * c].fill(pad);
            stage[begin * c..][..inside * c].copy_from_slice(&line[from * c..][..inside * c]);
            stage[(begin + inside) * c..].fill(pad);
        }
        if call.x_signed {
            // The padding among them, which was flipped above.
            for byte in stage {
                *byte ^= 0x80;
            }
        }
    }
}

/// Copies `N` channels of pixels from `left` on; those outside the line are padding.
fn gather<const N: usize>(stage: &mut [u8], line: &[u8], c: usize, first: usize, left: usize, pad: u8) {
    let width = line.len() / c;
    let mut pixel = left;
    for to in stage.as_chunks_mut::<N>().0 {
        *to = if pixel < width { *line[pixel * c + first..].first_chunk().expect("a pixel has `c`") } else { [pad; N] };
        pixel = pixel.wrapping_add(1);
    }
}

/// The first channel of a chunk: the last chunk overlaps the one before rather than being narrow.
fn first_channel(c: usize, size: usize, chunk: usize) -> usize {
    if c < size { 0 } else { (chunk * size).min(c - size) }
}

#[repr(align(64))]
struct Aligned<T>([T; MAX_SIZE]);
