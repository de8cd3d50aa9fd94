//! Pooling and means of codes.

use super::codes::{self, Target};
use super::{Rule, attr, table};
use crate::compile::Lowering;
use crate::coverage::Reason;
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::qpool::{Kind, QMean, QPool};
use quantal_ir::op::pool::PoolAttrs;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{Node, NodeId, Op};

/// AveragePool, GlobalAveragePool and ReduceMean.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let x = codes::operand(l, node.input(0))?;
    let y = node.output(0).ok_or(Reason::OutputNotQuantized)?;
    let target = codes::target(l, y)?;
    let rank = l.rank(x.value);
    let refused = |text: &str| Reason::Attribute(text.to_owned());
    let (step, layout, rank_out) = match node.op {
        Op::AveragePool => {
            let attrs = window(l, &node)?;
            let step = QPool { kind: Kind::Average, attrs, x: x.codes, y: target.codes };
            (Step::QPool(Box::new(step)), Layout::ChannelsLast, rank)
        }
        Op::GlobalAveragePool => {
            let rank = rank.filter(|&r| r >= 3).ok_or_else(|| refused("its input has no spatial axes"))?;
            let step = QMean { x: x.codes, y: target.codes, first: 1, count: rank - 2, keep: true };
            (Step::QMean(step), Layout::ChannelsLast, Some(rank))
        }
        _ => {
            let rank = rank.ok_or_else(|| refused("the rank of its input is not known"))?;
            let (first, count, layout) = reduced_axes(l, &node, rank)?;
            let keep = attr(l, node.attrs.flag("keepdims", true))?;
            let step = QMean { x: x.codes, y: target.codes, first, count, keep };
            (Step::QMean(step), layout, Some(if keep { rank } else { rank - count }))
        }
    };
    let from = l.slot(x.value, layout)?;
    // Without its spatial axes a tensor is the same in both layouts.
    let out_layout = if rank_out.is_some_and(|r| r < 3) { Layout::Standard } else { layout };
    let to = target.define(l, out_layout, rank_out);
    l.emit(id, step, vec![Some(from)], vec![Some(to)]);
    target.done(l, id, "mean_codes");
    Ok(())
}

/// The axes of a ReduceMean as they lie in a layout, if they lie next to each other: the first and their number. All
/// spatial axes are taken channels-last, as convolutions leave them.
fn reduced_axes(l: &mut Lowering<'_>, node: &Node, rank: usize) -> Rule<(usize, usize, Layout)> {
    let given = match node.input(1) {
        Some(v) => l.constant(v)?.and_then(|t| t.to_i64_vec()),
        None => attr(l, node.attrs.ints("axes"))?.map(<[i64]>::to_vec),
    };
    let other = || Reason::Attribute("a mean over axes that do not lie next to each other, or of all axes".into());
    let mut axes = Vec::new();
    for a in given.ok_or_else(other)? {
        axes.push(attr(l, normalize_axis(a, rank))?);
    }
    axes.sort_unstable();
    axes.dedup();
    let Some(&first) = axes.first() else { return Err(other().into()) };
    if rank >= 3 && axes.iter().copied().eq(2..rank) && axes.len() > 1 {
        return Ok((1, rank - 2, Layout::ChannelsLast));
    }
    if axes.iter().copied().eq(first..first + axes.len()) {
        return Ok((first, axes.len(), Layout::Standard));
    }
    Err(other().into())
}

fn window(l: &Lowering<'_>, node: &Node) -> Rule<PoolAttrs> {
    let attrs = attr(l, PoolAttrs::of(&node.attrs))?;
    let most = if node.op == Op::MaxPool { 3 } else { 2 };
    if !(1..=most).contains(&attrs.window.kernel.len()) {
        let text = if most == 3 {
            "only one to three spatial axes have an integer form"
        } else {
            "only means over one or two spatial axes have an integer form"
        };
        return Err(Reason::Attribute(text.into()).into());
    }
    Ok(attrs)
}

/// MaxPool: the largest code is the code of the largest value.
pub(super) fn maximum(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let x = codes::operand(l, node.input(0))?;
    let y = node.output(0).ok_or(Reason::OutputNotQuantized)?;
    if node.output(1).is_some_and(|i| !l.uses.readers(i).is_empty() || l.is_kept(i)) {
        return Err(Reason::Attribute("its indices are read".into()).into());
    }
    let target: Target = codes::target(l, y)?;
    let attrs = window(l, &node)?;
    let (from, rank) = (l.slot(x.value, Layout::ChannelsLast)?, l.rank(x.value));
    let step = Step::QPool(Box::new(QPool { kind: Kind::Max, attrs, x: x.codes, y: x.codes }));
    if x.codes == target.codes {
        let to = target.define(l, Layout::ChannelsLast, rank);
        l.emit(id, step, vec![Some(from)], vec![Some(to)]);
    } else {
        let pooled = l.new_slot(Layout::ChannelsLast, rank);
        l.emit(id, step, vec![Some(from)], vec![Some(pooled)]);
        let to = target.define(l, Layout::ChannelsLast, rank);
        let over = Step::Lut(Box::new(table::requantize(x.codes, target.codes)));
        l.emit(id, over, vec![Some(pooled)], vec![Some(to)]);
    }
    target.done(l, id, "max_pool_codes");
    Ok(())
}
