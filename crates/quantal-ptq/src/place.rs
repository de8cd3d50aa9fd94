//! Where integers go: which values of a float graph are held in codes, and which of them share one encoding.
//!
//! A value has an encoding if an integer node reads it, or if it is what a convolution ends in (other runtimes take a
//! convolution for an integer one only with a quantization after it). The result of a matrix product that only float
//! nodes read has none: it leaves its accumulator as a float. Nothing is measured here; every encoding is
//! [`Params::Unset`](quantal_ir::Params).

mod attention;
mod fixed_point;
pub(crate) mod form;
mod fuse;
mod lowered;
mod region;
mod share;

pub(crate) use lowered::refused_in;

use crate::error::{Error, Result};
use crate::observer::Observer;
use crate::recipe::Recipe;
use fixed_point::Chosen;
use form::Form;
use fuse::Fused;
use quantal_ir::graph::Uses;
use quantal_ir::op::weighted::Weighted;
use quantal_ir::{Encoding, Graph, NodeId, QuantClass, QuantPlan, ValueId};
use quantal_tensor::Scheme;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What becomes of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Runs in integers.
    Integer,
    /// Goes into that node, which runs in integers.
    Fused(NodeId),
    /// Runs in float.
    Float,
    /// Has nothing to quantize: shapes, indices, conditions.
    Untouched,
}

/// What was decided about one node, and why.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: Arc<str>,
    /// Its operator.
    pub op: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The reason, in words.
    pub why: String,
}

/// Activations that share one encoding.
#[derive(Clone, Debug)]
pub struct Group {
    /// All of them.
    pub members: Vec<ValueId>,
    /// Those whose values are to be seen; the others hold only values of these. A constant is looked at as it is.
    pub sources: Vec<ValueId>,
    /// A range that one of them has by its nature: probabilities lie in 0 to 1.
    pub pinned: Option<crate::observer::Range>,
    /// Who chooses the range.
    pub observer: Observer,
}

/// A node that multiplies by weights.
#[derive(Clone, Debug)]
pub struct Product {
    /// The node.
    pub node: NodeId,
    /// Its inputs; the bias may be added by the next node.
    pub weighted: Weighted,
}

/// Where integers go in one graph.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Encodings without numbers, and the nodes left in float.
    pub plan: QuantPlan,
    /// The activations of the plan, by encoding.
    pub groups: Vec<Group>,
    /// The products with weights; their weights are in the plan.
    pub products: Vec<Product>,
    /// The normalizations in integers, and what they read.
    pub norms: Vec<(NodeId, ValueId)>,
    /// One decision for each node, in graph order.
    pub decisions: Vec<Decision>,
}

/// Decides where integers go in a float graph. What the runtime would run in float all the same is left there.
pub fn place(graph: &Graph, recipe: &Recipe) -> Result<Placement> {
    place_except(graph, recipe, &refusals(graph, recipe)?)
}

/// The nodes whose operator has an integer form and that the compiler still runs in float, with its reasons. It
/// compiles with placeholder qparams; those of calibration can add refusals ([`refused_in`]).
pub(crate) fn refusals(graph: &Graph, recipe: &Recipe) -> Result<BTreeMap<NodeId, String>> {
    let mut refused = BTreeMap::new();
    loop {
        let placement = place_except(graph, recipe, &refused)?;
        let found = lowered::refused(graph, &placement)?;
        if found.is_empty() {
            return Ok(refused);
        }
        refused.extend(found);
    }
}

