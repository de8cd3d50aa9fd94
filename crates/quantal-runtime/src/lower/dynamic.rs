//! Products whose data are quantized by rows while running: the standard operators that say so, as one quantization and
//! one product.
//!
//! The operators before a MatMulInteger were lowered one by one when they were met. The product reads their source, so
//! nothing reads their results, and their steps are dropped.

use super::{Rule, codes};
use crate::compile::Lowering;
use crate::coverage::Status;
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::row_product::RowProduct;
use quantal_ir::{Node, NodeId, Op, ValueId};
use quantal_kernels::pack::{BView, PackedB};
use quantal_tensor::DType;

/// A pattern of nodes before a MatMulInteger.
struct Rows {
    x: ValueId,
    scale: ValueId,
    quantize: NodeId,
    /// Abs, ReduceMax, Div, Max, Div.
    inside: [NodeId; 5],
}

/// Lowers a MatMulInteger of rows by constant codes.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let (Some(q), Some(w), Some(sum)) = (node.input(0), node.input(1), node.output(0)) else {
        return Err(codes::refusal(l, id).into());
    };
    let Some(weights) = l.constant(w)?.filter(|t| t.rank() == 2) else { return Err(codes::refusal(l, id).into()) };
    let symmetric = match weights.dtype() {
        DType::I8 => node.input(3).is_none(),
        DType::U8 => is_middle(l, node.input(3))?,
        _ => false,
    };
    let Some(rows) = rows(l, q)?.filter(|r| l.is_f32(r.x)) else { return Err(codes::refusal(l, id).into()) };
    if !symmetric || !is_middle(l, node.input(2))? {
        return Err(codes::refusal(l, id).into());
    }
    let [k, n] = [weights.shape()[0], weights.shape()[1]];
    let Some(end) = end(l, sum, rows.scale, n)? else { return Err(codes::refusal(l, id).into()) };
    let b = l.packings.get(&weights, &"rows", || {
        // u8 with zero point 128 is s8 with 0.
        let moved: Vec<u8>;
        let bytes = if weights.dtype() == DType::U8 {
            moved = weights.bytes().iter().map(|code| code ^ 0x80).collect();
            &moved
        } else {
            weights.bytes()
        };
        PackedB::pack(l.isa, &BView::new(bytes, true, k, n))
    });
    let b = super::prepared(l, b.map_err(crate::steps::codes::refused))?;

    let (codes_slot, scales_slot) = if let Some(&slots) = l.rows.get(&q) {
        slots
    } else {
        let from = l.slot(rows.x, Layout::Standard)?;
        let rank = l.rank(rows.x);
        let slots = (l.new_slot(Layout::Standard, rank), l.new_slot(Layout::Standard, rank));
        l.emit(rows.quantize, Step::QuantizeRows, vec![Some(from)], vec![Some(slots.0), Some(slots.1)]);
        l.rows.insert(q, slots);
        l.set(rows.quantize, Status::Moves);
        for node in rows.inside {
            l.set(node, Status::Fused { into: rows.quantize });
        }
        slots
    };
    let name = b.kernel().name;
    let rank = l.rank(rows.x);
    let to = l.define(end.out, Layout::Standard, rank);
    let step = RowProduct { b, scale: end.scale, bias: end.bias };
    l.emit(id, Step::RowProduct(Box::new(step)), vec![Some(codes_slot), Some(scales_slot)], vec![Some(to)]);
    l.set(id, Status::Integer { kernel: name });
    for node in end.nodes {
        l.set(node, Status::Fused { into: id });
    }
    Ok(())
}

/// The node that makes `v`, if it is of that operator.
fn made_by(l: &Lowering<'_>, v: Option<ValueId>, op: Op) -> Option<(NodeId, Node)> {
    let id = l.uses.producer(v?)?;
    let node = l.graph.node(id);
    (node.op == op).then(|| (id, node.clone()))
}

fn is_scalar(l: &mut Lowering<'_>, v: Option<ValueId>, wanted: f32) -> Rule<bool> {
    let Some(v) = v else { return Ok(false) };
    Ok(l.constant(v)?.and_then(|t| t.get::<f32>().map(|t| t == [wanted])).unwrap_or(false))
}

fn is_middle(l: &mut Lowering<'_>, v: Option<ValueId>) -> Rule<bool> {
    let Some(v) = v else { return Ok(false) };
    Ok(l.constant(v)?.and_then(|t| t.get::<u8>().map(|t| t == [128])).unwrap_or(false))
}

