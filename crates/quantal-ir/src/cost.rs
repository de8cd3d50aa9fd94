//! What a node costs: multiply-accumulates and parameters.

use crate::graph::{Dim, Graph, Node, NodeId, ValueId};
use crate::infer::einsum_sizes;
use crate::op::Op;
use crate::op::einsum::Equation;
use crate::op::gemm::GemmAttrs;
use quantal_tensor::{DType, Tensor};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Multiply-accumulates of a node that works by products of matrices; additions of a bias are not counted. A first
/// dimension that is not fixed counts as 1: figures are for one sample. 0 for operators without such products; `None`
/// where a size is not known, and for control flow.
pub fn macs(graph: &Graph, node: NodeId) -> Option<u64> {
    let node = graph.node(node);
    match node.op {
        Op::Conv | Op::ConvInteger => windows(graph, node, 1, false),
        Op::QLinearConv => windows(graph, node, 3, false),
        Op::ConvTranspose => windows(graph, node, 1, true),
        Op::Gemm => gemm(graph, node, 1),
        Op::QGemm => gemm(graph, node, 3),
        Op::MatMul | Op::MatMulInteger | Op::QLinearMatMul => {
            let inner = *shape(graph, node.input(0))?.last()?;
            product(&shape(graph, node.output(0))?)?.checked_mul(inner as u64)
        }
        Op::Einsum => einsum(graph, node),
        Op::Attention => attention(graph, node),
        Op::Lstm | Op::Gru => recurrent(graph, node),
        Op::If | Op::Loop | Op::Scan | Op::Opaque => None,
        _ => Some(0),
    }
}

/// The sizes of a value; a first dimension that is not fixed counts as 1.
fn shape(graph: &Graph, value: Option<ValueId>) -> Option<Vec<usize>> {
    let dims = graph.value(value?).shape.as_ref()?;
    let size = |(i, d): (usize, &Dim)| if i == 0 && dims.len() > 1 { Some(d.known().unwrap_or(1)) } else { d.known() };
    dims.iter().enumerate().map(size).collect()
}

fn product(sizes: &[usize]) -> Option<u64> {
    sizes.iter().try_fold(1_u64, |n, &d| n.checked_mul(d as u64))
}

/// Each output element of a convolution, each input element of a transposed one, meets the weights of its group.
fn windows(graph: &Graph, node: &Node, weight: usize, transposed: bool) -> Option<u64> {
    let weight = shape(graph, node.input(weight))?;
    let walked = if transposed { node.input(0) } else { node.output(0) };
    product(&shape(graph, walked)?)?.checked_mul(product(weight.get(1..)?)?)
}

fn gemm(graph: &Graph, node: &Node, b: usize) -> Option<u64> {
    let transposed = GemmAttrs::of(&node.attrs).ok()?.trans_b;
    let b = shape(graph, node.input(b))?;
    let inner = *b.get(usize::from(transposed))?;
    product(&shape(graph, node.output(0))?)?.checked_mul(inner as u64)
}

/// Every combination of labels once, as if the inputs were multiplied all at once.
fn einsum(graph: &Graph, node: &Node) -> Option<u64> {
    let shapes: Vec<Vec<Dim>> = node
        .inputs
        .iter()
        .map(|&v| Some(shape(graph, v)?.into_iter().map(Dim::Known).collect()))
        .collect::<Option<_>>()?;
    let shapes: Vec<&[Dim]> = shapes.iter().map(Vec::as_slice).collect();
    let equation = Equation::of(&node.attrs, &shapes.iter().map(|s| s.len()).collect::<Vec<_>>()).ok()?;
    let sizes = einsum_sizes(&equation, &shapes).ok()?;
    product(&sizes.values().map(Dim::known).collect::<Option<Vec<_>>>()?)
}

