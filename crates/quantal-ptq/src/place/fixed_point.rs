//! Which nodes run in integers: all products with weights, and those around them that can stay in codes.
//!
//! A node that only could run in integers does so if all of its data comes as codes and somebody takes its result as
//! codes. Both depend on its neighbours, so the largest set of nodes that agrees with itself is found by starting with
//! every candidate and taking away until nothing changes.

use super::attention;
use super::form::{self, Form, Kind, NoForm};
use super::fuse::{self, Fused};
use crate::recipe::{Ranges, Recipe};
use quantal_ir::graph::Uses;
use quantal_ir::op::weighted::Weighted;
use quantal_ir::{Graph, Node, NodeId, Op, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// The nodes that run in integers, and why the others do not.
#[derive(Default)]
pub(super) struct Chosen {
    /// Integer nodes and their forms.
    pub(super) integer: BTreeMap<NodeId, Form>,
    /// Nodes that stay in float: why, and whether the operator could have run in integers.
    pub(super) float: BTreeMap<NodeId, (String, bool)>,
    /// The Add of each attention mask, and the Softmax that does it.
    pub(super) masks: BTreeMap<NodeId, NodeId>,
    /// Products whose data are quantized by rows while running.
    pub(super) dynamic: BTreeMap<NodeId, Weighted>,
    /// The Add of the bias of such a product, and the product.
    pub(super) dynamic_bias: BTreeMap<NodeId, NodeId>,
    /// What the normalizations read that are left in float: sums that codes would not hold.
    exposed: BTreeSet<ValueId>,
}

/// The forms of all nodes that have one and that the recipe does not leave in float.
pub(super) fn candidates(graph: &Graph, uses: &Uses, recipe: &Recipe, exceptions: &BTreeMap<NodeId, String>) -> Chosen {
    let mut chosen = Chosen::default();
    let dynamic = recipe.activations.ranges == Ranges::DynamicPerToken;
    let left = |id: NodeId, node: &Node| {
        let asked = recipe.override_of(&node.name).is_some_and(|o| o.fallback);
        asked.then(|| "the recipe says so".to_owned()).or_else(|| exceptions.get(&id).cloned())
    };
    for (id, node) in graph.nodes() {
        let form = form::of(graph, node);
        if let Some(why) = left(id, node).filter(|_| form.is_ok()) {
            chosen.float.insert(id, (why, true));
            chosen.exposed.extend(node.input(0).filter(|_| form::is_norm(node.op)));
            continue;
        }
        match form {
            Ok(Form::Weighted(w)) if dynamic && w.axis.is_some() && matches!(node.op, Op::MatMul | Op::Gemm) => {
                chosen.dynamic.insert(id, w);
            }
            Ok(form) => {
                chosen.integer.insert(id, form);
            }
            Err(NoForm::Nothing) => {}
            Err(NoForm::Float(why)) => {
                chosen.float.insert(id, (why, false));
            }
        }
    }
    for (&id, w) in &mut chosen.dynamic {
        let node = graph.node(id);
        let product = node.output(0).filter(|_| node.op == Op::MatMul);
        let add = product.and_then(|v| fuse::bias_add(graph, uses, &chosen.integer, node.input(1), v));
        if let Some((add, bias)) = add {
            w.bias = Some(bias);
            chosen.integer.remove(&add);
            chosen.dynamic_bias.insert(add, id);
        }
    }
    chosen.masks = attention::masks(graph, uses, &mut chosen);
    chosen
}

/// Takes away candidates until those that are left agree.
pub(super) fn shrink(graph: &Graph, uses: &Uses, fused: &Fused, chosen: &mut Chosen) {
    let order: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    loop {
        // Forwards for what is read and backwards for who reads: a chain falls in one sweep.
        let mut changed = false;
        for &id in &order {
            let why = float_input(graph, uses, chosen, id);
            changed |= drop(chosen, id, why);
        }
        for &id in order.iter().rev() {
            let why = unread(graph, uses, fused, chosen, id);
            changed |= drop(chosen, id, why);
        }
        if !changed {
            return;
        }
    }
}

fn drop(chosen: &mut Chosen, id: NodeId, why: Option<String>) -> bool {
    let Some(why) = why else { return false };
    chosen.integer.remove(&id);
    chosen.float.insert(id, (why, true));
    true
}

/// The data inputs that decide whether a node may run in integers; empty for those that always do.
fn optional(chosen: &Chosen, id: NodeId) -> Option<(&[ValueId], Kind)> {
    match chosen.integer.get(&id)? {
        Form::Weighted(_) => None,
        Form::Optional { data, kind } => Some((data, *kind)),
    }
}

fn float_input(graph: &Graph, uses: &Uses, chosen: &Chosen, id: NodeId) -> Option<String> {
    let (data, kind) = optional(chosen, id)?;
    let mut variable = data.iter().filter(|&&v| graph.value(v).constant.is_none()).peekable();
    if variable.peek().is_none() {
        return Some("all of its inputs are constants".to_owned());
    }
    variable.find_map(|&v| {
        let name = graph.value(v).name.escape_debug();
        match uses.producer(v) {
            Some(p) if chosen.integer.contains_key(&p) || form::is_dequantize(graph.node(p).op) => None,
            // It is rounded to codes anyway: a residual stream that begins in float goes on in codes.
            Some(_) if kind == Kind::Arithmetic && is_factor(uses, chosen, v) => None,
            Some(p) if resumes(graph, chosen, p, v) => None,
            Some(p) => Some(format!("its input `{name}` comes in float from `{}`", graph.node(p).name.escape_debug())),
            // Moving the codes of an input costs less than moving its floats.
            None if kind == Kind::Moves => None,
            None => Some(format!("its input `{name}` is fed in float")),
        }
    })
}

fn unread(graph: &Graph, uses: &Uses, fused: &Fused, chosen: &Chosen, id: NodeId) -> Option<String> {
    optional(chosen, id)?;
    if fused.is_mandatory(id, chosen) {
        return None;
    }
    if chosen.masks.get(&id).is_some_and(|softmax| chosen.integer.contains_key(softmax)) {
        return None;
    }
    let mut outputs = graph.node(id).outputs.iter().copied().flatten();
    let read = outputs.any(|v| uses.readers(v).iter().any(|r| reads_codes(chosen, *r, v)));
    (!read).then(|| "nothing that reads its result runs in integers".to_owned())
}

/// Whether a residual stream that codes did not hold is back in their reach with the sum `v` that `p` makes in float.
fn resumes(graph: &Graph, chosen: &Chosen, p: NodeId, v: ValueId) -> bool {
    let node = graph.node(p);
    let from_exposed = node.inputs.iter().flatten().any(|v| chosen.exposed.contains(v));
    node.op == Op::Add && from_exposed && !chosen.exposed.contains(&v)
}

/// Whether a value is multiplied by weights in integers.
fn is_factor(uses: &Uses, chosen: &Chosen, v: ValueId) -> bool {
    let weighted = |r: &NodeId| matches!(chosen.integer.get(r), Some(Form::Weighted(w)) if w.data == v);
    uses.readers(v).iter().any(weighted)
}

/// Whether an integer node reads a value as data.
pub(super) fn reads_codes(chosen: &Chosen, reader: NodeId, v: ValueId) -> bool {
    match chosen.integer.get(&reader) {
        None => false,
        Some(Form::Weighted(w)) => w.data == v,
        Some(Form::Optional { data, .. }) => data.contains(&v),
    }
}
