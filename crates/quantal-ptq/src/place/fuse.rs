//! Nodes that go into the one before them, so that no codes lie between: a bias added to a product, the clamp (Relu,
//! Clip) after a product or a sum, and the constant factor of attention scores.

use super::fixed_point::Chosen;
use super::form::{Form, Kind, is_scalar};
use quantal_ir::graph::Uses;
use quantal_ir::{Graph, NodeId, Op, ValueId};
use std::collections::BTreeMap;

/// What goes into what.
#[derive(Default)]
pub(super) struct Fused {
    /// For each node that goes into another: that other, the head of the chain.
    pub(super) into: BTreeMap<NodeId, NodeId>,
    /// The bias of a head that is added by a node of its own.
    pub(super) bias: BTreeMap<NodeId, ValueId>,
    /// For each head that has something fused into it, those nodes in order and what they make.
    chain: BTreeMap<NodeId, Vec<(NodeId, ValueId)>>,
    /// Heads whose result is always codes.
    ends_in_codes: BTreeMap<NodeId, bool>,
}

impl Fused {
    /// Finds the chains among the candidates.
    pub(super) fn find(graph: &Graph, uses: &Uses, chosen: &Chosen) -> Self {
        let mut fused = Self::default();
        for (id, node) in graph.nodes() {
            let weighted = matches!(chosen.integer.get(&id), Some(Form::Weighted(_)));
            let sum = node.op == Op::Add
                && !fused.into.contains_key(&id)
                && matches!(chosen.integer.get(&id), Some(Form::Optional { data, kind: Kind::Arithmetic })
                    if data.len() == 2 && data[0] != data[1]);
            let scores = node.op == Op::MatMul && !weighted && chosen.integer.contains_key(&id);
            let Some(mut end) = node.output(0).filter(|_| weighted || sum || scores) else { continue };
            fused.ends_in_codes.insert(id, weighted && matches!(node.op, Op::Conv | Op::ConvTranspose));
            let product = weighted && node.op == Op::MatMul;
            if let Some((add, bias)) =
                product.then(|| bias_add(graph, uses, &chosen.integer, node.input(1), end)).flatten()
            {
                end = graph.node(add).output(0).unwrap_or(end);
                fused.into.insert(add, id);
                fused.bias.insert(id, bias);
                fused.chain.entry(id).or_default().push((add, end));
            }
            if let Some((by, out)) = scores.then(|| factor(graph, uses, chosen, end)).flatten() {
                fused.into.insert(by, id);
                fused.chain.entry(id).or_default().push((by, out));
                continue;
            }
            let clamp = only_reader(graph, uses, end)
                .filter(|c| matches!(graph.node(*c).op, Op::Relu | Op::Clip) && chosen.integer.contains_key(c));
            if let Some((clamp, out)) = clamp.and_then(|c| Some((c, graph.node(c).output(0)?))) {
                fused.into.insert(clamp, id);
                fused.chain.entry(id).or_default().push((clamp, out));
            }
        }
        fused
    }

    /// Whether a fused node runs in integers whoever reads it: a bias, or the clamp of a convolution.
    pub(super) fn is_mandatory(&self, id: NodeId, chosen: &Chosen) -> bool {
        let Some(head) = self.into.get(&id) else { return false };
        let is_bias = self.bias.contains_key(head)
            && matches!(chosen.integer.get(&id), Some(Form::Optional { data, .. }) if data.len() == 2);
        chosen.integer.contains_key(head) && (is_bias || self.ends_in_codes[head])
    }

    /// The value that a head's chain ends in, as far as it runs in integers.
    pub(super) fn end(&self, graph: &Graph, chosen: &Chosen, head: NodeId) -> Option<ValueId> {
        let chain = self.chain.get(&head).map_or(&[][..], Vec::as_slice);
        let last = chain.iter().take_while(|(node, _)| chosen.integer.contains_key(node)).last();
        last.map(|(_, v)| *v).or(graph.node(head).output(0))
    }

    /// Whether a node goes into another, both in integers.
    pub(super) fn is_inside(&self, chosen: &Chosen, id: NodeId) -> bool {
        chosen.integer.contains_key(&id) && self.into.get(&id).is_some_and(|h| chosen.integer.contains_key(h))
    }

    /// Whether the result of a head is codes even if nobody reads it as codes.
    pub(super) fn ends_in_codes(&self, head: NodeId) -> bool {
        self.ends_in_codes.get(&head).copied().unwrap_or(false)
    }
}

fn only_reader(graph: &Graph, uses: &Uses, v: ValueId) -> Option<NodeId> {
    match uses.readers(v) {
        [reader] if !graph.is_output(v) => Some(*reader),
        _ => None,
    }
}

/// The Mul or Div by one constant above 0 that is all that reads the product of two run-time tensors, and what it makes.
fn factor(graph: &Graph, uses: &Uses, chosen: &Chosen, product: ValueId) -> Option<(NodeId, ValueId)> {
    let id = only_reader(graph, uses, product).filter(|id| chosen.integer.contains_key(id))?;
    let node = graph.node(id);
    let by = match node.op {
        Op::Mul => node.reads().find(|&v| v != product)?,
        Op::Div => node.input(1)?,
        _ => return None,
    };
    let positive = graph.constant(Some(by)).and_then(|t| t.get::<f32>()).is_some_and(|c| matches!(c, [c] if *c > 0.0));
    positive.then_some((id, node.output(0)?))
}

/// The Add of a constant vector along the last axis that is all that reads a product, and that vector.
pub(super) fn bias_add(
    graph: &Graph,
    uses: &Uses,
    candidates: &BTreeMap<NodeId, Form>,
    weight: Option<ValueId>,
    product: ValueId,
) -> Option<(NodeId, ValueId)> {
    let add = only_reader(graph, uses, product)?;
    let node = graph.node(add);
    if node.op != Op::Add || !candidates.contains_key(&add) {
        return None;
    }
    let bias = node.reads().find(|&v| v != product)?;
    let shape = graph.constant(Some(bias))?.shape();
    let columns = *graph.constant(weight)?.shape().last()?;
    let (last, rest) = shape.split_last()?;
    let is_vector = rest.iter().all(|&d| d == 1) && (*last == columns || is_scalar(graph, bias));
    let rank = graph.value(product).rank();
    (is_vector && rank.is_none_or(|r| shape.len() <= r)).then_some((add, bias))
}