/// Decides where integers go, with the nodes of `exceptions` in float for the reasons given. Unlike [`place`] it does
/// not ask the compiler what it would refuse.
pub fn place_except(graph: &Graph, recipe: &Recipe, exceptions: &BTreeMap<NodeId, String>) -> Result<Placement> {
    // A QuantizeLinear or DequantizeLinear that could not be taken out runs as it is.
    let stays = |op| form::is_quantize(op) || form::is_dequantize(op);
    if let Some((_, node)) = graph.nodes().find(|(_, n)| n.op.quant_class() == QuantClass::Quant && !stays(n.op)) {
        return Err(Error::AlreadyQuantized { node: node.name.escape_debug().to_string(), op: node.op_name() });
    }
    let uses = graph.uses();
    let mut chosen = fixed_point::candidates(graph, &uses, recipe, exceptions);
    let fused = Fused::find(graph, &uses, &chosen);
    fixed_point::shrink(graph, &uses, &fused, &mut chosen);
    let inner = region::inner_values(graph, &uses, &fused, &chosen);
    let encoded = encoded_values(graph, &uses, &fused, &chosen, &inner);

    let mut plan = QuantPlan::default();
    let groups = share::groups(graph, &uses, &chosen, recipe, &encoded);
    for (group, scheme) in &groups {
        let shared =
            if group.members.len() > 1 { "; shares one encoding with what it is moved to or from" } else { "" };
        for v in &group.members {
            let why = encoded.get(v).map_or("", String::as_str);
            plan.encodings.insert(*v, Encoding::unset(*scheme, format!("{why}{shared}")));
        }
    }
    plan.float_outputs = float_outputs(graph, &fused, &chosen, &encoded);
    let products = products(&fused, &chosen);
    plan.dynamic = chosen.dynamic.keys().copied().collect();
    for product in &products {
        weight_encoding(graph, recipe, product, &mut plan);
    }
    for (id, (why, could)) in &chosen.float {
        if *could || graph.node(*id).op.quant_class() != QuantClass::Float {
            plan.fallback.insert(*id, why.clone());
        }
    }
    let decisions = graph.nodes().map(|(id, _)| decision(graph, &fused, &chosen, &inner, id)).collect();
    let is_norm = |id: &&NodeId| form::is_norm(graph.node(**id).op);
    let norms = chosen.integer.keys().filter(is_norm).filter_map(|&id| Some((id, graph.node(id).input(0)?))).collect();
    Ok(Placement { plan, groups: groups.into_iter().map(|(g, _)| g).collect(), products, norms, decisions })
}

/// An exception of a recipe that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct IdleOverride {
    /// Its place in the recipe.
    pub index: usize,
    /// Why, in words.
    pub why: &'static str,
}

/// The exceptions that change nothing.
pub fn idle_overrides(graph: &Graph, recipe: &Recipe) -> Result<Vec<IdleOverride>> {
    if recipe.overrides.is_empty() {
        return Ok(Vec::new());
    }
    let refused = refusals(graph, &Recipe { overrides: Vec::new(), ..recipe.clone() })?;
    let choices = |recipe: &Recipe| -> Result<_> {
        let Placement { plan, groups, .. } = place_except(graph, recipe, &refused)?;
        let schemes: Vec<(ValueId, Scheme)> = plan.encodings.iter().map(|(&v, e)| (v, e.scheme)).collect();
        let float: Vec<NodeId> = plan.fallback.into_keys().collect();
        Ok((schemes, float, groups.iter().map(|g| g.observer).collect::<Vec<_>>()))
    };
    let all = choices(recipe)?;
    let first: BTreeSet<usize> = graph.nodes().filter_map(|(_, n)| recipe.first_override(&n.name)).collect();
    // One after the other, the last first: of two that do the same, one counts.
    let (mut kept, mut idle) = (recipe.clone(), Vec::new());
    for i in (0..recipe.overrides.len()).rev() {
        let exception = kept.overrides.remove(i);
        if !first.contains(&i) {
            idle.push(IdleOverride { index: i, why: "others come first for all of its nodes" });
        } else if choices(&kept)? == all {
            let why = if exception.fallback {
                "its nodes run in float anyway"
            } else {
                "what its nodes make is not held in codes, or only behind the Relu or Clip that follows"
            };
            idle.push(IdleOverride { index: i, why });
        } else {
            kept.overrides.insert(i, exception);
        }
    }
    idle.reverse();
    Ok(idle)
}

/// The activations that have an encoding, and why.
fn encoded_values(
    graph: &Graph,
    uses: &Uses,
    fused: &Fused,
    chosen: &Chosen,
    inner: &BTreeSet<ValueId>,
) -> BTreeMap<ValueId, String> {
    let mut encoded = BTreeMap::new();
    for (&id, form) in &chosen.integer {
        let name = graph.node(id).name.escape_debug();
        if let Some(v) = fused.end(graph, chosen, id).filter(|_| fused.ends_in_codes(id)) {
            encoded.entry(v).or_insert_with(|| format!("`{name}` ends in codes"));
        }
        if fused.is_inside(chosen, id) {
            continue;
        }
        let data = match form {
            Form::Weighted(w) => std::slice::from_ref(&w.data),
            Form::Optional { data, .. } => data,
        };
        for v in data.iter().filter(|&&v| !inner.contains(&v) && !form::is_scalar(graph, v)) {
            encoded.entry(*v).or_insert_with(|| format!("read in integers by `{name}`"));
        }
    }
    // A node that makes several values makes all of them in codes or none.
    for &id in chosen.integer.keys() {
        let outputs: Vec<ValueId> = graph.node(id).outputs.iter().copied().flatten().collect();
        if outputs.len() > 1 && outputs.iter().any(|v| encoded.contains_key(v)) {
            for v in outputs.into_iter().filter(|&v| graph.is_output(v) || !uses.readers(v).is_empty()) {
                encoded.entry(v).or_insert_with(|| "made in codes, like the other results of its node".to_owned());
            }
        }
    }
    // What the model itself quantizes needs no other quantization before that.
    let quantized = |v: ValueId| {
        let readers = uses.readers(v);
        !readers.is_empty() && !graph.is_output(v) && readers.iter().all(|r| form::is_quantize(graph.node(*r).op))
    };
    encoded.retain(|v, _| !quantized(*v));
    encoded
}

