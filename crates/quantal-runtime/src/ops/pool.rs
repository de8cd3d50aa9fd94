//! MaxPool, AveragePool and their global forms over one to three spatial axes, as the standard defines them.

use super::number;
use super::{Context, Inputs, OpError, required};
use crate::ops::strides::count;
use half::f16;
use quantal_ir::op::conv::Window;
use quantal_ir::op::pool::PoolAttrs;
use quantal_ir::{Node, Op};
use quantal_tensor::{DType, Element, Tensor};

/// A pooling operator.
#[derive(Debug, Clone)]
pub enum Pooling {
    /// The largest element of each window; its place too if `indices` are wanted.
    Max {
        /// Window and order of the indices.
        attrs: PoolAttrs,
        /// Whether the second output is wanted.
        indices: bool,
    },
    /// The mean of each window.
    Average(PoolAttrs),
    /// The largest element of each channel.
    GlobalMax,
    /// The mean of each channel.
    GlobalAverage,
}

/// The taps of one window along one axis that lie in the input.
#[derive(Clone, Copy)]
struct Reach {
    /// The first position, and how many there are.
    start: usize,
    taps: usize,
    /// How many taps lie in input or padding.
    padded: usize,
}

/// The windows along one axis. All numbers are below 2^31.
#[derive(Clone, Copy)]
struct Axis {
    size: usize,
    out: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
    after: usize,
}

impl Axis {
    const MISSING: Self = Self { size: 1, out: 1, kernel: 1, stride: 1, dilation: 1, before: 0, after: 0 };

    fn reach(&self, window: usize) -> Reach {
        let first = window * self.stride;
        let skipped = self.before.saturating_sub(first).div_ceil(self.dilation).min(self.kernel);
        let within = |end: usize| end.saturating_sub(first).div_ceil(self.dilation).min(self.kernel);
        let end = self.before + self.size;
        let taps = within(end).saturating_sub(skipped);
        let start = if taps == 0 { 0 } else { first + skipped * self.dilation - self.before };
        Reach { start, taps, padded: within(end + self.after) }
    }
}

/// Windows over one to three spatial axes, as three: the missing ones are of size 1, in front.
pub(super) struct Windows {
    axes: [Axis; 3],
    /// The output's spatial sizes.
    pub(super) out: Vec<usize>,
}

impl Windows {
    /// The windows over spatial sizes.
    pub(super) fn new(window: &Window, sizes: &[usize], ceil: bool) -> Result<Self, OpError> {
        if window.kernel.len() != sizes.len() {
            let n = window.kernel.len();
            let text = format!("a window of {n} axes over an input that has {} spatial ones", sizes.len());
            return Err(OpError::invalid(text));
        }
        let missing = 3_usize.checked_sub(sizes.len()).filter(|&m| m < 3);
        let missing =
            missing.ok_or_else(|| OpError::Unsupported(format!("pooling over {} spatial axes", sizes.len())))?;
        let mut axes = [Axis::MISSING; 3];
        for (i, &size) in sizes.iter().enumerate() {
            let fit = window.padding(i, size).zip(window.output_size(i, size, ceil));
            let limit = i32::MAX as usize;
            let Some(((before, after), out)) = fit.filter(|(p, out)| size.max(p.0).max(p.1).max(*out) < limit) else {
                let text = format!("a window of {:?} does not fit an input of spatial size {sizes:?}", window.kernel);
                return Err(OpError::invalid(text));
            };
            let (kernel, stride, dilation) = (window.kernel[i], window.strides[i], window.dilations[i]);
            axes[missing + i] = Axis { size, out, kernel, stride, dilation, before, after };
        }
        let out: Vec<usize> = axes[missing..].iter().map(|a| a.out).collect();
        count(&out)?;
        Ok(Self { axes, out })
    }

    /// Calls `f(output position, taps in input or padding, positions)` for each window; positions index the plane.
    pub(super) fn each(&self, mut f: impl FnMut(usize, usize, &mut dyn Iterator<Item = usize>)) {
        let [d, h, w] = self.axes;
        let along = |r: Reach, axis: Axis| (0..r.taps).map(move |t| r.start + t * axis.dilation);
        let mut at = 0;
        for rd in (0..d.out).map(|o| d.reach(o)) {
            for rh in (0..h.out).map(|o| h.reach(o)) {
                for rw in (0..w.out).map(|o| w.reach(o)) {
                    let padded = rd.padded.saturating_mul(rh.padded).saturating_mul(rw.padded);
                    let mut positions = along(rd, d).flat_map(|z| {
                        along(rh, h).flat_map(move |y| along(rw, w).map(move |x| (z * h.size + y) * w.size + x))
                    });
                    f(at, padded, &mut positions);
                    at += 1;
                }
            }
        }
    }

