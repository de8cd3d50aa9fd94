//! Bias correction: what rounding the weights shifts a channel's mean by, its bias takes back.
//!
//! Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.2: a layer
//! `y = W·x + b` with rounded weights Ŵ has outputs that are off by `(W − Ŵ)·E[x]` on average, so
//!
//! ```text
//! b' = b + (W − Ŵ)·E[x]
//! ```
//!
//! The paper takes `E[x]` from batch norm; here it is the mean of each input channel over the calibration samples.
//! Padding is counted as if it had that mean too, which overstates the shift a little at the borders.

use crate::error::Result;
use crate::place::Product;
use quantal_ir::{Graph, Op, QuantPlan, ValueId, qdq};
use quantal_tensor::{Tensor, arith};
use std::collections::BTreeMap;

/// The mean of each channel of a value, collected sample by sample.
#[derive(Clone, Debug)]
pub struct ChannelMeans {
    /// The axis of the channels, counted from the start or, if negative, from the end.
    axis: i64,
    sums: Vec<f64>,
    count: u64,
}

impl ChannelMeans {
    /// Means for the data input of a node: along axis 1 of a convolution, along the last axis of a product.
    pub fn for_input_of(op: Op) -> Self {
        let axis = if op == Op::Conv { 1 } else { -1 };
        Self { axis, sums: Vec::new(), count: 0 }
    }

    /// Adds one sample. The order of samples does not matter but for the rounding of f64 sums.
    pub fn add(&mut self, tensor: &Tensor) {
        let shape = tensor.shape();
        let axis = if self.axis < 0 { shape.len().checked_sub(1) } else { Some(self.axis as usize) };
        let (Some(axis), Some(values)) = (axis.filter(|&a| a < shape.len()), tensor.get::<f32>()) else { return };
        let (channels, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>().max(1));
        self.sums.resize(channels, 0.0);
        if values.is_empty() || self.sums.len() != channels {
            return;
        }
        for (i, run) in values.chunks(inner).enumerate() {
            self.sums[i % channels] += run.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        self.count += (values.len() / channels) as u64;
    }

    fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|s| s / self.count.max(1) as f64).collect()
    }
}

/// Corrects the biases of products by weights whose encodings are known. Gives the number of biases changed.
pub fn correct(
    graph: &mut Graph,
    products: &[Product],
    plan: &QuantPlan,
    means: &BTreeMap<ValueId, ChannelMeans>,
) -> Result<usize> {
    let mut corrected = 0;
    for product in products {
        let Some(means) = means.get(&product.weighted.data).map(ChannelMeans::means) else { continue };
        let Some(shift) = shift(graph, product, plan, &means)? else { continue };
        let id = product.node;
        let old = product.weighted.bias.and_then(|b| graph.constant(Some(b))).cloned();
        let bias: Vec<f32> = match (&product.weighted.bias, old.as_ref().and_then(|t| t.get::<f32>())) {
            (None, _) => shift.iter().map(|s| *s as f32).collect(),
            (Some(_), Some(b)) if b.len() == shift.len() => {
                b.iter().zip(&shift).map(|(b, s)| (f64::from(*b) + s) as f32).collect()
            }
            (Some(_), _) => continue,
        };
        // The bias is an input of the node itself, or the constant of an Add after it.
        let place = match product.weighted.bias {
            Some(b) if graph.uses().readers(b).len() == 1 => Some(b),
            _ => None,
        };
        let tensor = Tensor::from_slice(&[bias.len()], &bias)?;
        if let Some(b) = place {
            graph.set_constant(b, tensor);
        } else if graph.node(id).op != Op::MatMul {
            let name = format!("{}_bias_corrected", graph.node(id).name);
            let b = graph.add_constant(&name, tensor);
            let node = graph.node_mut(id);
            node.inputs.resize(node.inputs.len().max(3), None);
            node.inputs[2] = Some(b);
        } else {
            continue;
        }
        corrected += 1;
    }
    Ok(corrected)
}