/// The graph outputs that have an encoding for their readers alone: no integer node makes them.
fn float_outputs(
    graph: &Graph,
    fused: &Fused,
    chosen: &Chosen,
    encoded: &BTreeMap<ValueId, String>,
) -> BTreeSet<ValueId> {
    let mut outputs: BTreeSet<ValueId> = graph.outputs.iter().copied().filter(|v| encoded.contains_key(v)).collect();
    for &id in chosen.integer.keys().filter(|id| !fused.is_inside(chosen, **id)) {
        for v in graph.node(id).outputs.iter().copied().flatten().chain(fused.end(graph, chosen, id)) {
            outputs.remove(&v);
        }
    }
    outputs
}

fn products(fused: &Fused, chosen: &Chosen) -> Vec<Product> {
    let weighted = chosen.integer.iter().filter_map(|(&node, form)| match form {
        Form::Weighted(w) => Some((node, *w)),
        Form::Optional { .. } => None,
    });
    let with_bias = |(node, w): (NodeId, Weighted)| {
        let bias = w.bias.or_else(|| fused.bias.get(&node).copied());
        Product { node, weighted: Weighted { bias, ..w } }
    };
    let dynamic = chosen.dynamic.iter().map(|(&node, &weighted)| Product { node, weighted });
    weighted.map(with_bias).chain(dynamic).collect()
}

fn weight_encoding(graph: &Graph, recipe: &Recipe, product: &Product, plan: &mut QuantPlan) {
    let w = &product.weighted;
    let scheme = recipe.weights.scheme(w.axis);
    let name = graph.node(product.node).name.escape_debug();
    let fresh = Encoding::unset(scheme, format!("weights of `{name}`"));
    let encoding = plan.encodings.entry(w.weight).or_insert(fresh);
    if encoding.scheme != scheme {
        // Read along different axes by different nodes: one scale is all that they can share.
        encoding.scheme = recipe.weights.scheme(None);
        encoding.why = format!("{}, which other nodes read along another axis", encoding.why);
    }
}

fn decision(graph: &Graph, fused: &Fused, chosen: &Chosen, inner: &BTreeSet<ValueId>, id: NodeId) -> Decision {
    let node = graph.node(id);
    let (verdict, why) = match (chosen.integer.get(&id), chosen.float.get(&id)) {
        _ if chosen.dynamic.contains_key(&id) => {
            (Verdict::Integer, "multiplies by weights: each row of its data gets a scale while running".to_owned())
        }
        _ if chosen.dynamic_bias.contains_key(&id) => {
            (Verdict::Fused(chosen.dynamic_bias[&id]), "added while the sums become floats".to_owned())
        }
        (Some(_), _) if chosen.masks.contains_key(&id) => {
            let softmax = chosen.masks[&id];
            let name = graph.node(softmax).name.escape_debug();
            (Verdict::Fused(softmax), format!("a mask: `{name}` adds it to the codes, out of their range"))
        }
        (Some(_), _) if fused.is_inside(chosen, id) => {
            let head = fused.into[&id];
            let head_name = graph.node(head).name.escape_debug();
            (Verdict::Fused(head), format!("done while the result of `{head_name}` is rounded to codes"))
        }
        (Some(Form::Weighted(w)), _) => {
            let scales = match w.axis {
                Some(axis) => graph.constant(Some(w.weight)).map_or(1, |t| t.shape()[axis]),
                None => 1,
            };
            let s = if scales == 1 { "" } else { "s" };
            (Verdict::Integer, format!("multiplies by weights: {scales} scale{s} for its output channels"))
        }
        (Some(Form::Optional { .. }), _) if node.outputs.iter().flatten().any(|v| inner.contains(v)) => {
            (Verdict::Integer, "part of a function of one value: one table for all of it".to_owned())
        }
        (Some(Form::Optional { .. }), _) => {
            (Verdict::Integer, "gets codes and is read as codes: no conversion is needed".to_owned())
        }
        (None, Some((why, _))) => (Verdict::Float, why.clone()),
        (None, None) => (Verdict::Untouched, "works on shapes, indices or other integers".to_owned()),
    };
    Decision { node: id, name: Arc::clone(&node.name), op: node.op_name(), verdict, why }
}

#[cfg(test)]
pub(crate) mod tests;
