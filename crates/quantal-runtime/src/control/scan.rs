//! Scan: a subprogram run once for each element of some values along an axis of each.

use super::{ScanOutput, bytes_of, captured, part};
use crate::compile::Lowering;
use crate::error::{Error, Result};
use crate::ops::{Inputs, OpError, required};
use crate::program::{Program, SlotId, StepRow};
use crate::session::{Run, Watch};
use crate::steps::Step;
use quantal_ir::{Node, NodeId};
use quantal_tensor::{Bytes, Tensor};

/// The body of a Scan. The step reads the states and the scanned values, then what the body captures.
#[derive(Debug)]
pub struct Scan {
    body: Program,
    /// Values carried from turn to turn.
    states: usize,
    inputs: Vec<Along>,
    outputs: Vec<Along>,
}

/// How a value is taken apart, or put together.
#[derive(Clone, Copy, Debug)]
struct Along {
    /// Negative: from the last one.
    axis: i64,
    /// From the end to the beginning.
    reversed: bool,
}

impl Along {
    /// The axis, from 0, in `rank` of them.
    fn axis_of(self, rank: usize) -> std::result::Result<usize, OpError> {
        let axis = if self.axis < 0 { self.axis.saturating_add(rank as i64) } else { self.axis };
        let found = usize::try_from(axis).ok().filter(|&a| a < rank);
        found.ok_or_else(|| OpError::invalid(format!("axis {} in a value of {rank} dimensions", self.axis)))
    }
}

/// Lowers a Scan whose inputs lie in `inputs`, to which it appends what the body captures.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId, inputs: &mut Vec<Option<SlotId>>) -> Result<Step> {
    let graph = l.graph;
    let node = graph.node(id);
    let count = node.attrs.int("num_scan_inputs").map_err(|e| l.error(e.into()))?.unwrap_or(0);
    let count = usize::try_from(count).ok().filter(|&n| n > 0 && n <= inputs.len());
    let count = count.ok_or_else(|| l.error(OpError::invalid("`num_scan_inputs` does not fit the inputs")))?;
    let states = inputs.len() - count;

    let body = part(l, id, "body", inputs)?;
    if body.inputs.len() != states + count || body.outputs.len() < states.max(node.outputs.len()) {
        let text = "the body must take the states and one element of each scanned value, and give states and elements";
        return Err(l.error(OpError::invalid(text)));
    }
    let made = body.outputs.len() - states;
    let along = |kind: &str, n: usize| along(node, kind, n).map_err(|e| l.error(e));
    let (inputs, outputs) = (along("scan_input", count)?, along("scan_output", made)?);
    Ok(Step::Scan(Box::new(Scan { body, states, inputs, outputs })))
}

/// Axes and directions of `n` values; axis 0 and forward where they are left out.
fn along(node: &Node, kind: &str, n: usize) -> std::result::Result<Vec<Along>, OpError> {
    let list = |what: &str| -> std::result::Result<Vec<i64>, OpError> {
        let name = format!("{kind}_{what}");
        let given = node.attrs.ints(&name)?.map_or_else(|| vec![0; n], <[i64]>::to_vec);
        if given.len() != n {
            return Err(OpError::Invalid(format!("`{name}` has {} entries for {n} values", given.len())));
        }
        Ok(given)
    };
    let (axes, directions) = (list("axes")?, list("directions")?);
    Ok(axes.into_iter().zip(directions).map(|(axis, d)| Along { axis, reversed: d != 0 }).collect())
}