    /// The place of a plane's element if columns come first.
    fn column_major(&self, at: usize) -> usize {
        let [_, h, w] = self.axes.map(|a| a.size);
        let (z, y, x) = (at / (h * w), at / w % h, at % w);
        (z * w + x) * h + y
    }
}

impl Pooling {
    /// Reads the window.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        Ok(match node.op {
            Op::MaxPool => Self::Max { attrs: PoolAttrs::of(&node.attrs)?, indices: node.output(1).is_some() },
            Op::AveragePool => Self::Average(PoolAttrs::of(&node.attrs)?),
            Op::GlobalMaxPool => Self::GlobalMax,
            _ => Self::GlobalAverage,
        })
    }

    /// Pools `[N, C, …]`. The indices of a MaxPool follow only if they are wanted.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = required(inputs, 0)?;
        if x.rank() < 2 {
            return Err(OpError::invalid(format!(
                "pooling needs a batch and a channel axis, found shape {:?}",
                x.shape()
            )));
        }
        match self {
            Self::Max { attrs, indices } => match x.dtype() {
                DType::F32 => max(x, attrs, *indices, f32::NEG_INFINITY),
                DType::F64 => max(x, attrs, *indices, f64::NEG_INFINITY),
                DType::F16 => max(x, attrs, *indices, f16::NEG_INFINITY),
                DType::U8 => max(x, attrs, *indices, u8::MIN),
                DType::I8 => max(x, attrs, *indices, i8::MIN),
                other => Err(OpError::dtype(Op::MaxPool, other)),
            },
            Self::Average(attrs) => Ok(vec![average(x, attrs)?]),
            Self::GlobalMax => match x.dtype() {
                DType::U8 => Ok(vec![global::<u8>(x, |c| c.iter().copied().fold(0, u8::max))?]),
                DType::I8 => Ok(vec![global::<i8>(x, |c| c.iter().copied().fold(-128, i8::max))?]),
                _ => global_float(Op::GlobalMaxPool, x, |c| c.iter().copied().fold(f32::NEG_INFINITY, f32::max)),
            },
            Self::GlobalAverage => global_float(Op::GlobalAveragePool, x, mean),
        }
    }
}

fn mean(channel: &[f32]) -> f32 {
    (channel.iter().map(|&v| f64::from(v)).sum::<f64>() / channel.len() as f64) as f32
}

fn shape_of(x: &Tensor, windows: &Windows) -> Vec<usize> {
    [&x.shape()[..2], &windows.out].concat()
}

fn max<T: Element>(x: &Tensor, attrs: &PoolAttrs, indices: bool, least: T) -> Result<Vec<Tensor>, OpError> {
    let windows = Windows::new(&attrs.window, &x.shape()[2..], attrs.ceil_mode)?;
    let shape = shape_of(x, &windows);
    let mut y = Tensor::zeros(x.dtype(), &shape)?;
    let mut places = Tensor::zeros(DType::I64, if indices { &shape } else { &[0] })?;
    if y.is_empty() {
        return Ok(if indices { vec![y, places] } else { vec![y] });
    }
    let (plane, plane_out) = (count(&x.shape()[2..])?, count(&windows.out)?);
    let (values, out, place) = (x.as_slice::<T>(), y.as_mut_slice::<T>()?, places.as_mut_slice::<i64>()?);
    for c in 0..shape[0] * shape[1] {
        let image = &values[c * plane..][..plane];
        windows.each(|o, _, positions| {
            let (mut best, mut at) = (least, None);
            for p in positions {
                // The first element stands for a window of nothing but NaN or the least value.
                if at.is_none() || image[p] > best {
                    (best, at) = (image[p], Some(p));
                }
            }
            out[c * plane_out + o] = best;
            if let (true, Some(at)) = (indices, at) {
                let at = if attrs.column_major { windows.column_major(at) } else { at };
                place[c * plane_out + o] = (c * plane + at) as i64;
            }
        });
    }
    Ok(if indices { vec![y, places] } else { vec![y] })
}

fn average(x: &Tensor, attrs: &PoolAttrs) -> Result<Tensor, OpError> {
    let windows = Windows::new(&attrs.window, &x.shape()[2..], attrs.ceil_mode)?;
    let shape = shape_of(x, &windows);
    let values = number::floats(Op::AveragePool, x)?;
    let mut y = Tensor::zeros(DType::F32, &shape)?;
    if !y.is_empty() {
        let (plane, plane_out) = (count(&x.shape()[2..])?, count(&windows.out)?);
        let out = y.as_mut_slice::<f32>()?;
        for c in 0..shape[0] * shape[1] {
            let image = &values[c * plane..][..plane];
            windows.each(|o, padded, positions| {
                let (mut sum, mut n) = (0.0, 0);
                for p in positions {
                    sum += image[p];
                    n += 1;
                }
                let n = if attrs.count_include_pad { padded } else { n };
                out[c * plane_out + o] = sum / n as f32;
            });
        }
    }
    number::store_as(y, x.dtype())
}

