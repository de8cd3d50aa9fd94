//! The whole way from a float graph to a QDQ graph: place, calibrate, scale, write.

use crate::bias_correction;
use crate::calibrate::{Calibration, calibrate};
use crate::equalize::{Equalized, equalize};
use crate::error::Result;
use crate::observer::Range;
use crate::orders;
use crate::place::form::is_norm;
use crate::place::{Decision, Placement, Verdict, place, place_except, refusals, refused_in};
use crate::recipe::{Recipe, Rounding};
use crate::rounding::{Rounded, round_weights};
use crate::smooth_quant::{Smoothed, smooth};
use crate::watch::{Hole, Runs};
use crate::weights::set_weights;
use quantal_ir::graph::Uses;
use quantal_ir::qdq::insert_qdq;
use quantal_ir::{Encoding, Graph, NodeId, Op, Params, QuantPlan, ValueId};
use quantal_kernels::Isa;
use quantal_tensor::QParams;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A quantized model and how it came about.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The QDQ graph.
    pub graph: Graph,
    /// The float graph that the plan was written into: weights and biases as they were decided.
    pub float: Graph,
    /// What it was written from; ids are those of the float graph.
    pub plan: QuantPlan,
    /// One decision for each node of the float graph.
    pub decisions: Vec<Decision>,
    /// What moved between channels before.
    pub rearranged: Rearranged,
    /// What calibration saw.
    pub calibration: CalibrationSummary,
}

/// What moved between the channels of the float graph, which computes the same afterwards.
#[derive(Clone, Debug, Default)]
pub struct Rearranged {
    /// Between neighbouring products.
    pub equalized: Equalized,
    /// From activations into weights.
    pub smoothed: Vec<Smoothed>,
}

/// What calibration saw and chose.
#[derive(Clone, Debug)]
pub struct CalibrationSummary {
    /// Number of samples that were run; 0 if there was nothing to watch.
    pub samples: usize,
    /// The range of each activation that has an encoding.
    pub ranges: Vec<ChosenRange>,
    /// Number of biases that took back what rounding the weights shifts.
    pub biases_corrected: usize,
    /// Weights that were rounded with their data in view.
    pub rounded: Vec<RoundedWeight>,
    /// Values in codes that held NaN or an infinity in samples whose outputs are finite: their names, and where.
    pub holes: Vec<(Arc<str>, Hole)>,
}

/// A weight that was rounded with its data in view.
#[derive(Clone, Debug)]
pub struct RoundedWeight {
    /// Its name.
    pub name: Arc<str>,
    /// The squared error of its product's outputs with the nearest codes, on average over rows of data.
    pub nearest: f64,
    /// The same with the codes that were chosen.
    pub chosen: f64,
}

/// The range of one activation.
#[derive(Clone, Debug)]
pub struct ChosenRange {
    /// The value, in the float graph.
    pub value: ValueId,
    /// Its name.
    pub name: Arc<str>,
    /// Smallest and largest value seen, of all values that share its encoding.
    pub seen: Range,
    /// The range that its codes cover.
    pub chosen: Range,
}

/// A float graph that was observed: all that is learnt from data, before anything is decided that depends on it. Trials
/// that leave other nodes in float share it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The float graph, its weights perhaps rearranged; on what calibration saw it computes what the original does.
    pub graph: Graph,
    /// How they were.
    pub rearranged: Rearranged,
    recipe: Recipe,
    calibration: Calibration,
    /// Weights whose codes were chosen with their data in view.
    rounded: BTreeMap<ValueId, Rounded>,
    /// Nodes that the compiler runs in float, and why.
    refused: BTreeMap<NodeId, String>,
    isa: Isa,
}

/// Quantizes a float graph in its canonical form ([`quantal_ir::passes::canonicalize`]). How many samples are given, and
/// which, is the caller's choice; [`Recipe::calibration`] says what was asked for.
pub fn quantize(graph: &Graph, recipe: &Recipe, runs: &mut Runs<'_>) -> Result<Quantized> {
    prepare(graph, recipe, runs)?.quantize(&BTreeMap::new())
}