/// Runs a Scan.
pub(crate) fn run_scan(s: &Scan, inputs: &Inputs<'_>, run: &mut Run<'_>, row: &StepRow) -> Result<Vec<Tensor>> {
    let fail = |cause| Error::in_step(row, cause);
    let mut states = Vec::with_capacity(s.states);
    for i in 0..s.states {
        states.push(required(inputs, i).map_err(fail)?.clone());
    }
    let mut scanned = Vec::with_capacity(s.inputs.len());
    for (i, along) in s.inputs.iter().enumerate() {
        let tensor = required(inputs, s.states + i).map_err(fail)?;
        scanned.push((tensor, along.axis_of(tensor.rank()).map_err(fail)?, along.reversed));
    }
    let lengths: Vec<usize> = scanned.iter().map(|(t, axis, _)| t.shape()[*axis]).collect();
    let turns = lengths[0];
    if lengths.iter().any(|&n| n != turns) {
        return Err(fail(OpError::invalid(format!("the scanned values have {lengths:?} elements"))));
    }

    let outside = captured(&s.body, &inputs[s.states + s.inputs.len()..]);
    let mut gathered: Vec<ScanOutput> = s.outputs.iter().map(|_| ScanOutput::default()).collect();
    run.loops.enter(&row.name);
    for turn in 0..turns {
        run.loops.turn(turn as u64, s.body.slots.len() + outside.len())?;
        let before = bytes_of(&states);
        let mut values = std::mem::take(&mut states);
        for &(tensor, axis, reversed) in &scanned {
            let index = if reversed { turns - 1 - turn } else { turn };
            values.push(element(tensor, axis, index).map_err(fail)?);
        }
        let mut given = outside.clone();
        given.extend(s.body.inputs.iter().map(|i| i.slot).zip(values));

        let mut results = run.program(&s.body, given, Watch::default())?.into_iter();
        states.extend(results.by_ref().take(s.states));
        run.loops.grow(bytes_of(&states).saturating_sub(before))?;
        for (output, tensor) in gathered.iter_mut().zip(results) {
            run.loops.grow(tensor.bytes().len())?;
            output.push(&tensor).map_err(fail)?;
            run.env.pool.count(&tensor);
            run.env.pool.give_back(tensor);
        }
    }
    run.loops.leave();

    for ((output, along), declared) in gathered.into_iter().zip(&s.outputs).zip(&s.body.outputs[s.states..]) {
        let stacked = output.finish(declared, turns)?;
        states.push(arranged(stacked, *along).map_err(fail)?);
    }
    Ok(states)
}

/// Bytes of `n` elements next to each other.
fn bytes_in(tensor: &Tensor, n: usize) -> usize {
    tensor.bytes().len().checked_div(tensor.len()).unwrap_or(0) * n
}

/// The part of a tensor at `index` of an axis, without that axis.
fn element(tensor: &Tensor, axis: usize, index: usize) -> std::result::Result<Tensor, OpError> {
    let shape = tensor.shape();
    let inner = bytes_in(tensor, shape[axis + 1..].iter().product());
    let rest = [&shape[..axis], &shape[axis + 1..]].concat();
    let outer: usize = shape[..axis].iter().product();

    let mut bytes = Bytes::zeroed(outer * inner).map_err(quantal_tensor::TensorError::from)?;
    if inner > 0 {
        let to = bytes.make_mut().map_err(quantal_tensor::TensorError::from)?.chunks_exact_mut(inner);
        let from = tensor.bytes().chunks_exact(inner).skip(index).step_by(shape[axis]);
        to.zip(from).for_each(|(to, from)| to.copy_from_slice(from));
    }
    Ok(Tensor::from_bytes(tensor.dtype(), &rest, bytes)?)
}

/// `[turns, …]` with the turns along another axis, or backwards.
fn arranged(stacked: Tensor, along: Along) -> std::result::Result<Tensor, OpError> {
    let axis = along.axis_of(stacked.rank())?;
    if axis == 0 && !along.reversed {
        return Ok(stacked);
    }
    let (turns, one) = (stacked.shape()[0], &stacked.shape()[1..]);
    let inner = bytes_in(&stacked, one[axis..].iter().product());
    let outer: usize = one[..axis].iter().product();
    let shape = [&one[..axis], &[turns], &one[axis..]].concat();

    let mut bytes = Bytes::zeroed(stacked.bytes().len()).map_err(quantal_tensor::TensorError::from)?;
    if inner > 0 {
        let from: Vec<&[u8]> = stacked.bytes().chunks_exact(inner).collect();
        let to = bytes.make_mut().map_err(quantal_tensor::TensorError::from)?.chunks_exact_mut(inner);
        for (i, to) in to.enumerate() {
            let (o, turn) = (i / turns, i % turns);
            let turn = if along.reversed { turns - 1 - turn } else { turn };
            to.copy_from_slice(from[turn * outer + o]);
        }
    }
    Ok(Tensor::from_bytes(stacked.dtype(), &shape, bytes)?)
}
