//! Conv, ConvTranspose, ConvInteger and QLinearConv over one to three spatial axes, as the standard defines them.

use super::number::{self, Number};
use super::{Context, Inputs, OpError, optional, required};
use crate::ops::strides::count;
use quantal_ir::op::conv::{ConvAttrs, ConvTransposeAttrs};
use quantal_ir::{Attrs, Node, Op};
use quantal_tensor::{DType, Tensor, arith};

/// A convolution. Its attributes are checked against the shape of the weights, so they are read when it runs.
#[derive(Debug, Clone)]
pub struct Convolution {
    op: Op,
    attrs: Attrs,
}

/// One to three spatial axes as three, the missing ones of size 1 in front. Along each axis, for every tap:
/// `wide = narrow · stride + tap · dilation − pad`. A convolution reads wide and writes narrow, its transpose the other
/// way around.
struct Spatial {
    narrow: [usize; 3],
    wide: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
    dilation: [usize; 3],
    pad: [i64; 3],
}

fn three<T: Copy>(values: &[T], missing: T) -> [T; 3] {
    let mut out = [missing; 3];
    out[3 - values.len()..].copy_from_slice(values);
    out
}

impl Spatial {
    fn of(attrs: &ConvAttrs, narrow: &[usize], wide: &[usize], pad: &[i64]) -> Self {
        let w = &attrs.window;
        Self {
            narrow: three(narrow, 1),
            wide: three(wide, 1),
            kernel: three(&w.kernel, 1),
            stride: three(&w.strides, 1),
            dilation: three(&w.dilations, 1),
            pad: three(pad, 0),
        }
    }

    /// The narrow positions `start..end` of `axis` whose wide partner under `tap` lies inside, and that of `start`.
    fn range(&self, axis: usize, tap: usize) -> (usize, usize, usize) {
        let stride = self.stride[axis] as i64;
        // Kernel and dilation are below 2^31 each: the product fits.
        let shift = (tap * self.dilation[axis]) as i64 - self.pad[axis];
        let start = (-shift).max(0).div_euclid(stride) + i64::from((-shift).max(0).rem_euclid(stride) != 0);
        let end = (self.wide[axis] as i64 - 1 - shift).div_euclid(stride) + 1;
        let end = end.min(self.narrow[axis] as i64);
        if end <= start {
            return (0, 0, 0);
        }
        (start as usize, end as usize, (start * stride + shift) as usize)
    }

    /// Calls `f(tap, narrow offset, wide offset, count)` for each run along the last axis that a tap connects.
    fn runs(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let ([_, nh, nw], [_, wh, ww], [kd, kh, kw]) = (self.narrow, self.wide, self.kernel);
        for a in 0..kd {
            let (d0, d1, dw) = self.range(0, a);
            for b in 0..kh {
                let (h0, h1, hw) = self.range(1, b);
                for c in 0..kw {
                    let (w0, w1, w_wide) = self.range(2, c);
                    if w0 == w1 {
                        continue;
                    }
                    let tap = (a * kh + b) * kw + c;
                    for (i, d) in (d0..d1).enumerate() {
                        for (j, h) in (h0..h1).enumerate() {
                            let (wide_d, wide_h) = (dw + i * self.stride[0], hw + j * self.stride[1]);
                            f(tap, (d * nh + h) * nw + w0, (wide_d * wh + wide_h) * ww + w_wide, w1 - w0);
                        }
                    }
                }
            }
        }
    }
}

/// The shape of a convolution, checked: groups divide the channels, the weights fit the input.
struct Plan {
    spatial: Spatial,
    batch: usize,
    groups: usize,
    /// Channels of one group on the input and output side.
    c_in: usize,
    c_out: usize,
    /// Positions on the narrow and wide side, and taps.
    narrow: usize,
    wide: usize,
    taps: usize,
    shape: Vec<usize>,
}

