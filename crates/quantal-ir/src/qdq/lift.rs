//! Operators that move or select quantized values: dequantizing what they read gives the same as dequantizing what they
//! make, so that a DequantizeLinear behind one can stand before it.

use super::QdqError;
use super::extract::Grid;
use crate::attrs::Attrs;
use crate::graph::{Graph, Node, ValueId};
use crate::op::Op;
use quantal_tensor::{DType, Tensor, arith};

/// The data inputs of a node that moves or selects, by place; `None` if it does anything else, or not in the same way on
/// integers and floats.
pub(super) fn moved_inputs(graph: &Graph, node: &Node) -> Option<Vec<usize>> {
    let wanted = |i: usize| node.output(i).is_some();
    let first = Some(vec![0]);
    match node.op {
        Op::Concat => Some((0..node.inputs.len()).collect()),
        Op::MaxPool if wanted(1) => None,
        // The other modes interpolate, and round where they do so in integers.
        Op::Resize | Op::Upsample if node.attrs.str_or("mode", "nearest") != Ok("nearest") => None,
        Op::Pad if fill_of(graph, node).is_none() => None,
        Op::Clip => quantized_clip(graph, node).and(first),
        Op::Identity
        | Op::MaxPool
        | Op::GlobalMaxPool
        | Op::ReduceMax
        | Op::ReduceMin
        | Op::Reshape
        | Op::Flatten
        | Op::Squeeze
        | Op::Unsqueeze
        | Op::Transpose
        | Op::Expand
        | Op::Tile
        | Op::Slice
        | Op::Split
        | Op::Gather
        | Op::GatherElements
        | Op::GatherND
        | Op::DepthToSpace
        | Op::SpaceToDepth
        | Op::Resize
        | Op::Upsample
        | Op::Pad => first,
        _ => None,
    }
}

/// The quantized value that a Pad fills in; `None` if it is computed while running.
fn fill_of(graph: &Graph, node: &Node) -> Option<i32> {
    match node.input(2) {
        None => Some(0),
        Some(v) => graph.constant(Some(v))?.to_i64_vec().filter(|t| t.len() == 1).and_then(|t| t[0].try_into().ok()),
    }
}

/// The bounds of a Clip of quantized values, those of the type where one is left out; `None` for a Clip of floats, or with
/// bounds computed while running or in the wrong order.
pub fn quantized_clip(graph: &Graph, node: &Node) -> Option<(i32, i32)> {
    let range =
        node.input(0).and_then(|v| graph.value(v).dtype).filter(|t| *t != DType::I32).and_then(DType::int_range)?;
    let bound = |i: usize, absent: i32| match node.input(i) {
        None => Some(absent),
        Some(v) => {
            let tensor = graph.constant(Some(v))?;
            let value = tensor.to_i64_vec().filter(|t| t.len() == 1 && !tensor.dtype().is_float())?;
            i32::try_from(value[0]).ok()
        }
    };
    let (lo, hi) = (bound(1, range.0)?.max(range.0), bound(2, range.1)?.min(range.1));
    (node.op == Op::Clip && lo <= hi).then_some((lo, hi))
}

/// A copy of a moving node that reads the floats `data` instead of quantized values of one scale, and makes floats.
pub(super) fn float_copy(
    graph: &mut Graph,
    node: &Node,
    data: &[(usize, ValueId)],
    grid: &Grid,
) -> Result<Node, QdqError> {
    let mut copy = node.clone();
    copy.origin = None;
    for &(i, v) in data {
        copy.inputs[i] = Some(v);
    }
    for output in &mut copy.outputs {
        *output = output.map(|v| {
            let (name, shape) = (format!("{}_float", graph.value(v).name), graph.value(v).shape.clone());
            graph.add_value(&name, Some(DType::F32), shape)
        });
    }

    let real = |code: i32| arith::dequantize(code, grid.scale[0], grid.zero_point[0]);
    if let (Op::Pad, Some(fill)) = (node.op, fill_of(graph, node)) {
        let value = graph.add_constant(&format!("{}_float_value", node.name), Tensor::scalar(real(fill))?);
        copy.inputs.resize(copy.inputs.len().max(3), None);
        copy.inputs[2] = Some(value);
    }
    if let Some((lo, hi)) = quantized_clip(graph, node) {
        let lo = graph.add_constant(&format!("{}_float_min", node.name), Tensor::scalar(real(lo))?);
        let hi = graph.add_constant(&format!("{}_float_max", node.name), Tensor::scalar(real(hi))?);
        copy.inputs = vec![copy.input(0), Some(lo), Some(hi)];
        copy.attrs = Attrs::new();
    }
    Ok(copy)
}
