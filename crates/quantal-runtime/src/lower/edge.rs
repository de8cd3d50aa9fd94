//! QuantizeLinear and DequantizeLinear by themselves: where floats enter and leave the integer part of a graph.

use super::codes::{clip_behind, is_dequantize, is_quantize, per_tensor};
use super::{Rule, Stop};
use crate::compile::Lowering;
use crate::coverage::Status;
use crate::error::Result;
use crate::steps::Step;
use crate::steps::edge::Edge;
use quantal_ir::{NodeId, Op};
use quantal_tensor::DType;

/// Lowers a Q or DQ node with one scale to a step in whatever layout its input has. False for any other node, and for
/// those whose scales lie along an axis or are computed while running.
pub(crate) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Result<bool> {
    match try_lower(l, id) {
        Ok(()) => Ok(true),
        Err(Stop::Refused(_)) => Ok(false),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn try_lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let refused = || Stop::from(super::codes::refusal(l, id));
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Err(refused()) };
    let float_in = l.graph.value(x).dtype == Some(DType::F32);
    if !(is_dequantize(node.op) || is_quantize(node.op) && float_in) {
        return Err(refused());
    }
    let (mut codes, mut y) = (per_tensor(l, &node)?, y);
    if is_quantize(node.op) {
        while let Some(clip) = clip_behind(l, y) {
            codes = clip.narrowed(codes);
            y = clip.y;
            l.set(clip.node, Status::Fused { into: id });
        }
    }
    let edge = if node.op == Op::QuantizeLinear || node.op == Op::MsQuantizeLinear {
        Edge::Quantize(codes)
    } else {
        Edge::Dequantize(codes)
    };
    let layout = l.layout(x);
    let (from, rank) = (l.slot(x, layout)?, l.rank(x));
    let to = l.define(y, layout, rank);
    l.emit(id, Step::Edge(edge), vec![Some(from)], vec![Some(to)]);
    l.set(id, Status::Moves);
    Ok(())
}
