//! Pooling channels-last, and reduction over axes that lie together in memory.

use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::error::Result;
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::pool::{Reduction, Window};
use quantal_ir::op::pool::PoolAttrs;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{NodeId, Op};
use quantal_kernels::float::{Pool, Reduce};

/// Lowers MaxPool, AveragePool, the global pools and reductions of float32.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId, reason: &Reason) -> Result<bool> {
    let node = l.graph.node(id);
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
    let Some(rank) = l.rank(x).filter(|_| l.is_f32(x)) else { return Ok(false) };
    let (axes, kind, keep) = match node.op {
        Op::MaxPool | Op::AveragePool => return window(l, id, reason),
        Op::GlobalAveragePool if rank >= 3 => ((2..rank).collect(), Reduce::Mean, true),
        Op::GlobalMaxPool if rank >= 3 => ((2..rank).collect(), Reduce::Max, true),
        Op::ReduceMean | Op::ReduceMax | Op::ReduceMin | Op::ReduceSum | Op::ReduceProd => {
            let kind = match node.op {
                Op::ReduceMean => Reduce::Mean,
                Op::ReduceMax => Reduce::Max,
                Op::ReduceMin => Reduce::Min,
                Op::ReduceSum => Reduce::Sum,
                _ => Reduce::Product,
            };
            let keep = node.attrs.flag("keepdims", true).map_err(|e| l.error(e.into()))?;
            let given = match node.input(1) {
                Some(v) => l.constant(v)?.and_then(|t| t.to_i64_vec()),
                None => node.attrs.ints("axes").map_err(|e| l.error(e.into()))?.map(<[i64]>::to_vec),
            };
            let Some(given) = given.filter(|a| !a.is_empty()) else { return Ok(false) };
            let mut axes = Vec::with_capacity(given.len());
            for a in given {
                axes.push(normalize_axis(a, rank).map_err(|e| l.error(e.into()))?);
            }
            (axes, kind, keep)
        }
        _ => return Ok(false),
    };
    let layout = l.layout(x);
    // Without the channels in their place the result is in no layout at all; what is left of [N, C] is standard.
    let spatial: Vec<usize> = (2..rank).collect();
    let mut sorted: Vec<usize> = axes;
    sorted.sort_unstable();
    let (layout, to) = match layout {
        Layout::ChannelsLast if keep => (layout, layout),
        Layout::ChannelsLast if sorted == spatial => (layout, Layout::Standard),
        Layout::ChannelsLast | Layout::Standard => (Layout::Standard, Layout::Standard),
    };
    let mut places: Vec<usize> = sorted.iter().map(|&a| layout.physical_axis(a, rank)).collect();
    places.sort_unstable();
    let Some(&first) = places.first() else { return Ok(false) };
    if !places.iter().copied().eq(first..first + places.len()) {
        return Ok(false);
    }
    let input = l.slot(x, layout)?;
    let output = l.define(y, to, Some(if keep { rank } else { rank - places.len() }));
    let step = Step::Reduce(Reduction { kind, first, count: places.len(), keep });
    l.emit(id, step, vec![Some(input)], vec![Some(output)]);
    l.set(id, Status::Float { reason: reason.clone() });
    Ok(true)
}

fn window(l: &mut Lowering<'_>, id: NodeId, reason: &Reason) -> Result<bool> {
    let node = l.graph.node(id);
    let (Some(x), Some(y), None) = (node.input(0), node.output(0), node.output(1)) else { return Ok(false) };
    let attrs = PoolAttrs::of(&node.attrs).map_err(|e| l.error(e.into()))?;
    let spatial = attrs.window.kernel.len();
    if !(1..=2).contains(&spatial) || l.rank(x) != Some(spatial + 2) {
        return Ok(false);
    }
    let kind = match (node.op, attrs.count_include_pad) {
        (Op::MaxPool, _) => Pool::Max,
        (_, true) => Pool::MeanWithPadding,
        (_, false) => Pool::Mean,
    };
    let input = l.slot(x, Layout::ChannelsLast)?;
    let output = l.define(y, Layout::ChannelsLast, Some(spatial + 2));
    l.emit(id, Step::Pool(Box::new(Window { attrs, kind })), vec![Some(input)], vec![Some(output)]);
    l.set(id, Status::Float { reason: reason.clone() });
    Ok(true)
}
