//! Layer and RMS normalization of codes over the last axis.

use super::{Rule, attr, codes};
use crate::compile::Lowering;
use crate::coverage::Reason;
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::qrows::QNorm;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{NodeId, Op, ValueId};

pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let x = codes::operand(l, node.input(0))?;
    let y = node.output(0).ok_or(Reason::OutputNotQuantized)?;
    if node.outputs.iter().skip(1).any(Option::is_some) {
        return Err(Reason::Attribute("it hands out its moments".into()).into());
    }
    let target = codes::target(l, y)?;
    let rank = l.rank(x.value).ok_or_else(|| Reason::Attribute("the rank of its input is not known".into()))?;
    let axis = attr(l, node.attrs.int_or("axis", -1).and_then(|a| normalize_axis(a, rank)))?;
    if axis + 1 != rank {
        return Err(Reason::Attribute("it normalizes more than the last axis".into()).into());
    }
    let gamma = vector(l, node.input(1))?.ok_or_else(|| Reason::Attribute("its scale is missing".into()))?;
    let beta = vector(l, node.input(2))?.unwrap_or_else(|| vec![0.0]);
    // One number serves all columns.
    let known = node.input(0).and_then(|x| l.graph.value(x).shape.as_ref()?.last()?.known());
    let columns = known.unwrap_or(gamma.len().max(beta.len()));
    let spread = |v: Vec<f32>| if v.len() == 1 { vec![v[0]; columns] } else { v };
    let (gamma, beta) = (spread(gamma), spread(beta));
    let scale = target.codes.affine.scale;
    let over = |v: Vec<f32>| v.into_iter().map(|v| v / scale).collect::<Vec<f32>>();
    let (factor, addend) = (over(gamma), over(beta));
    if known.is_none() && columns == 1 {
        return Err(Reason::Attribute("the number of its columns is not known".into()).into());
    }
    if factor.len() != columns || addend.len() != columns || factor.iter().chain(&addend).any(|v| !v.is_finite()) {
        return Err(Reason::Attribute("its scale or bias does not fit the codes".into()).into());
    }
    let epsilon = attr(l, node.attrs.float_or("epsilon", 1e-5))?;
    let rms = matches!(node.op, Op::RmsNormalization | Op::SimplifiedLayerNormalization);
    let from = l.slot(x.value, Layout::Standard)?;
    let to = target.define(l, Layout::Standard, Some(rank));
    let step = QNorm { x: x.codes, y: target.codes, factor, addend, epsilon, rms };
    l.emit(id, Step::QNorm(Box::new(step)), vec![Some(from)], vec![Some(to)]);
    target.done(l, id, "norm_codes");
    Ok(())
}

/// A constant of float32 along the last axis, floats or behind a DequantizeLinear; `None` if it is left out.
fn vector(l: &mut Lowering<'_>, v: Option<ValueId>) -> Rule<Option<Vec<f32>>> {
    let Some(v) = v else { return Ok(None) };
    let floats = l
        .constant(v)?
        .filter(|t| t.len() == t.shape().last().copied().unwrap_or(1))
        .and_then(|t| Some(t.get::<f32>()?.to_vec()));
    floats.map(Some).ok_or_else(|| Reason::WeightNotConstant { input: codes::name(l, v) }.into())
}
