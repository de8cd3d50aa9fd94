//! Operators along named axes, on channels-last tensors: the axes are renamed and the bytes stay where they are.

use super::{prepare, status};
use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::error::Result;
use crate::layout::Layout;
use crate::steps::Step;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{Attr, Node, NodeId, Op};

/// Lowers Transpose, Concat and Split where the tensor lies channels-last.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId, reason: &Reason) -> Result<bool> {
    let node = l.graph.node(id);
    let Some(x) = node.input(0) else { return Ok(false) };
    match node.op {
        Op::Transpose => transpose(l, id),
        Op::Concat | Op::Split => {
            let Some(rank) = l.rank(x).filter(|&r| r >= 3) else { return Ok(false) };
            let data = if node.op == Op::Concat { &node.inputs[..] } else { &node.inputs[..1] };
            let any = data.iter().flatten().any(|v| l.layout(*v) == Layout::ChannelsLast);
            if !any || !data.iter().flatten().all(|v| l.rank(*v) == Some(rank)) {
                return Ok(false);
            }
            let axis =
                node.attrs.int_or("axis", 0).and_then(|a| normalize_axis(a, rank)).map_err(|e| l.error(e.into()))?;
            let mut renamed: Node = node.clone();
            renamed.attrs.set("axis", Attr::Int(Layout::ChannelsLast.physical_axis(axis, rank) as i64));
            let kernel = prepare(l, &renamed)?;
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for (i, v) in node.inputs.iter().enumerate() {
                let layout = if i < data.len() { Layout::ChannelsLast } else { Layout::Standard };
                inputs.push(v.map(|v| l.slot(v, layout)).transpose()?);
            }
            let outputs =
                node.outputs.iter().map(|v| v.map(|v| l.define(v, Layout::ChannelsLast, Some(rank)))).collect();
            l.emit(id, Step::Op(Box::new(kernel)), inputs, outputs);
            l.set(id, status(node.op, reason.clone()));
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// A Transpose that is the move between the two layouts gives the same bytes another name.
fn transpose(l: &mut Lowering<'_>, id: NodeId) -> Result<bool> {
    let node = l.graph.node(id);
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
    let (Some(rank), Ok(Some(perm))) = (l.rank(x), node.attrs.ints("perm")) else { return Ok(false) };
    let is = |axes: &[usize]| perm.len() == axes.len() && perm.iter().zip(axes).all(|(p, a)| *p == *a as i64);
    if rank < 3 {
        return Ok(false);
    }
    let to_last = Layout::ChannelsLast.axes(rank);
    // [N, C, spatial…] from what is physically [N, spatial…, C] in the standard layout.
    let to_first: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let (from, to) = if is(&to_last) && l.found(x, Layout::ChannelsLast).is_some() {
        (Layout::ChannelsLast, Layout::Standard)
    } else if is(&to_first) && l.found(x, Layout::Standard).is_some() {
        (Layout::Standard, Layout::ChannelsLast)
    } else {
        return Ok(false);
    };
    let slot = l.slot(x, from)?;
    l.share(y, to, slot);
    l.set(id, Status::Moves);
    Ok(true)
}
