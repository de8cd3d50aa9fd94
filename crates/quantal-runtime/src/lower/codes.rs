//! Where codes come from and where they go: the DequantizeLinear before a node and the QuantizeLinear after it.

use super::{Rule, Stop};
use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::layout::Layout;
use crate::ops::OpKernel;
use crate::program::SlotId;
use crate::steps::Step;
use crate::steps::codes::Codes;
use quantal_ir::op::quant::granularity;
use quantal_ir::passes::is_half;
use quantal_ir::{Node, NodeId, Op, ValueId, qdq};
use quantal_tensor::arith::{self, Affine};
use quantal_tensor::{DType, Granularity, Tensor};
use std::sync::Arc;

/// A run-time tensor of codes that a node reads through a DequantizeLinear.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    /// The value that holds the codes.
    pub(super) value: ValueId,
    pub(super) codes: Codes,
}

/// Weights: constant codes behind a DequantizeLinear.
pub(super) struct Weights {
    pub(super) tensor: Arc<Tensor>,
    pub(super) signed: bool,
    /// One, or one for each channel.
    pub(super) scale: Vec<f32>,
    /// As many as scales.
    pub(super) zero_point: Vec<i32>,
    /// The axis of the channels, if there is more than one scale.
    pub(super) axis: Option<usize>,
}

/// Where the result of a node goes as codes.
pub(super) struct Target {
    /// The values that hold the codes: one for each QuantizeLinear, all the same.
    values: Vec<ValueId>,
    pub(super) codes: Codes,
    /// The QuantizeLinear nodes, and a Relu or Clip on the way.
    absorbed: Vec<NodeId>,
}

/// The name of a value, as errors and reasons show it.
pub(super) fn name(l: &Lowering<'_>, v: ValueId) -> String {
    l.graph.value(v).name.escape_debug().to_string()
}

pub(super) fn is_quantize(op: Op) -> bool {
    matches!(op, Op::QuantizeLinear | Op::MsQuantizeLinear)
}

pub(super) fn is_dequantize(op: Op) -> bool {
    matches!(op, Op::DequantizeLinear | Op::MsDequantizeLinear)
}

/// Scale and zero point of a Q or DQ node, one for the whole tensor, with the type of the codes.
pub(super) fn per_tensor(l: &mut Lowering<'_>, node: &Node) -> Rule<Codes> {
    let value = node.input(0).or(node.output(0));
    let value = value.map_or_else(String::new, |v| name(l, v));
    if is_quantize(node.op) && is_half(DType::from_onnx(super::attr(l, node.attrs.int_or("precision", 0))? as i32)) {
        return Err(Reason::Attribute(format!("`{value}` is divided by its scale in 16 bits")).into());
    }
    let (scale, zero_point) = parameters(l, node, &value)?;
    let (&[scale], &[zero_point]) = (&scale[..], &zero_point[..]) else {
        return Err(Reason::Granularity { value }.into());
    };
    let signed = match qdq::code_type(l.graph, node) {
        Some(DType::U8) => false,
        Some(DType::I8) => true,
        _ => return Err(Reason::CodeType { value }.into()),
    };
    let (qmin, qmax) = if signed { (-128, 127) } else { (0, 255) };
    if !scale.is_normal() || scale < 0.0 {
        return Err(Reason::Attribute(format!("the scale of `{value}` is {scale}")).into());
    }
    Ok(Codes { affine: Affine { scale, zero_point, qmin, qmax }, signed })
}

fn parameters(l: &mut Lowering<'_>, node: &Node, value: &str) -> Rule<(Vec<f32>, Vec<i32>)> {
    let dynamic = || Stop::from(Reason::DynamicScale { value: value.to_owned() });
    let scale = l.constant(node.input(1).ok_or_else(dynamic)?)?.ok_or_else(dynamic)?;
    let scale = scale.get::<f32>().ok_or_else(dynamic)?.to_vec();
    let zero_point = match node.input(2) {
        None => vec![0; scale.len()],
        Some(z) => {
            let z = l.constant(z)?.ok_or_else(dynamic)?;
            z.to_i64_vec().ok_or_else(dynamic)?.into_iter().map(|z| z as i32).collect()
        }
    };
    Ok((scale, zero_point))
}