impl Plan {
    fn dims<'a>(x: &'a Tensor, w: &'a Tensor) -> Result<(&'a [usize], &'a [usize]), OpError> {
        let (xs, ws) = (x.shape(), w.shape());
        if xs.len() < 3 || xs.len() != ws.len() {
            return Err(OpError::invalid(format!(
                "input of shape {xs:?} and weights of shape {ws:?} must both have a batch or channel axis, a channel axis and spatial axes"
            )));
        }
        if xs.len() > 5 {
            return Err(OpError::Unsupported(format!("convolution over {} spatial axes", xs.len() - 2)));
        }
        if xs.iter().chain(ws).any(|&d| d >= i32::MAX as usize) || ws[2..].contains(&0) {
            return Err(OpError::invalid(format!(
                "cannot convolve an input of shape {xs:?} with weights of shape {ws:?}"
            )));
        }
        Ok((xs, ws))
    }

    fn forward(attrs: &Attrs, x: &Tensor, w: &Tensor) -> Result<Self, OpError> {
        let (xs, ws) = Self::dims(x, w)?;
        let attrs = ConvAttrs::of(attrs, ws)?;
        let groups = attrs.group;
        if ws[1].checked_mul(groups) != Some(xs[1]) || !ws[0].is_multiple_of(groups) {
            let text = format!("{} input channels in {groups} groups do not fit weights of shape {ws:?}", xs[1]);
            return Err(OpError::invalid(text));
        }
        let (mut pad, mut shape) = (Vec::new(), vec![xs[0], ws[0]]);
        for (i, &size) in xs[2..].iter().enumerate() {
            let fit = attrs.window.padding(i, size).zip(attrs.window.output_size(i, size, false));
            let ((before, _), out) = fit.ok_or_else(|| {
                OpError::invalid(format!("a kernel of {:?} does not fit an input of shape {xs:?}", attrs.window.kernel))
            })?;
            pad.push(before as i64);
            shape.push(out);
        }
        let spatial = Spatial::of(&attrs, &shape[2..], &xs[2..], &pad);
        Self { spatial, batch: xs[0], groups, c_in: ws[1], c_out: ws[0] / groups, narrow: 0, wide: 0, taps: 0, shape }
            .counted()
    }

    fn transposed(attrs: &Attrs, x: &Tensor, w: &Tensor) -> Result<Self, OpError> {
        let (xs, ws) = Self::dims(x, w)?;
        let attrs = ConvTransposeAttrs::of(attrs, ws)?;
        let groups = attrs.conv.group;
        let channels = ws[1].checked_mul(groups);
        let (Some(channels), true) = (channels, ws[0] == xs[1] && xs[1].is_multiple_of(groups)) else {
            let text = format!("{} input channels in {groups} groups do not fit weights of shape {ws:?}", xs[1]);
            return Err(OpError::invalid(text));
        };
        let (mut pad, mut shape) = (Vec::new(), vec![xs[0], channels]);
        for (i, &size) in xs[2..].iter().enumerate() {
            let (before, _, out) = attrs.axis(i, size).filter(|a| a.2 < i32::MAX as usize).ok_or_else(|| {
                OpError::invalid(format!("no output size follows for axis {} of an input of shape {xs:?}", i + 2))
            })?;
            pad.push(before);
            shape.push(out);
        }
        let spatial = Spatial::of(&attrs.conv, &xs[2..], &shape[2..], &pad);
        Self { spatial, batch: xs[0], groups, c_in: xs[1] / groups, c_out: ws[1], narrow: 0, wide: 0, taps: 0, shape }
            .counted()
    }

    fn counted(mut self) -> Result<Self, OpError> {
        self.narrow = count(&self.spatial.narrow)?;
        self.wide = count(&self.spatial.wide)?;
        self.taps = count(&self.spatial.kernel)?;
        Ok(self)
    }

    /// Adds the convolution to `y`: `[N, C_in, …]` with weights `[C_out, C_in / groups, k…]`.
    fn run<T: Number>(&self, x: &[T], w: &[T], y: &mut [T]) {
        let (narrow, wide, taps) = (self.narrow, self.wide, self.taps);
        let stride = self.spatial.stride[2];
        if y.is_empty() {
            return;
        }
        for n in 0..self.batch {
            for g in 0..self.groups {
                for o in 0..self.c_out {
                    let out = ((n * self.groups + g) * self.c_out + o) * narrow;
                    for c in 0..self.c_in {
                        let image = &x[((n * self.groups + g) * self.c_in + c) * wide..][..wide];
                        let kernel = &w[((g * self.c_out + o) * self.c_in + c) * taps..][..taps];
                        self.spatial.runs(|tap, to, from, count| {
                            let row = &mut y[out + to..][..count];
                            for (v, &u) in row.iter_mut().zip(image[from..].iter().step_by(stride)) {
                                *v = v.mac(kernel[tap], u);
                            }
                        });
                    }
                }
            }
        }
    }

    /// The same for the transpose, with weights `[C_in, C_out / groups, k…]`.
    fn run_transposed<T: Number>(&self, x: &[T], w: &[T], y: &mut [T]) {
        let (narrow, wide, taps) = (self.narrow, self.wide, self.taps);
        let stride = self.spatial.stride[2];
        if y.is_empty() {
            return;
        }
        for n in 0..self.batch {
            for g in 0..self.groups {
                for c in 0..self.c_in {
                    let image = &x[((n * self.groups + g) * self.c_in + c) * narrow..][..narrow];
                    for o in 0..self.c_out {
                        let kernel = &w[((g * self.c_in + c) * self.c_out + o) * taps..][..taps];
                        let out = &mut y[((n * self.groups + g) * self.c_out + o) * wide..][..wide];
                        self.spatial.runs(|tap, from, to, count| {
                            let row = &image[from..][..count];
                            for (v, &u) in out[to..].iter_mut().step_by(stride).zip(row) {
                                *v = v.mac(kernel[tap], u);
                            }
                        });
                    }
                }
            }
        }
    }

    /// Fills `y`, `[N, C, …]`, with one value a channel.
    fn fill<T: Copy>(&self, y: &mut [T], bias: &[T]) {
        if !y.is_empty() {
            let plane = y.len() / (self.shape[0] * self.shape[1]);
            for (row, &b) in y.chunks_exact_mut(plane).zip(bias.iter().cycle()) {
                row.fill(b);
            }
        }
    }
}

