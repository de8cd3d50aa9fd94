//! Makes float32 of every float16 and bfloat16 value inside a graph: integers and the float kernels begin from float32.
//!
//! Each half is a float32 exactly, and what a node computes is only rounded less often, as in ONNX Runtime on a CPU.
//! The half type stays where it is visible outside: at the inputs and outputs of the graph, at values that a subgraph
//! captures, and at the inputs and outputs of nodes with subgraphs and of unknown operators. A Cast stands at each such
//! place.

use super::{Change, PassError};
use crate::attrs::{Attr, Attrs};
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::Op;
use half::{bf16, f16};
use quantal_tensor::{DType, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Attributes that name the type of an output, or the type of what lies between.
const TYPE_ATTRIBUTES: [&str; 6] =
    ["to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"];

/// Whether a type is one of the two float types of 16 bits.
pub fn is_half(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::F16 | DType::BF16))
}

/// Whether any value of the graph is a float of 16 bits; what lies in subgraphs does not count.
pub fn has_half(graph: &Graph) -> bool {
    graph.values().any(|(_, value)| is_half(value.dtype))
}

/// Makes float32 of every float16 and bfloat16 value of a graph, but of its inputs, its outputs and what its subgraphs
/// read. Gives the nodes whose results have become float32. Ids of nodes and values stay what they are.
pub fn widen_half(graph: &mut Graph) -> Result<Vec<Change>, PassError> {
    if !has_half(graph) {
        return Ok(Vec::new());
    }
    let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    let mut widening = Widening { fixed: fixed_values(graph), stand_in: BTreeMap::new() };
    let mut changes = Vec::new();
    for id in ids {
        let node = graph.node(id);
        let constant_out = node.op == Op::Constant && node.outputs.iter().flatten().any(|&y| widening.is_fixed(y));
        if keeps_types(node) || constant_out {
            continue;
        }
        let changed = if node.op == Op::Cast { widening.cast(graph, id)? } else { widening.node(graph, id)? };
        if changed {
            changes.push(Change { pass: "widen_half", node: graph.node(id).name.to_string() });
        }
    }
    graph.sort()?;
    Ok(changes)
}

/// Whether a node is exported as it was read, so that its inputs and outputs keep their types.
fn keeps_types(node: &Node) -> bool {
    node.op == Op::Opaque || node.attrs.graphs().next().is_some()
}

/// By value: whether its type is seen by others.
fn fixed_values(graph: &Graph) -> Vec<bool> {
    let mut fixed = vec![false; graph.value_count()];
    let mut fix = |v: ValueId| fixed[v.0 as usize] = true;
    graph.inputs.iter().chain(&graph.outputs).chain(&graph.captures).copied().for_each(&mut fix);
    for (_, node) in graph.nodes() {
        node.captures.iter().copied().for_each(&mut fix);
        if keeps_types(node) {
            node.reads().chain(node.outputs.iter().copied().flatten()).for_each(&mut fix);
        }
    }
    fixed
}

struct Widening {
    /// Values whose type stays.
    fixed: Vec<bool>,
    /// What is read in place of a value.
    stand_in: BTreeMap<ValueId, ValueId>,
}

impl Widening {
    fn is_fixed(&self, v: ValueId) -> bool {
        self.fixed.get(v.0 as usize).copied().unwrap_or(false)
    }

    /// Any node but a Cast. True if a result has become float32.
    fn node(&mut self, graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
        for i in 0..graph.node(id).inputs.len() {
            let Some(v) = graph.node(id).input(i) else { continue };
            let float = self.float_of(graph, v)?;
            if float != v {
                graph.node_mut(id).inputs[i] = Some(float);
            }
        }
        if let Some(attrs) = widened_attrs(&graph.node(id).attrs)? {
            set_attrs(graph, id, attrs);
        }

        let mut changed = false;
        for i in 0..graph.node(id).outputs.len() {
            let Some(y) = graph.node(id).output(i).filter(|&y| is_half(graph.value(y).dtype)) else { continue };
            changed = true;
            if self.is_fixed(y) {
                let float = self.add_stand_in(graph, y);
                graph.node_mut(id).outputs[i] = Some(float);
                add_cast(graph, float, y);
            } else if let Some(tensor) = graph.value(y).constant.clone() {
                graph.set_constant(y, widened(&tensor)?);
            } else {
                graph.value_mut(y).dtype = Some(DType::F32);
            }
        }
        Ok(changed)
    }

