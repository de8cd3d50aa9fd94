//! Operators that move or select codes: the bytes of the operator as they are, where input and output are encoded alike.
//! A part that is encoded otherwise is brought over by a table first, in the step that makes it if it is made for nobody
//! else.

use super::codes::{self, Operand, Target};
use super::{Rule, attr, prepared, table};
use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::fuse::Joined;
use crate::layout::Layout;
use crate::ops::OpKernel;
use crate::program::SlotId;
use crate::steps::Step;
use crate::steps::codes::Codes;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{Attr, Node, NodeId, Op, ValueId};
use quantal_tensor::{Tensor, arith};
use std::sync::Arc;

/// Codes that are others transposed: a product may read those instead, with strides.
pub(crate) struct Transposed {
    /// The Transpose.
    pub(super) node: NodeId,
    /// The value that it reads, in the standard layout.
    pub(super) from: ValueId,
    /// Its axes.
    pub(super) perm: Vec<usize>,
}

pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    match node.op {
        Op::Concat => concat(l, id, &node),
        Op::Split => split(l, id, &node),
        Op::Resize if attr(l, node.attrs.str_or("mode", "nearest"))? != "nearest" => {
            Err(Reason::Attribute("only the nearest mode moves codes".into()).into())
        }
        _ => single(l, id, &node),
    }
}

/// The slot of an operand in a layout, brought to other scales if need be.
fn in_codes(l: &mut Lowering<'_>, id: NodeId, x: Operand, to: Codes, layout: Layout) -> Rule<SlotId> {
    let slot = l.slot(x.value, layout)?;
    if same_codes(x.codes, to) {
        return Ok(slot);
    }
    let requantize = table::requantize(x.codes, to);
    // Who makes codes for this operator alone makes the others instead; and for one input of it, or they would be brought
    // over twice.
    let alone = l.sole_reader(x.value).and_then(|dq| l.sole_reader(l.graph.node(dq).output(0)?)) == Some(id);
    if alone && let Some(end) = l.own_slot(x.value, layout).and_then(|s| table::open_end(l, s)) {
        end.table = Some((requantize.table, to));
        return Ok(slot);
    }
    let rank = l.rank(x.value);
    let moved = l.new_slot(layout, rank);
    l.emit(id, Step::Lut(Box::new(requantize)), vec![Some(slot)], vec![Some(moved)]);
    Ok(moved)
}

/// Whether codes mean the same and none that one holds is outside of what the other may.
fn same_codes(from: Codes, to: Codes) -> bool {
    from.signed == to.signed
        && from.affine.scale == to.affine.scale
        && from.affine.zero_point == to.affine.zero_point
        && to.affine.qmin <= from.affine.qmin
        && to.affine.qmax >= from.affine.qmax
}

/// One tensor in, one out, in the standard layout or, for padding and nearest resizing, where it lies.
fn single(l: &mut Lowering<'_>, id: NodeId, node: &Node) -> Rule<()> {
    let x = codes::operand(l, node.input(0))?;
    let y = node.output(0).ok_or(Reason::OutputNotQuantized)?;
    let target = codes::target(l, y)?;
    let rank = l.rank(x.value);
    let mut node = node.clone();
    if matches!(node.op, Op::Reshape | Op::Flatten | Op::Squeeze | Op::Unsqueeze | Op::Identity | Op::Transpose)
        && let Some(done) = relabel(l, id, &node, x, &target)?
    {
        return Ok(done);
    }
    let transposed = if node.op == Op::Transpose && same_codes(x.codes, target.codes) {
        let perm = permutation(l, &node, x)?;
        if let Some(perm) = &perm
            && into_product(l, id, x, perm, &target)
        {
            return Ok(());
        }
        perm.filter(|_| l.layout(x.value) == Layout::Standard)
    } else {
        None
    };
    let pad = if node.op == Op::Pad { Some(pad_code(l, &node, target.codes)?) } else { None };
    // An operator on codes reads its other inputs, shapes and indices, as they are.
    node.origin = None;
    let kernel = prepared(l, OpKernel::prepare(&node, l.graph.opset()))?;
    let mut inputs = vec![Some(in_codes(l, id, x, target.codes, Layout::Standard)?)];
    for v in node.inputs.iter().skip(1) {
        inputs.push(v.map(|v| l.slot(v, Layout::Standard)).transpose()?);
    }
    if let Some(code) = pad {
        inputs.resize(inputs.len().max(3), None);
        inputs[2] = Some(l.constant_slot(&code, Layout::Standard)?);
    }
    let rank_out = l.graph.value(y).rank().or(rank);
    let to = target.define(l, Layout::Standard, rank_out);
    l.emit(id, Step::Op(Box::new(kernel)), inputs, vec![Some(to)]);
    target.done(l, id, "bytes");
    if let Some(perm) = transposed {
        for v in target.values() {
            l.transposed.insert(v, Transposed { node: id, from: x.value, perm: perm.clone() });
        }
    }
    Ok(())
}

