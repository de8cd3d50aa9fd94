//! Softmax of codes over the last axis, with the attention mask that is added before it.

use super::codes::Operand;
use super::{Rule, Stop, attr, codes};
use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::qrows::QSoftmax;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{Node, NodeId, Op, ValueId};
use quantal_tensor::DType;

pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let x = codes::operand(l, node.input(0))?;
    let y = node.output(0).ok_or(Reason::OutputNotQuantized)?;
    let target = codes::target(l, y)?;
    let (layout, rank) = last_axis(l, &node, x)?;
    let from = l.slot(x.value, layout)?;
    let to = target.define(l, layout, Some(rank));
    let step = QSoftmax::new(x.codes, target.codes);
    l.emit(id, Step::QSoftmax(Box::new(step)), vec![Some(from)], vec![Some(to)]);
    target.done(l, id, "softmax_codes");
    Ok(())
}

/// The layout in which the axis of a Softmax lies last, and the rank.
fn last_axis(l: &Lowering<'_>, node: &Node, x: Operand) -> Rule<(Layout, usize)> {
    let rank = l.rank(x.value).ok_or_else(|| Reason::Attribute("the rank of its input is not known".into()))?;
    let axis = attr(l, node.attrs.int_or("axis", -1).and_then(|a| normalize_axis(a, rank)))?;
    // The channels of a channels-last tensor are its last axis too.
    match axis {
        1 if rank >= 3 => Ok((Layout::ChannelsLast, rank)),
        _ if axis == rank - 1 => Ok((Layout::Standard, rank)),
        _ => Err(Reason::Attribute("its axis is neither the last nor that of the channels".into()).into()),
    }
}

/// An Add of codes and floats that only a Softmax in codes reads: the floats are its mask. They stay out of the codes,
/// whose range a −10⁹ would ruin: arith (8) adds them as integers. False if the Add is none such.
pub(super) fn masked(l: &mut Lowering<'_>, add: NodeId, inputs: [ValueId; 2], sum: ValueId) -> Rule<bool> {
    let Some(id) = l.sole_reader(sum).filter(|id| l.graph.node(*id).op == Op::Softmax) else { return Ok(false) };
    let mut found = None;
    for [scores, mask] in [inputs, [inputs[1], inputs[0]]] {
        match (codes::operand(l, Some(scores)), codes::operand(l, Some(mask))) {
            (Err(Stop::Failed(e)), _) | (_, Err(Stop::Failed(e))) => return Err(e.into()),
            (Ok(x), Err(Stop::Refused(_))) if l.graph.value(mask).dtype == Some(DType::F32) => found = Some((x, mask)),
            _ => {}
        }
    }
    let Some((x, mask)) = found else { return Ok(false) };
    let node = l.graph.node(id).clone();
    let target = codes::target(l, node.output(0).ok_or(Reason::OutputNotQuantized)?)?;
    // The mask may have more dimensions, but not where the layout differs.
    let (Layout::Standard, rank) = last_axis(l, &node, x)? else { return Ok(false) };
    let Some(mask_rank) = l.rank(mask) else { return Ok(false) };
    if mask_rank > rank {
        return Ok(false);
    }
    let step = QSoftmax::masked(x.codes, target.codes)
        .ok_or_else(|| Reason::Attribute("the scale of its scores is too small for a mask".into()))?;
    let inputs = vec![Some(l.slot(x.value, Layout::Standard)?), Some(l.slot(mask, Layout::Standard)?)];
    let to = target.define(l, Layout::Standard, Some(rank));
    l.emit(id, Step::QSoftmax(Box::new(step)), inputs, vec![Some(to)]);
    target.done(l, id, "softmax_codes");
    l.set(add, Status::Fused { into: id });
    Ok(true)
}
