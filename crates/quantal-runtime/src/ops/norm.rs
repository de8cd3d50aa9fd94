//! Batch, instance, group, layer, RMS and local response normalization. Statistics are summed in f64.

use super::number;
use super::walk::{Walk, broadcast_strides};
use super::{Context, Inputs, OpError, optional, required};
use crate::ops::strides::count;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{Node, Op};
use quantal_kernels::float;
use quantal_tensor::{DType, Tensor};

/// A normalization.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Normalization {
    Batch { epsilon: f32, momentum: f32, training: bool },
    Instance { epsilon: f32 },
    Group { epsilon: f32, groups: usize },
    Layer { epsilon: f32, axis: i64, statistics: bool },
    Rms { epsilon: f32, axis: i64, inverse: bool },
    Lrn { alpha: f32, beta: f32, bias: f32, size: usize },
}

impl Normalization {
    /// Reads the attributes.
    pub fn prepare(node: &Node, opset: i64) -> Result<Self, OpError> {
        let attrs = &node.attrs;
        let epsilon = attrs.float_or("epsilon", 1e-5)?;
        let positive = |name: &'static str| {
            let n = attrs.int(name)?.ok_or(quantal_ir::attrs::AttrError::Missing(name))?;
            usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| OpError::invalid(format!("`{name}` is {n}")))
        };
        Ok(match node.op {
            Op::BatchNormalization => {
                if opset < 9 && attrs.int_or("spatial", 1)? == 0 {
                    return Err(OpError::Unsupported("BatchNormalization with spatial = 0".to_owned()));
                }
                let training = opset >= 14 && attrs.flag("training_mode", false)?;
                Self::Batch { epsilon, momentum: attrs.float_or("momentum", 0.9)?, training }
            }
            Op::InstanceNormalization => Self::Instance { epsilon },
            Op::GroupNormalization => Self::Group { epsilon, groups: positive("num_groups")? },
            Op::RmsNormalization | Op::SimplifiedLayerNormalization => Self::Rms {
                epsilon,
                axis: attrs.int_or("axis", -1)?,
                inverse: node.op == Op::SimplifiedLayerNormalization && node.output(1).is_some(),
            },
            Op::Lrn => Self::Lrn {
                alpha: attrs.float_or("alpha", 1e-4)?,
                beta: attrs.float_or("beta", 0.75)?,
                bias: attrs.float_or("bias", 1.0)?,
                size: positive("size")?,
            },
            _ => Self::Layer {
                epsilon,
                axis: attrs.int_or("axis", -1)?,
                statistics: node.output(1).or(node.output(2)).is_some(),
            },
        })
    }

    /// Normalizes.
    pub fn run(&self, inputs: &Inputs<'_>, context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = required(inputs, 0)?;
        let mut y = number::load_f32(self.op(), x)?;
        let mut more = Vec::new();
        match *self {
            Self::Batch { epsilon, momentum, training } => {
                more = self.batch(&mut y, inputs, epsilon, momentum, training)?;
            }
            Self::Instance { epsilon } => {
                let (_, c, plane) = planes(x)?;
                let (scale, bias) = (self.channels(inputs, 1, c)?, self.channels(inputs, 2, c)?);
                standardize(y.as_mut_slice()?, plane, epsilon);
                affine(y.as_mut_slice()?, plane, &scale, &bias);
            }
            Self::Group { epsilon, groups } => {
                let (_, c, plane) = planes(x)?;
                if !c.is_multiple_of(groups) {
                    return Err(OpError::invalid(format!("{c} channels do not divide into {groups} groups")));
                }
                let spread = |i: usize| -> Result<Vec<f32>, OpError> {
                    let v = self.floats(inputs, i)?;
                    // Version 18 has one value a group.
                    if v.len() == groups && groups != c {
                        return Ok(v.iter().flat_map(|&v| std::iter::repeat_n(v, c / groups)).collect());
                    }
                    self.channels(inputs, i, c)
                };
                let (scale, bias) = (spread(1)?, spread(2)?);
                standardize(y.as_mut_slice()?, count(&[plane, c / groups])?, epsilon);
                affine(y.as_mut_slice()?, plane, &scale, &bias);
            }
            Self::Layer { epsilon, axis, statistics } => {
                let axis = normalize_axis(axis, x.rank())?;
                let run = count(&x.shape()[axis..])?;
                if !statistics && let Some(y) = by_rows(inputs, run, (epsilon, false), context)? {
                    return Ok(vec![y]);
                }
                let stats = standardize(y.as_mut_slice()?, run, epsilon);
                self.scaled(&mut y, inputs)?;
                let shape: Vec<usize> =
                    x.shape().iter().enumerate().map(|(i, &d)| if i < axis { d } else { 1 }).collect();
                if run > 0 {
                    let (mean, inverse): (Vec<f32>, Vec<f32>) = stats.into_iter().unzip();
                    more = vec![Tensor::from_slice(&shape, &mean)?, Tensor::from_slice(&shape, &inverse)?];
                } else {
                    more = vec![Tensor::zeros(DType::F32, &shape)?, Tensor::zeros(DType::F32, &shape)?];
                }
            }
            Self::Rms { epsilon, axis, inverse } => {
                let axis = normalize_axis(axis, x.rank())?;
                let run = count(&x.shape()[axis..])?;
                if !inverse && let Some(y) = by_rows(inputs, run, (epsilon, true), context)? {
                    return Ok(vec![y]);
                }
                let mut factors = Vec::new();
                for row in y.as_mut_slice::<f32>()?.chunks_exact_mut(run.max(1)) {
                    let squares: f64 = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
                    let factor = 1.0 / (squares / run as f64 + f64::from(epsilon)).sqrt();
                    for v in row.iter_mut() {
                        *v *= factor as f32;
                    }
                    if inverse {
                        factors.push(factor as f32);
                    }
                }
                if inverse {
                    let size = |(i, &d): (usize, &usize)| if i < axis { d } else { 1 };
                    let shape: Vec<usize> = x.shape().iter().enumerate().map(size).collect();
                    factors.resize(count(&shape)?, 0.0);
                    more = vec![Tensor::from_slice(&shape, &factors)?];
                }
                self.scaled(&mut y, inputs)?;
            }
            Self::Lrn { alpha, beta, bias, size } => lrn(x, &mut y, [alpha, beta, bias], size)?,
        }
        let mut all = vec![number::store_as(y, x.dtype())?];
        all.append(&mut more);
        Ok(all)
    }

    fn op(&self) -> Op {
        match self {
            Self::Batch { .. } => Op::BatchNormalization,
            Self::Instance { .. } => Op::InstanceNormalization,
            Self::Group { .. } => Op::GroupNormalization,
            Self::Layer { .. } => Op::LayerNormalization,
            Self::Rms { .. } => Op::RmsNormalization,
            Self::Lrn { .. } => Op::Lrn,
        }
    }

    fn floats(&self, inputs: &Inputs<'_>, i: usize) -> Result<Vec<f32>, OpError> {
        Ok(number::floats(self.op(), required(inputs, i)?)?.into_owned())
    }

    /// Input `i`, one value a channel.
    fn channels(&self, inputs: &Inputs<'_>, i: usize, channels: usize) -> Result<Vec<f32>, OpError> {
        let values = self.floats(inputs, i)?;
        if values.len() != channels {
            let text = format!("{} needs {channels} values in input {i}, found {}", self.op().name(), values.len());
            return Err(OpError::invalid(text));
        }
        Ok(values)
    }

    fn batch(
        &self,
        y: &mut Tensor,
        inputs: &Inputs<'_>,
        epsilon: f32,
        momentum: f32,
        training: bool,
    ) -> Result<Vec<Tensor>, OpError> {
        let (_, c, plane) = planes(y)?;
        let [scale, bias, mean, var] = [1, 2, 3, 4].map(|i| self.channels(inputs, i, c));
        let (scale, bias, mut mean, mut var) = (scale?, bias?, mean?, var?);
        let mut more = Vec::new();
        if training {
            let values = y.as_slice::<f32>();
            let rows = |c0: usize| values.chunks_exact(plane.max(1)).skip(c0).step_by(c).flatten();
            let (mut now_mean, mut now_var) = (Vec::new(), Vec::new());
            for c0 in 0..c {
                let n = rows(c0).count() as f64;
                let m = rows(c0).map(|&v| f64::from(v)).sum::<f64>() / n;
                now_var.push((rows(c0).map(|&v| (f64::from(v) - m).powi(2)).sum::<f64>() / n) as f32);
                now_mean.push(m as f32);
            }
            let blend = |old: &[f32], new: &[f32]| -> Result<Tensor, OpError> {
                let mixed: Vec<f32> = old.iter().zip(new).map(|(o, n)| o * momentum + n * (1.0 - momentum)).collect();
                Ok(Tensor::from_slice(&[c], &mixed)?)
            };
            more = vec![blend(&mean, &now_mean)?, blend(&var, &now_var)?];
            (mean, var) = (now_mean, now_var);
        }
        let inverse: Vec<f32> = var.iter().map(|&v| 1.0 / (v + epsilon).sqrt()).collect();
        if c > 0 {
            for (i, row) in y.as_mut_slice::<f32>()?.chunks_exact_mut(plane.max(1)).enumerate() {
                let (m, factor, b) = (mean[i % c], scale[i % c] * inverse[i % c], bias[i % c]);
                for v in row.iter_mut() {
                    *v = (*v - m) * factor + b;
                }
            }
        }
        Ok(more)
    }

    /// Multiplies by input 1 and adds input 2, if given; both broadcast to the input's shape.
    fn scaled(&self, y: &mut Tensor, inputs: &Inputs<'_>) -> Result<(), OpError> {
        let shape = y.shape().to_vec();
        let out = y.as_mut_slice::<f32>()?;
        let scale = required(inputs, 1)?;
        let values = number::floats(self.op(), scale)?;
        for (v, at) in out.iter_mut().zip(Walk::new(&shape, &broadcast_strides("scale", scale.shape(), &shape)?)) {
            *v *= values[at];
        }
        if let Some(bias) = optional(inputs, 2).filter(|_| matches!(self, Self::Layer { .. })) {
            let values = number::floats(self.op(), bias)?;
            for (v, at) in out.iter_mut().zip(Walk::new(&shape, &broadcast_strides("bias", bias.shape(), &shape)?)) {
                *v += values[at];
            }
        }
        Ok(())
    }
}