/// Queries times keys, and their product times the values.
fn attention(graph: &Graph, node: &Node) -> Option<u64> {
    let heads = |i: usize, attribute: &str| match *shape(graph, node.input(i))? {
        [batch, heads, length, size] => Some([batch, heads, length, size]),
        [batch, length, hidden] => {
            let count = usize::try_from(node.attrs.int(attribute).ok()??).ok()?;
            Some([batch, count, length, hidden.checked_div(count)?])
        }
        _ => None,
    };
    let [batch, q_heads, length, size] = heads(0, "q_num_heads")?;
    let [_, _, k_length, _] = heads(1, "kv_num_heads")?;
    let [_, _, _, v_size] = heads(2, "kv_num_heads")?;
    let past = if node.input(4).is_some() { *shape(graph, node.input(4))?.get(2)? } else { 0 };
    product(&[batch, q_heads, length, k_length.checked_add(past)?, size.checked_add(v_size)?])
}

/// Each step of each sample meets all weights.
fn recurrent(graph: &Graph, node: &Node) -> Option<u64> {
    let x = shape(graph, node.input(0))?;
    let weights = product(&shape(graph, node.input(1))?)?.checked_add(product(&shape(graph, node.input(2))?)?)?;
    product(x.get(..2)?)?.checked_mul(weights)
}

/// Elements of the constants that the nodes of a graph and its subgraphs compute with, each counted once: not those of
/// shapes, indices and conditions, nor scales and zero points.
pub fn parameters(graph: &Graph) -> u64 {
    let mut seen = BTreeSet::new();
    count_parameters(graph, &BTreeMap::new(), &mut seen)
}

/// `captured` are the constants around that the values of this graph stand for, `seen` where those lie that count already.
fn count_parameters(
    graph: &Graph,
    captured: &BTreeMap<ValueId, Arc<Tensor>>,
    seen: &mut BTreeSet<*const Tensor>,
) -> u64 {
    let constant = |v: ValueId| graph.value(v).constant.as_ref().or_else(|| captured.get(&v));
    let mut total = 0_u64;
    for (_, node) in graph.nodes() {
        for (i, v) in node.inputs.iter().enumerate().filter_map(|(i, v)| Some((i, (*v)?))) {
            let number =
                |t: DType| t.is_float() || t.int_range().is_some_and(|_| t != DType::I32 || is_bias(node.op, i));
            let counts = |t: &&Arc<Tensor>| number(t.dtype()) && !encodes(node.op, i);
            if let Some(tensor) = constant(v).filter(counts).filter(|t| seen.insert(Arc::as_ptr(t))) {
                total = total.saturating_add(tensor.len() as u64);
            }
        }
        for (_, inner, around) in node.subgraphs() {
            let bound = inner.captures.iter().zip(around);
            let captured = bound.filter_map(|(&v, &outer)| Some((v, Arc::clone(constant(outer)?)))).collect();
            total = total.saturating_add(count_parameters(inner, &captured, seen));
        }
    }
    total
}

/// Whether an int32 input is a quantized bias rather than an index.
fn is_bias(op: Op, i: usize) -> bool {
    matches!((op, i), (Op::QLinearConv, 8) | (Op::QGemm, 6) | (Op::DequantizeLinear | Op::MsDequantizeLinear, 0))
}