impl Convolution {
    /// Takes the attributes over.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        Ok(Self { op: node.op, attrs: node.attrs.clone() })
    }

    /// Convolves `[N, C, …]`.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let y = match self.op {
            Op::ConvInteger => self.integer(inputs)?,
            Op::QLinearConv => self.requantized(inputs)?,
            _ => self.float(inputs)?,
        };
        Ok(vec![y])
    }

    fn float(&self, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
        let (x, w) = (required(inputs, 0)?, required(inputs, 1)?);
        same_type(x, w)?;
        let transposed = self.op == Op::ConvTranspose;
        let plan = if transposed { Plan::transposed(&self.attrs, x, w)? } else { Plan::forward(&self.attrs, x, w)? };
        let bias = optional(inputs, 2).map(|b| self.bias(b, plan.shape[1])).transpose()?;
        let (values, weights) = (number::floats(self.op, x)?, number::floats(self.op, w)?);
        let mut y = Tensor::zeros(DType::F32, &plan.shape)?;
        let out = y.as_mut_slice::<f32>()?;
        if let Some(b) = bias {
            plan.fill(out, &number::floats(self.op, b)?);
        }
        if transposed {
            plan.run_transposed(&values, &weights, out);
        } else {
            plan.run(&values, &weights, out);
        }
        number::store_as(y, x.dtype())
    }

    fn bias<'a>(&self, b: &'a Tensor, channels: usize) -> Result<&'a Tensor, OpError> {
        if b.shape() == [channels] {
            return Ok(b);
        }
        let text = format!("{} needs a bias of {channels} values, found shape {:?}", self.op.name(), b.shape());
        Err(OpError::invalid(text))
    }

    /// Σ (x − z_x)(w − z_w), the accumulators.
    fn accumulate(
        &self,
        x: &Tensor,
        w: &Tensor,
        zeros: (Option<&Tensor>, Option<&Tensor>),
        bias: Option<&Tensor>,
    ) -> Result<(Plan, Tensor), OpError> {
        Plan::dims(x, w)?;
        let values = less_zero_point(self.op, "x_zero_point", x, zeros.0, false)?;
        let weights = less_zero_point(self.op, "w_zero_point", w, zeros.1, true)?;
        let plan = Plan::forward(&self.attrs, x, w)?;
        let mut acc = Tensor::zeros(DType::I32, &plan.shape)?;
        let out = acc.as_mut_slice::<i32>()?;
        if let Some(b) = bias {
            let b = self.bias(b, plan.shape[1])?;
            plan.fill(out, b.get::<i32>().ok_or_else(|| OpError::dtype(self.op, b.dtype()))?);
        }
        plan.run(values.as_slice::<i32>(), weights.as_slice::<i32>(), out);
        Ok((plan, acc))
    }

    fn integer(&self, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
        let (x, w) = (required(inputs, 0)?, required(inputs, 1)?);
        Ok(self.accumulate(x, w, (optional(inputs, 2), optional(inputs, 3)), None)?.1)
    }

    fn requantized(&self, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
        let (x, w) = (required(inputs, 0)?, required(inputs, 3)?);
        let (s_x, s_y) =
            (number::one_f32("x_scale", required(inputs, 1)?)?, number::one_f32("y_scale", required(inputs, 6)?)?);
        let zero = required(inputs, 7)?;
        let (qmin, qmax) = byte_range(self.op, zero.dtype())?;
        let z_y = number::one_int("y_zero_point", zero)? as i32;
        let zeros = (optional(inputs, 2), optional(inputs, 5));
        let (plan, mut acc) = self.accumulate(x, w, zeros, optional(inputs, 8))?;
        let scales = required(inputs, 4)?;
        let s_w = number::floats(self.op, scales)?;
        if s_w.len() != 1 && s_w.len() != plan.shape[1] {
            let text = format!("w_scale must have 1 or {} entries, found shape {:?}", plan.shape[1], scales.shape());
            return Err(OpError::invalid(text));
        }
        let rows = acc.as_mut_slice::<i32>()?.chunks_exact_mut(plan.narrow.max(1));
        for (row, &s) in rows.zip(s_w.iter().cycle()) {
            let m = arith::multiplier(s_x, s, s_y);
            for v in row {
                *v = arith::requantize(*v, m, z_y, qmin, qmax);
            }
        }
        number::store_codes(&acc, zero.dtype())
    }
}