/// Learns from the samples all that [`Prepared::quantize`] needs.
pub fn prepare(graph: &Graph, recipe: &Recipe, runs: &mut Runs<'_>) -> Result<Prepared> {
    recipe.check()?;
    let mut graph = graph.clone();
    let rearranged = rearrange(&mut graph, recipe, runs)?;
    // Only now: a search may have left in float what was added here.
    recipe.check_overrides(&graph.nodes().map(|(_, n)| &*n.name).collect::<Vec<_>>())?;
    let refused = refusals(&graph, recipe)?;
    let placement = place_except(&graph, recipe, &refused)?;
    let means_of = if recipe.bias_correction { &placement.products[..] } else { &[] };
    // All of them: those that are in float now may not be once others are.
    let norms = graph.nodes().filter(|(_, n)| is_norm(n.op));
    let norms: Vec<(ValueId, f32)> =
        norms.filter_map(|(_, n)| Some((n.input(0)?, n.attrs.float_or("epsilon", 1e-5).ok()?))).collect();
    let calibration = calibrate(&graph, &placement.groups, means_of, &norms, runs)?;
    let (recipe, rounded, isa) = (recipe.clone(), BTreeMap::new(), runs.isa);
    let mut prepared = Prepared { graph, rearranged, recipe, calibration, rounded, refused, isa };
    let how = prepared.recipe.weights.rounding;
    if how != Rounding::Nearest {
        let nearest = prepared.quantize(&BTreeMap::new())?.plan;
        prepared.rounded = round_weights(&prepared.graph, &placement.products, &nearest, how, runs)?;
    }
    Ok(prepared)
}

/// Moves factors between channels, as the recipe says. Nodes that its overrides leave in float take part, so that a trial
/// and the recipe that is made of it begin with the same graph.
fn rearrange(graph: &mut Graph, recipe: &Recipe, runs: &mut Runs<'_>) -> Result<Rearranged> {
    let mut done = Rearranged::default();
    let recipe = Recipe { overrides: Vec::new(), ..recipe.clone() };
    if recipe.equalization {
        let products = place(graph, &recipe)?.products;
        done.equalized = equalize(graph, &products, runs)?;
    }
    if recipe.smooth_quant {
        let products = place(graph, &recipe)?.products;
        done.smoothed = smooth(graph, &products, &recipe, runs)?;
    }
    Ok(done)
}

impl Prepared {
    /// Decides and writes the QDQ graph. The nodes of `float` stay in float, for the reasons given, beside those that the
    /// recipe and the observed values keep there.
    pub fn quantize(&self, float: &BTreeMap<NodeId, String>) -> Result<Quantized> {
        let mut exceptions = self.refused.clone();
        exceptions.extend(float.clone());
        loop {
            let placement = self.settled(&mut exceptions)?;
            let made = self.write(placement)?;
            // With the numbers of calibration the compiler may refuse what it did not before.
            let refused = refused_in(&made.graph, &made.decisions)?;
            if refused.is_empty() {
                return Ok(made);
            }
            exceptions.extend(refused);
        }
    }

    /// Decides and writes the QDQ graph of one trial among many, as [`Prepared::quantize`] does, but without compiling
    /// it to learn of further refusals.
    pub(crate) fn attempt(&self, float: &BTreeMap<NodeId, String>) -> Result<Quantized> {
        let mut exceptions = self.refused.clone();
        exceptions.extend(float.clone());
        self.write(self.settled(&mut exceptions)?)
    }

    /// The placement in which no value is held in codes that would drown in their rounding: the nodes around such values
    /// join the exceptions.
    fn settled(&self, exceptions: &mut BTreeMap<NodeId, String>) -> Result<Placement> {
        let uses = self.graph.uses();
        loop {
            let placement = place_except(&self.graph, &self.recipe, exceptions)?;
            let heads = heads(&placement);
            let mut found = self.exposed(&placement, &uses);
            found.extend(self.drowned(&placement, &uses, &heads)?);
            found.extend(self.unseen(&placement, &uses, &heads));
            found.extend(self.infinite(&placement, &uses, &heads));
            let wide = orders::too_wide(&self.graph, &uses, &self.calibration.orders);
            found.extend(wide.into_iter().filter_map(|(id, why)| Some((*heads.get(&id)?, why))));
            let known = exceptions.len();
            for (id, why) in found {
                exceptions.entry(id).or_insert(why);
            }
            if exceptions.len() == known {
                return Ok(placement);
            }
        }
    }

