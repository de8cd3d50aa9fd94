//! Old forms of operators to the form of [`TARGET`]: so every later room knows one form only.
//!
//! What opset 13 reads as an input, older versions had as an attribute; some defaults changed. Each rule here gives the
//! same function in the newer form.

use crate::attrs::{Attr, AttrError, Attrs};
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::Op;
use quantal_tensor::{DType, Tensor, TensorError};

/// The lowest version of ONNX operators that a graph in memory is written in: the first with per-channel
/// (de)quantization.
pub const TARGET: i64 = 13;

/// Why a node has no newer form.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// An attribute is wrong.
    #[error(transparent)]
    Attr(#[from] AttrError),
    /// A constant could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The old operator did something that no newer one does.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
}

/// The operator of a node as named in a file, old names included.
pub(crate) fn op_of(domain: &str, name: &str) -> Op {
    match (domain, name) {
        ("" | "ai.onnx", "Scatter") => Op::ScatterElements,
        _ => Op::find(domain, name),
    }
}

/// Brings node `id`, written in `version`, to the form of [`TARGET`]. Gives the nodes that stand for it now, in an order
/// in which they can run.
pub fn upgrade(graph: &mut Graph, id: NodeId, version: i64) -> Result<Vec<NodeId>, UpgradeError> {
    if version >= TARGET {
        return Ok(vec![id]);
    }
    match graph.node(id).op {
        Op::Squeeze | Op::Unsqueeze | Op::ReduceSum => ints_to_input(graph, id, "axes", 1)?,
        Op::Split => ints_to_input(graph, id, "split", 1)?,
        Op::Clip if version < 11 => {
            float_to_input(graph, id, "min", 1)?;
            float_to_input(graph, id, "max", 2)?;
        }
        Op::Dropout if version < 12 => {
            let mut node = graph.node_mut(id);
            if node.attrs.remove("ratio").is_some() {
                node.origin = None;
            }
        }
        Op::Pad if version < 11 => {
            ints_to_input(graph, id, "pads", 1)?;
            float_to_input(graph, id, "value", 2)?;
        }
        Op::Slice if version < 10 => {
            ints_to_input(graph, id, "starts", 1)?;
            ints_to_input(graph, id, "ends", 2)?;
            ints_to_input(graph, id, "axes", 3)?;
        }
        Op::TopK if version < 10 => {
            let k = graph.node(id).attrs.int("k")?.ok_or(AttrError::Missing("k"))?;
            graph.node_mut(id).attrs.remove("k");
            set_input(graph, id, 1, "k", Tensor::from_slice(&[1], &[k])?);
        }
        Op::Upsample => resize_of_upsample(graph, id)?,
        Op::Resize if version < 11 => {
            let scales = graph.node(id).input(1);
            old_resize(&mut graph.node_mut(id), scales);
        }
        Op::ScatterElements => graph.node_mut(id).origin = None,
        Op::BatchNormalization => {
            let mut node = graph.node_mut(id);
            if node.attrs.int("spatial")? == Some(0) {
                return Err(UpgradeError::Unsupported("BatchNormalization with spatial = 0"));
            }
            if node.attrs.remove("spatial").is_some() {
                node.origin = None;
            }
        }
        Op::Softmax | Op::LogSoftmax => return coerced_softmax(graph, id),
        _ => {}
    }
    Ok(vec![id])
}

fn ints_to_input(graph: &mut Graph, id: NodeId, name: &'static str, at: usize) -> Result<(), UpgradeError> {
    let Some(values) = graph.node(id).attrs.ints(name)?.map(<[i64]>::to_vec) else { return Ok(()) };
    graph.node_mut(id).attrs.remove(name);
    set_input(graph, id, at, name, Tensor::from_slice(&[values.len()], &values)?);
    Ok(())
}

