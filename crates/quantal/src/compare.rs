//! `quantal compare`: where two models of the same inputs differ, and by how much.

use crate::closeness::Closeness;
use crate::engine::Engine;
use crate::error::Error;
use crate::model::Model;
use quantal_data::Dataset;
use quantal_ir::{Dim, Graph, Op, ValueId};
use quantal_ptq::Progress;
use quantal_runtime::{Mode, Session, compile_observed};
use quantal_tensor::Tensor;
use quantal_tensor::stats::SqnrSums;
use serde::Serialize;
use std::collections::BTreeMap;

/// How close two models are.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The first model: the reference.
    pub a: String,
    /// The second.
    pub b: String,
    /// Samples that both saw.
    pub samples: usize,
    /// Share of samples whose highest score is the same.
    pub agreement: f64,
    /// SQNR of the outputs, in decibels.
    pub output_sqnr_db: f64,
    /// SQNR of each value that both have, in the order of the first model.
    pub layers: Vec<LayerRow>,
}

/// One value that both models have.
#[derive(Clone, Debug, Serialize)]
pub struct LayerRow {
    /// Its name.
    pub value: String,
    /// The operator that makes it in the first model.
    pub op: String,
    /// SQNR in decibels.
    pub sqnr_db: f64,
}

/// Whether `b` can be fed what `a` takes; why not, in words.
fn check_inputs(a: &Model, b: &Model) -> Result<(), String> {
    let theirs: BTreeMap<&str, _> = a.graph.inputs.iter().map(|&v| a.graph.value(v)).map(|v| (&*v.name, v)).collect();
    for own in b.graph.inputs.iter().map(|&v| b.graph.value(v)) {
        let name = own.name.escape_debug();
        let Some(other) = theirs.get(&*own.name) else {
            return Err(format!("its input `{name}` is none of {}", a.name));
        };
        let mut sizes = own.shape.iter().flatten().zip(other.shape.iter().flatten());
        let same = |(x, y): (&Dim, &Dim)| x.known().zip(y.known()).is_none_or(|(x, y)| x == y);
        let ranks = own.rank().zip(other.rank());
        if own.dtype != other.dtype || ranks.is_some_and(|(x, y)| x != y) || !sizes.all(same) {
            return Err(format!("its input `{name}` has another type or shape than that of {}", a.name));
        }
    }
    Ok(())
}

/// Runs `samples` of the data through both models. Values are matched by name and shape; one that a model quantizes is
/// compared after its DequantizeLinear, that is with the rounding in it.
pub fn compare(
    a: &Model,
    b: &Model,
    data: &Dataset,
    samples: &[usize],
    engine: Engine,
    progress: &mut dyn Progress,
) -> Result<Comparison, Error> {
    let unlike = |why: String| {
        Error::job(
            format!("{}: {why}", b.name),
            &format!("it is fed what {} takes; compare models of one task", a.name),
        )
    };
    check_inputs(a, b).map_err(unlike)?;
    let pairs = pairs(&a.graph, &b.graph);
    let session = |m: &Model, taps: &[ValueId]| {
        let program = compile_observed(&m.graph, Mode::Integer, engine.isa, taps)?;
        Ok::<_, Error>(Session::new(program, engine.threads))
    };
    let (taps_a, taps_b): (Vec<ValueId>, Vec<ValueId>) = pairs.iter().map(|p| (p.in_a, p.in_b)).unzip();
    let (mut run_a, mut run_b) = (session(a, &taps_a)?, session(b, &taps_b)?);
    // `None` until both were seen with one shape: values of unlike models may have names in common.
    let mut layers: Vec<Option<SqnrSums>> = vec![None; pairs.len()];
    let mut outputs = Closeness::default();
    progress.begin("comparing", Some(samples.len()));
    for sample in data.stream(samples) {
        let feeds = sample?.feeds;
        let mut seen: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        let out_a = run_a.run_taps(&feeds, &taps_a, &mut |v, t| drop(seen.insert(v, t.clone())))?;
        let mut add = |v: ValueId, t: &Tensor| {
            for (i, pair) in pairs.iter().enumerate().filter(|(_, p)| p.in_b == v) {
                if let Some(reference) = seen.get(&pair.in_a).filter(|r| r.shape() == t.shape()) {
                    layers[i].get_or_insert_default().add(reference.as_slice(), t.as_slice());
                }
            }
        };
        let out_b = run_b.run_taps(&feeds, &taps_b, &mut add)?;
        if out_a.len() != out_b.len() {
            return Err(unlike(format!("it has {} outputs, {} {}", out_b.len(), a.name, out_a.len())));
        }
        if let Some(((_, x), (name, y))) = out_a.iter().zip(&out_b).find(|((_, x), (_, y))| x.shape() != y.shape()) {
            let (name, x, y) = (name.escape_debug(), x.shape(), y.shape());
            return Err(unlike(format!("output `{name}` has shape {y:?}, that of {} {x:?}", a.name)));
        }
        outputs.add(&out_a, &out_b, None)?;
        progress.step();
    }
    progress.done();
    let uses = a.graph.uses();
    let row = |(pair, sums): (&Pair, &Option<SqnrSums>)| {
        let op = uses.producer(pair.value).map_or_else(|| "input".to_owned(), |p| a.graph.node(p).op_name());
        let value = a.graph.value(pair.value).name.escape_debug().to_string();
        sums.as_ref().map(|sums| LayerRow { value, op, sqnr_db: sums.db() })
    };
    Ok(Comparison {
        a: a.name.clone(),
        b: b.name.clone(),
        samples: samples.len(),
        agreement: outputs.agreeing as f64 / samples.len().max(1) as f64,
        output_sqnr_db: outputs.sums.db(),
        layers: pairs.iter().zip(&layers).filter_map(row).collect(),
    })
}