/// `q = QuantizeLinear(x / s, 1, 128)` with `s = max(max |x| / 127, 2⁻¹²⁶)` over the last axis.
fn rows(l: &mut Lowering<'_>, q: ValueId) -> Rule<Option<Rows>> {
    let Some((quantize, node)) = made_by(l, Some(q), Op::QuantizeLinear) else { return Ok(None) };
    if !is_scalar(l, node.input(1), 1.0)? || !is_middle(l, node.input(2))? {
        return Ok(None);
    }
    let Some((scaled, node)) = made_by(l, node.input(0), Op::Div) else { return Ok(None) };
    let (Some(x), Some(scale)) = (node.input(0), node.input(1)) else { return Ok(None) };
    let Some((max, node)) = made_by(l, Some(scale), Op::Max).filter(|(_, n)| n.inputs.len() == 2) else {
        return Ok(None);
    };
    if !is_scalar(l, node.input(1), f32::MIN_POSITIVE)? {
        return Ok(None);
    }
    let Some((step, node)) = made_by(l, node.input(0), Op::Div) else { return Ok(None) };
    if !is_scalar(l, node.input(1), 127.0)? {
        return Ok(None);
    }
    let Some((reduce, node)) = made_by(l, node.input(0), Op::ReduceMax) else { return Ok(None) };
    let given = match node.input(1) {
        Some(v) => l.constant(v)?.and_then(|t| t.to_i64_vec()),
        None => super::attr(l, node.attrs.ints("axes"))?.map(<[i64]>::to_vec),
    };
    let last = l.rank(x).map(|r| r as i64 - 1);
    let along_rows = matches!(given.as_deref(), Some(&[a]) if a == -1 || Some(a) == last);
    if !along_rows || !super::attr(l, node.attrs.flag("keepdims", true))? {
        return Ok(None);
    }
    let Some((abs, node)) = made_by(l, node.input(0), Op::Abs) else { return Ok(None) };
    let inside = [abs, reduce, step, max, scaled];
    Ok((node.input(0) == Some(x)).then_some(Rows { x, scale, quantize, inside }))
}

/// What follows the sums.
struct End {
    scale: Vec<f32>,
    bias: Option<Vec<f32>>,
    out: ValueId,
    nodes: Vec<NodeId>,
}

/// Cast to float, times the scales of columns, times the scales of rows, and perhaps plus a vector.
fn end(l: &mut Lowering<'_>, sum: ValueId, rows: ValueId, n: usize) -> Rule<Option<End>> {
    let Some((cast, real)) = next(l, sum, Op::Cast) else { return Ok(None) };
    if super::attr(l, l.graph.node(cast).attrs.int("to"))? != Some(i64::from(DType::F32.to_onnx())) {
        return Ok(None);
    }
    let Some((columns, scaled)) = next(l, real, Op::Mul) else { return Ok(None) };
    let Some(scale) = vector(l, other(l, columns, real), n)? else { return Ok(None) };
    let Some((by_row, mut out)) = next(l, scaled, Op::Mul) else { return Ok(None) };
    if other(l, by_row, scaled) != Some(rows) {
        return Ok(None);
    }
    let (mut nodes, mut bias) = (vec![cast, columns, by_row], None);
    if let Some((add, biased)) = next(l, out, Op::Add)
        && let Some(b) = vector(l, other(l, add, out), n)?.filter(|b| b.len() == n)
    {
        nodes.push(add);
        (bias, out) = (Some(b), biased);
    }
    Ok(Some(End { scale, bias, out, nodes }))
}

/// The node of that operator that alone reads `v`, and what it makes.
fn next(l: &Lowering<'_>, v: ValueId, op: Op) -> Option<(NodeId, ValueId)> {
    let id = l.sole_reader(v).filter(|id| l.graph.node(*id).op == op)?;
    Some((id, l.graph.node(id).output(0)?))
}

/// The other input of a node of two.
fn other(l: &Lowering<'_>, id: NodeId, v: ValueId) -> Option<ValueId> {
    l.graph.node(id).reads().find(|&i| i != v)
}

/// A constant of one float or of `n`.
fn vector(l: &mut Lowering<'_>, v: Option<ValueId>, n: usize) -> Rule<Option<Vec<f32>>> {
    let Some(v) = v else { return Ok(None) };
    let floats = l.constant(v)?.filter(|t| t.rank() <= 1).and_then(|t| t.get::<f32>().map(<[f32]>::to_vec));
    Ok(floats.filter(|t| t.len() == 1 || t.len() == n))
}