/// The usual case: f32, and parameters that are as long as a row. `None` for all others.
fn by_rows(
    inputs: &Inputs<'_>,
    run: usize,
    (epsilon, rms): (f32, bool),
    context: &Context<'_>,
) -> Result<Option<Tensor>, OpError> {
    let (x, scale) = (required(inputs, 0)?, required(inputs, 1)?);
    let bias = optional(inputs, 2).filter(|_| !rms);
    let (Some(values), Some(scale)) = (x.get::<f32>(), along_row(scale, x, run)) else { return Ok(None) };
    let bias = match bias.map(|b| along_row(b, x, run)) {
        Some(None) => return Ok(None),
        Some(bias) => bias,
        None => None,
    };
    if run == 0 {
        return Ok(None);
    }
    let norm = float::LayerNorm { scale: Some(scale), bias, epsilon, rms };
    let mut y = Tensor::zeros(DType::F32, x.shape())?;
    float::layer_norm(context.isa, values, run, norm, y.as_mut_slice()?, context.threads);
    Ok(Some(y))
}

/// The values of a parameter that lies along rows of `run` elements: as many, and no dimension that `x` does not end in.
fn along_row<'a>(t: &'a Tensor, x: &Tensor, run: usize) -> Option<&'a [f32]> {
    t.get::<f32>().filter(|_| x.shape().ends_with(t.shape()) && t.len() == run)
}

