//! Products of transposed operands, and of quantized ones.

use super::{Parts, Refusal};
use crate::attrs::{Attr, Attrs};
use crate::graph::ValueId;
use crate::op::Op;
use quantal_tensor::{DType, Tensor};

/// `alpha · A' B'`, where the operands may be transposed: the last two axes (`transA`), and the first axis to the place
/// before the last (`transBatchA`).
pub(super) fn fused_matmul(p: &mut Parts<'_>) -> Result<(), Refusal> {
    let (a, b, y) = (p.input(0, "the left side")?, p.input(1, "the right side")?, p.output(0));
    let alpha = p.node.attrs.float_or("alpha", 1.0)?;
    let mut sides = [a, b];
    let names = [("transA", "transBatchA"), ("transB", "transBatchB")];
    for (side, (last, batch)) in sides.iter_mut().zip(names) {
        *side = transposed(p, *side, p.node.attrs.flag(last, false)?, p.node.attrs.flag(batch, false)?)?;
    }
    let [a, b] = sides;
    if alpha == 1.0 {
        p.main(Op::MatMul, &[Some(a), Some(b)], &[y], Attrs::new());
        return Ok(());
    }
    let dtype = p.dtype(a).or(p.dtype(b));
    // In constant weights the factor costs nothing.
    if let Some(weights) = p.graph.constant(Some(b)).filter(|t| t.dtype() == DType::F32).cloned() {
        let scaled: Vec<f32> = weights.as_slice::<f32>().iter().map(|w| w * alpha).collect();
        let tensor = Tensor::from_slice(weights.shape(), &scaled)?;
        let b = p.constant("weight_scaled", tensor);
        p.main(Op::MatMul, &[Some(a), Some(b)], &[y], Attrs::new());
        return Ok(());
    }
    let name = format!("{}_product", p.node.name);
    let product = p.graph.add_value(&name, dtype, None);
    p.main(Op::MatMul, &[Some(a), Some(b)], &[product], Attrs::new());
    let factor = p.float("alpha", alpha, dtype)?;
    p.into(Op::Mul, &[product, factor], y, Attrs::new());
    Ok(())
}

/// `x` with its axes in the order that a side of a `FusedMatMul` is read in; a constant becomes another constant.
fn transposed(p: &mut Parts<'_>, x: ValueId, last: bool, batch: bool) -> Result<ValueId, Refusal> {
    if !last && !batch {
        return Ok(x);
    }
    let rank = p.rank(x).ok_or("the rank of an operand that is transposed is not known")?;
    let mut order: Vec<usize> = (0..rank).collect();
    if batch && rank > 2 {
        order[..rank - 1].rotate_left(1);
    }
    if last && rank > 1 {
        order.swap(rank - 2, rank - 1);
    }
    if order.iter().enumerate().all(|(i, &axis)| i == axis) {
        return Ok(x);
    }
    if let Some(matrix) = p.graph.constant(Some(x)).filter(|t| rank == 2 && t.dtype() == DType::F32).cloned() {
        let (rows, columns) = (matrix.shape()[0], matrix.shape()[1]);
        let mut turned = Tensor::zeros(DType::F32, &[columns, rows])?;
        turn(matrix.as_slice::<f32>(), turned.as_mut_slice()?, rows, columns);
        return Ok(p.constant("transposed", turned));
    }
    let order = order.into_iter().map(|axis| axis as i64).collect();
    Ok(p.op(Op::Transpose, &[x], Attrs::new().with("perm", Attr::Ints(order))))
}

/// `to[c][r] = from[r][c]`.
pub(super) fn turn<T: Copy>(from: &[T], to: &mut [T], rows: usize, columns: usize) {
    for (r, row) in from.chunks_exact(columns.max(1)).take(rows).enumerate() {
        for (c, &v) in row.iter().enumerate() {
            to[c * rows + r] = v;
        }
    }
}

/// Codes with their scale and zero point.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    pub(super) data: ValueId,
    pub(super) scale: ValueId,
    pub(super) zero_point: Option<ValueId>,
}

