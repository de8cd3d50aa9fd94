//! `quantal quantize`: a float model and a sample of data in, a QDQ model that runs in integers out, with the evidence.

use crate::bench::{BenchRow, time_sessions};
use crate::closeness::{Closeness, add_outputs};
use crate::engine::Engine;
use crate::error::{Error, shown};
use crate::model::Model;
use crate::prepare::canonical;
use crate::warnings::{self, Warning};
use quantal_data::{Dataset, Sample, Skipped, SmallCrop};
use quantal_ir::passes::{self, Change};
use quantal_ir::{Graph, cost};
use quantal_ptq::{IdleOverride, Prepared, Progress, Quantized, Recipe, Runs, Stream, Verdict};
use quantal_runtime::{Coverage, Mode, Session, Status};
use quantal_tensor::Tensor;
use quantal_tensor::stats::SqnrSums;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// A quantized model with everything that was decided and measured.
#[derive(Debug)]
pub struct Quantization {
    /// The model, ready to be saved or run.
    pub model: Model,
    /// What became of each node of it here.
    pub coverage: Coverage,
    /// The figures.
    pub report: Report,
}

/// What was decided, what it did, and what it gains.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The float model.
    pub model: String,
    /// The full recipe: with the model and the samples it makes the same file again.
    pub recipe: Recipe,
    /// Samples that calibration saw, in words.
    pub data: String,
    /// Number of those samples.
    pub samples: usize,
    /// The crop of the images, if it leaves most of them out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub small_crop: Option<SmallCrop>,
    /// Files in the data's folder that no sample was read from, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Skipped>,
    /// Which of the recipe's overrides change nothing, counted from 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub idle_overrides: Vec<IdleOverride>,
    /// Rewrites before quantization: how often each pass changed something.
    pub passes: BTreeMap<&'static str, usize>,
    /// One entry for each node that was decided on.
    pub decisions: Vec<DecisionRow>,
    /// What was scaled between neighbouring products, if the recipe says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equalized: Option<EqualizedRow>,
    /// Activations whose outlier channels moved into the weights, if the recipe says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub smoothed: Vec<SmoothedRow>,
    /// Weights whose codes were chosen with their data in view, if the recipe says so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rounded: Vec<RoundedRow>,
    /// The part of multiply-accumulates that runs in integers, where shapes are known, 0 to 1.
    pub integer_mac_share: Option<f64>,
    /// Nodes that run in float, with the reason.
    pub fallbacks: Vec<FallbackRow>,
    /// How close the outputs are to those of the model as it came, in decibels, over the first samples.
    pub output_sqnr_db: f64,
    /// Number of those samples.
    pub compared: usize,
    /// On how many of them the highest score is the same.
    pub agreeing: usize,
    /// Size of the float file.
    pub float_bytes: u64,
    /// Size of the constants in the quantized model.
    pub integer_bytes: u64,
    /// Time of one inference on a sample, float and integer, taken in turns. Float is the rewritten graph, which is the
    /// faster one where a batch norm was folded or a quantized model was read.
    pub timing: Option<[BenchRow; 2]>,
    /// Values in codes that were not finite in samples whose outputs are: left out of their ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<HoleRow>,
    /// What speaks against using the model as it is.
    pub warnings: Vec<Warning>,
}

/// A value that was not finite in samples whose outputs are.
#[derive(Clone, Debug, Serialize)]
pub struct HoleRow {
    /// The value.
    pub value: String,
    /// The first of these samples.
    pub sample: String,
    /// Number of these samples.
    pub samples: usize,
}

/// What was decided about one node.
#[derive(Clone, Debug, Serialize)]
pub struct DecisionRow {
    /// Its name.
    pub node: String,
    /// Its operator.
    pub op: &'static str,
    /// `integer`, `fused` or `float`.
    pub verdict: &'static str,
    /// Why, in words.
    pub why: String,
}

/// What was scaled between neighbouring products.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct EqualizedRow {
    /// Values between a product and its readers whose channels were scaled.
    pub blocks: usize,
    /// How many of them gave a part of their biases to the next layer.
    pub absorbed: usize,
}

