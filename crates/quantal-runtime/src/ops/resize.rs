//! Resize and Upsample of any rank, axis by axis; GridSample and RoiAlign.

mod grid;
mod roi;
mod taps;

use super::number;
use super::{Context, Inputs, OpError, optional, required};
use crate::ops::strides::count;
use grid::Grid;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{Node, Op};
use quantal_tensor::{DType, Element, Tensor};
use roi::Roi;
use taps::{Axis, Kernel, Mapping, Rounding, Taps};

/// An operator that samples between pixels.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Resampling {
    Resize(Resize),
    Grid(Grid),
    Roi(Roi),
}

/// How sizes that were asked for keep the aspect ratio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// The attributes of Resize or Upsample.
#[derive(Debug, Clone)]
pub struct Resize {
    kernel: Kernel,
    mapping: Mapping,
    exclude_outside: bool,
    extrapolation: f32,
    axes: Option<Vec<i64>>,
    policy: Policy,
    /// Where the inputs stand: region, scales and sizes.
    region: Option<usize>,
    scales: usize,
    /// Scales in the node itself, before version 9.
    fixed: Option<Vec<f32>>,
}

impl Resampling {
    /// Reads the attributes.
    pub fn prepare(node: &Node, opset: i64) -> Result<Self, OpError> {
        Ok(match node.op {
            Op::GridSample => Self::Grid(Grid::of(&node.attrs)?),
            Op::RoiAlign => Self::Roi(Roi::of(&node.attrs, opset)?),
            _ => Self::Resize(Resize::of(node, opset)?),
        })
    }

    /// Samples.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![match self {
            Self::Resize(r) => r.run(inputs)?,
            Self::Grid(g) => g.run(inputs)?,
            Self::Roi(r) => r.run(inputs)?,
        }])
    }
}

/// The variant of a named attribute.
fn choose<T: Copy>(name: &str, value: &str, choices: &[(&str, T)]) -> Result<T, OpError> {
    let found = choices.iter().find(|(text, _)| *text == value).map(|(_, v)| *v);
    found.ok_or_else(|| OpError::invalid(format!("`{name}` is unknown: {}", value.escape_debug())))
}

