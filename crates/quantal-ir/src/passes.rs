//! Rewrites that quantization needs, each with a name that the report can list. All keep the function of the graph, up to
//! the rounding of float arithmetic.

mod drop_identity;
mod fold_batchnorm;
mod fold_pad;
mod fold_scale;
mod narrow_constants;
mod normalize_gemm;
mod widen_half;

use crate::graph::{Cycle, Graph, Node, NodeId, ValueId};
use crate::op::Op;
use quantal_tensor::TensorError;

pub use narrow_constants::{half_types, narrow_constants};
pub use widen_half::{has_half, is_half, widen_half};

/// What a pass did at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The pass: `fold_batchnorm` …
    pub pass: &'static str,
    /// The node that it changed or took out.
    pub node: String,
}

/// Why the passes stopped.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A folded tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The nodes cannot be ordered.
    #[error(transparent)]
    Cycle(#[from] Cycle),
}

/// A rewrite of one node: true if it changed the graph there.
type Rewrite = fn(&mut Graph, NodeId) -> Result<bool, PassError>;

/// In this order: what one leaves is what the next looks for.
const PASSES: [(&str, Rewrite); 5] = [
    ("drop_identity", drop_identity::rewrite),
    ("normalize_gemm", normalize_gemm::rewrite),
    ("fold_batchnorm", fold_batchnorm::rewrite),
    ("fold_scale", fold_scale::rewrite),
    ("fold_pad", fold_pad::rewrite),
];

/// Runs every pass once over the nodes in order, and lists what they did.
pub fn canonicalize(graph: &mut Graph) -> Result<Vec<Change>, PassError> {
    let mut changes = Vec::new();
    for (pass, rewrite) in PASSES {
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        for id in ids {
            if !graph.contains(id) {
                continue;
            }
            let node = graph.node(id).name.to_string();
            if rewrite(graph, id)? {
                changes.push(Change { pass, node });
            }
        }
    }
    graph.remove_unread_nodes();
    graph.sort()?;
    Ok(changes)
}

/// The node of operator kind `wanted` that makes `v`, if `v` has no other use: one reader, and not handed out.
fn sole_producer(graph: &Graph, v: ValueId, wanted: impl Fn(&Node) -> bool) -> Option<NodeId> {
    let id = graph.producer(v)?;
    (graph.read_count(v) == 1 && !graph.is_output(v) && wanted(graph.node(id))).then_some(id)
}

/// Makes `id` produce `y`, whose own producer is taken out.
fn take_output(graph: &mut Graph, id: NodeId, y: ValueId) {
    if let Some(old) = graph.producer(y) {
        graph.remove_node(old);
    }
    graph.node_mut(id).outputs[0] = Some(y);
}

/// The output channels of a convolution's or matrix product's weights, scaled and shifted: `w[c]·factor[c]`, and the
/// bias `b[c]·factor[c] + shift[c]`. False if the node has no float weights of its own to change.
fn scale_channels(graph: &mut Graph, id: NodeId, factor: &[f64], shift: &[f64]) -> Result<bool, PassError> {
    use crate::op::weighted::Weighted;
    use quantal_tensor::Tensor;
    let node = graph.node(id);
    let Some(Weighted { weight, bias, axis: Some(axis), .. }) = Weighted::of(graph, node) else { return Ok(false) };
    let plain = node.op != Op::Gemm
        || (node.attrs.float_or("alpha", 1.0) == Ok(1.0) && node.attrs.float_or("beta", 1.0) == Ok(1.0));
    let Some(w) = graph.constant(Some(weight)).cloned() else { return Ok(false) };
    let b = graph.constant(bias).cloned();
    let (Some(values), Some(&channels)) = (w.get::<f32>(), w.shape().get(axis)) else { return Ok(false) };
    let old_bias = match (&bias, b.as_ref().map(|t| (t.rank(), t.get::<f32>()))) {
        (None, _) => vec![0.0; channels],
        (Some(_), Some((1, Some(b)))) if b.len() == channels => b.to_vec(),
        _ => return Ok(false),
    };
    if node.op == Op::MatMul || !plain || factor.len() != channels || shift.len() != channels {
        return Ok(false);
    }
    let inner: usize = w.shape()[axis + 1..].iter().product();
    let scaled: Vec<f32> =
        values.iter().enumerate().map(|(i, &v)| (f64::from(v) * factor[i / inner.max(1) % channels]) as f32).collect();
    let bias: Vec<f32> =
        old_bias.iter().zip(factor.iter().zip(shift)).map(|(&b, (f, s))| (f64::from(b) * f + s) as f32).collect();
    let name = graph.node(id).name.to_string();
    let w = graph.add_constant(&format!("{name}_weight_folded"), Tensor::from_slice(w.shape(), &scaled)?);
    let b = graph.add_constant(&format!("{name}_bias_folded"), Tensor::from_slice(&[channels], &bias)?);
    let mut node = graph.node_mut(id);
    node.inputs.resize(3, None);
    node.inputs[1] = Some(w);
    node.inputs[2] = Some(b);
    Ok(true)
}

#[cfg(test)]
mod tests;
