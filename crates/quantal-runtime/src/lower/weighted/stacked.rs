//! MatMul by constant codes of more than two dimensions: a matrix for each index of the leading ones.

use super::super::codes::{self, Operand, Weights};
use super::{Goal, bias_after, goal, kernel, refused, scales_of_sums, zero_points};
use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::layout::Layout;
use crate::lower::Rule;
use crate::steps::Step;
use crate::steps::codes::multipliers;
use crate::steps::qproduct::QProduct;
use crate::steps::qstack::QStack;
use quantal_ir::{Node, NodeId};
use quantal_kernels::pack::{BView, PackedB};

/// Lowers `x · w` where `w` is `[…, k, n]`, with one scale or one for each column.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId, node: &Node, x: Operand, w: &Weights) -> Rule<()> {
    let y = node.output(0).ok_or_else(|| refused("has no output"))?;
    let &[ref lead @ .., k, n] = w.tensor.shape() else {
        return Err(refused("weights of fewer than two dimensions"));
    };
    if w.tensor.is_empty() {
        return Err(refused("its weights are empty"));
    }
    if w.axis.is_some_and(|a| a != lead.len() + 1) {
        let weight = node.input(1).map_or_else(String::new, |v| codes::name(l, v));
        return Err(Reason::Granularity { value: weight }.into());
    }
    let Some(rank) = l.rank(x.value).filter(|&r| r >= 2) else {
        return Err(refused("the rank of its input is not known or below 2"));
    };
    let rank_out = rank.max(lead.len() + 2);

    let scales = scales_of_sums(&x, w);
    let mut bias = None;
    let mut out = y;
    let mut added = None;
    if let Some((add, vector, sum)) = bias_after(l, y, n, Some(rank_out))?
        && let Ok(b) = codes::bias(l, vector, &scales, n)
    {
        bias = Some(b);
        out = sum;
        added = Some(add);
    }
    let mut matrices = Vec::new();
    for (i, bytes) in w.tensor.bytes().chunks_exact(k * n).enumerate() {
        let pack = || PackedB::pack(l.isa, &BView::new(bytes, w.signed, k, n));
        matrices.push(kernel(l, l.packings.get(&w.tensor, &("stack", i, w.signed), pack))?);
    }
    let goal = goal(l, out)?;
    let name = matrices.first().map_or("", |b| b.kernel().name);

    // A stack of one matrix is a product like any other.
    if matrices.len() == 1 && rank_out == rank {
        let end = goal.end(&x, w)?;
        let Some(b) = matrices.pop() else { return Err(refused("its weights are empty")) };
        let product = QProduct { x: x.codes, b, b_zero_points: zero_points(w), bias, end };
        goal.emit(l, id, name, Step::QProduct(Box::new(product)), (x.value, Layout::Standard), Some(rank))?;
    } else {
        let y = match &goal {
            Goal::Codes(t) => {
                let multiplier = multipliers(x.codes.affine.scale, &w.scale, t.codes.affine.scale);
                if multiplier.iter().any(|m| !m.is_finite()) {
                    return Err(Reason::ScaleRange.into());
                }
                Some((t.codes, multiplier))
            }
            Goal::Floats(_) => None,
        };
        let b_zero_points = zero_points(w);
        let step = QStack { x: x.codes, lead: lead.to_vec(), matrices, b_zero_points, bias, y, scale: scales };
        let from = l.slot(x.value, Layout::Standard)?;
        let to = match &goal {
            Goal::Codes(t) => t.define(l, Layout::Standard, Some(rank_out)),
            Goal::Floats(y) => l.define(*y, Layout::Standard, Some(rank_out)),
        };
        l.emit(id, Step::QStack(Box::new(step)), vec![Some(from)], vec![Some(to)]);
        match &goal {
            Goal::Codes(t) => t.done(l, id, name),
            Goal::Floats(_) => l.set(id, Status::Integer { kernel: name }),
        }
    }
    if let Some(add) = added {
        l.set(add, Status::Fused { into: id });
    }
    Ok(())
}
