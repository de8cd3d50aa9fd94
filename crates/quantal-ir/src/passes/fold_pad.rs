//! Folds a constant zero Pad of the spatial axes into the `pads` of the convolution after it.

use super::{PassError, sole_producer};
use crate::attrs::Attr;
use crate::graph::{Graph, NodeId};
use crate::op::Op;
use crate::op::conv::AutoPad;

#[expect(clippy::unnecessary_wraps, reason = "one signature for all passes")]
pub(super) fn rewrite(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    let Some(x) = node.input(0).filter(|_| node.op == Op::Conv) else { return Ok(false) };
    let Some(rank) = graph.value(x).rank().filter(|&r| r > 2) else { return Ok(false) };
    let explicit = AutoPad::of(&node.attrs) == Ok(AutoPad::Explicit);
    let own = node.attrs.ints("pads").ok().flatten().map_or_else(|| vec![0; 2 * (rank - 2)], <[i64]>::to_vec);
    let Some(pad) = sole_producer(graph, x, |n| n.op == Op::Pad).filter(|_| explicit) else { return Ok(false) };
    let Some((source, added)) = zero_pads(graph, pad, rank) else { return Ok(false) };
    if own.len() != added.len() {
        return Ok(false);
    }
    let pads = own.iter().zip(&added).map(|(a, b)| a.saturating_add(*b)).collect();
    let mut node = graph.node_mut(id);
    node.inputs[0] = Some(source);
    node.attrs.set("pads", Attr::Ints(pads));
    node.attrs.remove("auto_pad");
    node.origin = None;
    Ok(true)
}

/// What a Pad node pads, and by how much before and after each spatial axis; `None` unless it pads those alone, with
/// zeros, by constant amounts that are not negative.
fn zero_pads(graph: &Graph, id: NodeId, rank: usize) -> Option<(crate::ValueId, Vec<i64>)> {
    let node = graph.node(id);
    let zero = match node.input(2) {
        None => true,
        Some(v) => graph.constant(Some(v))?.to_f32_vec()? == [0.0],
    };
    let constant = node.attrs.str_or("mode", "constant") == Ok("constant");
    let pads = graph.constant(node.input(1))?.to_i64_vec()?;
    if !zero || !constant || node.input(3).is_some() || pads.len() != 2 * rank || pads.iter().any(|&p| p < 0) {
        return None;
    }
    let (before, after) = pads.split_at(rank);
    let outer = [before[0], before[1], after[0], after[1]];
    (outer == [0; 4]).then(|| (node.input(0), [&before[2..], &after[2..]].concat())).and_then(|(x, p)| Some((x?, p)))
}