/// `(W − Ŵ)·E[x]` for each output channel; `None` where weights or means do not fit the formula.
fn shift(graph: &Graph, product: &Product, plan: &QuantPlan, means: &[f64]) -> Result<Option<Vec<f64>>> {
    let weight = product.weighted.weight;
    let (Some(tensor), Some(encoding)) = (graph.constant(Some(weight)), plan.encodings.get(&weight)) else {
        return Ok(None);
    };
    let (Some(w), Some(params)) = (tensor.get::<f32>(), encoding.qparams()) else { return Ok(None) };
    let codes = qdq::quantize_tensor(tensor, &encoding.scheme, params)?;
    let Some(codes) = codes.to_i64_vec() else { return Ok(None) };
    let shape = tensor.shape();
    let node = graph.node(product.node);
    // For element i of the weights: its output channel and its input channel.
    let place: Box<dyn Fn(usize) -> (usize, usize)> = match (node.op, shape) {
        (Op::Conv, [out, per_group, taps @ ..]) => {
            let groups = node.attrs.int_or("group", 1).unwrap_or(1).max(1) as usize;
            let (taps, per_group) = (taps.iter().product::<usize>().max(1), *per_group);
            let outs = (out / groups).max(1);
            Box::new(move |i| {
                let o = i / (per_group * taps);
                (o, o / outs * per_group + i / taps % per_group)
            })
        }
        (Op::Gemm, &[_, columns]) if node.attrs.flag("transB", false).unwrap_or(false) => {
            Box::new(move |i| (i / columns, i % columns))
        }
        (Op::Gemm | Op::MatMul, &[_, columns]) => Box::new(move |i| (i % columns, i / columns)),
        _ => return Ok(None),
    };
    let outputs = w.len().checked_sub(1).map_or(0, |_| (0..w.len()).map(|i| place(i).0).max().unwrap_or(0) + 1);
    let inner = match product.weighted.axis {
        Some(axis) if params.scale.len() > 1 => shape[axis + 1..].iter().product::<usize>().max(1),
        _ => usize::MAX,
    };
    let mut shift = vec![0.0; outputs];
    for (i, (&w, &q)) in w.iter().zip(&codes).enumerate() {
        let (o, c) = place(i);
        let s = i / inner % params.scale.len();
        let rounded = arith::dequantize(q as i32, params.scale[s], params.zero_point[s]);
        let Some(mean) = means.get(c) else { return Ok(None) };
        shift[o] += (f64::from(w) - f64::from(rounded)) * mean;
    }
    Ok(Some(shift).filter(|s| s.iter().all(|v| v.is_finite())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quantal_ir::op::weighted::Weighted;
    use quantal_ir::{Attr, Attrs, Encoding, Node, Params};
    use quantal_tensor::{DType, QParams, Scheme};

    #[test]
    fn means_run_over_everything_but_the_channels() {
        let mut m = ChannelMeans::for_input_of(Op::Conv);
        m.add(&Tensor::from_slice(&[1, 2, 2], &[1.0_f32, 3.0, 10.0, 20.0]).unwrap());
        m.add(&Tensor::from_slice(&[1, 2, 1], &[5.0_f32, 0.0]).unwrap());
        assert_eq!(m.means(), [3.0, 10.0]);
        let mut rows = ChannelMeans::for_input_of(Op::MatMul);
        rows.add(&Tensor::from_slice(&[2, 2], &[1.0_f32, 2.0, 3.0, 4.0]).unwrap());
        assert_eq!(rows.means(), [2.0, 3.0]);
    }

    #[test]
    fn the_mean_of_a_corrected_channel_is_that_of_the_float_one() {
        let mut g = Graph::default();
        let x = g.add_value("x", Some(DType::F32), None);
        // Two groups of one channel; at scale 1, 0.4 rounds to 0 and 1.75 to 2.
        let w = g.add_constant("w", Tensor::from_slice(&[2, 1, 1, 1], &[0.4_f32, 1.75]).unwrap());
        let y = g.add_value("y", Some(DType::F32), None);
        let attrs = Attrs::new().with("group", Attr::Int(2));
        let node = g.add_node(Node::new(Op::Conv, "conv", vec![Some(x), Some(w)], vec![y], attrs));
        g.outputs = vec![y];
        let weighted = Weighted::of(&g, g.node(node)).unwrap();
        let mut plan = QuantPlan::default();
        let params = Params::Static(QParams { scale: vec![1.0, 1.0], zero_point: vec![0, 0] });
        let encoding = Encoding { scheme: Scheme::weight_per_channel(0), params, why: String::new() };
        plan.encodings.insert(w, encoding);
        let mut means = ChannelMeans::for_input_of(Op::Conv);
        means.add(&Tensor::from_slice(&[1, 2, 1, 1], &[10.0_f32, -4.0]).unwrap());
        let done = correct(&mut g, &[Product { node, weighted }], &plan, &BTreeMap::from([(x, means)])).unwrap();
        assert_eq!(done, 1);
        // (0.4 − 0)·10 and (1.75 − 2)·(−4).
        let bias = g.constant(g.node(node).input(2)).unwrap().as_slice::<f32>().to_vec();
        assert!((bias[0] - 4.0).abs() < 1e-6 && (bias[1] - 1.0).abs() < 1e-6, "{bias:?}");
    }
}
