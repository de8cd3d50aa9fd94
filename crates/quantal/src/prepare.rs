//! Bringing a graph into the form that is decided on: nothing quantized, nothing to fold.

use crate::engine::Engine;
use crate::error::Error;
use quantal_data::Dataset;
use quantal_ir::contrib::{self, Purpose};
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
    let expanded = contrib::expand(&mut graph, Purpose::Quantizing).map_err(passes::PassError::from)?;
    note("expand_contrib", expanded.names);
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

/// Takes away the bounds that pairs left behind and that cut nothing in [`CLAMP_SAMPLES`] samples: there the range was
/// chosen to hold all values, and a clamp would only keep nodes from being fused.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Model, save_npz};
    use crate::quickstart::embedded;
    use quantal_data::DataSpec;
    use quantal_ir::{Attrs, Dim, Node, Op};
    use quantal_ptq::{Recipe, Silent};
    use quantal_tensor::stats::SqnrSums;
    use quantal_tensor::{DType, Tensor};

    fn engine() -> Engine {
        Engine::detect(1).unwrap()
    }

    /// How close the outputs of two models are on the first samples.
    fn closeness(a: &Model, b: &Model, data: &Dataset) -> f64 {
        let mut sessions = [a, b].map(|m| m.session(Mode::Simulate, engine()).unwrap());
        let mut sums = SqnrSums::default();
        for i in 0..data.len().min(8) {
            let feeds = data.sample(i).unwrap().feeds;
            let [a, b] = sessions.each_mut().map(|s| s.run(&feeds).unwrap());
            sums.add(a[0].1.as_slice(), b[0].1.as_slice());
        }
        sums.db()
    }

    #[test]
    fn a_model_whose_relus_are_ranges_keeps_them_when_quantized_again() {
        let (float, data, _) = embedded().unwrap();
        let mut model = crate::quantize(&float, &data, &Recipe::default(), engine(), &mut Silent).unwrap().model;
        let graph = &mut model.graph;
        let relus: Vec<_> = graph.nodes().filter(|(_, n)| n.op == Op::Relu).map(|(id, n)| (id, n.clone())).collect();
        assert!(!relus.is_empty());
        for (id, relu) in relus {
            graph.remove_node(id);
            graph.replace_value(relu.output(0).unwrap(), relu.input(0).unwrap());
        }

        let (graph, changes) = canonical(&model.graph, &data, engine()).unwrap();
        assert!(changes.iter().any(|c| c.pass == "extract_qdq"));
        assert!(graph.nodes().any(|(_, n)| matches!(n.op, Op::Relu | Op::Clip)));
        let floats = Model { graph, ..model.clone() };
        let again = crate::quantize(&model, &data, &Recipe::default(), engine(), &mut Silent).unwrap().model;
        for made in [floats, again] {
            let db = closeness(&model, &made, &data);
            assert!(db > 25.0, "{db} dB");
        }
    }

    #[test]
    fn a_root_of_what_a_range_kept_positive_is_no_nan() {
        let mut graph = Graph::default();
        graph.opsets.insert(String::new(), 17);
        let dims = |d: &[usize]| Some(d.iter().map(|&n| Dim::Known(n)).collect());
        let x = graph.add_value("x", Some(DType::F32), dims(&[1, 2, 4, 4]));
        let w = graph.add_constant("w", Tensor::from_slice(&[2, 2, 1, 1], &[0.5_f32, -1.0, -0.75, 0.25]).unwrap());
        let s = graph.add_constant("s", Tensor::scalar(0.01_f32).unwrap());
        let z = graph.add_constant("z", Tensor::scalar(0_u8).unwrap());
        let half = graph.add_constant("half", Tensor::scalar(0.5_f32).unwrap());
        let mut at = x;
        for (op, others) in [
            (Op::Conv, vec![w]),
            (Op::QuantizeLinear, vec![s, z]),
            (Op::DequantizeLinear, vec![s, z]),
            (Op::Pow, vec![half]),
            (Op::GlobalAveragePool, vec![]),
        ] {
            let dtype = if op == Op::QuantizeLinear { DType::U8 } else { DType::F32 };
            let y = graph.add_value(op.name(), Some(dtype), None);
            let inputs = std::iter::once(at).chain(others).map(Some).collect();
            graph.add_node(Node::new(op, op.name(), inputs, vec![y], Attrs::new()));
            at = y;
        }
        graph.inputs = vec![x];
        graph.outputs = vec![at];
        quantal_ir::infer::run(&mut graph).unwrap();
        let model = Model { graph, name: "root".to_owned(), bytes: 0 };

        let folder = std::env::temp_dir().join(format!("quantal-root-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for i in 0..4_u64 {
            let value = |k: u64| ((i * 131 + k * 71) % 37) as f32 / 18.0 - 1.0;
            let values: Vec<f32> = (0..32).map(value).collect();
            let sample = [("x".to_owned(), Tensor::from_slice(&[1, 2, 4, 4], &values).unwrap())];
            save_npz(&folder.join(format!("{i}.npz")), &sample).unwrap();
        }
        let spec = DataSpec { path: folder.clone(), ..DataSpec::default() };
        let data = Dataset::open(&spec, &model.inputs().unwrap()).unwrap();
        let made = crate::quantize(&model, &data, &Recipe::default(), engine(), &mut Silent);
        let db = made.as_ref().map(|made| closeness(&model, &made.model, &data));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(db.as_ref().is_ok_and(|db| *db > 25.0), "{db:?}");
    }
}
