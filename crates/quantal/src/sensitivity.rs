//! `quantal sensitivity`: which nodes cost accuracy, and which would give it back.

use crate::engine::Engine;
use crate::error::Error;
use crate::model::Model;
use crate::quantize::{Rewritten, compare_outputs};
use quantal_data::Dataset;
use quantal_ir::cost;
use quantal_ptq::{Effect, Progress, Recipe, Runs, Stream};
use quantal_runtime::Mode;
use serde::Serialize;
use std::collections::BTreeMap;

/// The effect of each node's quantization on the outputs.
#[derive(Clone, Debug, Serialize)]
pub struct SensitivityReport {
    /// The model.
    pub model: String,
    /// The recipe that the nodes are quantized by.
    pub recipe: Recipe,
    /// The samples, in words.
    pub data: String,
    /// Number of samples.
    pub samples: usize,
    /// Top-1 of the float model on them, if all have labels, 0 to 1.
    pub float_top1: Option<f64>,
    /// Everything quantized, against the model as it came.
    pub all: EffectRow,
    /// A row for each node that runs in integers by itself, the most harmful first.
    pub nodes: Vec<NodeRow>,
}

/// What a choice does to the outputs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EffectRow {
    /// SQNR of the outputs in decibels: against the model as it came in `all`, against its float graph in rows of
    /// nodes; infinite if nothing changes (`null` in JSON).
    pub sqnr_db: f64,
    /// Top-1, if all samples have labels, 0 to 1.
    pub top1: Option<f64>,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeRow {
    /// Its name.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Its part of all multiply-accumulates, 0 to 1, where known.
    pub mac_share: Option<f64>,
    /// This node in integers, all others in float.
    pub alone: EffectRow,
    /// This node in float, all others as they are.
    pub without: EffectRow,
    /// Its part of the noise that all nodes make alone, 0 to 1.
    pub noise_share: f64,
}

/// Measures every node on the samples of these indices; ranges come from the samples that the recipe asks for.
pub fn sensitivity(
    model: &Model,
    data: &Dataset,
    members: &[usize],
    recipe: &Recipe,
    engine: Engine,
    progress: &mut dyn Progress,
) -> Result<SensitivityReport, Error> {
    let picked = data.pick(recipe.calibration.samples, recipe.calibration.seed);
    let float = Rewritten::of(model, data, picked[0], engine)?;
    let prepared = float.prepare(data, &picked, recipe, engine, progress)?;
    let quantized = prepared.quantize(&BTreeMap::new())?;
    let samples = || -> Stream<'_> { Box::new(data.stream(members)) };
    let mut runs = Runs { samples: &samples, isa: engine.isa, threads: engine.threads, progress };
    let found = quantal_ptq::sensitivity(&prepared, &quantized, &mut runs)?;
    let integer = float.with(quantized.graph.clone());
    let mut sessions = [model.session(Mode::Simulate, engine)?, integer.session(Mode::Integer, engine)?];
    let close = compare_outputs(&mut sessions, data, members, progress)?;
    let labelled = found.labelled == found.samples;
    let top1 = |hits: usize| labelled.then(|| hits as f64 / found.samples as f64);
    let row = |e: &Effect| EffectRow { sqnr_db: e.sums.db(), top1: top1(e.hits) };
    let bound = float.with(prepared.graph.clone()).with_input_shapes(&data.sample(picked[0])?.feeds);
    let macs: Vec<Option<u64>> = found.rows.iter().map(|r| cost::macs(&bound, r.node)).collect();
    let all_macs: u64 = bound.nodes().filter_map(|(id, _)| cost::macs(&bound, id)).sum();
    let all_noise: f64 = found.rows.iter().map(|r| r.alone.sums.noise).sum();
    let mut nodes: Vec<NodeRow> = found
        .rows
        .iter()
        .zip(macs)
        .map(|(r, macs)| NodeRow {
            node: r.name.escape_debug().to_string(),
            op: r.op.clone(),
            mac_share: macs.filter(|_| all_macs > 0).map(|m| m as f64 / all_macs as f64),
            alone: row(&r.alone),
            without: row(&r.without),
            noise_share: if all_noise > 0.0 { r.alone.sums.noise / all_noise } else { 0.0 },
        })
        .collect();
    // Stable: of equals, the first in the graph stays first.
    nodes.sort_by(|a, b| b.noise_share.total_cmp(&a.noise_share));
    Ok(SensitivityReport {
        model: model.name.clone(),
        recipe: recipe.clone(),
        data: data.describe(),
        samples: found.samples,
        float_top1: top1(close.hits[0]),
        all: EffectRow { sqnr_db: close.sums.db(), top1: top1(close.hits[1]) },
        nodes,
    })
}