    /// Gives the encodings of a placement their numbers, and writes the QDQ graph.
    fn write(&self, placement: Placement) -> Result<Quantized> {
        let Self { graph, rearranged, recipe, calibration, rounded, isa, .. } = self;
        let mut plan = placement.plan;
        let mut ranges = Vec::new();
        for group in &placement.groups {
            let scheme = plan.encodings[&group.members[0]].scheme;
            let levels = scheme.qmax.abs_diff(scheme.qmin);
            let (seen, chosen) = calibration.range(graph, group, levels, scheme.symmetric)?;
            let (scale, zero_point) =
                scheme.params_of_range(chosen.min, chosen.max).expect("observers refuse what is not finite");
            for &value in &group.members {
                let encoding = plan.encodings.get_mut(&value).expect("every member of a group has an encoding");
                encoding.params = Params::Static(QParams::per_tensor(scale, zero_point));
                encoding.why = format!("{}; {} of {} to {}", encoding.why, group.observer.name(), seen.min, seen.max);
                ranges.push(ChosenRange { value, name: Arc::clone(&graph.value(value).name), seen, chosen });
            }
        }
        ranges.sort_by_key(|r| r.value);
        set_weights(graph, &placement.products, recipe.weights.scales, &calibration.balances, &mut plan, *isa)?;
        let mut corrected = graph.clone();
        let mut by_data = Vec::new();
        for (&weight, rounded) in rounded {
            // Of another granularity where another reader of the weight stays in float: nearest then.
            let encoding = plan.encodings.get_mut(&weight);
            let same = |e: &&mut Encoding| e.qparams().is_some_and(|q| q.scale.len() == rounded.params.scale.len());
            // What is handed out stays as it is.
            if let Some(encoding) = encoding.filter(same).filter(|_| !graph.is_output(weight)) {
                encoding.params = Params::Static(rounded.params.clone());
                corrected.set_constant(weight, rounded.tensor.clone());
                let ([nearest, chosen], name) = (rounded.errors, Arc::clone(&graph.value(weight).name));
                by_data.push(RoundedWeight { name, nearest, chosen });
            }
        }
        let means_of = if recipe.bias_correction { &placement.products[..] } else { &[] };
        let biases_corrected = bias_correction::correct(&mut corrected, graph, means_of, &plan, &calibration.means)?;
        let graph = insert_qdq(&corrected, &plan)?;
        let samples = calibration.samples;
        let name = |v: ValueId| Arc::clone(&self.graph.value(v).name);
        let holes = ranges.iter().filter_map(|r| Some((name(r.value), calibration.holes.get(&r.value)?.clone())));
        let holes = holes.collect();
        let calibration = CalibrationSummary { samples, ranges, biases_corrected, rounded: by_data, holes };
        let (decisions, rearranged) = (placement.decisions, rearranged.clone());
        Ok(Quantized { graph, float: corrected, plan, decisions, rearranged, calibration })
    }

    /// The normalizations whose input would drown in its rounding, the sums that make it, and why.
    fn exposed(&self, placement: &Placement, uses: &Uses) -> BTreeMap<NodeId, String> {
        let Self { graph, recipe, calibration, .. } = self;
        let limit = recipe.activations.min_norm_sqnr_db;
        let mut found = BTreeMap::new();
        for (id, v) in &placement.norms {
            let Some(sqnr) = calibration.spreads.get(v).map(|s| s.sqnr_db(255)) else { continue };
            if sqnr < f64::from(limit) {
                let name = graph.value(*v).name.escape_debug();
                let why = format!(
                    "one scale for `{name}` would hold its faintest rows within {sqnr:.1} dB; the recipe asks for {limit}"
                );
                let sum = uses.producer(*v).filter(|&p| graph.node(p).op == Op::Add);
                found.extend([Some(*id), sum].into_iter().flatten().map(|id| (id, why.clone())));
            }
        }
        found
    }