/// An activation whose outlier channels moved into the weights.
#[derive(Clone, Debug, Serialize)]
pub struct SmoothedRow {
    /// Its name.
    pub activation: String,
    /// How much of the difficulty moved, 0 to 1.
    pub alpha: f64,
    /// The expected squared error of the products that read it, as it was.
    pub before: f64,
    /// The same, as it is.
    pub after: f64,
}

/// A weight whose codes were chosen with its data in view.
#[derive(Clone, Debug, Serialize)]
pub struct RoundedRow {
    /// Its name.
    pub weight: String,
    /// The squared error that the nearest codes make in the outputs of its product, on average over rows of data.
    pub nearest: f64,
    /// The same of the codes that were chosen.
    pub chosen: f64,
}

/// A node that runs in float.
#[derive(Clone, Debug, Serialize)]
pub struct FallbackRow {
    /// Its name.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// Why.
    pub reason: String,
}

impl HoleRow {
    pub(crate) fn of(value: &str, hole: &quantal_ptq::Hole) -> Self {
        Self { value: value.escape_debug().to_string(), sample: hole.sample.clone(), samples: hole.samples }
    }
}

/// Samples on which the outputs of both models are compared.
const EVIDENCE_SAMPLES: usize = 32;
/// Seconds that each of the two models is timed.
const TIMING_SECONDS: f64 = 0.25;
/// Below this a rewrite has changed what the model computes; rounding alone stays far above.
const LEAST_REWRITE_SQNR_DB: f64 = 40.0;
/// The same for a model that was quantized before, which loses its own rounding when that is taken out.
const LEAST_EXTRACTED_SQNR_DB: f64 = 6.0;

/// Quantizes a model. The same model, samples and recipe give the same model, byte for byte, on every CPU and number of
/// threads.
pub fn quantize(
    model: &Model,
    data: &Dataset,
    recipe: &Recipe,
    engine: Engine,
    progress: &mut dyn Progress,
) -> Result<Quantization, Error> {
    let picked = data.pick(recipe.calibration.samples, recipe.calibration.seed);
    let float = Rewritten::of(model, data, picked[0], engine)?;
    let made = float.prepare(data, &picked, recipe, engine, progress)?.quantize(&BTreeMap::new())?;
    float.evidence(made, data, &picked, recipe, engine, progress)
}

/// A model in the form that is decided on.
pub(crate) struct Rewritten<'a> {
    original: &'a Model,
    /// The rewritten model.
    pub(crate) model: Model,
    changes: Vec<Change>,
}

impl<'a> Rewritten<'a> {
    /// Rewrites a model, and checks on one sample that it computes what it did. Weights that are not finite are named
    /// first: no sample is to blame for them.
    pub(crate) fn of(original: &'a Model, data: &Dataset, sample: usize, engine: Engine) -> Result<Self, Error> {
        quantal_ptq::check_weights(&original.graph)?;
        let (graph, changes) = canonical(&original.graph, data, engine)?;
        let model = Model { graph, ..original.clone() };
        check_rewrites(original, &model, data, sample, engine)?;
        Ok(Self { original, model, changes })
    }

