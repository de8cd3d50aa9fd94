//! Operators that work element by element: in the layout that their operands have.

use super::{prepare, standard_inputs, status};
use crate::compile::Lowering;
use crate::coverage::Reason;
use crate::error::Result;
use crate::layout::Layout;
use crate::program::SlotId;
use crate::steps::Step;
use crate::steps::binary::Binary;
use quantal_ir::{NodeId, Op, ValueId};
use quantal_kernels::float::Binary as Function;
use std::sync::Arc;

/// How many of an operator's inputs meet element by element; the others are parameters of one element.
fn operands(op: Op) -> Option<usize> {
    Some(match op {
        Op::Abs
        | Op::Cast
        | Op::Ceil
        | Op::Clip
        | Op::Cos
        | Op::Elu
        | Op::Erf
        | Op::Exp
        | Op::Floor
        | Op::Gelu
        | Op::HardSigmoid
        | Op::HardSwish
        | Op::Identity
        | Op::IsInf
        | Op::IsNaN
        | Op::LeakyRelu
        | Op::Log
        | Op::Mish
        | Op::MsGelu
        | Op::FastGelu
        | Op::QuickGelu
        | Op::Neg
        | Op::Not
        | Op::Reciprocal
        | Op::Relu
        | Op::Round
        | Op::Sigmoid
        | Op::Sign
        | Op::Sin
        | Op::Softplus
        | Op::Sqrt
        | Op::Swish
        | Op::Tanh
        | Op::CastLike
        | Op::Dropout
        // With one scale for all elements.
        | Op::QuantizeLinear
        | Op::DequantizeLinear
        | Op::MsQuantizeLinear
        | Op::MsDequantizeLinear => 1,
        Op::Add
        | Op::And
        | Op::Div
        | Op::Equal
        | Op::Greater
        | Op::GreaterOrEqual
        | Op::Less
        | Op::LessOrEqual
        | Op::Max
        | Op::Mean
        | Op::Min
        | Op::Mod
        | Op::Mul
        | Op::Or
        | Op::PRelu
        | Op::Pow
        | Op::Sub
        | Op::Sum
        | Op::Where
        | Op::Xor => usize::MAX,
        _ => return None,
    })
}

/// Lowers an element-wise operator: channels-last if some operand lies so and all can, else in the standard layout.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId, reason: &Reason) -> Result<bool> {
    let node = l.graph.node(id);
    let Some(operands) = operands(node.op) else { return Ok(false) };
    let operands = operands.min(node.inputs.len());
    if quantizes(node.op) && !per_tensor(l, id) {
        return Ok(false);
    }
    let last = |l: &Lowering<'_>, v: &ValueId| l.layout(*v) == Layout::ChannelsLast;
    let rank = node.inputs[..operands].iter().flatten().find(|v| last(l, v)).and_then(|v| l.rank(*v));
    let inputs = match rank {
        Some(rank) => channels_last(l, id, operands, rank)?,
        None => None,
    };
    let layout = if inputs.is_some() { Layout::ChannelsLast } else { Layout::Standard };
    let inputs = match inputs {
        Some(inputs) => inputs,
        None => standard_inputs(l, id)?,
    };
    let kernel = prepare(l, node)?;
    let step = match function(node.op) {
        Some(function) if inputs.len() == 2 && node.inputs.iter().flatten().any(|&v| l.is_f32(v)) => {
            Step::Binary(Box::new(Binary { function, general: kernel }))
        }
        _ => Step::Op(Box::new(kernel)),
    };
    let rank = if layout == Layout::ChannelsLast { rank } else { None };
    let outputs = node.outputs.iter().map(|v| v.map(|v| l.define(v, layout, rank))).collect();
    l.emit(id, step, inputs, outputs);
    l.set(id, status(node.op, reason.clone()));
    Ok(true)
}

fn function(op: Op) -> Option<Function> {
    Some(match op {
        Op::Add => Function::Add,
        Op::Sub => Function::Sub,
        Op::Mul => Function::Mul,
        Op::Div => Function::Div,
        Op::Max => Function::Max,
        Op::Min => Function::Min,
        _ => return None,
    })
}

fn quantizes(op: Op) -> bool {
    matches!(op, Op::QuantizeLinear | Op::DequantizeLinear | Op::MsQuantizeLinear | Op::MsDequantizeLinear)
}

/// Whether all elements share one scale, as far as the graph tells.
fn per_tensor(l: &Lowering<'_>, id: NodeId) -> bool {
    let scale = l.graph.node(id).input(1).and_then(|s| l.graph.value(s).known_shape());
    scale.is_some_and(|s| s.iter().all(|&d| d == 1))
}

/// The inputs for a channels-last meeting of `rank` dimensions; `None` if some operand cannot take part.
fn channels_last(
    l: &mut Lowering<'_>,
    id: NodeId,
    operands: usize,
    rank: usize,
) -> Result<Option<Vec<Option<SlotId>>>> {
    let node = l.graph.node(id);
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for (i, v) in node.inputs.iter().enumerate() {
        inputs.push(match v {
            None => None,
            Some(v) if i >= operands => Some(l.slot(*v, Layout::Standard)?),
            Some(v) => match operand(l, *v, rank)? {
                Some(slot) => Some(slot),
                None => return Ok(None),
            },
        });
    }
    Ok(Some(inputs))
}

/// The slot of an operand for a channels-last meeting of `rank` dimensions; `None` if it cannot take part.
fn operand(l: &mut Lowering<'_>, v: ValueId, rank: usize) -> Result<Option<SlotId>> {
    let Some(constant) = l.constant(v)? else {
        let known = l.rank(v);
        return Ok(match known {
            Some(r) if r == rank => Some(l.slot(v, Layout::ChannelsLast)?),
            // One element whatever the layout.
            Some(0) => Some(l.slot(v, Layout::Standard)?),
            _ => None,
        });
    };
    if constant.rank() > rank {
        return Ok(None);
    }
    if constant.len() == 1 {
        return Ok(Some(l.slot(v, Layout::Standard)?));
    }
    let mut shape = vec![1; rank - constant.rank()];
    shape.extend_from_slice(constant.shape());
    let full = (*constant).clone().reshaped(&shape).map_err(|e| l.error(e.into()))?;
    Ok(Some(l.constant_slot(&Arc::new(full), Layout::ChannelsLast)?))
}
