//! Operators along named axes, on channels-last tensors: the axes are renamed and the bytes stay where they are.

use super::{prepare, status};
use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::error::Result;
use crate::layout::Layout;
use crate::steps::Step;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{Attr, Node, NodeId, Op};
use quantal_tensor::Tensor;
use std::sync::Arc;

/// Lowers Transpose, Concat, Split, Slice, Pad and Resize where the tensor lies channels-last.
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
        Op::Pad | Op::Resize | Op::Slice | Op::Upsample => by_constants(l, id, reason),
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

/// Operators whose axes are told by constant inputs: the same constants in the order of the axes in memory.
fn by_constants(l: &mut Lowering<'_>, id: NodeId, reason: &Reason) -> Result<bool> {
    let node = l.graph.node(id);
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
    let Some(rank) = l.rank(x).filter(|&r| r >= 3 && l.layout(x) == Layout::ChannelsLast) else { return Ok(false) };
    let mut inputs = vec![Some(l.slot(x, Layout::ChannelsLast)?)];
    if node.op == Op::Slice {
        let axes = match node.input(3) {
            Some(axes) => l.constant(axes)?.and_then(|t| t.to_i64_vec()),
            None => node.input(1).map(|s| l.constant(s)).transpose()?.flatten().map(|t| (0..t.len() as i64).collect()),
        };
        let Some(axes) = axes else { return Ok(false) };
        let mut renamed = Vec::with_capacity(axes.len());
        for axis in axes {
            let axis = normalize_axis(axis, rank).map_err(|e| l.error(e.into()))?;
            renamed.push(Layout::ChannelsLast.physical_axis(axis, rank) as i64);
        }
        for i in [1, 2] {
            inputs.push(node.input(i).map(|v| l.slot(v, Layout::Standard)).transpose()?);
        }
        let renamed = Tensor::from_slice(&[renamed.len()], &renamed).map_err(|e| l.error(e.into()))?;
        inputs.push(Some(l.constant_slot(&Arc::new(renamed), Layout::Standard)?));
        inputs.push(node.input(4).map(|v| l.slot(v, Layout::Standard)).transpose()?);
    } else {
        // A list of axes besides, or a region in their order: rare enough to move the tensor.
        let by_axes = node.attrs.get("axes").is_some() || node.attrs.get("scales").is_some();
        let region = node.op == Op::Resize
            && node.attrs.str_or("coordinate_transformation_mode", "") == Ok("tf_crop_and_resize");
        if by_axes || region || (node.op == Op::Pad && node.input(3).is_some()) {
            return Ok(false);
        }
        for (i, v) in node.inputs.iter().enumerate().skip(1) {
            let listed = match node.op {
                Op::Pad => i == 1,
                Op::Upsample => true,
                // Before version 11 the scales are the second input, since then the third; sizes are the fourth.
                _ => i >= 2 || node.inputs.len() == 2,
            };
            let slot = match v {
                Some(v) if listed => match l.constant(*v)?.map(|t| permuted(&t, rank)) {
                    Some(Some(list)) => Some(l.constant_slot(&Arc::new(list), Layout::Standard)?),
                    _ => return Ok(false),
                },
                Some(v) => Some(l.slot(*v, Layout::Standard)?),
                None => None,
            };
            inputs.push(slot);
        }
    }
    let kernel = prepare(l, node)?;
    let output = l.define(y, Layout::ChannelsLast, Some(rank));
    l.emit(id, Step::Op(Box::new(kernel)), inputs, vec![Some(output)]);
    l.set(id, status(node.op, reason.clone()));
    Ok(true)
}

/// A list of one or two numbers per axis, in the order of the axes channels-last. An empty list stays.
fn permuted(list: &Tensor, rank: usize) -> Option<Tensor> {
    if list.is_empty() {
        return Some(list.clone());
    }
    let axes = Layout::ChannelsLast.axes(rank);
    let size = list.dtype().size();
    if list.len() != rank && list.len() != 2 * rank {
        return None;
    }
    let mut out = list.clone();
    let to = out.bytes_mut().ok()?;
    for (i, to) in to.chunks_exact_mut(size).enumerate() {
        let from = i / rank * rank + axes[i % rank];
        to.copy_from_slice(&list.bytes()[from * size..(from + 1) * size]);
    }
    Some(out)
}
