//! Convolutions with constant weights: channels-last, packed.

use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::error::Result;
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::conv::Conv;
use quantal_ir::NodeId;
use quantal_ir::op::conv::ConvAttrs;
use quantal_tensor::DType;

/// Lowers a Conv of one or two spatial axes whose weight and bias are constants of float32.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId, reason: &Reason) -> Result<bool> {
    let node = l.graph.node(id);
    let (Some(x), Some(w), Some(y)) = (node.input(0), node.input(1), node.output(0)) else { return Ok(false) };
    let Some(weight) = l.constant(w)? else { return Ok(false) };
    if weight.dtype() != DType::F32
        || !(3..=4).contains(&weight.rank())
        || l.rank(x).is_some_and(|r| r != weight.rank())
    {
        return Ok(false);
    }
    let bias = match node.input(2) {
        None => None,
        Some(b) => match l.constant(b)?.and_then(|t| Some(t.get::<f32>()?.to_vec())) {
            Some(values) => Some(values),
            None => return Ok(false),
        },
    };
    let attrs = ConvAttrs::of(&node.attrs, weight.shape()).map_err(|e| l.error(e.into()))?;
    let conv = Conv::new(attrs, &weight, bias).map_err(|e| l.error(e))?;
    let input = l.slot(x, Layout::ChannelsLast)?;
    let output = l.define(y, Layout::ChannelsLast, Some(weight.rank()));
    l.emit(id, Step::Conv(Box::new(conv)), vec![Some(input)], vec![Some(output)]);
    l.set(id, Status::Float { reason: reason.clone() });
    Ok(true)
}
