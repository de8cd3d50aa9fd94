//! MatMul and Gemm: by a packed constant, or of two run-time tensors.

use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::error::Result;
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::product::Product;
use quantal_ir::op::gemm::GemmAttrs;
use quantal_ir::{NodeId, Op};
use quantal_tensor::DType;

/// Lowers a MatMul or Gemm whose right side is a constant matrix of float32, or a MatMul of two tensors of float32.
pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId, reason: &Reason) -> Result<bool> {
    let node = l.graph.node(id);
    let (Some(x), Some(b), Some(y)) = (node.input(0), node.input(1), node.output(0)) else { return Ok(false) };
    let attrs = if node.op == Op::Gemm {
        GemmAttrs::of(&node.attrs).map_err(|e| l.error(e.into()))?
    } else {
        GemmAttrs { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false }
    };
    let matrix = l.constant(b)?.filter(|t| t.dtype() == DType::F32 && t.rank() == 2);
    let step = if let Some(matrix) = matrix {
        let mut product =
            Product::new(&l.packings, &matrix, attrs.trans_b, attrs.alpha, attrs.trans_a).map_err(|e| l.error(e))?;
        if let Some(c) = node.input(2) {
            let n = product.n();
            let Some(c) = l.constant(c)? else { return Ok(false) };
            let Some(values) = c.get::<f32>() else { return Ok(false) };
            let row = c.shape().iter().rev().skip(1).all(|&d| d == 1);
            let bias: Vec<f32> = match values {
                [one] => vec![attrs.beta * one; n],
                _ if row && values.len() == n => values.iter().map(|v| attrs.beta * v).collect(),
                _ => return Ok(false),
            };
            product.tail.bias = Some(bias);
        }
        Step::Product(Box::new(product))
    } else {
        let matrices = l.rank(x).is_some_and(|r| r >= 2) && l.rank(b).is_some_and(|r| r >= 2);
        if node.op == Op::Gemm || !matrices || !l.is_f32(x) || !l.is_f32(b) {
            return Ok(false);
        }
        Step::MatMul
    };
    let mut inputs = vec![Some(l.slot(x, Layout::Standard)?)];
    if matches!(step, Step::MatMul) {
        inputs.push(Some(l.slot(b, Layout::Standard)?));
    }
    let rank = l.rank(x);
    let output = l.define(y, Layout::Standard, if inputs.len() == 1 { rank } else { None });
    l.emit(id, step, inputs, vec![Some(output)]);
    l.set(id, Status::Float { reason: reason.clone() });
    Ok(true)
}