/// The code range of an 8-bit type.
pub(super) fn byte_range(op: Op, dtype: DType) -> Result<(i32, i32), OpError> {
    match dtype {
        DType::U8 => Ok((0, 255)),
        DType::I8 => Ok((-128, 127)),
        other => Err(OpError::dtype(op, other)),
    }
}

fn same_type(x: &Tensor, w: &Tensor) -> Result<(), OpError> {
    if x.dtype() == w.dtype() {
        return Ok(());
    }
    Err(OpError::invalid(format!("input of {} with weights of {}", x.dtype(), w.dtype())))
}

/// 8-bit codes less their zero point: one, or one for each entry of axis 0.
fn less_zero_point(
    op: Op,
    what: &str,
    t: &Tensor,
    zero: Option<&Tensor>,
    per_channel: bool,
) -> Result<Tensor, OpError> {
    byte_range(op, t.dtype())?;
    let mut out = number::codes(op, t)?;
    let Some(zero) = zero else { return Ok(out) };
    let wanted = if per_channel { t.shape().first().copied().unwrap_or(1) } else { 1 };
    if zero.dtype() != t.dtype() || (zero.len() != 1 && zero.len() != wanted) {
        let (d, s) = (zero.dtype(), zero.shape());
        return Err(OpError::invalid(format!(
            "{what} must hold 1 or {wanted} of {}, found {d} of shape {s:?}",
            t.dtype()
        )));
    }
    let zeros = number::codes(op, zero)?;
    let run = (out.len() / wanted.max(1)).max(1);
    for (row, &z) in out.as_mut_slice::<i32>()?.chunks_mut(run).zip(zeros.as_slice::<i32>().iter().cycle()) {
        for v in row {
            *v -= z;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{f32s, ints, run};
    use super::*;

    #[test]
    fn a_strided_padded_grouped_convolution_matches_the_sum_by_hand() {
        // Two groups of one channel; 1-D, kernel 2, stride 2, pad 1 before: windows (0, a), (b, c).
        let x = f32s(&[1, 2, 3], &[1., 2., 3., 10., 20., 30.]);
        let w = f32s(&[2, 1, 2], &[1., 10., 1., 1.]);
        let b = f32s(&[2], &[0.5, 0.0]);
        let attrs = ints(Attrs::new(), &[("pads", &[1, 0]), ("strides", &[2])]);
        let attrs = attrs.with("group", quantal_ir::Attr::Int(2));
        let y = run(Op::Conv, attrs, 22, &[Some(&x), Some(&w), Some(&b)]).unwrap();
        assert_eq!(y[0].shape(), [1, 2, 2]);
        assert_eq!(y[0].as_slice::<f32>(), [10.5, 32.5, 10.0, 50.0]);
    }

    #[test]
    fn a_transposed_convolution_scatters() {
        // y[2i + k] += x[i] · w[k]: 1·(1,2,3) at 0, 4·(1,2,3) at 2.
        let y = run(
            Op::ConvTranspose,
            ints(Attrs::new(), &[("strides", &[2])]),
            22,
            &[Some(&f32s(&[1, 1, 2], &[1., 4.])), Some(&f32s(&[1, 1, 3], &[1., 2., 3.]))],
        );
        assert_eq!(y.unwrap()[0].as_slice::<f32>(), [1., 2., 7., 8., 12.]);
    }

    #[test]
    fn padding_of_an_integer_convolution_is_real_zero() {
        let x = Tensor::from_slice(&[1, 1, 2], &[130_u8, 127]).unwrap();
        let w = Tensor::from_slice(&[1, 1, 3], &[1_i8, 2, -3]).unwrap();
        let z = Tensor::scalar(128_u8).unwrap();
        let attrs = ints(Attrs::new(), &[("pads", &[1, 1])]);
        let y = run(Op::ConvInteger, attrs, 10, &[Some(&x), Some(&w), Some(&z)]).unwrap();
        // x − z = (2, −1): 2·2 − 1·(−3) and 2·1 − 1·2.
        assert_eq!(y[0].as_slice::<i32>(), [7, 0]);
    }

    #[test]
    fn misfits_are_errors_that_name_the_numbers() {
        let x = f32s(&[1, 3, 4, 4], &[0.0; 48]);
        let w = f32s(&[2, 2, 3, 3], &[0.0; 36]);
        let text = run(Op::Conv, Attrs::new(), 22, &[Some(&x), Some(&w)]).unwrap_err().to_string();
        assert!(text.contains("3 input channels") && text.contains("[2, 2, 3, 3]"), "{text}");
        let big = f32s(&[1, 3, 5, 5], &[0.0; 75]);
        assert!(run(Op::Conv, Attrs::new(), 22, &[Some(&x), Some(&big)]).is_err());
        let ok = f32s(&[2, 3, 1, 1], &[0.0; 6]);
        let bias = f32s(&[3], &[0.0; 3]);
        let text = run(Op::Conv, Attrs::new(), 22, &[Some(&x), Some(&ok), Some(&bias)]).unwrap_err().to_string();
        assert!(text.contains("bias of 2"), "{text}");
    }
}
