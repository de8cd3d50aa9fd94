//! Attention masks: what is added to the scores before a softmax.
//!
//! A mask of −10⁴ or −10⁹ in the range of the scores would leave them one code. So it stays in float and out of their
//! encoding: the softmax reads the codes of the scores as they are before the mask, and adds it as an integer.

use super::fixed_point::Chosen;
use super::form::{Form, Kind, is_scalar};
use quantal_ir::graph::Uses;
use quantal_ir::{Graph, NodeId, Op, ValueId};
use std::collections::BTreeMap;

/// Lets every Softmax whose scores are masked read them unmasked: gives the Add of each mask with its Softmax.
pub(super) fn masks(graph: &Graph, uses: &Uses, chosen: &mut Chosen) -> BTreeMap<NodeId, NodeId> {
    let mut found = BTreeMap::new();
    for (id, node) in graph.nodes().filter(|(_, n)| n.op == Op::Softmax) {
        let Some(sum) = node.input(0).filter(|v| !graph.is_output(*v) && uses.readers(*v) == [id]) else { continue };
        let Some(add) = uses.producer(sum).filter(|p| graph.node(*p).op == Op::Add) else { continue };
        if !chosen.integer.contains_key(&id) || !chosen.integer.contains_key(&add) {
            continue;
        }
        let inputs: Vec<ValueId> = graph.node(add).inputs.iter().copied().flatten().collect();
        let scores = inputs.iter().copied().filter(|&v| is_scores(graph, uses, v)).collect::<Vec<_>>();
        if let ([scores], 2) = (&scores[..], inputs.len()) {
            let form = Form::Optional { data: vec![*scores], kind: Kind::Arithmetic };
            chosen.integer.insert(id, form.clone());
            chosen.integer.insert(add, form);
            found.insert(add, id);
        }
    }
    found
}

/// Whether a value is the product of two run-time tensors, perhaps times a constant.
fn is_scores(graph: &Graph, uses: &Uses, v: ValueId) -> bool {
    let Some(node) = uses.producer(v).map(|p| graph.node(p)) else { return false };
    match node.op {
        Op::MatMul => node.inputs.iter().flatten().all(|v| graph.value(*v).constant.is_none()),
        Op::Mul | Op::Div => {
            let mut inner = node.inputs.iter().copied().flatten().filter(|&v| !is_scalar(graph, v));
            let product = inner.next().and_then(|v| uses.producer(v)).map(|p| graph.node(p));
            inner.next().is_none() && product.is_some_and(|n| n.op == Op::MatMul)
        }
        _ => false,
    }
}