/// Whether an input is a scale or a zero point.
fn encodes(op: Op, i: usize) -> bool {
    match op {
        Op::QLinearConv => i != 0 && i != 3 && i != 8,
        Op::QLinearMatMul | Op::QLinearAdd | Op::QLinearMul => i != 0 && i != 3,
        Op::QGemm => i != 0 && i != 3 && i != 6,
        Op::QLinearConcat => i < 2 || i % 3 != 2,
        Op::QLinearWhere => i != 0 && i != 1 && i != 4,
        Op::QuantizeLinear
        | Op::DequantizeLinear
        | Op::MsQuantizeLinear
        | Op::MsDequantizeLinear
        | Op::QLinearAveragePool
        | Op::QLinearGlobalAveragePool
        | Op::QLinearLeakyRelu
        | Op::QLinearSigmoid
        | Op::QLinearSoftmax => i > 0,
        Op::ConvInteger | Op::MatMulInteger => i > 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::{Attr, Attrs};
    use quantal_tensor::Tensor;

    fn value(g: &mut Graph, shape: &[usize]) -> ValueId {
        let dims = shape.iter().map(|&n| if n == 0 { Dim::Symbol("N".into()) } else { Dim::Known(n) }).collect();
        g.add_value("v", Some(DType::F32), Some(dims))
    }

    fn cost(op: Op, inputs: &[&[usize]], attrs: Attrs) -> Option<u64> {
        let mut g = Graph::default();
        let inputs = inputs.iter().map(|s| Some(value(&mut g, s))).collect();
        let y = g.add_value("y", None, None);
        let id = g.add_node(Node::new(op, "n", inputs, vec![y], attrs));
        crate::infer::run(&mut g).unwrap();
        macs(&g, id)
    }

    #[test]
    fn products_are_counted_for_one_sample() {
        let strided = Attrs::new().with("strides", Attr::Ints(vec![2, 2])).with("pads", Attr::Ints(vec![3; 4]));
        // The first layer of ResNet-50: 112 · 112 · 64 outputs of 3 · 7 · 7 taps.
        let conv = cost(Op::Conv, &[&[0, 3, 224, 224], &[64, 3, 7, 7]], strided);
        assert_eq!(conv, Some(112 * 112 * 64 * 3 * 7 * 7));
        let depthwise = Attrs::new().with("group", Attr::Int(8));
        assert_eq!(cost(Op::Conv, &[&[1, 8, 5, 5], &[8, 1, 3, 3]], depthwise), Some(3 * 3 * 8 * 9));
        // Each of 2 · 2 · 4 inputs meets 3 channels of 3 · 3 taps.
        let transposed = cost(Op::ConvTranspose, &[&[1, 4, 2, 2], &[4, 3, 3, 3]], Attrs::new());
        assert_eq!(transposed, Some(2 * 2 * 4 * 3 * 9));
        let gemm = Attrs::new().with("transB", Attr::Int(1));
        assert_eq!(cost(Op::Gemm, &[&[0, 512], &[10, 512]], gemm), Some(5120));
        assert_eq!(cost(Op::MatMul, &[&[0, 12, 128, 64], &[0, 12, 64, 128]], Attrs::new()), Some(12 * 128 * 64 * 128));
        let bhqk = Attrs::new().with("equation", Attr::Str(b"bqd,bkd->bqk".as_slice().into()));
        assert_eq!(cost(Op::Einsum, &[&[2, 3, 5], &[2, 7, 5]], bhqk), Some(2 * 3 * 7 * 5));
        assert_eq!(cost(Op::Relu, &[&[1, 2]], Attrs::new()), Some(0));
    }

    #[test]
    fn parameters_are_weights_and_biases_and_count_once() {
        let mut g = Graph::default();
        let x = value(&mut g, &[1, 2]);
        let w = g.add_constant("w", Tensor::zeros(DType::I8, &[2, 3]).unwrap());
        let scale = g.add_constant("s", Tensor::zeros(DType::F32, &[3]).unwrap());
        let shape = g.add_constant("i", Tensor::zeros(DType::I64, &[2]).unwrap());
        let f = value(&mut g, &[2, 3]);
        let y = value(&mut g, &[1, 3]);
        let dq = Attrs::new().with("axis", Attr::Int(1));
        g.add_node(Node::new(Op::DequantizeLinear, "a", vec![Some(w), Some(scale)], vec![f], dq.clone()));
        g.add_node(Node::new(Op::DequantizeLinear, "b", vec![Some(w), Some(scale)], vec![f], dq));
        g.add_node(Node::new(Op::Reshape, "c", vec![Some(x), Some(shape)], vec![y], Attrs::new()));
        assert_eq!(parameters(&g), 6);
    }
}
