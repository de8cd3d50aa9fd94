//! Scales of weights: the largest magnitude of each output channel becomes the largest code (arith 7), or the scale is the
//! one with the least error (`weights/least_error.rs`).
//!
//! The bias of a product is held in 32 bits at the scale `s_x · s_w` of its accumulator, so the weights' scale is also
//! the bias's. Where that would leave no room for the bias, the weights give way: a channel of zeros (a dead one, as
//! folding a BatchNorm leaves) takes its scale from its bias alone.

mod least_error;

use crate::balance::Balance;
use crate::error::{Error, Result};
use crate::observer::range_of;
use crate::place::Product;
use crate::recipe::WeightScales;
use least_error::Row;
use quantal_ir::{Encoding, Graph, Params, QuantPlan, ValueId};
use quantal_kernels::Isa;
use quantal_tensor::{Granularity, QParams, Tensor};
use std::collections::BTreeMap;

/// The largest magnitude of a bias's code: half of what 32 bits hold, so that products still fit on top.
const BIAS_LIMIT: f64 = (1_u64 << 30) as f64;

/// The magnitude of the code that the bias of an all-zero channel gets: six digits of precision, and far from the limit.
const BIAS_OF_ZEROS: f64 = (1_u64 << 20) as f64;

/// Sets the numbers of all weights in the plan. The activations' are set before: the scale of a bias depends on them.
/// `balances` tells what the inputs of products vary by, where that is known.
pub fn set_weights(
    graph: &Graph,
    products: &[Product],
    scales: WeightScales,
    balances: &BTreeMap<ValueId, Balance>,
    plan: &mut QuantPlan,
    isa: Isa,
) -> Result<()> {
    let mut readers: BTreeMap<ValueId, Vec<&Product>> = BTreeMap::new();
    for product in products {
        readers.entry(product.weighted.weight).or_default().push(product);
    }
    for (weight, products) in readers {
        let Some(encoding) = plan.encodings.get(&weight) else { continue };
        let scale_x = |p: &Product| plan.encodings.get(&p.weighted.data)?.qparams().map(|q| q.scale[0]);
        let biases: Vec<Bias<'_>> = products
            .iter()
            .filter_map(|p| {
                let values = p.weighted.bias.and_then(|b| graph.constant(Some(b))).and_then(|t| t.get::<f32>());
                Some(Bias { values: values.unwrap_or_default(), scale_x: scale_x(p)? })
            })
            .collect();
        let not_finite = |v: ValueId, p: &Product| Error::WeightsNotFinite {
            tensor: graph.value(v).name.escape_debug().to_string(),
            node: graph.node(p.node).name.escape_debug().to_string(),
        };
        for p in &products {
            for v in [Some(weight), p.weighted.bias].into_iter().flatten() {
                let values = graph.constant(Some(v)).and_then(|t| t.get::<f32>()).unwrap_or_default();
                range_of(isa, values).map_err(|_| not_finite(v, p))?;
            }
        }
        let Some(tensor) = graph.constant(Some(weight)) else { continue };
        let rows = match scales {
            WeightScales::Largest => None,
            WeightScales::LeastError => least_error::rows(graph, &products, encoding.scheme.granularity, balances),
        };
        let params =
            params(tensor, encoding, rows.as_deref(), &biases).ok_or_else(|| not_finite(weight, products[0]))?;
        if let Some(encoding) = plan.encodings.get_mut(&weight) {
            encoding.params = Params::Static(params);
        }
    }
    Ok(())
}

/// The bias of one reader of a weight; empty if it has none.
struct Bias<'a> {
    values: &'a [f32],
    scale_x: f32,
}

fn params(weight: &Tensor, encoding: &Encoding, rows: Option<&[Row]>, biases: &[Bias<'_>]) -> Option<QParams> {
    let channels = match encoding.scheme.granularity {
        Granularity::PerChannel { axis } => weight.shape()[axis],
        Granularity::PerTensor | Granularity::PerToken | Granularity::PerBlock { .. } => 1,
    };
    let inner: usize = match encoding.scheme.granularity {
        Granularity::PerChannel { axis } => weight.shape()[axis + 1..].iter().product(),
        Granularity::PerTensor | Granularity::PerToken | Granularity::PerBlock { .. } => weight.len().max(1),
    };
    let (mut min, mut max) = (vec![0.0_f32; channels], vec![0.0_f32; channels]);
    for (i, run) in weight.as_slice::<f32>().chunks(inner).enumerate() {
        let c = i % channels;
        for &x in run {
            (min[c], max[c]) = (min[c].min(x), max[c].max(x));
        }
    }
    let mut params = QParams { scale: Vec::with_capacity(channels), zero_point: Vec::with_capacity(channels) };
    for c in 0..channels {
        let zeros = min[c] == 0.0 && max[c] == 0.0;
        let (scale, zero_point) = encoding.scheme.params_of_range(min[c], max[c])?;
        // Degenerate but not zero: arith (7) says 1, which suits a weight as little as it suits its bias.
        let tiny = scale == 1.0 && f64::from(max[c]).max(-f64::from(min[c])) < f64::from(f32::MIN_POSITIVE) * 256.0;
        let nothing = zeros || tiny;
        let row = rows.filter(|_| !nothing).and_then(|rows| rows.get(c));
        let fitted = row.and_then(|row| least_error::params(row, &encoding.scheme, min[c], max[c]));
        let (scale, zero_point) = fitted.unwrap_or((scale, zero_point));
        let scale = if nothing { for_bias_alone(c, channels, biases) } else { at_least(scale, c, channels, biases) };
        params.scale.push(scale);
        params.zero_point.push(zero_point);
    }
    Some(params)
}

/// The largest magnitude of a bias at channel `c`: of all its elements if the weights have one scale.
fn magnitude(bias: &Bias<'_>, c: usize, channels: usize) -> f64 {
    let one = bias.values.len() == channels && channels > 1;
    let values = if one { &bias.values[c..=c] } else { bias.values };
    values.iter().fold(0.0, |m, b| m.max(f64::from(b.abs())))
}

/// `scale`, raised where a bias would not fit its 32 bits or its own scale would be no normal number.
fn at_least(scale: f32, c: usize, channels: usize, biases: &[Bias<'_>]) -> f32 {
    let mut least = f64::from(f32::MIN_POSITIVE);
    for bias in biases {
        let scale_x = f64::from(bias.scale_x);
        least = least.max(magnitude(bias, c, channels) / (scale_x * BIAS_LIMIT));
        least = least.max(2.0 * f64::from(f32::MIN_POSITIVE) / scale_x);
    }
    scale.max(least.min(f64::from(f32::MAX)) as f32)
}

/// A scale for weights of zero.
fn for_bias_alone(c: usize, channels: usize, biases: &[Bias<'_>]) -> f32 {
    let wanted = biases.iter().map(|b| magnitude(b, c, channels) / (f64::from(b.scale_x) * BIAS_OF_ZEROS));
    let wanted = wanted.fold(0.0, f64::max);
    let scale = if wanted == 0.0 { 1.0 } else { wanted.clamp(f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)) };
    at_least(scale as f32, c, channels, biases)
}

#[cfg(test)]
mod tests;