/// A value that both models have.
struct Pair {
    /// In the first model.
    value: ValueId,
    /// Where it is looked at in each.
    in_a: ValueId,
    in_b: ValueId,
}

/// The float values of `a` whose names `b` has too.
fn pairs(a: &Graph, b: &Graph) -> Vec<Pair> {
    let (all_a, all_b, uses) = (rounded(a), rounded(b), a.uses());
    let is_float =
        |v: ValueId| a.value(v).dtype.is_some_and(quantal_tensor::DType::is_float) && a.value(v).constant.is_none();
    let is_rounding =
        |v: ValueId| !a.is_output(v) && uses.producer(v).is_some_and(|p| a.node(p).op == Op::DequantizeLinear);
    let made = a.nodes().flat_map(|(_, n)| n.outputs.iter().flatten().copied().collect::<Vec<_>>());
    let values = a.inputs.iter().copied().chain(made).filter(|&v| is_float(v) && !is_rounding(v));
    let pair = |value: ValueId| {
        let name = &*a.value(value).name;
        let in_a = all_a.get(name).copied().unwrap_or(value);
        all_b.get(name).map(|&in_b| Pair { value, in_a, in_b })
    };
    values.filter_map(pair).collect()
}

/// The values of a graph by their names: where one is quantized, what its DequantizeLinear makes.
fn rounded(graph: &Graph) -> BTreeMap<&str, ValueId> {
    let (mut found, uses) = (BTreeMap::new(), graph.uses());
    for (_, q) in graph.nodes().filter(|(_, n)| n.op == Op::QuantizeLinear) {
        let (Some(x), Some(codes)) = (q.input(0), q.output(0)) else { continue };
        let dq = uses.readers(codes).iter().map(|&r| graph.node(r)).find(|n| n.op == Op::DequantizeLinear);
        if let Some(y) = dq.and_then(|n| n.output(0)) {
            found.insert(&*graph.value(x).name, y);
        }
    }
    for (_, node) in graph.nodes() {
        for y in node.outputs.iter().flatten() {
            found.entry(&*graph.value(*y).name).or_insert(*y);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quickstart::embedded;
    use quantal_ptq::{Recipe, Silent};

    #[test]
    fn a_model_is_the_same_as_itself_at_every_value_and_its_int8_one_is_not() {
        let (float, data, _) = embedded().unwrap();
        let engine = Engine::detect(1).unwrap();
        let made = crate::quantize(&float, &data, &Recipe::default(), engine, &mut Silent).unwrap();
        let of = |a, b| compare(a, b, &data, &[0, 1], engine, &mut Silent).unwrap();
        for model in [&float, &made.model] {
            let same = of(model, model);
            assert!(!same.layers.is_empty() && same.output_sqnr_db == f64::INFINITY);
            for layer in &same.layers {
                assert!(layer.sqnr_db == f64::INFINITY && layer.op != "DequantizeLinear", "{layer:?}");
            }
        }
        let other = of(&float, &made.model);
        assert!(other.output_sqnr_db.is_finite() && other.layers.iter().any(|l| l.sqnr_db.is_finite()));
    }
}
