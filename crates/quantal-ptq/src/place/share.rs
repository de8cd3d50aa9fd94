//! Which values share one encoding: those between which codes are only moved.

use super::Group;
use super::fixed_point::Chosen;
use super::form::{self, Form, Kind};
use crate::observer::{Observer, Range};
use crate::recipe::Recipe;
use quantal_ir::graph::Uses;
use quantal_ir::{Graph, NodeId, Op, ValueId};
use quantal_tensor::Scheme;
use std::collections::BTreeMap;

/// The encoded values in groups that share one encoding, ordered by their first members, with the scheme of each.
pub(super) fn groups(
    graph: &Graph,
    uses: &Uses,
    chosen: &Chosen,
    recipe: &Recipe,
    encoded: &BTreeMap<ValueId, String>,
) -> Vec<(Group, Scheme)> {
    let mut parent: BTreeMap<ValueId, ValueId> = encoded.keys().map(|&v| (v, v)).collect();
    for (&id, form) in &chosen.integer {
        let Form::Optional { data, kind: Kind::Moves } = form else { continue };
        let node = graph.node(id);
        let mut outputs = node.outputs.iter().flatten().filter(|v| encoded.contains_key(v));
        let Some(&out) = outputs.next() else { continue };
        for &v in outputs {
            unite(&mut parent, out, v);
        }
        for &v in data.iter().filter(|v| encoded.contains_key(v)) {
            // A part that others read too keeps its own, finer scale; a constant fits its scale to itself.
            let alone = uses.readers(v).len() == 1 && !graph.is_output(v) && graph.value(v).constant.is_none();
            if node.op != Op::Concat || alone {
                unite(&mut parent, out, v);
            }
        }
    }
    let mut groups: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
    for &v in encoded.keys() {
        groups.entry(root(&mut parent, v)).or_default().push(v);
    }
    groups.into_values().map(|members| group(graph, uses, chosen, recipe, members)).collect()
}

fn root(parent: &mut BTreeMap<ValueId, ValueId>, mut v: ValueId) -> ValueId {
    while parent[&v] != v {
        let above = parent[&parent[&v]];
        parent.insert(v, above);
        v = above;
    }
    v
}

/// The smaller id becomes the root, so that a group is known by its first member.
fn unite(parent: &mut BTreeMap<ValueId, ValueId>, a: ValueId, b: ValueId) {
    let (a, b) = (root(parent, a), root(parent, b));
    parent.insert(a.max(b), a.min(b));
}

fn group(graph: &Graph, uses: &Uses, chosen: &Chosen, recipe: &Recipe, members: Vec<ValueId>) -> (Group, Scheme) {
    let mut group = Group { members, sources: Vec::new(), pinned: None, observer: recipe.observer };
    let mut scheme = recipe.activations.scheme();
    let (mut observer, mut storage): (Option<Observer>, _) = (None, None);
    for &v in &group.members {
        let producer = uses.producer(v);
        if let Some(exception) = producer.and_then(|p| recipe.override_of(&graph.node(p).name)) {
            observer = observer.or(exception.observer);
            storage = storage.or(exception.storage);
        }
        if let Some(range) = producer.and_then(|p| by_nature(graph.node(p).op)) {
            group.pinned = Some(group.pinned.map_or(range, |p| p.union(range)));
        } else if !producer.is_some_and(|p| only_moves(graph, chosen, p, &group.members)) {
            group.sources.push(v);
        }
    }
    group.observer = observer.unwrap_or(recipe.observer);
    if let Some(storage) = storage {
        (scheme.storage, (scheme.qmin, scheme.qmax)) = (storage, storage.full_range());
    }
    (group, scheme)
}

/// The range that results of an operator have whatever goes in.
fn by_nature(op: Op) -> Option<Range> {
    match op {
        Op::Softmax | Op::Sigmoid | Op::HardSigmoid => Some(Range { min: 0.0, max: 1.0 }),
        Op::Tanh => Some(Range { min: -1.0, max: 1.0 }),
        _ => None,
    }
}

/// Whether all that a node makes are values of `members`, or zero.
fn only_moves(graph: &Graph, chosen: &Chosen, id: NodeId, members: &[ValueId]) -> bool {
    let Some(Form::Optional { data, kind: Kind::Moves }) = chosen.integer.get(&id) else { return false };
    let node = graph.node(id);
    let fills = node.op == Op::Pad && form::pad_value(graph, node) != Some(0.0);
    !fills && data.iter().all(|v| members.binary_search(v).is_ok())
}
