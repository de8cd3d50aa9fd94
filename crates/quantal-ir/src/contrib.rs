//! Operators of ONNX Runtime's optimizer (com.microsoft) to the standard operators that they stand for.
//!
//! ONNX Runtime fuses a transformer's nodes into operators of its own, and models are published in that form. Most of
//! these operators are compositions of a few standard ones and are expanded into them: one set of rules then folds,
//! fuses and quantizes both forms. There are two callers. Compiling expands a copy of the graph ([`Purpose::Running`]),
//! and its coverage reports the nodes of the file. `quantize` expands the graph that it will write
//! ([`Purpose::Quantizing`]), since weights and activations inside a fused node cannot be quantized there. Import and
//! export never expand.
//!
//! An operator that is no such composition has a kernel of its own and stays: activations of one input (lookup tables),
//! `SimplifiedLayerNormalization`, `GroupQueryAttention`, `RotaryEmbedding` and `GatherBlockQuantized`. When
//! quantizing, `DynamicQuantizeLSTM` stays too: as a float LSTM its weights would take four times the space and gain
//! nothing.
//!
//! Source: ONNX Runtime, `docs/ContribOperators.md`, and what its CPU does where that says nothing.

mod activation;
mod attention;
mod embedding;
mod packed;
mod product;

use crate::attrs::{AttrError, Attrs};
use crate::graph::{Cycle, Dim, Graph, Node, NodeId, ValueId};
use crate::infer::Inferer;
use crate::op::Op;
use quantal_tensor::{DType, Element, Tensor, TensorError};
use std::collections::BTreeMap;

/// What the expanded graph is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// It is compiled and dropped: every operator without a kernel of its own is expanded.
    Running,
    /// It is quantized and written: operators that gain nothing by it stay.
    Quantizing,
}

/// What was expanded.
#[derive(Clone, Debug, Default)]
pub struct Expanded {
    /// Names of the nodes that were expanded, in graph order.
    pub names: Vec<String>,
    /// For each node that was made, the one that it is a part of and that is gone.
    pub sources: BTreeMap<NodeId, NodeId>,
    /// Nodes that have no such form as they are used here, and why not. They stay.
    pub refused: BTreeMap<NodeId, String>,
}

/// Why a node has no form in standard operators.
struct Refusal(String);

impl From<AttrError> for Refusal {
    fn from(e: AttrError) -> Self {
        Self(e.to_string())
    }
}