    /// The model as it came: what every report is told against.
    pub(crate) fn original(&self) -> &'a Model {
        self.original
    }

    /// The model of a quantized graph.
    pub(crate) fn with(&self, graph: Graph) -> Model {
        Model { graph, ..self.original.clone() }
    }

    /// Learns from the `picked` samples what quantization needs.
    pub(crate) fn prepare(
        &self,
        data: &Dataset,
        picked: &[usize],
        recipe: &Recipe,
        engine: Engine,
        progress: &mut dyn Progress,
    ) -> Result<Prepared, Error> {
        let samples = || -> Stream<'_> { Box::new(data.stream(picked)) };
        let mut runs = Runs { samples: &samples, isa: engine.isa, threads: engine.threads, progress };
        let prepared = quantal_ptq::prepare(&self.model.graph, recipe, &mut runs)?;
        if recipe.equalization || recipe.smooth_quant {
            check_rewrites(&self.model, &self.with(prepared.graph.clone()), data, picked[0], engine)?;
        }
        Ok(prepared)
    }

    /// Measures what was made beside the float model, and writes the report.
    pub(crate) fn evidence(
        &self,
        made: Quantized,
        data: &Dataset,
        picked: &[usize],
        recipe: &Recipe,
        engine: Engine,
        progress: &mut dyn Progress,
    ) -> Result<Quantization, Error> {
        let mut graph = made.graph;
        passes::narrow_constants(&mut graph, &passes::half_types(&self.original.graph))?;
        let integer = self.with(graph);
        let evidence = &picked[..picked.len().min(EVIDENCE_SAMPLES)];
        let mut sessions = [self.original.session(Mode::Simulate, engine)?, integer.session(Mode::Integer, engine)?];
        let close = compare_outputs(&mut sessions, data, evidence, progress)?;
        let feeds = data.sample(picked[0])?.feeds;
        sessions[0] = self.model.session(Mode::Simulate, engine)?;
        let [float_time, integer_time] = time_sessions(sessions.each_mut(), &feeds, TIMING_SECONDS)?;
        let coverage = coverage_with_macs(&integer, &sessions[1], &feeds);
        let mut rewrites = BTreeMap::new();
        for change in &self.changes {
            *rewrites.entry(change.pass).or_default() += 1;
        }
        let decided = made.decisions.iter().filter(|d| !matches!(d.verdict, Verdict::Untouched));
        let decisions = decided.map(|d| DecisionRow {
            node: d.name.escape_debug().to_string(),
            op: made.float.node(d.node).op.name(),
            verdict: match d.verdict {
                Verdict::Integer => "integer",
                Verdict::Fused(_) => "fused",
                Verdict::Float | Verdict::Untouched => "float",
            },
            why: d.why.clone(),
        });
        // Where the placement left a node in float it knows why; the compiled program only sees that nothing is quantized.
        let placed: BTreeMap<&str, &str> = made
            .decisions
            .iter()
            .filter(|d| matches!(d.verdict, Verdict::Float))
            .map(|d| (&*d.name, d.why.as_str()))
            .collect();
        let fallbacks = coverage.fallbacks().map(|(row, reason)| FallbackRow {
            node: row.name.escape_debug().to_string(),
            op: row.op.clone(),
            reason: placed.get(&*row.name).map_or_else(|| reason.to_string(), |why| (*why).to_owned()),
        });
        let equalized = made.rearranged.equalized;
        let smoothed = made.rearranged.smoothed.iter().map(|s| SmoothedRow {
            activation: s.name.escape_debug().to_string(),
            alpha: s.alpha,
            before: s.errors[0],
            after: s.errors[1],
        });
        let rounded = made.calibration.rounded.iter().map(|r| RoundedRow {
            weight: r.name.escape_debug().to_string(),
            nearest: r.nearest,
            chosen: r.chosen,
        });
        let holes = made.calibration.holes.iter().map(|(name, hole)| HoleRow::of(name, hole));
        let named = |row: BenchRow, name: &str| BenchRow { model: name.to_owned(), ..row };
        let mut report = Report {
            model: self.original.name.clone(),
            recipe: recipe.clone(),
            data: data.describe(),
            samples: made.calibration.samples,
            small_crop: data.small_crop(),
            skipped: data.skipped().cloned(),
            idle_overrides: quantal_ptq::idle_overrides(&made.float, recipe)?,
            passes: rewrites,
            decisions: decisions.collect(),
            equalized: recipe
                .equalization
                .then_some(EqualizedRow { blocks: equalized.blocks, absorbed: equalized.absorbed }),
            smoothed: smoothed.collect(),
            rounded: rounded.collect(),
            integer_mac_share: coverage.integer_mac_share(),
            fallbacks: fallbacks.collect(),
            output_sqnr_db: close.sums.db(),
            compared: close.samples,
            agreeing: close.agreeing,
            float_bytes: self.original.bytes,
            integer_bytes: constant_bytes(&integer),
            timing: Some([named(float_time, "float"), named(integer_time, "integer")]),
            holes: holes.collect(),
            warnings: Vec::new(),
        };
        let integer_nodes = coverage.count(|s| matches!(s, Status::Integer { .. }));
        report.warnings = warnings::of_report(&report, integer_nodes);
        Ok(Quantization { model: integer, coverage, report })
    }
}