/// The DequantizeLinear that makes `v`.
fn dequantizer(l: &Lowering<'_>, v: ValueId) -> Option<Node> {
    let node = l.graph.node(l.uses.producer(v)?);
    is_dequantize(node.op).then(|| node.clone())
}

/// The codes behind a data input.
pub(super) fn operand(l: &mut Lowering<'_>, v: Option<ValueId>) -> Rule<Operand> {
    let Some(v) = v else { return Err(Reason::InputNotQuantized { input: "(left out)".into() }.into()) };
    let node = dequantizer(l, v).ok_or_else(|| Reason::InputNotQuantized { input: name(l, v) })?;
    let codes = per_tensor(l, &node)?;
    let value = node.input(0).ok_or_else(|| Reason::InputNotQuantized { input: name(l, v) })?;
    Ok(Operand { value, codes })
}

/// The constant codes behind a weight input.
pub(super) fn weights(l: &mut Lowering<'_>, v: ValueId) -> Rule<Weights> {
    let input = name(l, v);
    let Some(node) = dequantizer(l, v) else {
        let constant = l.constant(v)?.is_some();
        return Err(
            if constant { Reason::InputNotQuantized { input } } else { Reason::WeightNotConstant { input } }.into()
        );
    };
    let (scale, zero_point) = parameters(l, &node, &input)?;
    let tensor = match node.input(0) {
        Some(q) => l.constant(q)?,
        None => None,
    };
    let Some(tensor) = tensor else { return Err(Reason::WeightNotConstant { input }.into()) };
    let signed = match tensor.dtype() {
        DType::I8 => true,
        DType::U8 => false,
        _ => return Err(Reason::CodeType { value: input }.into()),
    };
    let shape = node.input(1).and_then(|s| l.graph.value(s).known_shape()).unwrap_or_default();
    let axis = match super::attr(l, granularity(&node.attrs, tensor.rank(), &shape))? {
        Granularity::PerTensor => None,
        Granularity::PerChannel { axis } if scale.len() == tensor.shape()[axis] => Some(axis),
        Granularity::PerChannel { .. } | Granularity::PerToken | Granularity::PerBlock { .. } => {
            return Err(Reason::Granularity { value: input }.into());
        }
    };
    if zero_point.len() != scale.len() {
        return Err(Reason::Granularity { value: input }.into());
    }
    Ok(Weights { tensor, signed, scale, zero_point, axis })
}

/// A bias as 32-bit codes at the scales `s_x · s_w[c]`: as written in the model if it is quantized so, else rounded here.
pub(super) fn bias(l: &mut Lowering<'_>, v: ValueId, scales: &[f32], channels: usize) -> Rule<Vec<i32>> {
    let input = name(l, v);
    if let Some(node) = dequantizer(l, v) {
        let (own, zero_point) = parameters(l, &node, &input)?;
        let codes = match node.input(0) {
            Some(q) => l.constant(q)?,
            None => None,
        };
        let same = own.len() <= scales.len() && scales.iter().enumerate().all(|(c, s)| own[c % own.len()] == *s);
        if let Some(codes) = codes.as_ref().and_then(|t| t.get::<i32>())
            && same
            && codes.len() == channels
            && zero_point.iter().all(|&z| z == 0)
        {
            return Ok(codes.to_vec());
        }
    }
    let Some(tensor) = l.constant(v)? else { return Err(Reason::InputNotQuantized { input }.into()) };
    let Some(values) = tensor.get::<f32>().filter(|b| b.len() == channels || b.len() == 1) else {
        return Err(Reason::Attribute(format!("`{input}` is no bias of {channels} floats")).into());
    };
    let code = |c: usize| {
        let (b, s) = (values[c % values.len()], scales[c % scales.len()]);
        let code = arith::quantize(b, s, 0, i32::MIN, i32::MAX);
        (code.unsigned_abs() < 1 << 30).then_some(code)
    };
    (0..channels).map(code).collect::<Option<_>>().ok_or_else(|| Reason::AccumulatorRange.into())
}

