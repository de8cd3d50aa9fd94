//! Regions of element-wise nodes that depend on one value alone: `x · sigmoid(x)`, Gelu or hard-swish written out.
//!
//! On codes such a region is one table of 256 entries, so the values inside need no encoding, and none is lost to
//! rounding between its nodes.

use super::fixed_point::Chosen;
use super::form::{Form, Kind, is_scalar};
use super::fuse::Fused;
use quantal_ir::graph::Uses;
use quantal_ir::{Graph, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// The values inside regions: made and read there, and nowhere else.
pub(super) fn inner_values(graph: &Graph, uses: &Uses, fused: &Fused, chosen: &Chosen) -> BTreeSet<ValueId> {
    // The one value that a value is a function of, where that is another one.
    let mut root: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut members: BTreeMap<NodeId, ValueId> = BTreeMap::new();
    for (id, node) in graph.nodes() {
        if let (Some(r), Some(out)) = (root_of(graph, fused, chosen, id, &root), node.output(0)) {
            root.insert(out, r);
            members.insert(id, r);
        }
    }
    let inside = |(v, r): (&ValueId, &ValueId)| {
        let readers = uses.readers(*v);
        let inner = !graph.is_output(*v) && !readers.is_empty() && readers.iter().all(|n| members.get(n) == Some(r));
        inner.then_some(*v)
    };
    root.iter().filter_map(inside).collect()
}

fn root_of(
    graph: &Graph,
    fused: &Fused,
    chosen: &Chosen,
    id: NodeId,
    root: &BTreeMap<ValueId, ValueId>,
) -> Option<ValueId> {
    let Some(Form::Optional { data, kind }) = chosen.integer.get(&id) else { return None };
    let by_itself = match kind {
        Kind::Elementwise => true,
        // Add, Sub and Mul of two values; MatMul and pools mix elements.
        Kind::Arithmetic => data.len() == 2 && graph.node(id).op != quantal_ir::Op::MatMul,
        Kind::Moves => false,
    };
    if !by_itself || fused.into.contains_key(&id) {
        return None;
    }
    let mut roots = data.iter().filter(|&&v| !is_scalar(graph, v)).map(|v| *root.get(v).unwrap_or(v));
    let first = roots.next().filter(|v| graph.value(*v).constant.is_none())?;
    roots.all(|r| r == first).then_some(first)
}