/// What became of each node, with its multiply-accumulates for inputs of these shapes.
pub(crate) fn coverage_with_macs(model: &Model, session: &Session, feeds: &[(String, Tensor)]) -> Coverage {
    let mut coverage = session.program().coverage.clone();
    let bound = model.with_input_shapes(feeds);
    for row in &mut coverage.rows {
        row.macs = cost::macs(&bound, row.node);
    }
    coverage
}

/// Runs one sample through the graph as imported and as rewritten: a pass that is wrong stops here.
fn check_rewrites(before: &Model, after: &Model, data: &Dataset, sample: usize, engine: Engine) -> Result<(), Error> {
    let feeds = data.sample(sample)?.feeds;
    let outputs = |m: &Model| Ok::<_, Error>(m.session(Mode::Simulate, engine)?.run(&feeds)?);
    let (a, b) = (outputs(before)?, outputs(after)?);
    // A model that was quantized before loses its own rounding when that is taken out.
    let was_quantized = before.graph.nodes().any(|(_, n)| n.op.quant_class() == quantal_ir::QuantClass::Quant);
    let least = if was_quantized { LEAST_EXTRACTED_SQNR_DB } else { LEAST_REWRITE_SQNR_DB };

    for (a, b) in a.chunks(1).zip(b.chunks(1)) {
        let mut sums = SqnrSums::default();
        add_outputs(&mut sums, a, b);
        if sums.db() < least {
            let text = format!(
                "the rewrites before quantization changed output `{}` ({:.1} dB)",
                a[0].0.escape_debug(),
                sums.db()
            );
            let hint = if was_quantized {
                "its own quantization makes that much noise, or this is a bug in quantal: start from the float model"
            } else {
                "this is a bug in quantal: please report it with the model"
            };
            return Err(Error::job(text, hint));
        }
    }
    Ok(())
}

/// How close the outputs of the second session are to those of the first.
pub(crate) fn compare_outputs(
    [reference, other]: &mut [Session; 2],
    data: &Dataset,
    samples: &[usize],
    progress: &mut dyn Progress,
) -> Result<Closeness, Error> {
    let mut close = Closeness::default();
    progress.begin("comparing", Some(samples.len()));
    for sample in data.stream(samples) {
        let Sample { feeds, label, .. } = sample?;
        close.add(&reference.run(&feeds)?, &other.run(&feeds)?, label)?;
        progress.step();
    }
    progress.done();
    Ok(close)
}

fn constant_bytes(model: &Model) -> u64 {
    let uses = model.graph.uses();
    let held = model.graph.values().filter(|(v, _)| !uses.readers(*v).is_empty());
    held.filter_map(|(_, v)| v.constant.as_ref()).map(|t| t.bytes().len() as u64).sum()
}

/// The most that a recipe may take: one with an override for each of 10,000 nodes has less than 2 MiB.
const RECIPE_BYTES: u64 = 16 << 20;

/// The recipe that an argument means: the name of a built-in one, or the path of a TOML file.
pub fn load_recipe(argument: &str) -> Result<Recipe, Error> {
    if quantal_ptq::recipe::PRESETS.contains(&argument) {
        return Ok(Recipe::preset(argument)?);
    }
    let path: &Path = argument.as_ref();
    if !path.exists() {
        return Err(quantal_ptq::Error::UnknownPreset { name: argument.to_owned() }.into());
    }
    let text = quantal_data::read_text(path, "the recipe", RECIPE_BYTES)?;
    Recipe::from_toml(&text).map_err(|cause| Error::Recipe { path: shown(path), cause })
}