/// Where `v` goes, if every reader turns it into the same codes, perhaps after one Relu or Clip.
pub(super) fn target(l: &mut Lowering<'_>, v: ValueId) -> Rule<Target> {
    if l.is_kept(v) {
        return Err(Reason::OutputReadersDiffer.into());
    }
    let readers = l.uses.readers(v).to_vec();
    if let [only] = readers[..] {
        let node = l.graph.node(only).clone();
        if let (Some((lo, hi)), Some(y)) = (clamp_bounds(l, &node)?, node.output(0)) {
            let mut target = target(l, y)?;
            let Affine { scale, zero_point, qmin, qmax } = target.codes.affine;
            // Quantization is monotone: the code of a clamped value is the clamped code.
            let code = |x: f32| arith::quantize(x, scale, zero_point, qmin, qmax);
            target.codes.affine = Affine { qmin: code(lo), qmax: code(hi).max(code(lo)), ..target.codes.affine };
            target.absorbed.push(only);
            return Ok(target);
        }
    }
    let quantizing = readers.iter().filter(|r| is_quantize(l.graph.node(**r).op)).count();
    if quantizing == 0 {
        return Err(Reason::OutputNotQuantized.into());
    }
    if quantizing < readers.len() {
        return Err(Reason::OutputReadersDiffer.into());
    }
    let mut found: Option<Target> = None;
    for id in readers {
        let node = l.graph.node(id).clone();
        let codes = per_tensor(l, &node)?;
        let Some(y) = node.output(0).filter(|_| node.input(0) == Some(v)) else {
            return Err(Reason::OutputReadersDiffer.into());
        };
        match &mut found {
            None => found = Some(Target { values: vec![y], codes, absorbed: vec![id] }),
            Some(t) if t.codes == codes => {
                t.values.push(y);
                t.absorbed.push(id);
            }
            Some(_) => return Err(Reason::OutputReadersDiffer.into()),
        }
    }
    let mut found = found.ok_or(Reason::OutputNotQuantized)?;
    while let [y] = found.values[..]
        && let Some(clip) = clip_behind(l, y)
    {
        found.codes = clip.narrowed(found.codes);
        found.values = vec![clip.y];
        found.absorbed.push(clip.node);
    }
    Ok(found)
}

/// A Clip of quantized values by constants that is all that reads them: a narrower range of whatever makes them.
pub(super) struct ClipBehind {
    pub(super) node: NodeId,
    /// What it makes.
    pub(super) y: ValueId,
    bounds: (i32, i32),
}

impl ClipBehind {
    /// Codes of which only those within the bounds are in use.
    pub(super) fn narrowed(&self, codes: Codes) -> Codes {
        let Affine { qmin, qmax, .. } = codes.affine;
        let (lo, hi) = (self.bounds.0.clamp(qmin, qmax), self.bounds.1.clamp(qmin, qmax));
        Codes { affine: Affine { qmin: lo, qmax: hi, ..codes.affine }, ..codes }
    }
}

/// The Clip that alone reads quantized values.
pub(super) fn clip_behind(l: &Lowering<'_>, v: ValueId) -> Option<ClipBehind> {
    let id = l.sole_reader(v)?;
    let node = l.graph.node(id);
    let y = node.output(0).filter(|_| node.input(0) == Some(v))?;
    qdq::quantized_clip(l.graph, node).map(|bounds| ClipBehind { node: id, y, bounds })
}

/// Whether a node reads quantized values themselves, not through a DequantizeLinear.
pub(super) fn is_of_codes(l: &Lowering<'_>, id: NodeId) -> bool {
    let x = l.graph.node(id).input(0);
    x.is_some_and(|v| matches!(l.graph.value(v).dtype, Some(DType::U8 | DType::I8)))
}

/// A Clip of quantized values by itself: it compares integers as they are.
pub(super) fn clip(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Err(refusal(l, id).into()) };
    if qdq::quantized_clip(l.graph, &node).is_none() {
        return Err(Reason::Attribute("its bounds are computed while running".into()).into());
    }
    let kernel = super::prepared(l, OpKernel::prepare(&node, l.graph.opset()))?;
    let rank = l.rank(x);
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for v in &node.inputs {
        inputs.push(v.map(|v| l.slot(v, Layout::Standard)).transpose()?);
    }
    let to = l.define(y, Layout::Standard, rank);
    l.emit(id, Step::Op(Box::new(kernel)), inputs, vec![Some(to)]);
    l.set(id, Status::Integer { kernel: "bytes" });
    Ok(())
}

