//! Folds a multiplication or addition of one constant a channel into the convolution before it.

use super::{PassError, scale_channels, sole_producer, take_output};
use crate::graph::{Graph, NodeId, ValueId};
use crate::op::Op;

pub(super) fn rewrite(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    let (op, Some(a), Some(b), Some(y)) = (node.op, node.input(0), node.input(1), node.output(0)) else {
        return Ok(false);
    };
    if !matches!(op, Op::Mul | Op::Add) {
        return Ok(false);
    }
    let (x, constant) = if graph.value(b).constant.is_some() { (a, b) } else { (b, a) };
    let Some(before) = sole_producer(graph, x, |n| n.op == Op::Conv) else { return Ok(false) };
    let Some(values) = per_channel(graph, x, constant) else { return Ok(false) };
    let (one, zero) = (vec![1.0; values.len()], vec![0.0; values.len()]);
    let folded = if op == Op::Mul {
        scale_channels(graph, before, &values, &zero)?
    } else {
        scale_channels(graph, before, &one, &values)?
    };
    if folded {
        take_output(graph, before, y);
    }
    Ok(folded)
}

/// A constant that holds one value for each channel of `x` `[N, C, …]`, or one for all: its C values.
fn per_channel(graph: &Graph, x: ValueId, constant: ValueId) -> Option<Vec<f64>> {
    let shape = graph.value(x).shape.as_ref()?;
    let channels = shape.get(1)?.known()?;
    let t = graph.constant(Some(constant))?;
    let values = t.get::<f32>()?;
    // Right-aligned with x, all dimensions but the channel's must be 1; a longer shape would broadcast x itself.
    let from_end = shape.len() - 2;
    let fits = t.rank() <= shape.len()
        && t.shape().iter().rev().enumerate().all(|(i, &d)| d == 1 || (i == from_end && d == channels));
    match values.len() {
        1 if fits => Some(vec![f64::from(values[0]); channels]),
        n if fits && n == channels => Some(values.iter().map(|&v| v.into()).collect()),
        _ => None,
    }
}
