//! Products whose data are quantized while running, back to floats.
//!
//! ```text
//! q, s, z = DynamicQuantizeLinear(x)        y = Mul(Cast(MatMulInteger(q, w, z, w0)), Mul(s, s_w))
//! ```
//!
//! is `y = MatMul(x, (w − w0) · s_w)` but for the rounding of x, and so is ConvInteger, and the form that
//! [`dynamic`](super::dynamic) writes, where each row has a scale: `q = QuantizeLinear(x / s, 1, 128)`.

use super::QdqError;
use crate::graph::{Graph, Node, NodeId, Uses, ValueId};
use crate::op::Op;
use quantal_tensor::{DType, Tensor};

/// A value that is quantized while running, and its scale.
#[derive(Clone, Copy)]
struct Running {
    x: ValueId,
    scale: ValueId,
}

/// The right side of a product: weights, or another value.
enum Right {
    Weights { codes: ValueId, zero_point: Option<ValueId> },
    Running(Running),
}

/// Writes those products in floats. Gives the names of the nodes.
pub(super) fn take(graph: &mut Graph) -> Result<Vec<String>, QdqError> {
    let integer = |op: Op| matches!(op, Op::MatMulInteger | Op::ConvInteger);
    let ids: Vec<NodeId> = graph.nodes().filter(|(_, n)| integer(n.op)).map(|(id, _)| id).collect();
    let mut taken = Vec::new();
    if ids.is_empty() {
        return Ok(taken);
    }

    let uses = graph.uses();
    for id in ids {
        let name = graph.node(id).name.to_string();
        if product(graph, &uses, id)?.is_some() {
            taken.push(name);
        }
    }
    graph.remove_unread_nodes();
    graph.sort()?;
    Ok(taken)
}

fn product(graph: &mut Graph, uses: &Uses, id: NodeId) -> Result<Option<()>, QdqError> {
    let node = graph.node(id).clone();
    let Some((left, right, end)) = parts(graph, uses, &node) else { return Ok(None) };
    let second = match right {
        Right::Running(value) => value.x,
        Right::Weights { codes, zero_point } => {
            let per_row = node.op == Op::ConvInteger;
            let Some(weights) = weights(graph, codes, zero_point, end.weight_scale, per_row)? else { return Ok(None) };
            let name = format!("{}_float", graph.value(codes).name);
            graph.add_constant(&name, weights)
        }
    };

    let op = if node.op == Op::ConvInteger { Op::Conv } else { Op::MatMul };
    for made in [id, end.last] {
        graph.remove_node(made);
    }
    let inputs = vec![Some(left.x), Some(second)];
    graph.add_node(Node::new(op, &node.name, inputs, vec![end.y], node.attrs));
    Ok(Some(()))
}

/// What follows a product.
struct End {
    /// The last node.
    last: NodeId,
    /// What it makes.
    y: ValueId,
    /// The scale of the weights, if they have one.
    weight_scale: Option<ValueId>,
}

fn parts(graph: &Graph, uses: &Uses, node: &Node) -> Option<(Running, Right, End)> {
    let left = running(graph, uses, node.input(0)?, node.input(2))?;
    let codes = node.input(1)?;
    let right = if graph.value(codes).constant.is_some() {
        Right::Weights { codes, zero_point: node.input(3) }
    } else {
        Right::Running(running(graph, uses, codes, node.input(3))?)
    };

    let (cast, real) = next(graph, uses, node.output(0)?, Op::Cast)?;
    let to = graph.node(cast).attrs.int("to").ok()??;
    if to != i64::from(DType::F32.to_onnx()) {
        return None;
    }
    let (mul, y) = next(graph, uses, real, Op::Mul)?;
    let factor = other(graph, mul, real)?;
    let end = match right {
        Right::Running(second) => {
            let scales = made_by(graph, uses, factor, Op::Mul)?;
            let both = [scales.input(0)?, scales.input(1)?];
            let same = both == [left.scale, second.scale] || both == [second.scale, left.scale];
            same.then_some(End { last: mul, y, weight_scale: None })
        }
        Right::Weights { .. } => factors(graph, uses, left.scale, mul, y, factor),
    };
    Some((left, right, end?))
}

/// The factors behind a product with weights: `s · s_w` made before, or one after the other.
fn factors(graph: &Graph, uses: &Uses, scale: ValueId, mul: NodeId, y: ValueId, factor: ValueId) -> Option<End> {
    let fixed = |v: ValueId| graph.value(v).constant.is_some();
    if let Some(scales) = made_by(graph, uses, factor, Op::Mul) {
        let (a, b) = (scales.input(0)?, scales.input(1)?);
        let of_weights = if a == scale { b } else { a };
        let both = (a == scale || b == scale) && fixed(of_weights);
        return both.then_some(End { last: mul, y, weight_scale: Some(of_weights) });
    }
    if factor != scale && !fixed(factor) {
        return None;
    }
    let Some((second, out)) = next(graph, uses, y, Op::Mul) else {
        // The weights are integers as they are.
        return (factor == scale).then_some(End { last: mul, y, weight_scale: None });
    };
    let last = other(graph, second, y)?;
    if factor == scale && fixed(last) {
        Some(End { last: second, y: out, weight_scale: Some(last) })
    } else if factor == scale {
        Some(End { last: mul, y, weight_scale: None })
    } else {
        (last == scale).then_some(End { last: second, y: out, weight_scale: Some(factor) })
    }
}

