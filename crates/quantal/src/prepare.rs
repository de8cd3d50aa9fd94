//! Bringing a graph into the form that is decided on: nothing quantized, nothing to fold.

use crate::engine::Engine;
use crate::error::Error;
use quantal_data::Dataset;
use quantal_ir::passes::Change;
use quantal_ir::qdq::{self, Clamp, Extracted};
use quantal_ir::{Graph, ValueId, passes};
use quantal_runtime::{Mode, Session, compile_observed};
use std::collections::BTreeMap;

/// How many samples say which clamps cut anything.
const CLAMP_SAMPLES: usize = 32;

/// A float graph in canonical form, and what was done to get there.
pub(crate) fn canonical(graph: &Graph, data: &Dataset, engine: Engine) -> Result<(Graph, Vec<Change>), Error> {
    let mut graph = graph.clone();
    let mut changes = passes::widen_half(&mut graph)?;
    let mut note = |pass, nodes: Vec<String>| changes.extend(nodes.into_iter().map(|node| Change { pass, node }));
    note("expand_qoperators", qdq::expand_qoperators(&mut graph)?);
    // Quantized constants may be clipped or moved before they are dequantized.
    note("fold_constants", quantal_runtime::fold_constants(&mut graph, engine.isa)?);
    let Extracted { mut graph, taken, clamps, .. } = qdq::extract_qdq(&graph)?;
    note("extract_qdq", taken.iter().map(|name| name.escape_debug().to_string()).collect());
    loosen_clamps(&mut graph, &clamps, data, engine)?;
    note("fold_constants", quantal_runtime::fold_constants(&mut graph, engine.isa)?);
    changes.extend(passes::canonicalize(&mut graph)?);
    Ok((graph, changes))
}

/// Takes away the bounds that pairs left behind and that cut nothing in a part of the data: they are where a range ended
/// that was chosen to hold all values, and would only lie between nodes that belong together.
fn loosen_clamps(graph: &mut Graph, clamps: &[Clamp], data: &Dataset, engine: Engine) -> Result<(), Error> {
    let watched: BTreeMap<usize, ValueId> =
        clamps.iter().enumerate().filter_map(|(i, c)| Some((i, graph.node(c.node).input(0)?))).collect();
    if watched.is_empty() {
        return Ok(());
    }

    let mut seen: BTreeMap<ValueId, [f32; 2]> = BTreeMap::new();
    let mut taps: Vec<ValueId> = watched.values().copied().collect();
    taps.sort_unstable();
    taps.dedup();
    let mut session = Session::new(compile_observed(graph, Mode::Simulate, engine.isa, &taps)?, engine.threads);
    for sample in data.stream(&data.pick(CLAMP_SAMPLES, 0)) {
        session.run_watched(&sample?.feeds, &taps, &mut |value| {
            let range = seen.entry(value.value).or_insert([f32::INFINITY, f32::NEG_INFINITY]);
            for &x in value.floats()?.as_slice::<f32>() {
                *range = [range[0].min(x), range[1].max(x)];
            }
            Ok(())
        })?;
    }

    for (i, value) in watched {
        if let Some(range) = seen.get(&value) {
            qdq::loosen(graph, &clamps[i], *range)?;
        }
    }
    Ok(())
}