impl From<TensorError> for Refusal {
    fn from(e: TensorError) -> Self {
        Self(e.to_string())
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Refusal {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

type Rule = fn(&mut Parts<'_>) -> Result<(), Refusal>;

fn rule(op: Op, purpose: Purpose) -> Option<Rule> {
    Some(match op {
        Op::BiasGelu => activation::bias_gelu,
        Op::FastGelu => activation::fast_gelu,
        Op::SkipLayerNormalization | Op::SkipSimplifiedLayerNormalization => embedding::skip_norm,
        Op::EmbedLayerNormalization => embedding::embed_norm,
        Op::FusedConv => activation::fused_conv,
        Op::FusedGemm => activation::fused_gemm,
        Op::FusedMatMul => product::fused_matmul,
        Op::MatMulIntegerToFloat => product::matmul_integer_to_float,
        Op::DynamicQuantizeMatMul => product::dynamic_quantize_matmul,
        Op::MatMulNBits => packed::matmul_nbits,
        Op::MsAttention => attention::attention,
        Op::QAttention => attention::quantized,
        Op::MultiHeadAttention => attention::multi_head,
        Op::DynamicQuantizeLstm if purpose == Purpose::Running => packed::lstm,
        _ => return None,
    })
}

/// Whether [`expand`] would look at any node of the graph; those inside subgraphs do not count.
pub fn has_any(graph: &Graph, purpose: Purpose) -> bool {
    graph.nodes().any(|(_, node)| concerns(node, purpose))
}

fn concerns(node: &Node, purpose: Purpose) -> bool {
    // A FastGelu without a bias is a function of one input, and has a kernel.
    rule(node.op, purpose).is_some() && (node.op != Op::FastGelu || node.input(1).is_some())
}

/// Replaces every operator that has a form in standard ones by that form, whose last nodes make the same values. Types
/// and shapes of what is new are inferred. Subgraphs stay as they are.
///
/// # Errors
/// If nodes feed each other in a circle.
pub fn expand(graph: &mut Graph, purpose: Purpose) -> Result<Expanded, Cycle> {
    let mut expanded = Expanded::default();
    let ids: Vec<NodeId> = graph.nodes().filter(|(_, n)| concerns(n, purpose)).map(|(id, _)| id).collect();
    if ids.is_empty() {
        return Ok(expanded);
    }
    for id in ids {
        let node = graph.node(id).clone();
        let Some(rule) = rule(node.op, purpose) else { continue };
        let name = node.name.to_string();
        let mut parts = Parts { graph: &mut *graph, node, made: Vec::new() };
        let done = rule(&mut parts);
        let made = std::mem::take(&mut parts.made);
        match done {
            Ok(()) => {
                graph.remove_node(id);
                expanded.names.push(name);
                expanded.sources.extend(made.into_iter().map(|part| (part, id)));
            }
            Err(Refusal(why)) => {
                for part in made {
                    graph.remove_node(part);
                }
                expanded.refused.insert(id, why);
            }
        }
    }
    graph.sort()?;
    let mut inferer = Inferer::new();
    let order: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    for id in order {
        // What cannot be inferred stays unknown; what cannot run says so when it runs.
        let _ = inferer.node(graph, id);
    }
    if purpose == Purpose::Quantizing {
        raise_opset(graph);
    }
    Ok(expanded)
}

/// `LayerNormalization` came with version 17. From 13 on no operator but `RoiAlign` got another meaning up to it.
fn raise_opset(graph: &mut Graph) {
    let uses_norm = graph.nodes().any(|(_, n)| n.op == Op::LayerNormalization);
    if uses_norm && graph.opset() < 17 && !has_roi_align(graph) {
        graph.opsets.insert(String::new(), 17);
    }
}

fn has_roi_align(graph: &Graph) -> bool {
    graph.nodes().any(|(_, n)| n.op == Op::RoiAlign || n.attrs.graphs().any(|(_, g)| has_roi_align(g)))
}

/// The graph, the node that is replaced, and what stands for it so far.
struct Parts<'g> {
    graph: &'g mut Graph,
    node: Node,
    made: Vec<NodeId>,
}

impl Parts<'_> {
    /// Input `i`, which must be there; `what` names it.
    fn input(&self, i: usize, what: &str) -> Result<ValueId, Refusal> {
        self.node.input(i).ok_or_else(|| Refusal(format!("{what} is missing")))
    }

    /// The value of output `i`, new if nobody wants it.
    fn output(&mut self, i: usize) -> ValueId {
        self.node.output(i).unwrap_or_else(|| {
            let name = format!("{}_output_{i}", self.node.name);
            self.graph.add_value(&name, None, None)
        })
    }

    /// The node that does the work that the replaced one is named for, and keeps its name.
    fn main(&mut self, op: Op, inputs: &[Option<ValueId>], outputs: &[ValueId], attrs: Attrs) {
        let name = self.node.name.to_string();
        self.push(op, &name, inputs, outputs, attrs);
    }

    /// A node that makes `y`.
    fn into(&mut self, op: Op, inputs: &[ValueId], y: ValueId, attrs: Attrs) {
        let mut name = format!("{}_{}", self.node.name, op.name());
        if !self.made.is_empty() {
            name = format!("{name}_{}", self.made.len());
        }
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        self.push(op, &name, &inputs, &[y], attrs);
    }

    /// A node that makes a new value.
    fn op(&mut self, op: Op, inputs: &[ValueId], attrs: Attrs) -> ValueId {
        let name = format!("{}_{}_{}", self.node.name, op.name(), self.made.len());
        let y = self.graph.add_value(&name, None, None);
        self.into(op, inputs, y, attrs);
        y
    }

    fn push(&mut self, op: Op, name: &str, inputs: &[Option<ValueId>], outputs: &[ValueId], attrs: Attrs) {
        let id = self.graph.add_node(Node::new(op, name, inputs.to_vec(), outputs.to_vec(), attrs));
        self.made.push(id);
        // Rules ask for types and shapes of what they have made.
        let _ = Inferer::new().node(self.graph, id);
    }

    /// A constant.
    fn constant(&mut self, what: &str, tensor: Tensor) -> ValueId {
        let name = format!("{}_{what}", self.node.name);
        self.graph.add_constant(&name, tensor)
    }

    /// A list of integers.
    fn ints(&mut self, what: &str, values: &[i64]) -> Result<ValueId, Refusal> {
        let tensor = Tensor::from_slice(&[values.len()], values)?;
        Ok(self.constant(what, tensor))
    }

    /// One element.
    fn scalar<T: Element>(&mut self, what: &str, value: T) -> Result<ValueId, Refusal> {
        let tensor = Tensor::scalar(value)?;
        Ok(self.constant(what, tensor))
    }

    /// One number in a float type, float32 where that is not known.
    fn float(&mut self, what: &str, value: f32, dtype: Option<DType>) -> Result<ValueId, Refusal> {
        match dtype {
            Some(DType::F16) => self.scalar(what, half::f16::from_f32(value)),
            Some(DType::BF16) => self.scalar(what, half::bf16::from_f32(value)),
            Some(DType::F64) => self.scalar(what, f64::from(value)),
            _ => self.scalar(what, value),
        }
    }

    fn dtype(&self, v: ValueId) -> Option<DType> {
        self.graph.value(v).dtype
    }

    fn rank(&self, v: ValueId) -> Option<usize> {
        self.graph.value(v).rank()
    }

    fn dim(&self, v: ValueId, axis: usize) -> Option<usize> {
        self.graph.value(v).shape.as_ref()?.get(axis).and_then(Dim::known)
    }

    /// The size of a value along an axis, as a list of one integer: a constant where it is known.
    fn size(&mut self, v: ValueId, axis: usize) -> Result<ValueId, Refusal> {
        if let Some(n) = self.dim(v, axis) {
            return self.ints("size", &[n as i64]);
        }
        let shape = self.op(Op::Shape, &[v], Attrs::new());
        let at = self.ints("axis", &[axis as i64])?;
        Ok(self.op(Op::Gather, &[shape, at], Attrs::new()))
    }
}

#[cfg(test)]
mod tests;