/// Batch, channels and elements of a channel.
fn planes(x: &Tensor) -> Result<(usize, usize, usize), OpError> {
    match *x.shape() {
        [n] => Ok((1, n, 1)),
        [n, c, ref rest @ ..] => Ok((n, c, count(rest)?)),
        [] => Err(OpError::invalid("a scalar has no channels to normalize")),
    }
}

/// Takes mean and deviation out of each run; gives both, the deviation as its inverse.
fn standardize(values: &mut [f32], run: usize, epsilon: f32) -> Vec<(f32, f32)> {
    values
        .chunks_exact_mut(run.max(1))
        .map(|row| {
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / run as f64;
            let var = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / run as f64;
            let inverse = 1.0 / (var + f64::from(epsilon)).sqrt();
            for v in row.iter_mut() {
                *v = ((f64::from(*v) - mean) * inverse) as f32;
            }
            (mean as f32, inverse as f32)
        })
        .collect()
}

fn affine(values: &mut [f32], plane: usize, scale: &[f32], bias: &[f32]) {
    let channels = scale.iter().zip(bias).cycle();
    for (row, (&s, &b)) in values.chunks_exact_mut(plane.max(1)).zip(channels) {
        for v in row.iter_mut() {
            *v = *v * s + b;
        }
    }
}