/// The bounds of a Relu or of a Clip with constant bounds.
fn clamp_bounds(l: &mut Lowering<'_>, node: &Node) -> Rule<Option<(f32, f32)>> {
    let mut bound = |v: Option<ValueId>, absent: f32| -> Rule<Option<f32>> {
        let Some(v) = v else { return Ok(Some(absent)) };
        Ok(l.constant(v)?.and_then(|t| t.to_f32_vec()).filter(|t| t.len() == 1).map(|t| t[0]))
    };
    match node.op {
        Op::Relu => Ok(Some((0.0, f32::INFINITY))),
        Op::Clip => {
            let (lo, hi) = (bound(node.input(1), f32::NEG_INFINITY)?, bound(node.input(2), f32::INFINITY)?);
            Ok(lo.zip(hi).filter(|(lo, hi)| lo <= hi))
        }
        _ => Ok(None),
    }
}

impl Target {
    /// A slot for the codes, in a layout; every QuantizeLinear's value lies there.
    pub(super) fn define(&self, l: &mut Lowering<'_>, layout: Layout, rank: Option<usize>) -> SlotId {
        let (first, rest) = self.values.split_first().expect("a target has a QuantizeLinear");
        let slot = l.define(*first, layout, rank);
        for v in rest {
            l.share(*v, layout, slot);
        }
        slot
    }

    /// Puts the codes where those of a value lie that nobody reads any more.
    pub(super) fn take_over(&self, l: &mut Lowering<'_>, layout: Layout, slot: SlotId) {
        let (first, rest) = self.values.split_first().expect("a target has a QuantizeLinear");
        l.take_over(*first, layout, slot);
        for v in rest {
            l.share(*v, layout, slot);
        }
    }

    /// The values that hold the codes.
    pub(super) fn values(&self) -> Vec<ValueId> {
        self.values.clone()
    }

    /// Says that `id` runs on integers, and that all up to the codes went into it.
    pub(super) fn done(&self, l: &mut Lowering<'_>, id: NodeId, kernel: &'static str) {
        l.set(id, Status::Integer { kernel });
        self.fused(l, id);
    }

    /// Says that all up to the codes went into the step of `into`.
    pub(super) fn fused(&self, l: &mut Lowering<'_>, into: NodeId) {
        for &q in &self.absorbed {
            l.set(q, Status::Fused { into });
        }
    }
}

/// The nodes that read codes through their DequantizeLinear nodes; `None` if somebody reads the codes or the floats
/// otherwise, or they must exist by themselves.
pub(super) fn readers_of_codes(l: &Lowering<'_>, codes: ValueId) -> Option<Vec<NodeId>> {
    if l.is_kept(codes) {
        return None;
    }
    let mut readers = Vec::new();
    for &dq in l.uses.readers(codes) {
        let node = l.graph.node(dq);
        let y = node.output(0).filter(|y| is_dequantize(node.op) && !l.is_kept(*y))?;
        readers.extend_from_slice(l.uses.readers(y));
    }
    readers.sort_unstable();
    readers.dedup();
    Some(readers)
}

/// Why a node that no rule knows runs in float: its first float input that nothing dequantizes, or the operator itself.
pub(super) fn refusal(l: &Lowering<'_>, id: NodeId) -> Reason {
    let node = l.graph.node(id);
    let float = |v: &ValueId| l.graph.value(*v).dtype.is_none_or(DType::is_float);
    let open = node
        .inputs
        .iter()
        .flatten()
        .find(|&v| float(v) && l.graph.value(*v).constant.is_none() && dequantizer(l, *v).is_none());
    match open {
        Some(v) => Reason::InputNotQuantized { input: name(l, *v) },
        None => Reason::NoIntegerForm { op: node.op_name() },
    }
}
