//! If, Loop and Scan, by what their subgraphs hand out. Those are inferred already.

use super::contents::Entry;
use super::dims::either;
use super::{Context, Fact, InferError};
use crate::attrs::AttrError;
use crate::graph::{Dim, Graph, Value};
use std::sync::Arc;

fn subgraph<'a>(cx: &Context<'a>, name: &'static str) -> Result<&'a Arc<Graph>, AttrError> {
    cx.attrs().graph(name)?.ok_or(AttrError::Missing(name))
}

fn outputs(graph: &Graph) -> impl ExactSizeIterator<Item = &Value> {
    graph.outputs.iter().map(|&v| graph.value(v))
}

/// If: what the branch that is taken gives, or what both have in common.
pub(super) fn branch(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let (yes, no) = (subgraph(cx, "then_branch")?, subgraph(cx, "else_branch")?);
    let wanted = cx.node.outputs.len();
    for (name, graph) in [("then_branch", yes), ("else_branch", no)] {
        if graph.outputs.len() != wanted {
            let found = graph.outputs.len();
            return Err(InferError::shape(format!("`{name}` has {found} outputs, the node {wanted}")));
        }
    }
    let condition = cx.contents(0).and_then(|c| c.entries.first().and_then(Entry::int));
    let fact = |(yes, no): (&Value, &Value)| match condition {
        Some(0) => Fact::new(no.dtype.or(yes.dtype), no.shape.clone()),
        Some(_) => Fact::new(yes.dtype.or(no.dtype), yes.shape.clone()),
        None => Fact::new(yes.dtype.or(no.dtype), either(yes.shape.as_deref(), no.shape.as_deref())),
    };
    Ok(outputs(yes).zip(outputs(no)).map(fact).collect())
}

/// Loop: values carried from turn to turn, then one list for each value scanned.
pub(super) fn repeat(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let body = subgraph(cx, "body")?;
    let carried = cx.node.inputs.len().saturating_sub(2);
    if body.inputs.len() != carried + 2 {
        let found = body.inputs.len();
        return Err(InferError::shape(format!("`body` has {found} inputs, must have {}", carried + 2)));
    }
    if body.outputs.len() != cx.node.outputs.len() + 1 || body.outputs.len() < carried + 1 {
        let (found, outputs) = (body.outputs.len(), cx.node.outputs.len());
        return Err(InferError::shape(format!(
            "`body` has {found} outputs: the node has {outputs} and carries {carried} values"
        )));
    }
    let fact = |(i, value): (usize, &Value)| {
        if i < carried {
            // Without a turn it is what came in.
            let shape = either(cx.shape(i + 2), value.shape.as_deref());
            Fact::new(value.dtype.or(cx.dtype(i + 2)), shape)
        } else {
            let turns = |s: &Vec<Dim>| std::iter::once(Dim::Unknown).chain(s.iter().cloned()).collect();
            Fact::new(value.dtype, value.shape.as_ref().map(turns))
        }
    };
    Ok(outputs(body).skip(1).enumerate().map(fact).collect())
}

/// Scan: states carried from turn to turn, then the elements of each value scanned, along an axis.
pub(super) fn scan(cx: &Context<'_>) -> Result<Vec<Fact>, InferError> {
    let body = subgraph(cx, "body")?;
    let scanned = cx.attrs().int("num_scan_inputs")?.ok_or(AttrError::Missing("num_scan_inputs"))?;
    let inputs = cx.node.inputs.len();
    let states = usize::try_from(scanned).ok().and_then(|n| inputs.checked_sub(n)).filter(|&states| states < inputs);
    let states = states.ok_or_else(|| {
        InferError::shape(format!("`num_scan_inputs` is {scanned}, and the node has {inputs} inputs"))
    })?;
    if (body.inputs.len(), body.outputs.len()) != (inputs, cx.node.outputs.len()) || body.outputs.len() < states {
        let found = (body.inputs.len(), body.outputs.len());
        let wanted = (inputs, cx.node.outputs.len());
        return Err(InferError::shape(format!("`body` has {found:?} inputs and outputs, the node has {wanted:?}")));
    }

    let place = |axis: i64, rank: usize| {
        let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
        usize::try_from(axis).ok().filter(|&a| a < rank)
    };
    let axes = |name: &'static str| Ok::<_, AttrError>(cx.attrs().ints(name)?.map(<[i64]>::to_vec).unwrap_or_default());
    let (taken, made) = (axes("scan_input_axes")?, axes("scan_output_axes")?);
    let first = cx.shape(states).and_then(|s| s.get(place(taken.first().copied().unwrap_or(0), s.len())?));
    let turns = first.cloned().unwrap_or(Dim::Unknown);

    let fact = |(i, value): (usize, &Value)| {
        let Some(k) = i.checked_sub(states) else {
            // Without a turn it is what came in.
            return Fact::new(value.dtype.or(cx.dtype(i)), either(cx.shape(i), value.shape.as_deref()));
        };
        let axis = made.get(k).copied().unwrap_or(0);
        let shape = value.shape.as_ref().and_then(|s| {
            let mut shape = s.clone();
            shape.insert(place(axis, s.len() + 1)?, turns.clone());
            Some(shape)
        });
        Fact::new(value.dtype, shape)
    };
    Ok(outputs(body).enumerate().map(fact).collect())
}
