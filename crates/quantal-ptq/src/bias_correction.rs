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

    /// The axis of the channels in a tensor of this rank, if there is one.
    pub fn axis(&self, rank: usize) -> Option<usize> {
        let axis = if self.axis < 0 { rank.checked_sub(1) } else { Some(self.axis as usize) };
        axis.filter(|&a| a < rank)
    }

    /// Adds one sample: the sum of each channel's values, `count` of them each. The order of samples does not matter but
    /// for the rounding of f64 sums.
    pub fn add(&mut self, sums: &[f64], count: usize) {
        if self.sums.is_empty() {
            self.sums = vec![0.0; sums.len()];
        }
        if self.sums.len() == sums.len() {
            self.sums.iter_mut().zip(sums).for_each(|(a, b)| *a += b);
            self.count += count as u64;
        }
    }

    fn means(&self) -> Vec<f64> {
        self.sums.iter().map(|s| s / self.count.max(1) as f64).collect()
    }
}

/// Corrects the biases of products by weights whose encodings are known; `original` has the weights before any rounding
/// was baked into them. Gives the number of biases changed.
pub fn correct(
    graph: &mut Graph,
    original: &Graph,
    products: &[Product],
    plan: &QuantPlan,
    means: &BTreeMap<ValueId, ChannelMeans>,
) -> Result<usize> {
    let mut corrected = 0;
    for product in products {
        let Some(means) = means.get(&product.weighted.data).map(ChannelMeans::means) else { continue };
        let Some(shift) = shift(graph, original, product, plan, &means)? else { continue };
        corrected += usize::from(add_to_bias(graph, product, &shift)?);
    }
    Ok(corrected)
}

/// Adds `shift` to the bias of a product, one for each output channel: to its own input, or to the constant of an Add after
/// it. One that has none gets one. False where there is no place for it.
pub(crate) fn add_to_bias(graph: &mut Graph, product: &Product, shift: &[f64]) -> Result<bool> {
    let id = product.node;
    // One that was added since the product was found is an input of the node.
    let place = graph.node(id).input(2).or(product.weighted.bias);
    let old = graph.constant(place).cloned();
    let bias: Vec<f32> = match (&place, old.as_ref().and_then(|t| t.get::<f32>())) {
        (None, _) => shift.iter().map(|s| *s as f32).collect(),
        (Some(_), Some(b)) if b.len() == shift.len() => {
            b.iter().zip(shift).map(|(b, s)| (f64::from(*b) + s) as f32).collect()
        }
        (Some(_), _) => return Ok(false),
    };
    let tensor = Tensor::from_slice(&[bias.len()], &bias)?;
    if let Some(b) = place.filter(|&b| graph.read_count(b) == 1 && !graph.is_output(b)) {
        graph.set_constant(b, tensor);
    } else if graph.node(id).op != Op::MatMul {
        let name = format!("{}_bias_corrected", graph.node(id).name);
        let b = graph.add_constant(&name, tensor);
        let inputs = &mut graph.node_mut(id).inputs;
        inputs.resize(inputs.len().max(3), None);
        inputs[2] = Some(b);
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// `(W − Ŵ)·E[x]` for each output channel; `None` where weights or means do not fit the formula.
fn shift(
    graph: &Graph,
    original: &Graph,
    product: &Product,
    plan: &QuantPlan,
    means: &[f64],
) -> Result<Option<Vec<f64>>> {
    let weight = product.weighted.weight;
    let (Some(tensor), Some(encoding)) = (graph.constant(Some(weight)), plan.encodings.get(&weight)) else {
        return Ok(None);
    };
    let exact = original.constant(Some(weight)).and_then(|t| t.get::<f32>());
    let (Some(w), Some(params)) = (exact, encoding.qparams()) else { return Ok(None) };
    let codes = qdq::quantize_tensor(tensor, &encoding.scheme, params)?;
    let Some(codes) = codes.to_i64_vec() else { return Ok(None) };
    let node = graph.node(product.node);
    let turned = node.attrs.flag("transB", false).unwrap_or(false);
    // Output channels, input channels of each, weights of each pair; and whether output channels are the last axis.
    let (outputs, inputs, taps, last) = match (node.op, tensor.shape()) {
        (Op::Conv, [out, per_group, taps @ ..]) => (*out, *per_group, taps.iter().product::<usize>(), false),
        (Op::Gemm, &[rows, columns]) if turned => (rows, columns, 1, false),
        (Op::Gemm | Op::MatMul, &[rows, columns]) => (columns, rows, 1, true),
        _ => return Ok(None),
    };
    let groups = if node.op == Op::Conv { node.attrs.int_or("group", 1).unwrap_or(1).max(1) as usize } else { 1 };
    let each = (outputs / groups).max(1);
    let of = |o: usize, w: f32, q: i64| {
        let s = if params.scale.len() == 1 { 0 } else { o };
        f64::from(w) - f64::from(arith::dequantize(q as i32, params.scale[s], params.zero_point[s]))
    };
    let needed = if outputs == 0 { 0 } else { (outputs - 1) / each * inputs + inputs };
    if means.len() < needed || ![1, outputs].contains(&params.scale.len()) || taps == 0 {
        return Ok(None);
    }
    let mut shift = vec![0.0; outputs];
    if last {
        for ((w, q), mean) in w.chunks(outputs.max(1)).zip(codes.chunks(outputs.max(1))).zip(means) {
            for (o, ((&w, &q), shift)) in w.iter().zip(q).zip(&mut shift).enumerate() {
                *shift += of(o, w, q) * mean;
            }
        }
    } else {
        for (i, (w, q)) in w.chunks(taps).zip(codes.chunks(taps)).enumerate() {
            let (o, c) = (i / inputs, i % inputs);
            let mean = means[o / each * inputs + c];
            for (&w, &q) in w.iter().zip(q) {
                shift[o] += of(o, w, q) * mean;
            }
        }
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
    fn means_are_those_of_all_samples_and_samples_of_other_channels_are_left_out() {
        let mut m = ChannelMeans::for_input_of(Op::Conv);
        assert_eq!((m.axis(4), m.axis(1), ChannelMeans::for_input_of(Op::MatMul).axis(3)), (Some(1), None, Some(2)));
        m.add(&[4.0, 30.0], 2);
        m.add(&[5.0, 0.0], 1);
        m.add(&[1.0, 1.0, 1.0], 1);
        assert_eq!(m.means(), [3.0, 10.0]);
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
        means.add(&[10.0, -4.0], 1);
        let original = g.clone();
        let done =
            correct(&mut g, &original, &[Product { node, weighted }], &plan, &BTreeMap::from([(x, means)])).unwrap();
        assert_eq!(done, 1);
        // (0.4 − 0)·10 and (1.75 − 2)·(−4).
        let bias = g.constant(g.node(node).input(2)).unwrap().as_slice::<f32>().to_vec();
        assert!((bias[0] - 4.0).abs() < 1e-6 && (bias[1] - 1.0).abs() < 1e-6, "{bias:?}");
    }
}
