//! Convolutions with constant weights: channels-last, packed.

use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::error::Result;
use crate::layout::Layout;
use crate::program::SlotId;
use crate::steps::Step;
use crate::steps::conv::Conv;
use quantal_ir::op::conv::ConvAttrs;
use quantal_ir::{Dim, NodeId, ValueId};
use quantal_tensor::DType;

/// Lowers a Conv of one or two spatial axes whose weight and bias are constants of float32.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId, reason: &Reason) -> Result<bool> {
    let node = l.graph.node(id);
    let (Some(x), Some(w), Some(y)) = (node.input(0), node.input(1), node.output(0)) else { return Ok(false) };
    let Some(weight) = l.constant(w)? else { return Ok(false) };
    if weight.dtype() != DType::F32
        || !(3..=4).contains(&weight.rank())
        || l.rank(x).is_some_and(|r| r != weight.rank())
    {
        return Ok(false);
    }
    let bias = match node.input(2) {
        None => None,
        Some(b) => match l.constant(b)?.and_then(|t| Some(t.get::<f32>()?.to_vec())) {
            Some(values) => Some(values),
            None => return Ok(false),
        },
    };
    let attrs = ConvAttrs::of(&node.attrs, weight.shape()).map_err(|e| l.error(e.into()))?;
    let mut conv = Conv::new(&l.packings, attrs, &l.spatial_sizes(x), &weight, bias).map_err(|e| l.error(e))?;
    let input = match take_before(l, x, &conv) {
        Some((before, input)) => {
            conv.before = Some(before);
            input
        }
        None => l.slot(x, Layout::ChannelsLast)?,
    };
    let output = l.define(y, Layout::ChannelsLast, Some(weight.rank()));
    l.emit(id, Step::Conv(Box::new(conv)), vec![Some(input)], vec![Some(output)]);
    l.set(id, Status::Float { reason: reason.clone() });
    Ok(true)
}

/// Bytes of a value between two convolutions from which it is worth not to make it whole: about half of a level-2 cache.
/// A smaller one stays there anyway.
const LARGE: usize = 1 << 20;

/// The convolution that makes `x` and what it reads, taken back to run together with `conv`, which alone reads `x`.
fn take_before(l: &mut Lowering<'_>, x: ValueId, conv: &Conv) -> Option<(Box<Conv>, SlotId)> {
    l.sole_reader(x)?;
    let mut sizes = l.graph.value(x).shape.as_ref()?.iter().skip(1).map(Dim::known);
    let count = sizes.try_fold(1usize, |n, size| n.checked_mul(size?))?;
    if count < LARGE / size_of::<f32>() {
        return None;
    }
    let slot = l.own_slot(x, Layout::ChannelsLast)?;
    match &l.step_mut(slot)?.step {
        Step::Conv(before) if conv.may_follow(before) => {}
        _ => return None,
    }
    let row = l.take_step(slot)?;
    match (row.step, row.inputs.first()) {
        (Step::Conv(before), Some(&Some(input))) => Some((before, input)),
        _ => unreachable!("a convolution, as seen above, reads an image"),
    }
}
