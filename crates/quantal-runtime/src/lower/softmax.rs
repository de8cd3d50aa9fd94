//! Softmax of codes over the last axis.

use super::{Rule, attr, codes};
use crate::compile::Lowering;
use crate::coverage::Reason;
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::qpool::QSoftmax;
use quantal_ir::NodeId;
use quantal_ir::op::quant::normalize_axis;

pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let x = codes::operand(l, node.input(0))?;
    let y = node.output(0).ok_or(Reason::OutputNotQuantized)?;
    let target = codes::target(l, y)?;
    let rank = l.rank(x.value).ok_or_else(|| Reason::Attribute("the rank of its input is not known".into()))?;
    let axis = attr(l, node.attrs.int_or("axis", -1).and_then(|a| normalize_axis(a, rank)))?;
    // The channels of a channels-last tensor are its last axis too.
    let layout = match (axis, l.layout(x.value)) {
        (1, Layout::ChannelsLast) if rank >= 3 => Layout::ChannelsLast,
        _ if axis == rank - 1 => Layout::Standard,
        _ => return Err(Reason::Attribute("its axis is not the last".into()).into()),
    };
    let from = l.slot(x.value, layout)?;
    let to = target.define(l, layout, Some(rank));
    l.emit(id, Step::QSoftmax(QSoftmax::new(x.codes, target.codes)), vec![Some(from)], vec![Some(to)]);
    target.done(l, id, "softmax_codes");
    Ok(())
}
