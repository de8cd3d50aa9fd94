//! Folds a BatchNormalization into the convolution or matrix product before it:
//! `γ·(w·x + b − μ)/√(σ² + ε) + β` is a convolution with weights `w·γ/√(σ² + ε)`.

use super::{PassError, scale_channels, sole_producer, take_output};
use crate::graph::{Graph, NodeId};
use crate::op::Op;

pub(super) fn rewrite(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    if node.op != Op::BatchNormalization || node.attrs.flag("training_mode", false).unwrap_or(true) {
        return Ok(false);
    }
    let (Some(x), Some(y)) = (node.input(0), node.output(0)) else { return Ok(false) };
    let Ok(epsilon) = node.attrs.float_or("epsilon", 1e-5) else { return Ok(false) };
    let parameter = |i: usize| graph.constant(node.input(i)).and_then(|t| t.get::<f32>());
    let (Some(gamma), Some(beta), Some(mean), Some(var)) = (parameter(1), parameter(2), parameter(3), parameter(4))
    else {
        return Ok(false);
    };
    if [beta.len(), mean.len(), var.len()] != [gamma.len(); 3] {
        return Ok(false);
    }
    let factor: Vec<f64> =
        gamma.iter().zip(var).map(|(&g, &v)| f64::from(g) / (f64::from(v) + f64::from(epsilon)).sqrt()).collect();
    let shift: Vec<f64> =
        beta.iter().zip(mean.iter().zip(&factor)).map(|(&b, (&m, f))| f64::from(b) - f64::from(m) * f).collect();
    let folds = |op| matches!(op, Op::Conv | Op::ConvTranspose | Op::Gemm);
    let Some(before) = sole_producer(graph, x, |n| folds(n.op)) else { return Ok(false) };
    if !scale_channels(graph, before, &factor, &shift)? {
        return Ok(false);
    }
    take_output(graph, before, y);
    Ok(true)
}
