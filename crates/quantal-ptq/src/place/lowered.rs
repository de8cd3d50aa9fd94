//! What the compiler makes of a placement. Forms say what an operator could do in integers; whether a node really runs so
//! is decided by the rules of the runtime, and these are asked, so that the two cannot disagree.

use super::{Decision, Placement, Verdict};
use crate::error::{Error, Result};
use quantal_ir::qdq::insert_qdq;
use quantal_ir::{Graph, NodeId, Params, infer};
use quantal_kernels::Isa;
use quantal_runtime::{Mode, Status, compile};
use quantal_tensor::{Granularity, QParams};
use std::collections::BTreeMap;

/// The nodes that `placement` has in integers and the compiler in float, with its reasons. Encodings without qparams
/// get placeholders.
pub(super) fn refused(graph: &Graph, placement: &Placement) -> Result<BTreeMap<NodeId, String>> {
    if placement.plan.encodings.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut plan = placement.plan.clone();
    for (&v, encoding) in plan.encodings.iter_mut().filter(|(_, e)| e.qparams().is_none()) {
        let count = match encoding.scheme.granularity {
            Granularity::PerChannel { axis } => graph.constant(Some(v)).and_then(|t| t.shape().get(axis).copied()),
            Granularity::PerTensor | Granularity::PerToken | Granularity::PerBlock { .. } => Some(1),
        };
        let (scale, zero_point) = encoding.scheme.params_of_range(-1.0, 1.0).expect("the range is finite");
        let count = count.unwrap_or(1);
        encoding.params = Params::Static(QParams { scale: vec![scale; count], zero_point: vec![zero_point; count] });
    }
    refused_in(&insert_qdq(graph, &plan)?, &placement.decisions)
}

/// The nodes that `decisions` have in integers and that run in float in `quantized`, which was made of them, with the
/// compiler's reasons. A node that goes into another is named only where all others agree: it may follow them.
pub(crate) fn refused_in(quantized: &Graph, decisions: &[Decision]) -> Result<BTreeMap<NodeId, String>> {
    // Rules look at shapes, and whoever loads the model infers them.
    let mut inferred = quantized.clone();
    if infer::run(&mut inferred).is_err() {
        inferred = quantized.clone();
    }
    // What is refused depends on no instruction set; the plainest one packs in the least time.
    let program = compile(&inferred, Mode::Integer, Isa::PORTABLE).map_err(|e| Error::Compile(Box::new(e)))?;
    let mut by_id = BTreeMap::new();
    let mut by_name = BTreeMap::new();
    for row in &program.coverage.rows {
        if let Status::Float { reason } = &row.status {
            by_id.insert(row.node, reason);
            by_name.insert(&*row.name, reason);
        }
    }
    let of = |verdict: fn(&Verdict) -> bool| {
        let placed = decisions.iter().filter(|d| verdict(&d.verdict));
        let reason = |d: &Decision| {
            // A product that is quantized by rows is written as several nodes.
            let by_rows = || by_name.get(&*format!("{}_MatMulInteger", d.name)).copied();
            let reason = by_id.get(&d.node).copied().or_else(by_rows)?;
            Some((d.node, reason.to_string()))
        };
        placed.filter_map(reason).collect::<BTreeMap<_, _>>()
    };
    let heads = of(|v| matches!(v, Verdict::Integer));
    Ok(if heads.is_empty() { of(|v| matches!(v, Verdict::Fused(_))) } else { heads })
}

#[cfg(test)]
mod tests;
