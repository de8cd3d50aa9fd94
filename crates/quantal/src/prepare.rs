//! Bringing a graph into the form that is decided on: nothing quantized, nothing to fold.

use crate::error::Error;
use quantal_ir::passes::Change;
use quantal_ir::{Graph, extract_qdq, passes, qdq};
use quantal_kernels::Isa;

/// A float graph in canonical form, and what was done to get there.
pub(crate) fn canonical(graph: &Graph, isa: Isa) -> Result<(Graph, Vec<Change>), Error> {
    let mut graph = graph.clone();
    let mut changes = passes::widen_half(&mut graph)?;
    let mut note = |pass, nodes: Vec<String>| changes.extend(nodes.into_iter().map(|node| Change { pass, node }));
    note("expand_qoperators", qdq::expand_qoperators(&mut graph)?);
    let (mut graph, read) = extract_qdq(&graph)?;
    let taken = read.encodings.keys().map(|&v| graph.value(v).name.escape_debug().to_string());
    note("extract_qdq", taken.collect());
    note("fold_constants", quantal_runtime::fold_constants(&mut graph, isa)?);
    changes.extend(passes::canonicalize(&mut graph)?);
    Ok((graph, changes))
}
