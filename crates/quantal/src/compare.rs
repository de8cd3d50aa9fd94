//! `quantal compare`: where two models of the same inputs differ, and by how much.

use crate::engine::Engine;
use crate::error::Error;
use crate::eval::scores;
use crate::model::Model;
use crate::quantize::highest;
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
    let value = |m: &Model, v: ValueId| (m.graph.value(v).name.escape_debug().to_string(), m.graph.value(v).clone());
    let theirs: BTreeMap<_, _> = a.graph.inputs.iter().map(|&v| value(a, v)).collect();
    for &v in &b.graph.inputs {
        let (name, own) = value(b, v);
        let Some(other) = theirs.get(&name) else { return Err(format!("its input `{name}` is none of {}", a.name)) };
        let sizes = own.shape.iter().flatten().zip(other.shape.iter().flatten());
        let same = |(x, y): (&Dim, &Dim)| x.known().zip(y.known()).is_none_or(|(x, y)| x == y);
        let ranks = own.shape.as_ref().map(Vec::len).zip(other.shape.as_ref().map(Vec::len));
        if own.dtype != other.dtype || ranks.is_some_and(|(x, y)| x != y) || !sizes.into_iter().all(same) {
            return Err(format!("its input `{name}` has another type or shape than that of {}", a.name));
        }
    }
    Ok(())
}

/// Runs `samples` of the data through both models. Values are matched by name; a value that the second model quantizes is
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
    let (taps_a, taps_b): (Vec<ValueId>, Vec<ValueId>) = pairs.iter().copied().unzip();
    let (mut run_a, mut run_b) = (session(a, &taps_a)?, session(b, &taps_b)?);
    let mut layers = vec![SqnrSums::default(); pairs.len()];
    let (mut outputs, mut same) = (SqnrSums::default(), 0);
    progress.begin("comparing", Some(samples.len()));
    for sample in data.stream(samples) {
        let feeds = sample?.feeds;
        let mut seen: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        let out_a = run_a.run_taps(&feeds, &taps_a, &mut |v, t| drop(seen.insert(v, t.clone())))?;
        let mut add = |v: ValueId, t: &Tensor| {
            for (i, pair) in pairs.iter().enumerate().filter(|(_, p)| p.1 == v) {
                if let Some(reference) = seen.get(&pair.0).filter(|r| r.len() == t.len()) {
                    layers[i].add(reference.as_slice(), t.as_slice());
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
        for ((_, x), (_, y)) in out_a.iter().zip(&out_b) {
            if let (Some(x), Some(y)) = (x.get::<f32>(), y.get::<f32>()) {
                outputs.add(x, y);
            }
        }
        same += usize::from(highest(&scores(&out_a)?) == highest(&scores(&out_b)?));
        progress.step();
    }
    progress.done();
    let uses = a.graph.uses();
    let row = |(&(v, _), sums): (&(ValueId, ValueId), &SqnrSums)| LayerRow {
        value: a.graph.value(v).name.escape_debug().to_string(),
        op: uses.producer(v).map_or_else(|| "input".to_owned(), |p| a.graph.node(p).op_name()),
        sqnr_db: sums.db(),
    };
    Ok(Comparison {
        a: a.name.clone(),
        b: b.name.clone(),
        samples: samples.len(),
        agreement: same as f64 / samples.len().max(1) as f64,
        output_sqnr_db: outputs.db(),
        layers: pairs.iter().zip(&layers).map(row).collect(),
    })
}

/// Values of one name in both graphs: in `a` as it is, in `b` after a DequantizeLinear if there is one.
fn pairs(a: &Graph, b: &Graph) -> Vec<(ValueId, ValueId)> {
    let mut in_b: BTreeMap<&str, ValueId> = BTreeMap::new();
    let uses = b.uses();
    for (_, q) in b.nodes().filter(|(_, n)| n.op == Op::QuantizeLinear) {
        let (Some(x), Some(codes)) = (q.input(0), q.output(0)) else { continue };
        let dq = uses.readers(codes).iter().map(|&r| b.node(r)).find(|n| n.op == Op::DequantizeLinear);
        if let Some(y) = dq.and_then(|n| n.output(0)) {
            in_b.insert(&b.value(x).name, y);
        }
    }
    for (_, node) in b.nodes() {
        for y in node.outputs.iter().flatten() {
            in_b.entry(&b.value(*y).name).or_insert(*y);
        }
    }
    let is_float = |v: ValueId| a.value(v).dtype == Some(quantal_tensor::DType::F32) && a.value(v).constant.is_none();
    let made = a.nodes().flat_map(|(_, n)| n.outputs.iter().flatten().copied().collect::<Vec<_>>());
    a.inputs
        .iter()
        .copied()
        .chain(made)
        .filter(|&v| is_float(v))
        .filter_map(|v| in_b.get(&*a.value(v).name).map(|&w| (v, w)))
        .collect()
}
