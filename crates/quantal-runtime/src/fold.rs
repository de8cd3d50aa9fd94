//! Constant folding by running: nodes whose inputs are all constants are computed once.

use crate::error::Result;
use crate::ops::{Context, OpKernel};
use quantal_ir::{Graph, Node, NodeId, Op, ValueId, cost};
use quantal_kernels::{Isa, Threads};
use quantal_tensor::Tensor;
use quantal_tensor::tensor::element_count;
use std::sync::Arc;

/// A folded result may be this many times larger than its inputs.
const GROWTH: usize = 16;
/// A folded result of up to this many bytes may be larger than that.
const FREE_BYTES: usize = 1 << 20;
/// No result above this many bytes goes into a graph that is written: the model file would grow by as much.
const MOST_BYTES: usize = 64 << 20;

/// Bytes that the folded nodes of one compilation may read and write together, small nodes apart; nodes beyond run with
/// the rest of the model.
const SPENT_BYTES: usize = 1 << 30;
/// Multiply-accumulates that they may do together.
const SPENT_MACS: u64 = 8 << 30;
/// A node that reads and writes up to this many bytes is small, such as the arithmetic of shapes.
const SMALL_BYTES: usize = 4 << 10;
/// A small node does at most this many multiply-accumulates.
const SMALL_MACS: u64 = 1 << 16;

/// What folding has spent.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    bytes: usize,
    macs: u64,
}

impl Spent {
    /// Takes so much; false if that is more than is left.
    fn take(&mut self, bytes: usize, macs: u64) -> bool {
        if bytes <= SMALL_BYTES && macs <= SMALL_MACS {
            return true;
        }
        let more = Self { bytes: self.bytes.saturating_add(bytes), macs: self.macs.saturating_add(macs) };
        let fits = more.bytes <= SPENT_BYTES && more.macs <= SPENT_MACS;
        if fits {
            *self = more;
        }
        fits
    }
}

/// Makes constants of the outputs of all nodes whose inputs are constants, and removes those nodes. QuantizeLinear and
/// DequantizeLinear stay, so that quantized weights stay quantized. Gives the names of the nodes.
pub fn fold_constants(graph: &mut Graph, isa: Isa) -> Result<Vec<String>> {
    let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    let (mut folded, mut spent) = (Vec::new(), Spent::default());
    for id in ids {
        let node = graph.node(id);
        if quantizes(node.op) {
            continue;
        }
        // Import has made a constant of its output, whatever its size: nothing grows. If the node stayed, the file
        // would hold it beside the quantized weights made from it.
        let known = |v: &Option<ValueId>| v.is_none_or(|v| graph.value(v).constant.is_some());
        if node.op == Op::Constant && node.outputs.iter().all(known) {
            folded.push(node.name.to_string());
            graph.remove_node(id);
            continue;
        }
        let inputs: Option<Vec<_>> = node
            .inputs
            .iter()
            .map(|v| v.map(|v| graph.value(v).constant.clone()))
            .map(|c| match c {
                None => Some(None),
                Some(None) => None,
                Some(tensor) => Some(tensor),
            })
            .collect();
        let Some(results) = inputs.and_then(|inputs| evaluate(graph, id, &inputs, isa, &mut spent)) else {
            continue;
        };
        if results.iter().any(|t| t.bytes().len() > MOST_BYTES) {
            continue;
        }
        folded.push(node.name.to_string());
        let outputs = node.outputs.clone();
        for (v, tensor) in outputs.into_iter().zip(results) {
            if let Some(v) = v {
                graph.set_constant(v, tensor);
            }
        }
        graph.remove_node(id);
    }
    Ok(folded)
}

fn quantizes(op: Op) -> bool {
    matches!(op, Op::QuantizeLinear | Op::DequantizeLinear | Op::MsQuantizeLinear | Op::MsDequantizeLinear)
}