/// The float product of two quantized operands: where both scales are constant, a MatMul of two DequantizeLinear as in
/// a QDQ model; otherwise a MatMulInteger, multiplied by the scales.
pub(super) fn of_codes(p: &mut Parts<'_>, a: Codes, b: Codes) -> Result<ValueId, Refusal> {
    let fixed = |v: ValueId| p.graph.value(v).constant.is_some();
    if fixed(a.scale) && fixed(b.scale) {
        let columns = p.rank(b.data).ok_or("the rank of its weights is not known")?;
        let a = dequantized(p, a, None);
        let b = dequantized(p, b, columns.checked_sub(1));
        return Ok(p.op(Op::MatMul, &[a, b], Attrs::new()));
    }
    let zero = |p: &mut Parts<'_>, c: Codes| -> Result<ValueId, Refusal> {
        match (c.zero_point, p.dtype(c.data)) {
            (Some(v), _) => Ok(v),
            (None, Some(DType::I8)) => p.scalar("zero_point", 0_i8),
            (None, _) => p.scalar("zero_point", 0_u8),
        }
    };
    let (za, zb) = (zero(p, a)?, zero(p, b)?);
    let sums = p.op(Op::MatMulInteger, &[a.data, b.data, za, zb], Attrs::new());
    let to = p.dtype(a.scale).unwrap_or(DType::F32);
    let sums = p.op(Op::Cast, &[sums], Attrs::new().with("to", Attr::Int(i64::from(to.to_onnx()))));
    let scale = p.op(Op::Mul, &[a.scale, b.scale], Attrs::new());
    Ok(p.op(Op::Mul, &[sums, scale], Attrs::new()))
}

fn dequantized(p: &mut Parts<'_>, c: Codes, axis: Option<usize>) -> ValueId {
    let per_channel = p.graph.constant(Some(c.scale)).is_some_and(|s| s.len() > 1);
    let attrs = match axis {
        Some(axis) if per_channel => Attrs::new().with("axis", Attr::Int(axis as i64)),
        _ => Attrs::new(),
    };
    let mut inputs = vec![c.data, c.scale];
    inputs.extend(c.zero_point);
    p.op(Op::DequantizeLinear, &inputs, attrs)
}

/// `product + bias` into the node's output.
fn biased(p: &mut Parts<'_>, product: ValueId, bias: Option<ValueId>) {
    let y = p.output(0);
    match bias {
        Some(bias) => p.into(Op::Add, &[product, bias], y, Attrs::new()),
        None => p.into(Op::Identity, &[product], y, Attrs::new()),
    }
}

/// `MatMulIntegerToFloat`: the float product of two quantized operands, as ONNX Runtime fuses it from dynamic
/// quantization.
pub(super) fn matmul_integer_to_float(p: &mut Parts<'_>) -> Result<(), Refusal> {
    let a = Codes { data: p.input(0, "A")?, scale: p.input(2, "a_scale")?, zero_point: p.node.input(4) };
    let b = Codes { data: p.input(1, "B")?, scale: p.input(3, "b_scale")?, zero_point: p.node.input(5) };
    let product = of_codes(p, a, b)?;
    biased(p, product, p.node.input(6));
    Ok(())
}

/// `DynamicQuantizeMatMul`: A is quantized at run time by `DynamicQuantizeLinear`, B is quantized in the model.
pub(super) fn dynamic_quantize_matmul(p: &mut Parts<'_>) -> Result<(), Refusal> {
    let x = p.input(0, "A")?;
    let b = Codes { data: p.input(1, "B")?, scale: p.input(2, "b_scale")?, zero_point: p.node.input(3) };
    let name = format!("{}_quantized", p.node.name);
    let [codes, scale, zero_point] = [(); 3].map(|()| p.graph.add_value(&name, None, None));
    let quantize = format!("{}_DynamicQuantizeLinear", p.node.name);
    p.push(Op::DynamicQuantizeLinear, &quantize, &[Some(x)], &[codes, scale, zero_point], Attrs::new());
    let product = of_codes(p, Codes { data: codes, scale, zero_point: Some(zero_point) }, b)?;
    biased(p, product, p.node.input(4));
    Ok(())
}