/// The axes of a Transpose, if the rank is known.
fn permutation(l: &Lowering<'_>, node: &Node, x: Operand) -> Rule<Option<Vec<usize>>> {
    let Some(rank) = l.rank(x.value) else { return Ok(None) };
    let Some(perm) = attr(l, node.attrs.ints("perm"))? else { return Ok(Some((0..rank).rev().collect())) };
    let perm: Vec<usize> = perm.iter().filter_map(|&p| usize::try_from(p).ok()).collect();
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    Ok(sorted.into_iter().eq(0..rank).then_some(perm))
}

/// Lets the product that makes `x` write it transposed, if nobody else reads it. False if it cannot.
fn into_product(l: &mut Lowering<'_>, id: NodeId, x: Operand, perm: &[usize], target: &Target) -> bool {
    let alone = codes::readers_of_codes(l, x.value).is_some_and(|r| r == [id]);
    let Some(slot) = l.own_slot(x.value, Layout::Standard).filter(|_| alone) else { return false };
    let Some(row) = l.step_mut(slot) else { return false };
    let into = row.node;
    match &mut row.step {
        Step::QMatMul(product) if product.y_perm.is_none() && perm.last() == Some(&(perm.len() - 1)) => {
            product.y_perm = Some(perm.to_vec());
        }
        _ => return false,
    }
    target.take_over(l, Layout::Standard, slot);
    target.fused(l, into);
    l.set(id, Status::Fused { into });
    true
}

/// A Transpose between the two layouts only gives the bytes another name.
fn relabel(l: &mut Lowering<'_>, id: NodeId, node: &Node, x: Operand, target: &Target) -> Rule<Option<()>> {
    if node.op != Op::Transpose || !same_codes(x.codes, target.codes) {
        return Ok(None);
    }
    // Of rank 3 are sequences more often than images: rows of a transformer must not pass for channels.
    let (Some(rank), Some(perm)) = (l.rank(x.value).filter(|&r| r >= 4), attr(l, node.attrs.ints("perm"))?) else {
        return Ok(None);
    };
    let is = |axes: &[usize]| perm.len() == axes.len() && perm.iter().zip(axes).all(|(p, a)| *p == *a as i64);
    let to_first: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let (from, to) = if is(&Layout::ChannelsLast.axes(rank)) && l.found(x.value, Layout::ChannelsLast).is_some() {
        (Layout::ChannelsLast, Layout::Standard)
    } else if is(&to_first) && l.found(x.value, Layout::Standard).is_some() {
        (Layout::Standard, Layout::ChannelsLast)
    } else {
        return Ok(None);
    };
    let slot = l.slot(x.value, from)?;
    for v in target.values() {
        l.share(v, to, slot);
    }
    target.done(l, id, "bytes");
    Ok(Some(()))
}

/// What a Pad on codes fills with: the code of its value.
fn pad_code(l: &mut Lowering<'_>, node: &Node, codes: Codes) -> Rule<Arc<Tensor>> {
    let value = match node.input(2) {
        None => 0.0,
        Some(v) => {
            let t = l.constant(v)?.and_then(|t| t.to_f32_vec()).filter(|t| t.len() == 1);
            t.ok_or_else(|| Reason::Attribute("its padding value is computed while running".into()))?[0]
        }
    };
    let a = codes.affine;
    let code = arith::quantize(value, a.scale, a.zero_point, a.qmin, a.qmax);
    let tensor = if codes.signed { Tensor::scalar(code as i8) } else { Tensor::scalar(code as u8) };
    Ok(Arc::new(prepared(l, tensor.map_err(Into::into))?))
}