fn global<T: Element>(x: &Tensor, f: impl Fn(&[T]) -> T) -> Result<Tensor, OpError> {
    let shape: Vec<usize> = x.shape().iter().enumerate().map(|(i, &d)| if i < 2 { d } else { 1 }).collect();
    let plane = count(&x.shape()[2..])?;
    let mut y = Tensor::zeros(T::DTYPE, &shape)?;
    if plane == 0 && !y.is_empty() {
        return Err(OpError::invalid(format!("cannot pool over nothing: the input has shape {:?}", x.shape())));
    }
    for (y, channel) in y.as_mut_slice::<T>()?.iter_mut().zip(x.as_slice::<T>().chunks_exact(plane.max(1))) {
        *y = f(channel);
    }
    Ok(y)
}

fn global_float(op: Op, x: &Tensor, f: impl Fn(&[f32]) -> f32) -> Result<Vec<Tensor>, OpError> {
    let y = global::<f32>(&number::load_f32(op, x)?, f)?;
    Ok(vec![number::store_as(y, x.dtype())?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{f32s, ints, run};
    use super::*;
    use quantal_ir::{Attr, Attrs};

    #[test]
    fn max_pool_gives_indices_in_either_order() {
        let x = f32s(&[1, 1, 2, 3], &[1., 5., 2., 7., 3., 4.]);
        let attrs = ints(Attrs::new(), &[("kernel_shape", &[2, 2])]);
        let y = run(Op::MaxPool, attrs.clone(), 22, &[Some(&x)]).unwrap();
        assert_eq!(y[0].as_slice::<f32>(), [7., 5.]);
        assert_eq!(y[1].as_slice::<i64>(), [3, 1]);
        let y = run(Op::MaxPool, attrs.with("storage_order", Attr::Int(1)), 22, &[Some(&x)]).unwrap();
        // Column-major: element (row 1, column 0) is 1, (0, 1) is 2.
        assert_eq!(y[1].as_slice::<i64>(), [1, 2]);
    }

    #[test]
    fn averages_count_padding_only_when_told_and_never_the_part_that_ceil_adds() {
        let x = f32s(&[1, 1, 3], &[2., 4., 6.]);
        let attrs = |pad: i64| {
            ints(Attrs::new(), &[("kernel_shape", &[2]), ("strides", &[2]), ("pads", &[1, 1])])
                .with("count_include_pad", Attr::Int(pad))
                .with("ceil_mode", Attr::Int(1))
        };
        // Windows (pad, 2), (4, 6); a third would start in the padding after the end.
        let y = run(Op::AveragePool, attrs(0), 22, &[Some(&x)]).unwrap();
        assert_eq!(y[0].as_slice::<f32>(), [2., 5.]);
        let y = run(Op::AveragePool, attrs(1), 22, &[Some(&x)]).unwrap();
        assert_eq!(y[0].as_slice::<f32>(), [1., 5.]);
        let attrs = ints(Attrs::new(), &[("kernel_shape", &[2]), ("strides", &[2])]);
        let attrs = attrs.with("ceil_mode", Attr::Int(1)).with("count_include_pad", Attr::Int(1));
        let y = run(Op::AveragePool, attrs, 22, &[Some(&x)]).unwrap();
        assert_eq!(y[0].as_slice::<f32>(), [3., 6.]);
    }

    #[test]
    fn a_huge_window_costs_no_more_than_the_input() {
        let x = f32s(&[1, 1, 2], &[2., 4.]);
        let big = 1 << 29;
        let attrs = ints(Attrs::new(), &[("kernel_shape", &[big]), ("pads", &[big - 2, 0])]);
        let y = run(Op::MaxPool, attrs, 22, &[Some(&x)]).unwrap();
        assert_eq!(y[0].as_slice::<f32>(), [4.]);
    }

    #[test]
    fn dilated_byte_pooling_works_and_a_misfit_is_an_error() {
        let x = Tensor::from_slice(&[1, 1, 5], &[9_u8, 1, 2, 3, 8]).unwrap();
        let attrs = ints(Attrs::new(), &[("kernel_shape", &[2]), ("dilations", &[3])]);
        let y = run(Op::MaxPool, attrs, 22, &[Some(&x)]).unwrap();
        assert_eq!(y[0].as_slice::<u8>(), [9, 8]);
        let attrs = ints(Attrs::new(), &[("kernel_shape", &[2, 2])]);
        assert!(run(Op::MaxPool, attrs, 22, &[Some(&x)]).is_err());
    }
}
