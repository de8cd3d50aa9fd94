//! A stretch of a graph as a graph of its own, so that what lies before it runs once and what lies in it many times.

use crate::graph::{Graph, NodeId, ValueId};
use std::collections::BTreeSet;
use std::ops::Range;

/// The values that must be at hand to run a graph from position `from` of its order on: made before, read there. Ids
/// ascend.
pub fn cut(graph: &Graph, from: usize) -> Vec<ValueId> {
    let later = || graph.nodes().skip(from);
    let made: BTreeSet<ValueId> = later().flat_map(|(_, n)| n.outputs.iter().flatten().copied()).collect();
    let read: BTreeSet<ValueId> = later().flat_map(|(_, n)| n.reads()).collect();
    read.difference(&made).copied().filter(|&v| graph.value(v).constant.is_none()).collect()
}

/// The nodes at `positions` of the order, with the ids that they have in `graph`. Its inputs are what they read and do
/// not make, its outputs what they make and others read or `graph` hands out.
pub fn section(graph: &Graph, positions: Range<usize>) -> Graph {
    let order: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    let inside: BTreeSet<NodeId> = order[positions].iter().copied().collect();
    let mut part = graph.clone();
    for id in order.iter().filter(|id| !inside.contains(id)) {
        part.remove_node(*id);
    }
    let uses = graph.uses();
    let mut outputs = Vec::new();
    for (_, node) in part.nodes() {
        for &v in node.outputs.iter().flatten() {
            if graph.is_output(v) || uses.readers(v).iter().any(|r| !inside.contains(r)) {
                outputs.push(v);
            }
        }
    }
    part.inputs = cut(&part, 0);
    part.outputs = outputs;
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::Attrs;
    use crate::graph::Node;
    use crate::op::Op;
    use quantal_tensor::Tensor;

    /// x → a → b → c, and the sum of a and c handed out; b adds a constant.
    fn graph() -> (Graph, [ValueId; 5]) {
        let mut g = Graph::default();
        let [x, a, b, c, sum] = ["x", "a", "b", "c", "sum"].map(|n| g.add_value(n, None, None));
        let k = g.add_constant("k", Tensor::from_slice(&[1], &[1.0_f32]).unwrap());
        let mut node = |op, inputs: &[ValueId], y| {
            let inputs = inputs.iter().copied().map(Some).collect();
            g.add_node(Node::new(op, "n", inputs, vec![y], Attrs::new()));
        };
        node(Op::Relu, &[x], a);
        node(Op::Add, &[a, k], b);
        node(Op::Relu, &[b], c);
        node(Op::Add, &[a, c], sum);
        (g.inputs, g.outputs) = (vec![x], vec![sum]);
        (g, [x, a, b, c, sum])
    }

    #[test]
    fn a_section_reads_what_was_made_before_and_hands_on_what_is_read_later() {
        let (g, [x, a, b, c, sum]) = graph();
        for (positions, inputs, outputs) in [
            (0..1, vec![x], vec![a]),
            (1..3, vec![a], vec![c]),
            (2..4, vec![a, b], vec![sum]),
            (0..4, vec![x], vec![sum]),
        ] {
            let part = section(&g, positions.clone());
            assert_eq!((part.node_count(), part.inputs, part.outputs), (positions.len(), inputs, outputs));
        }
    }

    #[test]
    fn what_is_needed_from_a_position_on_is_the_inputs_of_the_rest() {
        let (g, [x, a, b, c, _]) = graph();
        assert_eq!([0, 1, 2, 3, 4].map(|p| cut(&g, p)), [vec![x], vec![a], vec![a, b], vec![a, c], vec![]]);
    }
}
