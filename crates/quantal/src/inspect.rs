//! `quantal inspect`: what is in a model.

use crate::engine::Engine;
use crate::error::Error;
use crate::model::Model;
use quantal_ir::contrib::{self, Purpose};
use quantal_ir::{Dim, Graph, NodeId, Op, ValueId, cost, qdq};
use quantal_runtime::Coverage;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is in a model.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The file.
    pub model: String,
    /// Size of the file.
    pub file_bytes: u64,
    /// Version of ONNX operators in the file, and of other domains.
    pub opsets: BTreeMap<String, i64>,
    /// Who wrote it.
    pub producer: String,
    /// What is fed.
    pub inputs: Vec<ValueRow>,
    /// What comes out.
    pub outputs: Vec<ValueRow>,
    /// Number of nodes.
    pub nodes: usize,
    /// Numbers held in weights.
    pub parameters: u64,
    /// Bytes of constants.
    pub constant_bytes: u64,
    /// Multiply-accumulates for one sample, where shapes are known.
    pub macs: Option<u64>,
    /// Operators, most frequent first.
    pub operators: Vec<OpRow>,
    /// Quantized values with their parameters.
    pub quantized: Vec<QuantizedValue>,
}

/// An input or output.
#[derive(Clone, Debug, Serialize)]
pub struct ValueRow {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: String,
    /// Its dimensions: numbers, names, or `?`.
    pub shape: Vec<String>,
}

/// How often an operator is used.
#[derive(Clone, Debug, Serialize)]
pub struct OpRow {
    /// The operator.
    pub op: String,
    /// Number of nodes.
    pub count: usize,
    /// Their multiply-accumulates.
    pub macs: u64,
}

/// A value that a QuantizeLinear makes or a DequantizeLinear reads.
#[derive(Clone, Debug, Serialize)]
pub struct QuantizedValue {
    /// Its name.
    pub name: String,
    /// Type of the codes.
    pub codes: String,
    /// Number of scales.
    pub scales: usize,
    /// Smallest scale.
    pub scale_min: f32,
    /// Largest scale.
    pub scale_max: f32,
    /// The zero point, if there is one for all.
    pub zero_point: Option<i64>,
    /// Whether it is a constant.
    pub constant: bool,
}

/// What each node of the model becomes when it is compiled; one that cannot run is
/// [`Status::Refused`](quantal_runtime::Status::Refused) with the reason.
///
/// # Errors
/// If subgraphs are nested too deep, or memory runs out.
pub fn survey(model: &Model, engine: Engine) -> Result<Coverage, Error> {
    Ok(quantal_runtime::survey(&model.graph, engine.isa)?)
}

/// Multiply-accumulates of each node; those of a fused operator are its parts'. `None` where a shape is not known.
fn macs_of_nodes(graph: &Graph) -> BTreeMap<NodeId, Option<u64>> {
    let plain = |g: &Graph| g.nodes().map(|(id, _)| (id, cost::macs(g, id))).collect();
    if !contrib::has_any(graph, Purpose::Running) {
        return plain(graph);
    }
    let mut parts = graph.clone();
    let Ok(expanded) = contrib::expand(&mut parts, Purpose::Running) else { return plain(graph) };
    let mut macs: BTreeMap<NodeId, Option<u64>> = BTreeMap::new();
    for (id, _) in parts.nodes() {
        let source = expanded.sources.get(&id).copied().unwrap_or(id);
        let sum = macs.entry(source).or_insert(Some(0));
        *sum = sum.zip(cost::macs(&parts, id)).map(|(a, b)| a.saturating_add(b));
    }
    for id in expanded.refused.keys() {
        macs.insert(*id, None);
    }
    macs
}

/// Reads what is in a model.
pub fn inspect(model: &Model) -> Inspection {
    let g = &model.graph;
    let row = |&v: &ValueId| {
        let value = g.value(v);
        ValueRow {
            name: value.name.escape_debug().to_string(),
            dtype: value.dtype.map_or("?", |d| d.name()).to_owned(),
            shape: value.shape.as_ref().map_or_else(|| vec!["…".into()], |s| s.iter().map(Dim::to_string).collect()),
        }
    };
    let mut operators: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    let mut macs = Some(0_u64);
    let each = macs_of_nodes(g);
    for (id, node) in g.nodes() {
        let m = each.get(&id).copied().flatten();
        let entry = operators.entry(node.op_name()).or_default();
        entry.0 += 1;
        entry.1 = entry.1.saturating_add(m.unwrap_or(0));
        macs = macs.zip(m).map(|(a, b)| a.saturating_add(b));
    }
    let mut operators: Vec<OpRow> =
        operators.into_iter().map(|(op, (count, macs))| OpRow { op, count, macs }).collect();
    operators.sort_by_key(|r| std::cmp::Reverse(r.count));
    let source = g.source.as_ref().map(|m| &m.proto);
    let (mut parameters, mut constant_bytes) = (0_u64, 0_u64);
    for tensor in g.values().filter_map(|(_, v)| v.constant.as_ref()) {
        if tensor.rank() > 0 {
            parameters += tensor.len() as u64;
        }
        constant_bytes += tensor.bytes().len() as u64;
    }
    Inspection {
        model: model.name.clone(),
        file_bytes: model.bytes,
        opsets: source.map_or_else(BTreeMap::new, |p| {
            let name = |d: &str| if d.is_empty() { "ai.onnx".to_owned() } else { d.escape_debug().to_string() };
            p.opset_import.iter().map(|o| (name(&o.domain), o.version)).collect()
        }),
        producer: source.map_or_else(String::new, |p| {
            let text = [&p.producer_name, &p.producer_version].map(|s| s.clone().unwrap_or_default()).join(" ");
            text.trim().escape_debug().to_string()
        }),
        inputs: g.inputs.iter().map(row).collect(),
        outputs: g.outputs.iter().map(row).collect(),
        nodes: g.node_count(),
        parameters,
        constant_bytes,
        macs,
        operators,
        quantized: quantized(model),
    }
}

fn quantized(model: &Model) -> Vec<QuantizedValue> {
    let g = &model.graph;
    let (mut rows, mut seen) = (Vec::new(), BTreeSet::new());
    for (_, node) in g.nodes() {
        let codes = match node.op {
            Op::QuantizeLinear | Op::MsQuantizeLinear => node.output(0),
            Op::DequantizeLinear | Op::MsDequantizeLinear => node.input(0),
            _ => None,
        };
        let Some(v) = codes.filter(|v| seen.insert(*v)) else { continue };
        let Some(scale) = g.constant(node.input(1)).and_then(|t| t.to_f32_vec()).filter(|s| !s.is_empty()) else {
            continue;
        };
        let zero_points = g.constant(node.input(2)).and_then(|t| t.to_i64_vec()).unwrap_or_else(|| vec![0]);
        let same = zero_points.iter().all(|z| z == &zero_points[0]);
        rows.push(QuantizedValue {
            name: g.value(v).name.escape_debug().to_string(),
            codes: qdq::code_type(g, node).map_or("?", |d| d.name()).to_owned(),
            scales: scale.len(),
            scale_min: scale.iter().copied().fold(f32::INFINITY, f32::min),
            scale_max: scale.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            zero_point: zero_points.first().copied().filter(|_| same),
            constant: g.value(v).constant.is_some(),
        });
    }
    rows
}
