//! Add of what a weighted step makes: into its bias, or as its residual.

use super::open_tail;
use crate::compile::Lowering;
use crate::coverage::Status;
use crate::error::Result;
use crate::layout::Layout;
use crate::program::SlotId;
use crate::steps::Step;
use quantal_ir::{NodeId, Op, ValueId};
use quantal_tensor::Tensor;

/// Fuses an Add into the step that makes one of its operands.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Result<bool> {
    let node = l.graph.node(id);
    let (Op::Add, Some(a), Some(b), Some(y)) = (node.op, node.input(0), node.input(1), node.output(0)) else {
        return Ok(false);
    };
    if a == b {
        return Ok(false);
    }
    for (sum, other) in [(a, b), (b, a)] {
        if let Some(constant) = l.constant(other)? {
            return Ok(bias(l, id, sum, &constant, y));
        }
    }
    // The step that comes later has less to wait for.
    let order = |l: &Lowering<'_>, v: ValueId| l.own_slot(v, l.layout(v)).and_then(|s| l.writer_index(s));
    let pairs = if order(l, a) >= order(l, b) { [(a, b), (b, a)] } else { [(b, a), (a, b)] };
    for (sum, other) in pairs {
        if l.same_shape(sum, other) && residual(l, id, sum, other, y)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A constant row or scalar goes into the bias.
fn bias(l: &mut Lowering<'_>, id: NodeId, sum: ValueId, constant: &Tensor, y: ValueId) -> bool {
    let rank = l.rank(sum);
    let (Some(values), Some(rank)) = (constant.get::<f32>(), rank) else { return false };
    let Some((_, slot, layout)) = open_tail(l, sum, &[id]) else { return false };
    // The axis of the output's channels, counted from the end.
    let from_end = if layout == Layout::ChannelsLast { rank - 1 } else { 1 };
    let shape = constant.shape();
    let channel = shape.len().checked_sub(from_end);
    let others_are_one = shape.iter().enumerate().all(|(i, &d)| d == 1 || Some(i) == channel);
    if shape.len() > rank || !others_are_one {
        return false;
    }
    let Some(row) = l.step_mut(slot) else { return false };
    let (tail, n) = match &mut row.step {
        Step::Conv(conv) => {
            let n = conv.channels_out();
            (&mut conv.tail, n)
        }
        Step::Product(product) => {
            let n = product.n();
            (&mut product.tail, n)
        }
        _ => return false,
    };
    if !tail.is_open() || (values.len() != n && values.len() != 1) {
        return false;
    }
    let more = |i: usize| if values.len() == 1 { values[0] } else { values[i] };
    tail.bias = Some(match tail.bias.take() {
        Some(bias) => bias.iter().enumerate().map(|(i, b)| b + more(i)).collect(),
        None => (0..n).map(more).collect(),
    });
    let into = row.node;
    done(l, id, into, y, layout, slot);
    true
}

/// A tensor of the same shape goes into the epilogue; the step then runs when both are there.
fn residual(l: &mut Lowering<'_>, id: NodeId, sum: ValueId, other: ValueId, y: ValueId) -> Result<bool> {
    let Some((tail, slot, layout)) = open_tail(l, sum, &[id]) else { return Ok(false) };
    if !tail.is_open() {
        return Ok(false);
    }
    tail.residual = true;
    let added = l.slot(other, layout)?;
    let Some(mut row) = l.take_step(slot) else { return Ok(false) };
    row.inputs.push(Some(added));
    let into = row.node;
    l.put_step(row);
    done(l, id, into, y, layout, slot);
    Ok(true)
}

fn done(l: &mut Lowering<'_>, id: NodeId, into: NodeId, y: ValueId, layout: Layout, slot: SlotId) {
    l.set(id, Status::Fused { into });
    l.take_over(y, layout, slot);
}