fn float_to_input(graph: &mut Graph, id: NodeId, name: &'static str, at: usize) -> Result<(), UpgradeError> {
    let Some(value) = graph.node(id).attrs.float(name)? else { return Ok(()) };
    graph.node_mut(id).attrs.remove(name);
    let dtype = graph.node(id).input(0).and_then(|x| graph.value(x).dtype);
    let tensor = match dtype {
        Some(DType::F64) => Tensor::scalar(f64::from(value))?,
        Some(DType::F16) => Tensor::scalar(half::f16::from_f32(value))?,
        _ => Tensor::scalar(value)?,
    };
    set_input(graph, id, at, name, tensor);
    Ok(())
}

fn set_input(graph: &mut Graph, id: NodeId, at: usize, what: &str, tensor: Tensor) {
    let name = format!("{}_{what}", graph.node(id).name);
    let value = graph.add_constant(&name, tensor);
    let mut node = graph.node_mut(id);
    let inputs = &mut node.inputs;
    inputs.resize(inputs.len().max(at + 1), None);
    inputs[at] = Some(value);
    node.origin = None;
}

fn resize_of_upsample(graph: &mut Graph, id: NodeId) -> Result<(), UpgradeError> {
    let scales = match graph.node(id).attrs.floats("scales")?.map(<[f32]>::to_vec) {
        Some(s) => {
            let name = format!("{}_scales", graph.node(id).name);
            Some(graph.add_constant(&name, Tensor::from_slice(&[s.len()], &s)?))
        }
        None => Some(graph.node(id).input(1).ok_or(AttrError::Missing("scales"))?),
    };
    let mut node = graph.node_mut(id);
    node.attrs.remove("scales");
    if let Ok(Some("bilinear")) = node.attrs.str("mode") {
        node.attrs.set("mode", Attr::Str((*b"linear").into()));
    }
    old_resize(&mut node, scales);
    Ok(())
}

/// Before version 11 there was one way to map coordinates.
fn old_resize(node: &mut Node, scales: Option<ValueId>) {
    node.op = Op::Resize;
    node.inputs = vec![node.input(0), None, scales];
    node.attrs.set("coordinate_transformation_mode", Attr::Str((*b"asymmetric").into()));
    node.attrs.set("nearest_mode", Attr::Str((*b"floor").into()));
    node.origin = None;
}

/// Before version 13, softmax ran over all axes from `axis` (default 1) on. Where that is the last axis alone, only the
/// attribute changes; else the tensor is made a matrix and back.
fn coerced_softmax(graph: &mut Graph, id: NodeId) -> Result<Vec<NodeId>, UpgradeError> {
    let node = graph.node(id);
    let axis = node.attrs.int_or("axis", 1)?;
    let (op, name) = (node.op, node.name.to_string());
    let rank = node.input(0).and_then(|x| graph.value(x).rank());
    if rank.is_some_and(|r| axis == -1 || axis + 1 == r as i64) {
        let mut node = graph.node_mut(id);
        node.attrs.set("axis", Attr::Int(-1));
        node.origin = None;
        return Ok(vec![id]);
    }
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(vec![id]) };
    let dtype = graph.value(x).dtype;
    let shape = graph.add_value(&format!("{name}_shape"), Some(DType::I64), None);
    let matrix = graph.add_value(&format!("{name}_matrix"), dtype, None);
    let soft = graph.add_value(&format!("{name}_soft"), dtype, None);
    graph.remove_node(id);
    let at = |axis| Attrs::new().with("axis", Attr::Int(axis));
    Ok(vec![
        graph.add_node(Node::new(Op::Shape, &format!("{name}_Shape"), vec![Some(x)], vec![shape], Attrs::new())),
        graph.add_node(Node::new(Op::Flatten, &format!("{name}_Flatten"), vec![Some(x)], vec![matrix], at(axis))),
        graph.add_node(Node::new(op, &name, vec![Some(matrix)], vec![soft], at(-1))),
        graph.add_node(Node::new(
            Op::Reshape,
            &format!("{name}_Reshape"),
            vec![Some(soft), Some(shape)],
            vec![y],
            Attrs::new(),
        )),
    ])
}