/// What a value quantized while running stands for.
fn running(graph: &Graph, uses: &Uses, codes: ValueId, zero_point: Option<ValueId>) -> Option<Running> {
    if let Some(node) = made_by(graph, uses, codes, Op::DynamicQuantizeLinear) {
        let same = node.output(0) == Some(codes) && node.output(2) == zero_point;
        return same.then_some(Running { x: node.input(0)?, scale: node.output(1)? });
    }

    // A scale for each row, of its greatest magnitude: nothing is cut off.
    let node = made_by(graph, uses, codes, Op::QuantizeLinear)?;
    let scalar =
        |v: Option<ValueId>| graph.constant(v).filter(|t| t.len() == 1).and_then(|t| t.to_f32_vec()).map(|t| t[0]);
    if scalar(node.input(1)) != Some(1.0) || scalar(node.input(2)) != Some(128.0) || scalar(zero_point) != Some(128.0) {
        return None;
    }
    let division = made_by(graph, uses, node.input(0)?, Op::Div)?;
    let found = Running { x: division.input(0)?, scale: division.input(1)? };
    made_by(graph, uses, found.scale, Op::Max).map(|_| found)
}

/// Float weights: `(w − w0) · s_w`. Scale and zero point are one, or one for each row of a convolution's weights, for each
/// column of a matrix.
fn weights(
    graph: &Graph,
    codes: ValueId,
    zero_point: Option<ValueId>,
    scale: Option<ValueId>,
    per_row: bool,
) -> Result<Option<Tensor>, QdqError> {
    let Some(tensor) = graph.constant(Some(codes)) else { return Ok(None) };
    let shape = tensor.shape();
    let channels = if per_row { shape.first() } else { shape.last() };
    let (Some(values), Some(&channels)) = (tensor.to_i64_vec(), channels) else { return Ok(None) };
    let inner = if per_row { shape[1..].iter().product::<usize>().max(1) } else { 1 };
    let fits = |t: &Tensor| {
        let along = if per_row { t.rank().saturating_sub(shape.len() - 1) } else { t.rank().saturating_sub(1) };
        t.len() == 1 || t.len() == channels && (t.rank() == 1 && !per_row || t.shape().get(along) == Some(&channels))
    };

    let zeros = match zero_point {
        None => vec![0],
        Some(v) => {
            // The zero points of a convolution are a vector.
            let Some(t) = graph.constant(Some(v)).filter(|t| t.len() == 1 || t.len() == channels) else {
                return Ok(None);
            };
            t.to_i64_vec().unwrap_or_default()
        }
    };
    let scales = match scale {
        None => vec![1.0],
        Some(v) => {
            let Some(t) = graph.constant(Some(v)).filter(|t| t.dtype() == DType::F32 && fits(t)) else {
                return Ok(None);
            };
            t.to_f32_vec().unwrap_or_default()
        }
    };
    if zeros.is_empty() || scales.is_empty() {
        return Ok(None);
    }
    let real = |(i, &q): (usize, &i64)| {
        let c = i / inner % channels.max(1);
        (q - zeros[c % zeros.len()]) as f32 * scales[c % scales.len()]
    };
    Ok(Some(Tensor::from_slice(shape, &values.iter().enumerate().map(real).collect::<Vec<f32>>())?))
}

/// The node that makes `v`, if it is of that operator.
fn made_by<'g>(graph: &'g Graph, uses: &Uses, v: ValueId, op: Op) -> Option<&'g Node> {
    let id = uses.producer(v).filter(|id| graph.contains(*id))?;
    Some(graph.node(id)).filter(|n| n.op == op)
}

/// The node of that operator that alone reads `v`, and what it makes.
fn next(graph: &Graph, uses: &Uses, v: ValueId, op: Op) -> Option<(NodeId, ValueId)> {
    let &[id] = uses.readers(v) else { return None };
    let node = Some(id).filter(|id| graph.contains(*id) && !graph.is_output(v)).map(|id| graph.node(id))?;
    node.output(0).filter(|_| node.op == op).map(|y| (id, y))
}

/// The other input of a node of two.
fn other(graph: &Graph, id: NodeId, v: ValueId) -> Option<ValueId> {
    graph.node(id).reads().find(|&i| i != v)
}