/// `y = x / (bias + alpha / size · Σ x²)^beta`, the sum over `size` neighbouring channels.
fn lrn(x: &Tensor, y: &mut Tensor, [alpha, beta, bias]: [f32; 3], size: usize) -> Result<(), OpError> {
    let (n, c, plane) = planes(x)?;
    let values = number::floats(Op::Lrn, x)?;
    let out = y.as_mut_slice::<f32>()?;
    if out.is_empty() {
        return Ok(());
    }
    let (before, after) = ((size - 1) / 2, size - 1 - (size - 1) / 2);
    for i in 0..n {
        for p in 0..plane {
            let at = |c0: usize| (i * c + c0) * plane + p;
            let square = |c0: usize| f64::from(values[at(c0)]) * f64::from(values[at(c0)]);
            // A running sum would round; a window wider than the channels is clipped, so the cost is bounded by C².
            for c0 in 0..c {
                let end = c0.saturating_add(after).saturating_add(1).min(c);
                let sum: f64 = (c0.saturating_sub(before)..end).map(square).sum();
                let base = f64::from(bias) + f64::from(alpha) / size as f64 * sum;
                out[at(c0)] = (f64::from(values[at(c0)]) / libm::pow(base, f64::from(beta))) as f32;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, f32s, run};
    use super::*;
    use quantal_ir::{Attr, Attrs};

    #[test]
    fn layer_norm_gives_mean_and_inverse_deviation() {
        let x = f32s(&[1, 4], &[1., 3., 1., 3.]);
        let attrs = Attrs::new().with("epsilon", Attr::Float(0.0));
        let y = run(
            Op::LayerNormalization,
            attrs,
            17,
            &[Some(&x), Some(&f32s(&[4], &[1., 1., 2., 2.])), Some(&f32s(&[1], &[10.]))],
        );
        let y = y.unwrap();
        assert_near(y[0].as_slice::<f32>(), &[9., 11., 8., 12.]);
        assert_eq!((y[1].as_slice::<f32>(), y[2].as_slice::<f32>()), (&[2.][..], &[1.][..]));
    }

    #[test]
    fn batch_norm_uses_the_given_statistics() {
        let x = f32s(&[1, 2, 1], &[3., 3.]);
        let v = |a: f32, b: f32| f32s(&[2], &[a, b]);
        let attrs = Attrs::new().with("epsilon", Attr::Float(0.0));
        let inputs = [x, v(1., 2.), v(0., 1.), v(1., 2.), v(4., 1.)];
        let y = run(Op::BatchNormalization, attrs, 15, &inputs.each_ref().map(Some)).unwrap();
        assert_near(y[0].as_slice::<f32>(), &[1., 3.]);
    }

    #[test]
    fn rms_and_local_response_follow_their_formulas() {
        let x = f32s(&[2], &[3., 4.]);
        let y = run(
            Op::RmsNormalization,
            Attrs::new().with("epsilon", Attr::Float(0.0)),
            23,
            &[Some(&x), Some(&f32s(&[2], &[1., 2.]))],
        );
        let rms = 12.5_f32.sqrt();
        assert_near(y.unwrap()[0].as_slice::<f32>(), &[3. / rms, 8. / rms]);
        let x = f32s(&[1, 3, 1, 1], &[1., 2., 3.]);
        let attrs =
            Attrs::new().with("size", Attr::Int(2)).with("alpha", Attr::Float(2.0)).with("beta", Attr::Float(1.0));
        // Even sizes reach one further after: (1 + 4), (4 + 9), 9.
        let y = run(Op::Lrn, attrs, 13, &[Some(&x)]).unwrap();
        assert_near(y[0].as_slice::<f32>(), &[1. / 6., 2. / 14., 3. / 10.]);
    }

    #[test]
    fn groups_must_divide_the_channels() {
        let x = f32s(&[1, 3, 1], &[1., 2., 3.]);
        let s = f32s(&[3], &[1.; 3]);
        let attrs = Attrs::new().with("num_groups", Attr::Int(2));
        assert!(run(Op::GroupNormalization, attrs, 21, &[Some(&x), Some(&s), Some(&s)]).is_err());
    }
}
