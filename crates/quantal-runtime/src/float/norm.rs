//! Softmax and normalization of the axes that lie last.

use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::error::Result;
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::norm::Rows;
use quantal_ir::op::quant::normalize_axis;
use quantal_ir::{NodeId, Op, ValueId};

/// Lowers Softmax, LogSoftmax and the normalizations of rows of float32.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId, reason: &Reason) -> Result<bool> {
    let node = l.graph.node(id);
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
    let rms = matches!(node.op, Op::RmsNormalization | Op::SimplifiedLayerNormalization);
    if !rms && !matches!(node.op, Op::Softmax | Op::LogSoftmax | Op::LayerNormalization) {
        return Ok(false);
    }
    let Some(rank) = l.rank(x).filter(|&r| r > 0 && l.is_f32(x)) else { return Ok(false) };
    let axis = node.attrs.int_or("axis", -1).and_then(|a| normalize_axis(a, rank)).map_err(|e| l.error(e.into()))?;
    let (rows, layout) = if matches!(node.op, Op::Softmax | Op::LogSoftmax) {
        let layout = l.layout(x);
        if layout.physical_axis(axis, rank) != rank - 1 {
            return Ok(false);
        }
        (Rows::Softmax { log: node.op == Op::LogSoftmax }, layout)
    } else {
        if node.outputs.iter().skip(1).any(Option::is_some) {
            return Ok(false);
        }
        let axes = rank - axis;
        let (scale, bias) = (along_row(l, node.input(1), axes)?, along_row(l, node.input(2), axes)?);
        if scale.is_none() || (bias.is_none() && node.input(2).is_some()) {
            return Ok(false);
        }
        let epsilon = node.attrs.float_or("epsilon", 1e-5).map_err(|e| l.error(e.into()))?;
        (Rows::Norm { axes: rank - axis, scale, bias, epsilon, rms }, Layout::Standard)
    };
    let input = l.slot(x, layout)?;
    let output = l.define(y, layout, Some(rank));
    l.emit(id, Step::Rows(Box::new(rows)), vec![Some(input)], vec![Some(output)]);
    l.set(id, Status::Float { reason: reason.clone() });
    Ok(true)
}

/// The elements of a float32 constant of the shape of one row, the last `axes` dimensions. `None` for one that is
/// broadcast along a row or differs between rows: the plain operator computes it.
fn along_row(l: &mut Lowering<'_>, v: Option<ValueId>, axes: usize) -> Result<Option<Vec<f32>>> {
    let Some(v) = v else { return Ok(None) };
    let whole = |shape: &[usize]| {
        let (lead, row) = shape.split_at(shape.len().saturating_sub(axes));
        row.len() == axes && lead.iter().all(|&d| d == 1) && !row.contains(&1)
    };
    Ok(l.constant(v)?.filter(|t| whole(t.shape())).and_then(|t| Some(t.get::<f32>()?.to_vec())))
}
