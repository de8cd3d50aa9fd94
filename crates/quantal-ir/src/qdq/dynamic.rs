//! Products whose data are quantized row by row while running, in standard operators that any runtime can load:
//!
//! ```text
//! s = Max(Div(ReduceMax(Abs(x), −1), 127), 2⁻¹²⁶)      q = QuantizeLinear(Div(x, s), 1, 128)
//! y = Mul(Mul(Cast(MatMulInteger(q, w, 128, 128)), s_w), s)
//! ```
//!
//! The weights are stored as u8 with zero point 128, the same numbers as s8 with 0: the product of u8 by s8 that other
//! runtimes use saturates on CPUs with AVX2 alone (`vpmaddubsw` adds two products in 16 bits), that of u8 by u8 is exact.
//!
//! DynamicQuantizeLinear takes one range for the whole tensor, in which a token with outliers costs all others their
//! codes; QuantizeLinear with a scale for each row needs two dimensions. Products of the same data share `s` and `q`.

use super::{QdqError, quantize_tensor, wrong};
use crate::attrs::{Attr, Attrs};
use crate::graph::{Dim, Graph, Node, NodeId, ValueId};
use crate::op::Op;
use crate::op::weighted::Weighted;
use crate::quant_plan::{Encoding, QuantPlan};
use quantal_tensor::{DType, Storage, Tensor};
use std::collections::BTreeMap;

/// The codes of rows and their scales.
type Rows = (ValueId, ValueId);

/// Writes every product that `plan` names as dynamic.
pub(super) fn insert(graph: &mut Graph, plan: &QuantPlan) -> Result<(), QdqError> {
    let mut shared = BTreeMap::new();
    for &id in &plan.dynamic {
        product(graph, plan, id, &mut shared)?;
    }
    Ok(())
}

fn product(
    graph: &mut Graph,
    plan: &QuantPlan,
    id: NodeId,
    shared: &mut BTreeMap<ValueId, Rows>,
) -> Result<(), QdqError> {
    let node = graph.node(id).clone();
    let (Some(w), Some(y)) = (Weighted::of(graph, &node), node.output(0)) else { return Ok(()) };
    let Some(params) = plan.encodings.get(&w.weight).and_then(Encoding::qparams).cloned() else {
        return Err(wrong(graph, w.weight, "is the weight of a dynamic product and has no encoding"));
    };
    let scheme = plan.encodings[&w.weight].scheme;
    let tensor = graph.constant(Some(w.weight)).cloned().filter(|t| t.dtype() == DType::F32 && t.rank() == 2);
    let Some(tensor) = tensor else { return Err(wrong(graph, w.weight, "is not a float32 matrix")) };
    if scheme.storage != Storage::S8 || params.zero_point.iter().any(|&z| z != 0) {
        return Err(wrong(graph, w.weight, "is the weight of a dynamic product: it needs symmetric s8 codes"));
    }
    let codes = quantize_tensor(&tensor, &scheme, &params)?;
    let transposed = node.op == Op::Gemm && node.attrs.flag("transB", false)?;
    let codes = unsigned(&if transposed { transpose(&codes)? } else { codes })?;
    let (q, s) = match shared.get(&w.data) {
        Some(rows) => *rows,
        None => rows(graph, w.data)?,
    };
    shared.insert(w.data, (q, s));

    let name = node.name.to_string();
    let shape = graph.value(y).shape.clone();
    let value = |graph: &mut Graph, suffix: &str, dtype| {
        graph.add_value(&format!("{name}_{suffix}"), Some(dtype), shape.clone())
    };
    let weight = graph.add_constant(&format!("{name}_weight_quantized"), codes);
    let scale =
        graph.add_constant(&format!("{name}_weight_scale"), Tensor::from_slice(&[params.scale.len()], &params.scale)?);
    let middle = graph.add_constant(&format!("{name}_zero_point"), Tensor::scalar(128_u8)?);
    let (sum, real) = (value(graph, "sum", DType::I32), value(graph, "sum_float", DType::F32));
    let by_column = value(graph, "by_column", DType::F32);
    let by_row = if w.bias.is_some() { value(graph, "by_row", DType::F32) } else { y };
    graph.remove_node(id);
    let mut add = |op: Op, suffix: &str, inputs: Vec<ValueId>, out: ValueId, attrs: Attrs| {
        let inputs = inputs.into_iter().map(Some).collect();
        graph.add_node(Node::new(op, &format!("{name}_{suffix}"), inputs, vec![out], attrs));
    };
    add(Op::MatMulInteger, "MatMulInteger", vec![q, weight, middle, middle], sum, Attrs::new());
    add(Op::Cast, "Cast", vec![sum], real, Attrs::new().with("to", Attr::Int(i64::from(DType::F32.to_onnx()))));
    add(Op::Mul, "MulColumns", vec![real, scale], by_column, Attrs::new());
    add(Op::Mul, "MulRows", vec![by_column, s], by_row, Attrs::new());
    if let Some(bias) = w.bias {
        add(Op::Add, "Bias", vec![by_row, bias], y, Attrs::new());
    }
    Ok(())
}