    /// The nodes that would read quantized values which were float during calibration and so have no range: a residual
    /// stream that is quantized again behind a branch that is not.
    fn unseen(&self, placement: &Placement, uses: &Uses, heads: &Heads) -> BTreeMap<NodeId, String> {
        let Self { graph, calibration, .. } = self;
        let seen = |v: &ValueId| graph.value(*v).constant.is_some() || calibration.observed.contains_key(v);
        let sources = placement.groups.iter().filter(|g| g.pinned.is_none()).flat_map(|g| &g.sources);
        let mut found = BTreeMap::new();
        for &v in sources.filter(|v| !seen(v)) {
            let why = format!("`{}` was in float when calibration looked", graph.value(v).name.escape_debug());
            found.extend(uses.readers(v).iter().filter_map(|r| heads.get(r)).map(|&id| (id, why.clone())));
        }
        found
    }

    /// The nodes that make or read values which held an infinity: codes would turn it into the end of a range.
    fn infinite(&self, placement: &Placement, uses: &Uses, heads: &Heads) -> BTreeMap<NodeId, String> {
        let Self { graph, calibration, .. } = self;
        let mut found = BTreeMap::new();
        for &v in placement.groups.iter().flat_map(|g| &g.members) {
            let Some(hole) = calibration.holes.get(&v).filter(|h| h.infinite) else { continue };
            let (name, sample) = (graph.value(v).name.escape_debug(), hole.sample.escape_debug());
            let why = format!("`{name}` holds an infinity in sample `{sample}`, which no code stands for");
            let near = uses.producer(v).into_iter().chain(uses.readers(v).iter().copied());
            found.extend(near.filter_map(|id| heads.get(&id)).map(|&id| (id, why.clone())));
        }
        found
    }

    /// The nodes that make or read values most of whose channels would drown in the rounding of the others, and why.
    fn drowned(&self, placement: &Placement, uses: &Uses, heads: &Heads) -> Result<BTreeMap<NodeId, String>> {
        let Self { graph, recipe, calibration, .. } = self;
        let limit = recipe.activations.min_channel_sqnr_db;
        let mut found = BTreeMap::new();
        for group in &placement.groups {
            let scheme = placement.plan.encodings[&group.members[0]].scheme;
            let levels = scheme.qmax.abs_diff(scheme.qmin);
            let (_, chosen) = calibration.range(graph, group, levels, scheme.symmetric)?;
            let (scale, _) =
                scheme.params_of_range(chosen.min, chosen.max).expect("observers refuse what is not finite");
            for &v in &group.members {
                let Some(db) = calibration.balances.get(&v).map(|b| b.sqnr_db(f64::from(scale))) else { continue };
                if db < f64::from(limit) {
                    let name = graph.value(v).name.escape_debug();
                    let why = format!(
                        "the channels of `{name}` reach so differently far that one scale would hold them within \
                         {db:.1} dB on average; the recipe asks for {limit}"
                    );
                    let near = uses.producer(v).into_iter().chain(uses.readers(v).iter().copied());
                    found.extend(near.filter_map(|id| heads.get(&id)).map(|&id| (id, why.clone())));
                }
            }
        }
        Ok(found)
    }
}

/// For each node that runs in integers, the one that does it.
type Heads = BTreeMap<NodeId, NodeId>;

fn heads(placement: &Placement) -> Heads {
    let head = |d: &Decision| match d.verdict {
        Verdict::Integer => Some((d.node, d.node)),
        Verdict::Fused(head) => Some((d.node, head)),
        Verdict::Float | Verdict::Untouched => None,
    };
    placement.decisions.iter().filter_map(head).collect()
}

#[cfg(test)]
mod tests;