impl Resize {
    fn of(node: &Node, opset: i64) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        // Upsample and the first Resize know scales alone, and one mapping.
        let first = node.op == Op::Upsample || opset < 11;
        let antialias = attrs.flag("antialias", false)?;
        let a = f64::from(attrs.float_or("cubic_coeff_a", -0.75)?);
        let rounding = choose(
            "nearest_mode",
            attrs.str_or("nearest_mode", if first { "floor" } else { "round_prefer_floor" })?,
            &[
                ("round_prefer_floor", Rounding::PreferFloor),
                ("round_prefer_ceil", Rounding::PreferCeil),
                ("floor", Rounding::Floor),
                ("ceil", Rounding::Ceil),
            ],
        )?;
        let kernel = choose(
            "mode",
            attrs.str_or("mode", "nearest")?,
            &[
                ("nearest", Kernel::Nearest(rounding)),
                ("linear", Kernel::Linear { antialias }),
                ("bilinear", Kernel::Linear { antialias }),
                ("cubic", Kernel::Cubic { a, antialias }),
            ],
        )?;
        let mapping =
            attrs.str_or("coordinate_transformation_mode", if first { "asymmetric" } else { "half_pixel" })?;
        let mapping = choose(
            "coordinate_transformation_mode",
            mapping,
            &[
                ("half_pixel", Mapping::HalfPixel),
                ("half_pixel_symmetric", Mapping::HalfPixelSymmetric),
                ("pytorch_half_pixel", Mapping::PytorchHalfPixel),
                ("align_corners", Mapping::AlignCorners),
                ("asymmetric", Mapping::Asymmetric),
                ("tf_half_pixel_for_nn", Mapping::TfHalfPixel),
                ("tf_crop_and_resize", Mapping::Crop),
            ],
        )?;
        let policy = attrs.str_or("keep_aspect_ratio_policy", "stretch")?;
        let policy = choose(
            "keep_aspect_ratio_policy",
            policy,
            &[("stretch", Policy::Stretch), ("not_larger", Policy::NotLarger), ("not_smaller", Policy::NotSmaller)],
        )?;
        Ok(Self {
            kernel,
            mapping,
            exclude_outside: attrs.flag("exclude_outside", false)?,
            extrapolation: attrs.float_or("extrapolation_value", 0.0)?,
            axes: attrs.ints("axes")?.map(<[i64]>::to_vec),
            policy,
            region: (!first).then_some(1),
            scales: if first { 1 } else { 2 },
            fixed: if node.op == Op::Upsample { attrs.floats("scales")?.map(<[f32]>::to_vec) } else { None },
        })
    }

    /// The axes to resize, each with what happens on it.
    fn plan(&self, inputs: &Inputs<'_>) -> Result<Vec<(usize, Axis)>, OpError> {
        let x = required(inputs, 0)?.shape();
        let axes = match &self.axes {
            None => (0..x.len()).collect(),
            Some(list) => list.iter().map(|&a| normalize_axis(a, x.len())).collect::<Result<Vec<_>, _>>()?,
        };
        if (1..axes.len()).any(|i| axes[..i].contains(&axes[i])) {
            return Err(OpError::invalid(format!("`axes` {axes:?} names an axis twice")));
        }
        let region = match self.region.and_then(|i| optional(inputs, i)).filter(|r| !r.is_empty()) {
            Some(r) if self.mapping == Mapping::Crop => {
                number::floats(Op::Resize, r)?.iter().map(|&v| f64::from(v)).collect()
            }
            _ => [vec![0.0; axes.len()], vec![1.0; axes.len()]].concat(),
        };
        if region.len() != 2 * axes.len() {
            return Err(OpError::invalid(format!("roi has {} entries for {} axes", region.len(), axes.len())));
        }
        let count = |what: &str, n: usize| {
            let fits = n == axes.len();
            fits.then_some(())
                .ok_or_else(|| OpError::invalid(format!("{what} has {n} entries for {} axes", axes.len())))
        };
        let scales = match &self.fixed {
            Some(scales) => Some(scales.clone()),
            None => match optional(inputs, self.scales).filter(|t| !t.is_empty()) {
                Some(t) => Some(number::floats(Op::Resize, t)?.into_owned()),
                None => None,
            },
        };
        let sizes = optional(inputs, self.scales + 1).filter(|t| !t.is_empty());
        let targets: Vec<(f64, usize)> = match (scales, sizes) {
            (Some(scales), _) => {
                count("scales", scales.len())?;
                axes.iter().zip(&scales).map(|(&a, &s)| scaled(x[a], s)).collect::<Result<_, _>>()?
            }
            (None, Some(t)) => {
                let sizes = t.get::<i64>().ok_or_else(|| OpError::dtype(Op::Resize, t.dtype()))?;
                count("sizes", sizes.len())?;
                self.sized(x, &axes, sizes)?
            }
            (None, None) => return Err(OpError::invalid("neither scales nor sizes are given")),
        };
        let n = axes.len();
        Ok(axes
            .iter()
            .zip(targets)
            .enumerate()
            .map(|(i, (&axis, (scale, out)))| {
                (axis, Axis { input: x[axis], out, scale, region: [region[i], region[n + i]] })
            })
            .collect())
    }

    /// Scales and sizes that follow from the sizes asked for.
    fn sized(&self, x: &[usize], axes: &[usize], sizes: &[i64]) -> Result<Vec<(f64, usize)>, OpError> {
        let wanted = axes.iter().zip(sizes).map(|(&a, &s)| {
            let size = usize::try_from(s).ok().filter(|&s| s < i32::MAX as usize && (x[a] > 0 || s == 0));
            size.ok_or_else(|| OpError::invalid(format!("cannot resize axis {a} of {x:?} to {s}")))
        });
        let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
        let ratios = axes.iter().zip(&wanted).map(|(&a, &s)| if x[a] == 0 { 1.0 } else { s as f64 / x[a] as f64 });
        let one = match self.policy {
            Policy::Stretch => return Ok(ratios.zip(wanted.iter().copied()).collect()),
            Policy::NotLarger => ratios.fold(f64::INFINITY, f64::min),
            Policy::NotSmaller => ratios.fold(0.0, f64::max),
        };
        axes.iter()
            .map(|&a| {
                let size = (one * x[a] as f64 + 0.5).floor();
                let fits = size < f64::from(i32::MAX);
                fits.then_some((one, size as usize))
                    .ok_or_else(|| OpError::invalid(format!("axis {a} would be {size} long")))
            })
            .collect()
    }

    fn run(&self, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
        let x = required(inputs, 0)?;
        let plan: Vec<_> = self.plan(inputs)?.into_iter().filter(|(_, a)| !a.is_identity()).collect();
        if let Some((axis, _)) = plan.iter().find(|(_, a)| a.input == 0 && a.out > 0) {
            return Err(OpError::invalid(format!("axis {axis} of the input of shape {:?} is empty", x.shape())));
        }
        if plan.iter().any(|(_, a)| a.out == 0) || x.is_empty() {
            let mut shape = x.shape().to_vec();
            for (i, a) in &plan {
                shape[*i] = a.out;
            }
            return Ok(Tensor::zeros(x.dtype(), &shape)?);
        }
        if let Kernel::Nearest(_) = self.kernel
            && self.mapping != Mapping::Crop
        {
            return match x.dtype().size() {
                1 if x.dtype() == DType::I8 => self.picked::<i8>(x, &plan),
                1 => self.picked::<u8>(x, &plan),
                _ => match x.dtype() {
                    DType::F32 => self.picked::<f32>(x, &plan),
                    DType::F64 => self.picked::<f64>(x, &plan),
                    DType::F16 => self.picked::<half::f16>(x, &plan),
                    DType::BF16 => self.picked::<half::bf16>(x, &plan),
                    DType::I32 => self.picked::<i32>(x, &plan),
                    DType::I64 => self.picked::<i64>(x, &plan),
                    DType::I16 => self.picked::<i16>(x, &plan),
                    DType::U16 => self.picked::<u16>(x, &plan),
                    DType::U32 => self.picked::<u32>(x, &plan),
                    DType::U64 => self.picked::<u64>(x, &plan),
                    other => Err(OpError::dtype(Op::Resize, other)),
                },
            };
        }
        let values = x.to_f32_vec().filter(|_| x.dtype() != DType::Bool);
        let values = values.ok_or_else(|| OpError::dtype(Op::Resize, x.dtype()))?;
        let mut y = Tensor::from_slice(x.shape(), &values)?;
        drop(values);
        for (axis, a) in &plan {
            let taps = Taps::new(self.kernel, self.mapping, self.exclude_outside, *a)?;
            y = self.weighted(&y, *axis, &taps)?;
        }
        if x.dtype().is_float() {
            return number::store_as(y, x.dtype());
        }
        let (qmin, qmax) = x.dtype().int_range().ok_or_else(|| OpError::dtype(Op::Resize, x.dtype()))?;
        let mut codes = Tensor::zeros(DType::I32, y.shape())?;
        for (q, v) in codes.as_mut_slice::<i32>()?.iter_mut().zip(y.as_slice::<f32>()) {
            *q = (f64::from(v.round_ties_even())).clamp(f64::from(qmin), f64::from(qmax)) as i32;
        }
        number::store_codes(&codes, x.dtype())
    }

    /// Sums along one axis.
    fn weighted(&self, x: &Tensor, axis: usize, taps: &Taps) -> Result<Tensor, OpError> {
        let mut shape = x.shape().to_vec();
        let (input, inner) = (shape[axis], count(&shape[axis + 1..])?);
        shape[axis] = taps.rows.len();
        let mut y = Tensor::zeros(DType::F32, &shape)?;
        let values = x.as_slice::<f32>();
        for (i, row) in y.as_mut_slice::<f32>()?.chunks_exact_mut(inner).enumerate() {
            let (outer, o) = (i / taps.rows.len(), i % taps.rows.len());
            match &taps.rows[o] {
                None => row.fill(self.extrapolation),
                Some(parts) => {
                    for &(at, weight) in parts {
                        let from = &values[(outer * input + at) * inner..][..inner];
                        row.iter_mut().zip(from).for_each(|(v, u)| *v += weight * u);
                    }
                }
            }
        }
        Ok(y)
    }

    /// Picks elements along each axis, in the type they come in.
    fn picked<T: Element>(&self, x: &Tensor, plan: &[(usize, Axis)]) -> Result<Tensor, OpError> {
        let mut y = x.clone();
        for (axis, a) in plan {
            let taps = Taps::new(self.kernel, self.mapping, self.exclude_outside, *a)?;
            let picks: Vec<usize> = taps.rows.iter().flatten().filter_map(|p| p.first().map(|t| t.0)).collect();
            let mut shape = y.shape().to_vec();
            let (input, inner) = (shape[*axis], count(&shape[axis + 1..])?);
            shape[*axis] = picks.len();
            let mut out = Tensor::zeros(y.dtype(), &shape)?;
            let values = y.as_slice::<T>();
            for (i, row) in out.as_mut_slice::<T>()?.chunks_exact_mut(inner).enumerate() {
                let from = (i / picks.len() * input + picks[i % picks.len()]) * inner;
                row.copy_from_slice(&values[from..][..inner]);
            }
            y = out;
        }
        Ok(y)
    }
}

/// A scale, and the size that it gives.
fn scaled(size: usize, scale: f32) -> Result<(f64, usize), OpError> {
    let out = (size as f32 * scale).floor();
    if !(scale.is_finite() && scale > 0.0 && out < i32::MAX as f32) {
        return Err(OpError::invalid(format!("cannot resize an axis of {size} by {scale}")));
    }
    Ok((f64::from(scale), out as usize))
}

/// The four taps of a cubic convolution around a place that lies `t` after the second one.
fn cubic(t: f64, a: f64) -> [f64; 4] {
    let near = |x: f64| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

/// Channels first, as samplers walk them: batch, channels and the spatial sizes.
fn image(op: Op, x: &Tensor) -> Result<(usize, usize, &[usize]), OpError> {
    match x.shape() {
        [n, c, rest @ ..] if !rest.is_empty() => Ok((*n, *c, rest)),
        other => Err(OpError::invalid(format!("{} on shape {other:?}", op.name()))),
    }
}

#[cfg(test)]
mod tests;