/// Scale and codes of each row of `x`.
fn rows(graph: &mut Graph, x: ValueId) -> Result<Rows, QdqError> {
    let name = graph.value(x).name.to_string();
    let shape = graph.value(x).shape.clone();
    let narrow = shape.clone().map(|mut s| {
        if let Some(last) = s.last_mut() {
            *last = Dim::Known(1);
        }
        s
    });
    let wide = |graph: &mut Graph, suffix: &str, dtype| {
        graph.add_value(&format!("{name}_{suffix}"), Some(dtype), shape.clone())
    };
    let (magnitude, scaled) = (wide(graph, "magnitude", DType::F32), wide(graph, "scaled", DType::F32));
    let codes = wide(graph, "rows_quantized", DType::U8);
    let mut column = |suffix: &str| graph.add_value(&format!("{name}_{suffix}"), Some(DType::F32), narrow.clone());
    let (most, step, scale) = (column("row_max"), column("row_step"), column("row_scale"));
    let levels = graph.add_constant(&format!("{name}_levels"), Tensor::scalar(127.0_f32)?);
    let least = graph.add_constant(&format!("{name}_least"), Tensor::scalar(f32::MIN_POSITIVE)?);
    let one = graph.add_constant(&format!("{name}_one"), Tensor::scalar(1.0_f32)?);
    let middle = graph.add_constant(&format!("{name}_middle"), Tensor::scalar(128_u8)?);
    // Until opset 18 the axes are an attribute, then an input.
    let (mut reduced, mut attrs) = (vec![magnitude], Attrs::new().with("keepdims", Attr::Int(1)));
    if graph.opset() >= 18 {
        reduced.push(graph.add_constant(&format!("{name}_axes"), Tensor::from_slice(&[1], &[-1_i64])?));
    } else {
        attrs.set("axes", Attr::Ints(vec![-1]));
    }
    let mut add = |op: Op, suffix: &str, inputs: Vec<ValueId>, out: ValueId, attrs: Attrs| {
        let inputs = inputs.into_iter().map(Some).collect();
        graph.add_node(Node::new(op, &format!("{name}_{suffix}"), inputs, vec![out], attrs));
    };
    add(Op::Abs, "Abs", vec![x], magnitude, Attrs::new());
    add(Op::ReduceMax, "ReduceMax", reduced, most, attrs);
    add(Op::Div, "Step", vec![most, levels], step, Attrs::new());
    add(Op::Max, "Scale", vec![step, least], scale, Attrs::new());
    add(Op::Div, "Scaled", vec![x, scale], scaled, Attrs::new());
    add(Op::QuantizeLinear, "QuantizeRows", vec![scaled, one, middle], codes, Attrs::new());
    Ok((codes, scale))
}

/// Codes of s8 with zero point 0 as u8 with zero point 128.
fn unsigned(codes: &Tensor) -> Result<Tensor, QdqError> {
    let moved: Vec<u8> = codes.bytes().iter().map(|code| code ^ 0x80).collect();
    Ok(Tensor::from_slice(codes.shape(), &moved)?)
}

/// The transpose of a matrix of 8-bit codes.
fn transpose(codes: &Tensor) -> Result<Tensor, QdqError> {
    let (&[rows, columns], Some(from)) = (codes.shape(), codes.get::<i8>()) else { return Ok(codes.clone()) };
    let to: Vec<i8> = (0..rows * columns).map(|i| from[i % rows * columns + i / rows]).collect();
    Ok(Tensor::from_slice(&[columns, rows], &to)?)
}
