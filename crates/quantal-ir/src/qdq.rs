//! The bridge between the side table and the graph: [`insert_qdq`] writes a [`QuantPlan`] as QuantizeLinear and
//! DequantizeLinear nodes, [`extract_qdq`] reads it back. QDQ is the only form in which decisions leave.

mod bounds;
mod dynamic;
mod extract;
mod lift;
mod qoperator;
mod running;

use crate::attrs::{Attr, AttrError, Attrs};
use crate::graph::{Graph, Node, NodeId, Uses, ValueId};
use crate::op::Op;
use crate::op::quant::granularity;
use crate::op::weighted::Weighted;
use crate::quant_plan::{Encoding, QuantPlan};
use quantal_onnx::quote;
use quantal_tensor::{DType, Granularity, QParams, Scheme, Storage, Tensor, TensorError, arith};

pub use extract::{Clamp, Extracted, extract_qdq, loosen};
pub use lift::quantized_clip;
pub use qoperator::expand_qoperators;

/// Why a plan cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum QdqError {
    /// An encoding does not fit its value.
    #[error("value {value}: {problem}")]
    Value {
        /// The value's name, quoted.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// An attribute of a Q or DQ node is wrong.
    #[error(transparent)]
    Attr(#[from] AttrError),
    /// The nodes cannot be ordered.
    #[error(transparent)]
    Cycle(#[from] crate::graph::Cycle),
}

fn wrong(graph: &Graph, v: ValueId, problem: impl Into<String>) -> QdqError {
    QdqError::Value { value: quote(&graph.value(v).name), problem: problem.into() }
}

/// Writes every encoding of `plan` into a copy of `graph`.
///
/// A constant becomes integer codes behind a DequantizeLinear; any other value gets a pair Q → DQ that all its readers
/// read from, those in subgraphs included: there is one truth about each value, the one that calibration chose, and no
/// float copy of a weight beside its codes. The bias of a weighted node with encoded data and weights becomes 32-bit codes
/// at scale `s_x · s_w[c]`.
///
/// Inputs and outputs keep their names, their order and their types. The name of an output that a node makes in codes
/// moves to the DequantizeLinear. Outputs that are fed, constant or in [`QuantPlan::float_outputs`] leave as they are; only
/// their readers in the graph read what was rounded.
pub fn insert_qdq(graph: &Graph, plan: &QuantPlan) -> Result<Graph, QdqError> {
    let mut out = graph.clone();
    dynamic::insert(&mut out, plan)?;
    let uses = graph.uses();
    for (id, _) in graph.nodes().filter(|(id, _)| !plan.dynamic.contains(id)) {
        quantize_bias(&mut out, graph, &uses, plan, id)?;
    }
    let mut handed_out = vec![false; graph.value_count()];
    for v in &graph.outputs {
        handed_out[v.0 as usize] = true;
    }
    for (&v, encoding) in &plan.encodings {
        let params = encoding.qparams().ok_or_else(|| wrong(graph, v, "has an encoding without numbers"))?;
        if graph.value(v).constant.is_some() && out.read_count(v) == 0 {
            // The weights of dynamic products alone.
        } else if graph.value(v).constant.is_some() {
            quantize_constant(&mut out, v, &encoding.scheme, params)?;
        } else {
            let takes_name = handed_out[v.0 as usize] && !plan.float_outputs.contains(&v);
            quantize_activation(&mut out, v, &encoding.scheme, params, takes_name)?;
        }
    }
    out.sort()?;
    Ok(out)
}

/// Writes the bias of node `id` of `graph` as codes into `out`, where other nodes may be gone already.
fn quantize_bias(out: &mut Graph, graph: &Graph, uses: &Uses, plan: &QuantPlan, id: NodeId) -> Result<(), QdqError> {
    let Some(w) = Weighted::of(graph, graph.node(id)) else { return Ok(()) };
    let encoding = |v: ValueId| plan.encodings.get(&v).and_then(Encoding::qparams);
    let place = if w.bias.is_some() { Some((id, 2)) } else { added_vector(graph, uses, plan, id) };
    let bias = place.and_then(|(reader, index)| graph.node(reader).input(index));
    let (Some((reader, index)), Some(bias), Some(px), Some(pw)) = (place, bias, encoding(w.data), encoding(w.weight))
    else {
        return Ok(());
    };
    let Some(tensor) = graph.constant(Some(bias)).cloned() else { return Ok(()) };
    let Some(values) = tensor.get::<f32>() else { return Ok(()) };
    // Gemm lets the bias be broadcast, and scales it by beta; only one entry a channel has a scale of its own.
    let beta = graph.node(id).attrs.float_or("beta", 1.0)?;
    let alpha = graph.node(id).attrs.float_or("alpha", 1.0)?;
    let channels = if pw.scale.len() == 1 { values.len() } else { pw.scale.len() };
    if tensor.rank() != 1 || values.len() != channels || beta != 1.0 || alpha != 1.0 || px.scale.len() != 1 {
        return Ok(());
    }
    let scales: Vec<f32> = pw.scale.iter().map(|s| px.scale[0] * s).collect();
    if let Some(s) = scales.iter().find(|s| !s.is_normal()) {
        return Err(wrong(graph, bias, format!("is a bias whose scale would be {s}")));
    }
    let code = |(c, &b): (usize, &f32)| arith::quantize(b, scales[c % scales.len()], 0, i32::MIN + 1, i32::MAX);
    let codes: Vec<i32> = values.iter().enumerate().map(code).collect();
    let name = graph.value(bias).name.to_string();
    let codes = Tensor::from_slice(&[codes.len()], &codes)?;
    let y = dequantized(out, &name, codes, &QParams { zero_point: vec![0; scales.len()], scale: scales }, Some(0))?;
    out.node_mut(reader).inputs[index] = Some(y);
    Ok(())
}

/// The bias of a MatMul: where the node that alone reads the product adds a constant vector to it. Written as codes, the
/// two are one integer product elsewhere too; with a vector of floats other runtimes take them for a float Gemm.
fn added_vector(graph: &Graph, uses: &Uses, plan: &QuantPlan, id: NodeId) -> Option<(NodeId, usize)> {
    let node = graph.node(id);
    let product = node.output(0).filter(|v| node.op == Op::MatMul && !graph.is_output(*v))?;
    let &[add] = uses.readers(product) else { return None };
    let sum = graph.node(add);
    let index = sum.inputs.iter().position(|v| *v != Some(product)).filter(|_| sum.op == Op::Add)?;
    let vector = sum.input(index)?;
    let encoded = |v| plan.encodings.contains_key(&v);
    (graph.value(vector).constant.is_some() && !encoded(product) && !encoded(vector)).then_some((add, index))
}

/// Codes, their parameters, and the DequantizeLinear that reads them; gives its output.
fn dequantized(
    graph: &mut Graph,
    name: &str,
    codes: Tensor,
    params: &QParams,
    axis: Option<usize>,
) -> Result<ValueId, QdqError> {
    let (dtype, shape) = (codes.dtype(), codes.shape().iter().map(|&d| crate::Dim::Known(d)).collect());
    let q = graph.add_constant(&format!("{name}_quantized"), codes);
    let (scale, zero_point) = param_constants(graph, name, params, dtype)?;
    let y = graph.add_value(&format!("{name}_dequantized"), Some(DType::F32), Some(shape));
    let mut attrs = Attrs::new();
    if let (Some(axis), true) = (axis, params.scale.len() > 1) {
        attrs.set("axis", Attr::Int(axis as i64));
    }
    let node = format!("{name}_DequantizeLinear");
    graph.add_node(Node::new(Op::DequantizeLinear, &node, vec![Some(q), Some(scale), zero_point], vec![y], attrs));
    Ok(y)
}

/// Constants for scale and zero point; 32-bit codes have no zero point.
fn param_constants(
    graph: &mut Graph,
    name: &str,
    params: &QParams,
    dtype: DType,
) -> Result<(ValueId, Option<ValueId>), QdqError> {
    let n = params.scale.len();
    let shape: &[usize] = if n == 1 { &[] } else { &[n] };
    let scale = graph.add_constant(&format!("{name}_scale"), Tensor::from_slice(shape, &params.scale)?);
    let zero_point = match dtype {
        DType::U8 => Tensor::from_slice(shape, &params.zero_point.iter().map(|&z| z as u8).collect::<Vec<_>>())?,
        DType::I8 => Tensor::from_slice(shape, &params.zero_point.iter().map(|&z| z as i8).collect::<Vec<_>>())?,
        _ => return Ok((scale, None)),
    };
    Ok((scale, Some(graph.add_constant(&format!("{name}_zero_point"), zero_point))))
}

/// Codes of a float tensor under a scheme, by arith (1).
pub fn quantize_tensor(tensor: &Tensor, scheme: &Scheme, params: &QParams) -> Result<Tensor, TensorError> {
    let x = tensor.as_slice::<f32>();
    let inner = match scheme.granularity {
        Granularity::PerChannel { axis } => tensor.shape()[axis + 1..].iter().product::<usize>().max(1),
        Granularity::PerTensor | Granularity::PerToken | Granularity::PerBlock { .. } => x.len().max(1),
    };
    let mut codes = Vec::with_capacity(x.len());
    if inner == 1 {
        // Channels are last: a row of them at a time.
        for row in x.chunks(params.scale.len()) {
            let code = |((&x, &scale), &zero): ((&f32, &f32), &i32)| code_of(x, scale, zero, scheme);
            codes.extend(row.iter().zip(&params.scale).zip(&params.zero_point).map(code));
        }
    } else {
        for (i, run) in x.chunks(inner).enumerate() {
            let (scale, zero) = (params.scale[i % params.scale.len()], params.zero_point[i % params.scale.len()]);
            codes.extend(run.iter().map(|&x| code_of(x, scale, zero, scheme)));
        }
    }
    match scheme.storage {
        Storage::U8 => Tensor::from_slice(tensor.shape(), &codes),
        Storage::S8 => Tensor::from_slice(tensor.shape(), &codes.iter().map(|&q| q.cast_signed()).collect::<Vec<_>>()),
    }
}

/// The bits of a code of 8 bits: arith (1) in a form that compiles to vectors. The clamp comes first, which is the same
/// since its ends are whole numbers, and then a number below 2^22 is rounded by adding one of 2^23, ties to even.
#[inline]
fn code_of(x: f32, scale: f32, zero_point: i32, scheme: &Scheme) -> u8 {
    const MAGIC: f32 = 12_582_912.0;
    let (lo, hi) = (scheme.qmin as f32 - zero_point as f32, scheme.qmax as f32 - zero_point as f32);
    let steps = x / scale;
    let steps = if steps.is_nan() { 0.0 } else { steps };
    let steps = if steps < lo { lo } else { steps };
    let steps = if steps > hi { hi } else { steps };
    let code = (steps + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits()).cast_signed();
    code.wrapping_add(zero_point) as u8
}

fn channel_axis(graph: &Graph, v: ValueId, scheme: &Scheme, params: &QParams) -> Result<Option<usize>, QdqError> {
    let shape = graph.value(v).known_shape().unwrap_or_default();
    let (axis, wanted) = match scheme.granularity {
        Granularity::PerTensor => (None, 1),
        Granularity::PerChannel { axis } => match shape.get(axis) {
            Some(&n) => (Some(axis), n),
            None => return Err(wrong(graph, v, format!("has no axis {axis} to hold channels"))),
        },
        Granularity::PerToken | Granularity::PerBlock { .. } => {
            return Err(wrong(graph, v, "has a granularity that a QDQ model cannot hold yet"));
        }
    };
    if params.scale.len() != wanted || params.zero_point.len() != wanted {
        let problem = format!("needs {wanted} scales and zero points, found {}", params.scale.len());
        return Err(wrong(graph, v, problem));
    }
    match params.scale.iter().find(|s| !s.is_normal() || **s < 0.0) {
        Some(s) => Err(wrong(graph, v, format!("has the scale {s}"))),
        None => Ok(axis),
    }
}

fn quantize_constant(graph: &mut Graph, v: ValueId, scheme: &Scheme, params: &QParams) -> Result<(), QdqError> {
    let axis = channel_axis(graph, v, scheme, params)?;
    let tensor = graph.constant(Some(v)).cloned().filter(|t| t.dtype() == DType::F32);
    let tensor = tensor.ok_or_else(|| wrong(graph, v, "is not a float32 constant"))?;
    let codes = quantize_tensor(&tensor, scheme, params)?;
    let name = graph.value(v).name.to_string();
    let y = dequantized(graph, &name, codes, params, axis)?;
    graph.replace_in_readers(v, y);
    Ok(())
}

/// The pair Q → DQ of a value. With `takes_name` what comes out of it has the place of the value as a graph output.
fn quantize_activation(
    graph: &mut Graph,
    v: ValueId,
    scheme: &Scheme,
    params: &QParams,
    takes_name: bool,
) -> Result<(), QdqError> {
    channel_axis(graph, v, scheme, params)?;
    if (scheme.qmin, scheme.qmax) != scheme.storage.full_range() || params.scale.len() != 1 {
        return Err(wrong(graph, v, "is an activation: it needs one scale and the full range of its type"));
    }
    let name = graph.value(v).name.to_string();
    let (dtype, shape) = (scheme.storage.dtype(), graph.value(v).shape.clone());
    let (scale, zero_point) = param_constants(graph, &name, params, dtype)?;
    let codes = graph.add_value(&format!("{name}_quantized"), Some(dtype), shape.clone());
    let fresh =
        |graph: &mut Graph, suffix: &str| graph.add_value(&format!("{name}_{suffix}"), Some(DType::F32), shape.clone());
    let maker = graph.producer(v).filter(|_| takes_name);
    let (x, y) = if let Some(maker) = maker {
        // The readers go on reading the value of that name: the one before gets the new name.
        let x = fresh(graph, "float");
        for o in graph.node_mut(maker).outputs.iter_mut().flatten().filter(|o| **o == v) {
            *o = x;
        }
        (x, v)
    } else {
        let y = fresh(graph, "dequantized");
        graph.replace_in_readers(v, y);
        (v, y)
    };
    let (q, dq) = (format!("{name}_QuantizeLinear"), format!("{name}_DequantizeLinear"));
    let inputs = |x| vec![Some(x), Some(scale), zero_point];
    graph.add_node(Node::new(Op::QuantizeLinear, &q, inputs(x), vec![codes], Attrs::new()));
    graph.add_node(Node::new(Op::DequantizeLinear, &dq, inputs(codes), vec![y], Attrs::new()));
    Ok(())
}

/// The parameters of a Q or DQ node on data of `rank` dimensions, if they are constants.
pub fn params_of(graph: &Graph, node: &Node, rank: usize) -> Result<Option<(Scheme, QParams)>, QdqError> {
    let (Some(scale), Some(dtype)) = (graph.constant(node.input(1)), code_type(graph, node)) else { return Ok(None) };
    let Some(values) = scale.get::<f32>().map(<[f32]>::to_vec) else { return Ok(None) };
    let zero_point = match (node.input(2), graph.constant(node.input(2))) {
        (None, _) => vec![0; values.len()],
        (Some(_), Some(t)) => match t.to_i64_vec() {
            Some(z) if z.len() == values.len() => z.into_iter().map(|z| z as i32).collect(),
            _ => return Ok(None),
        },
        (Some(_), None) => return Ok(None),
    };
    let storage = match dtype {
        DType::U8 => Storage::U8,
        DType::I8 => Storage::S8,
        _ => return Ok(None),
    };
    let (qmin, qmax) = storage.full_range();
    let symmetric = zero_point.iter().all(|&z| z == if storage == Storage::S8 { 0 } else { 128 });
    let granularity = granularity(&node.attrs, rank, scale.shape())?;
    Ok(Some((Scheme { storage, qmin, qmax, symmetric, granularity }, QParams { scale: values, zero_point })))
}

/// The type of the codes that a Q node makes or a DQ node reads.
pub fn code_type(graph: &Graph, node: &Node) -> Option<DType> {
    let of = |i: usize| node.input(i).and_then(|v| graph.value(v).dtype);
    match node.op {
        Op::DequantizeLinear | Op::MsDequantizeLinear => of(0).or_else(|| of(2)),
        _ => of(2).or_else(|| {
            let declared = node.attrs.int("output_dtype").ok().flatten().filter(|&d| d != 0);
            declared.map_or(Some(DType::U8), |d| DType::from_onnx(d as i32))
        }),
    }
}

#[cfg(test)]
mod tests;