/// Channels-last if any of the tensors lies so and all have the axes for it.
fn common_layout(l: &Lowering<'_>, values: &[ValueId]) -> (Layout, Option<usize>) {
    let rank = values.first().and_then(|v| l.rank(*v));
    let same = rank.is_some_and(|r| r >= 3) && values.iter().all(|v| l.rank(*v) == rank);
    let any = values.iter().any(|v| l.layout(*v) == Layout::ChannelsLast);
    (if same && any { Layout::ChannelsLast } else { Layout::Standard }, rank)
}

/// The axis of a Concat or Split, as ONNX counts it.
fn axis(l: &Lowering<'_>, node: &Node, rank: usize) -> Rule<usize> {
    attr(l, node.attrs.int_or("axis", 0).and_then(|a| normalize_axis(a, rank)))
}

/// The node with its axis named as it lies in memory.
fn along(l: &Lowering<'_>, node: &Node, layout: Layout, rank: Option<usize>) -> Rule<OpKernel> {
    let mut node = node.clone();
    if let (Layout::ChannelsLast, Some(rank)) = (layout, rank) {
        let axis = axis(l, &node, rank)?;
        node.attrs.set("axis", Attr::Int(layout.physical_axis(axis, rank) as i64));
    }
    prepared(l, OpKernel::prepare(&node, l.graph.opset()))
}

fn concat(l: &mut Lowering<'_>, id: NodeId, node: &Node) -> Rule<()> {
    let y = node.output(0).ok_or(Reason::OutputNotQuantized)?;
    let mut parts = Vec::with_capacity(node.inputs.len());
    for v in &node.inputs {
        parts.push(codes::operand(l, *v)?);
    }
    let target = codes::target(l, y)?;
    let values: Vec<ValueId> = parts.iter().map(|p| p.value).collect();
    let (layout, rank) = common_layout(l, &values);
    let kernel = along(l, node, layout, rank)?;
    let mut inputs = Vec::with_capacity(parts.len());
    for part in parts {
        inputs.push(Some(in_codes(l, id, part, target.codes, layout)?));
    }
    let to = target.define(l, layout, rank);
    l.emit(id, Step::Op(Box::new(kernel)), inputs, vec![Some(to)]);
    let channels = |v: &ValueId| l.graph.value(*v).shape.as_ref()?.get(1)?.known();
    if let (Layout::ChannelsLast, Some(rank)) = (layout, rank)
        && axis(l, node, rank)? == 1
        && let Some(widths) = values.iter().map(channels).collect()
    {
        l.joined.push(Joined { slot: to, codes: target.codes, widths });
    }
    target.done(l, id, "bytes");
    Ok(())
}

fn split(l: &mut Lowering<'_>, id: NodeId, node: &Node) -> Rule<()> {
    let x = codes::operand(l, node.input(0))?;
    let mut targets = Vec::with_capacity(node.outputs.len());
    for y in &node.outputs {
        targets.push(codes::target(l, y.ok_or(Reason::OutputNotQuantized)?)?);
    }
    if targets.iter().any(|t| !same_codes(x.codes, t.codes)) {
        return Err(Reason::ScalesDiffer.into());
    }
    let (layout, rank) = common_layout(l, &[x.value]);
    let kernel = along(l, node, layout, rank)?;
    let mut inputs = vec![Some(l.slot(x.value, layout)?)];
    for v in node.inputs.iter().skip(1) {
        inputs.push(v.map(|v| l.slot(v, Layout::Standard)).transpose()?);
    }
    let outputs = targets.iter().map(|t| Some(t.define(l, layout, rank))).collect();
    l.emit(id, Step::Op(Box::new(kernel)), inputs, outputs);
    for t in &targets {
        t.done(l, id, "bytes");
    }
    Ok(())
}