/// The outputs of a node on constant inputs; `None` if it cannot be run here (it then says why at run time, on real
/// data), if the result would be far larger than the inputs, or if folding has spent what it may.
pub(crate) fn evaluate(
    graph: &Graph,
    id: NodeId,
    inputs: &[Option<Arc<Tensor>>],
    isa: Isa,
    spent: &mut Spent,
) -> Option<Vec<Tensor>> {
    let node = graph.node(id);
    if !node.captures.is_empty() || matches!(node.op, Op::If | Op::Loop | Op::Scan) || is_random(node) {
        return None;
    }
    let given: usize = inputs.iter().flatten().map(|t| t.bytes().len()).sum();
    let most = given.saturating_mul(GROWTH).max(FREE_BYTES);
    let expected = expected_bytes(graph, node, inputs)?;
    if expected > most || !spent.take(given.saturating_add(expected), macs(graph, id, inputs)) {
        return None;
    }
    let kernel = OpKernel::prepare(node, crate::float::opset(graph, node.op)).ok()?;
    let threads = Threads::new(1);
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_deref).collect();
    let results = kernel.run(&inputs, &Context { isa, threads: &threads }).ok()?;
    let made = results.iter().map(|t| t.bytes().len()).sum::<usize>();
    // Where the size could not be told before, it is paid for now.
    (made <= most && spent.take(made.saturating_sub(expected), 0)).then_some(results)
}

/// Multiply-accumulates of a node; where shapes do not tell, the product of the element counts of its inputs.
fn macs(graph: &Graph, id: NodeId, inputs: &[Option<Arc<Tensor>>]) -> u64 {
    cost::macs(graph, id).unwrap_or_else(|| {
        inputs.iter().flatten().map(|t| t.len().max(1) as u64).try_fold(1, u64::checked_mul).unwrap_or(u64::MAX)
    })
}

/// Whether a node makes random numbers: a source of them, or a Dropout that may train. Their numbers are the same in
/// each run here, but folded into a file they would be fixed in every other runtime as well.
fn is_random(node: &Node) -> bool {
    let source = matches!(
        node.op,
        Op::Bernoulli
            | Op::Multinomial
            | Op::RandomNormal
            | Op::RandomNormalLike
            | Op::RandomUniform
            | Op::RandomUniformLike
    );
    source || node.op == Op::Dropout && node.input(2).is_some()
}

/// Bytes that the outputs will have, as far as can be told before running; `None` if it cannot be told for an operator
/// whose outputs may be large whatever the inputs are.
fn expected_bytes(graph: &Graph, node: &Node, inputs: &[Option<Arc<Tensor>>]) -> Option<usize> {
    let element = |v| graph.value(v).dtype.map_or(8, |d| d.size().max(1));
    let known: Option<usize> = node.outputs.iter().flatten().try_fold(0_usize, |sum, &v| {
        let count = element_count(&graph.value(v).known_shape()?)?;
        sum.checked_add(count.checked_mul(element(v))?)
    });
    if known.is_some() {
        return known;
    }
    let sizes = || inputs.iter().flatten().map(|t| t.len().max(1));
    match node.op {
        // Sizes come from the values of an input.
        Op::ConstantOfShape
        | Op::Expand
        | Op::Tile
        | Op::Range
        | Op::Pad
        | Op::Resize
        | Op::Upsample
        | Op::OneHot
        | Op::EyeLike => {
            let small = sizes().all(|n| n <= 16);
            let product = inputs
                .iter()
                .flatten()
                .filter_map(|t| t.to_i64_vec())
                .flatten()
                .try_fold(1_i64, |p, v| p.checked_mul(v.checked_abs()?.max(1)))?;
            (small && product <= 1 << 16).then_some(0)
        }
        // At the most each element meets each other one.
        _ if inputs.iter().flatten().count() > 1 && !matches!(node.op, Op::Concat | Op::Reshape) => {
            sizes().try_fold(8_usize, usize::checked_mul).or(Some(usize::MAX))
        }
        _ => Some(0),
    }
}
