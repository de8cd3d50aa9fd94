//! Add, Sub and Mul of codes; with a constant, any binary operator as a table.

use super::codes::{self, Operand, Target};
use super::{Rule, function, softmax, table};
use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::codes::End;
use crate::steps::qeltwise::{Kind, QEltwise};
use quantal_ir::{NodeId, Op, ValueId};

pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let (Some(a), Some(b), Some(y)) = (node.input(0), node.input(1), node.output(0)) else {
        return Err(codes::refusal(l, id).into());
    };
    for (data, constant, first) in [(a, b, false), (b, a, true)] {
        // A table keeps the shape of its codes; [1] beside a scalar makes [1].
        let keeps = l.rank(data) != Some(0) || l.rank(constant) == Some(0);
        if let Some(c) = scalar(l, constant)?.filter(|_| keeps) {
            let x = codes::operand(l, Some(data))?;
            let f = function::with_constant(node.op, c, first);
            return table::function_of(l, id, x, f.ok_or_else(|| codes::refusal(l, id))?);
        }
    }
    if node.op == Op::Add && softmax::masked(l, id, [a, b], y)? {
        return Ok(());
    }
    let kind = match node.op {
        Op::Add => Kind::Add,
        Op::Sub => Kind::Sub,
        Op::Mul => Kind::Mul,
        _ => return Err(Reason::NoIntegerForm { op: node.op_name() }.into()),
    };
    let operands = [codes::operand(l, Some(a))?, codes::operand(l, Some(b))?];
    let target = codes::target(l, y)?;
    let step = QEltwise { kind, a: operands[0].codes, b: operands[1].codes, y: target.codes };
    let (m_a, m_b) = step.multipliers();
    if ![m_a, m_b, step.multiplier()].iter().all(|m| m.is_finite()) {
        return Err(Reason::ScaleRange.into());
    }
    if l.same_shape(a, b) && table::diamond(l, id, operands, &target, |a, b| step.of_codes(a, b))? {
        return Ok(());
    }
    if kind == Kind::Add && residual(l, id, operands, [a, b], &target)? {
        return Ok(());
    }
    // Both in the same layout: channels-last if one of them is, and both have all axes.
    let ranks = operands.map(|o| l.rank(o.value));
    let last = operands.iter().any(|o| l.layout(o.value) == Layout::ChannelsLast) && ranks[0] == ranks[1];
    let layout = if last { Layout::ChannelsLast } else { Layout::Standard };
    let inputs = vec![Some(l.slot(operands[0].value, layout)?), Some(l.slot(operands[1].value, layout)?)];
    let rank = ranks[0].zip(ranks[1]).map(|(a, b)| a.max(b));
    let to = target.define(l, layout, rank);
    l.emit(id, Step::QEltwise(step), inputs, vec![Some(to)]);
    target.done(l, id, if kind == Kind::Mul { "mul_codes" } else { "add_codes" });
    Ok(())
}

/// The only element of a constant, floats or behind a DequantizeLinear.
pub(super) fn scalar(l: &mut Lowering<'_>, v: ValueId) -> Rule<Option<f64>> {
    let value = l.constant(v)?.filter(|t| t.len() == 1 && t.rank() <= 1);
    Ok(value.and_then(|t| t.get::<f32>().map(|t| f64::from(t[0]))))
}

/// Puts the addition into the convolution or product that makes one of its operands, if that is all it is for.
fn residual(
    l: &mut Lowering<'_>,
    id: NodeId,
    operands: [Operand; 2],
    floats: [ValueId; 2],
    target: &Target,
) -> Rule<bool> {
    if !l.same_shape(floats[0], floats[1]) {
        return Ok(false);
    }
    for (sum, other) in [(0, 1), (1, 0)] {
        let v = operands[sum].value;
        let layout = l.layout(v);
        let alone = codes::readers_of_codes(l, v).is_some_and(|r| r == [id]);
        let Some(slot) = l.own_slot(v, layout).filter(|_| alone && operands[other].value != v) else { continue };
        if !l.step_mut(slot).is_some_and(|row| takes_addition(&row.step)) {
            continue;
        }
        // The other tensor may be made later than the convolution: the step moves to the end.
        let residual = l.slot(operands[other].value, layout)?;
        let Some(mut row) = l.take_step(slot) else { continue };
        if let Step::QConv(conv) = &mut row.step
            && let End::Codes(end) = &mut conv.end
        {
            end.add = Some((operands[other].codes, target.codes));
        }
        if let Step::QProduct(product) = &mut row.step
            && let End::Codes(end) = &mut product.end
        {
            end.add = Some((operands[other].codes, target.codes));
        }
        let into = row.node;
        row.inputs.push(Some(residual));
        l.put_step(row);
        target.take_over(l, layout, slot);
        target.done(l, into, kernel_of(l, into));
        l.set(id, Status::Fused { into });
        return Ok(true);
    }
    Ok(false)
}

fn takes_addition(step: &Step) -> bool {
    let end = match step {
        Step::QConv(c) => &c.end,
        Step::QProduct(p) => &p.end,
        _ => return false,
    };
    matches!(end, End::Codes(end) if end.add.is_none() && end.table.is_none())
}

/// The kernel that a node was said to run on.
fn kernel_of(l: &Lowering<'_>, id: NodeId) -> &'static str {
    match l.status_of(id) {
        Some(Status::Integer { kernel }) => kernel,
        _ => "integer",
    }
}