    /// A Cast reads any type as it is. One whose result is seen by others stays exactly what it was; one that has come to
    /// read and make float32 is passed over by its readers.
    fn cast(&mut self, graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
        let node = graph.node(id);
        let (Some(mut x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
        if let Some(&float) = self.stand_in.get(&x) {
            x = float;
            graph.node_mut(id).inputs[0] = Some(x);
        }
        if self.is_fixed(y) {
            return Ok(false);
        }

        let to_half = is_half(graph.value(y).dtype);
        if let Some(attrs) = widened_attrs(&graph.node(id).attrs)? {
            set_attrs(graph, id, attrs);
        }
        if to_half {
            graph.value_mut(y).dtype = Some(DType::F32);
        }
        if graph.value(y).dtype == Some(DType::F32) {
            match graph.value(x).dtype {
                Some(DType::F32) => _ = self.stand_in.insert(y, x),
                from if is_half(from) && self.is_fixed(x) => _ = self.stand_in.insert(x, y),
                _ => {}
            }
        }
        Ok(to_half)
    }

    /// The float32 value to read in place of `v`: `v` itself if it is one, or is no half.
    fn float_of(&mut self, graph: &mut Graph, v: ValueId) -> Result<ValueId, PassError> {
        if let Some(&float) = self.stand_in.get(&v) {
            return Ok(float);
        }
        if !is_half(graph.value(v).dtype) {
            return Ok(v);
        }
        let constant = graph.value(v).constant.clone().filter(|_| !graph.captures.contains(&v));
        match constant {
            Some(tensor) if self.is_fixed(v) => {
                let float = self.add_stand_in(graph, v);
                graph.set_constant(float, widened(&tensor)?);
                Ok(float)
            }
            Some(tensor) => {
                graph.set_constant(v, widened(&tensor)?);
                Ok(v)
            }
            None => {
                let float = self.add_stand_in(graph, v);
                add_cast(graph, v, float);
                Ok(float)
            }
        }
    }

    /// A new float32 value that is read in place of `v`.
    fn add_stand_in(&mut self, graph: &mut Graph, v: ValueId) -> ValueId {
        let (name, shape) = (format!("{}_float32", graph.value(v).name), graph.value(v).shape.clone());
        let float = graph.add_value(&name, Some(DType::F32), shape);
        self.stand_in.insert(v, float);
        float
    }
}

/// Makes `to` out of `from`, both of known types.
pub(super) fn add_cast(graph: &mut Graph, from: ValueId, to: ValueId) {
    let dtype = graph.value(to).dtype.map_or(0, DType::to_onnx);
    let name = format!("{}_Cast", graph.value(to).name);
    let attrs = Attrs::new().with("to", Attr::Int(dtype.into()));
    graph.add_node(Node::new(Op::Cast, &name, vec![Some(from)], vec![to], attrs));
}

/// The same numbers in float32.
fn widened(tensor: &Tensor) -> Result<Tensor, PassError> {
    let mut out = Tensor::zeros(DType::F32, tensor.shape())?;
    let floats = out.as_mut_slice::<f32>()?;
    if let Some(halves) = tensor.get::<f16>() {
        floats.iter_mut().zip(halves).for_each(|(y, x)| *y = x.to_f32());
    } else if let Some(halves) = tensor.get::<bf16>() {
        floats.iter_mut().zip(halves).for_each(|(y, x)| *y = x.to_f32());
    }
    Ok(out)
}

/// The attributes with float32 wherever they say a float of 16 bits; `None` if they do nowhere.
fn widened_attrs(attrs: &Attrs) -> Result<Option<Attrs>, PassError> {
    let mut changed: Option<Attrs> = None;
    for (name, attr) in attrs.iter() {
        let float = match attr {
            Attr::Int(code) if TYPE_ATTRIBUTES.contains(&name) => {
                let dtype = i32::try_from(*code).ok().and_then(DType::from_onnx);
                is_half(dtype).then(|| Attr::Int(DType::F32.to_onnx().into()))
            }
            Attr::Tensor(t) if is_half(Some(t.dtype())) => Some(Attr::Tensor(Arc::new(widened(t)?))),
            _ => None,
        };
        if let Some(float) = float {
            changed.get_or_insert_with(|| attrs.clone()).set(name, float);
        }
    }
    Ok(changed)
}

fn set_attrs(graph: &mut Graph, id: NodeId, attrs: Attrs) {
    graph.node_mut(id).attrs = attrs;
    graph.node_mut(id).origin = None;
}
