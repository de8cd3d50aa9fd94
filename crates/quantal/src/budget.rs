//! `quantal quantize --max-drop` and `--min-sqnr`: the first recipe that keeps to a budget.
//!
//! A ladder is climbed until a rung holds: the built-in recipes from fast to best, single changes of the best so far, and
//! then that one with nodes left in float, those first that give back most for the time that they cost. Each rung is
//! judged on samples that calibration does not see.

use crate::engine::Engine;
use crate::error::Error;
use crate::guard::guarded;
use crate::judge::{Judge, Outcome};
use crate::model::Model;
use crate::quantize::{Quantization, Rewritten};
use crate::variations::{Variation, variations};
use quantal_data::Dataset;
use quantal_ir::NodeId;
use quantal_ptq::recipe::{Calibration, Override};
use quantal_ptq::{Prepared, Progress, Quantized, Recipe, Runs, Stream};
use quantal_runtime::{Mode, Session};
use serde::Serialize;
use std::collections::BTreeMap;

/// What a quantized model may lose.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// At most so many points of top-1.
    MaxDrop(f64),
    /// Outputs at least so close to those of the float model, in decibels.
    MinSqnr(f64),
}

impl Budget {
    fn is_met(self, outcome: &Outcome, most: f64) -> bool {
        // A hair of room for the rounding of percentages: 0.5 points are 0.5 points.
        self.excess(outcome) <= 1e-9 && !too_little(outcome, most)
    }

    /// How far beyond the budget: points or decibels.
    fn excess(self, outcome: &Outcome) -> f64 {
        match self {
            Self::MaxDrop(points) => outcome.drop.unwrap_or(f64::INFINITY) - points,
            Self::MinSqnr(db) => db - outcome.sqnr_db,
        }
    }
}

/// One recipe that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Rung {
    /// What is special about it.
    pub name: String,
    /// Nodes that it leaves in float beyond those that no recipe quantizes.
    pub in_float: Vec<String>,
    /// What it was found to cost.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Whether it keeps to the budget.
    pub met: bool,
}

/// A recipe that could not be tried.
#[derive(Clone, Debug, Serialize)]
pub struct FailedRung {
    /// What is special about it.
    pub name: String,
    /// Why not.
    pub problem: String,
}

/// All that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Ladder {
    /// What was asked for.
    pub budget: Budget,
    /// Samples that the rungs were judged on, in words.
    pub judged_on: String,
    /// Number of those samples.
    pub samples: usize,
    /// Top-1 of the float model on them, with labels.
    pub float_top1: Option<f64>,
    /// Why these samples cannot tell whether the budget is kept to, in words, if they cannot.
    pub doubt: Option<String>,
    /// The rungs, in the order in which they were tried.
    pub rungs: Vec<Rung>,
    /// Recipes that this model does not allow, or that failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<FailedRung>,
    /// What would help, in words, if none keeps to the budget.
    pub advice: Vec<String>,
}

impl Ladder {
    /// The first rung that keeps to the budget, if there is one.
    pub fn chosen(&self) -> Option<&Rung> {
        self.rungs.iter().rev().find(|r| r.met)
    }

    /// Whether the last rung leaves too little in integers.
    fn is_spent(&self) -> bool {
        let most = self.rungs.first().map_or(0.0, share);
        self.rungs.last().is_some_and(|r| too_little(&r.outcome, most))
    }
}

/// The samples that rungs are judged on, which calibration must not see.
pub struct HeldOut<'a> {
    /// Where they come from.
    pub data: &'a Dataset,
    /// Which of them.
    pub members: Vec<usize>,
}

/// The least part of the samples that is held out where no other data is given.
const HELD_OUT: f64 = 1.0 / 3.0;

impl<'a> HeldOut<'a> {
    /// All of other data.
    pub fn all(data: &'a Dataset) -> Self {
        Self { data, members: (0..data.len()).collect() }
    }

    /// What calibration leaves of its own data: at least a third, for which it gives samples up.
    pub fn rest(data: &'a Dataset, calibration: &mut Calibration) -> Self {
        let most = (data.len() as f64 * (1.0 - HELD_OUT)).ceil() as usize;
        calibration.samples = calibration.samples.min(most.max(1));
        let picked = data.pick(calibration.samples, calibration.seed);
        let members = (0..data.len()).filter(|i| picked.binary_search(i).is_err()).collect();
        Self { data, members }
    }
}

/// Samples that sensitivity is measured on.
const SENSITIVITY_SAMPLES: usize = 32;
/// The least part of multiply-accumulates in integers, of those that run so without a search: below it the model is no
/// longer an INT8 model.
const LEAST_INTEGER_SHARE: f64 = 0.5;

/// Whether too little runs in integers, where the first recipe brings the part `most` there.
fn too_little(outcome: &Outcome, most: f64) -> bool {
    outcome.integer_mac_share.is_some_and(|s| s == 0.0 || s < LEAST_INTEGER_SHARE * most)
}

/// Climbs the ladder from `start`, or from the fast recipe. Gives the quantization of the first rung that keeps to the
/// budget, if one does, and the ladder.
pub fn quantize_within(
    model: &Model,
    data: &Dataset,
    held: HeldOut<'_>,
    start: Option<&Recipe>,
    calibration: &Calibration,
    budget: Budget,
    engine: Engine,
    progress: &mut dyn Progress,
) -> Result<(Option<Quantization>, Ladder), Error> {
    let picked = data.pick(calibration.samples, calibration.seed);
    let float = Rewritten::of(model, data, picked[0], engine)?;
    let judged_on = held.data.describe();
    let judge = Judge::new(&float, held.data, held.members, engine, progress)?;
    if matches!(budget, Budget::MaxDrop(_)) && judge.float_top1().is_none() {
        let hint = "give --labels CSV (and the data they belong to with --eval), or use --min-sqnr, which needs none";
        return Err(Error::usage("--max-drop counts right answers, but the samples have no labels", hint));
    }
    let ladder = Ladder {
        budget,
        judged_on,
        samples: judge.len(),
        float_top1: judge.float_top1(),
        doubt: doubt(budget, judge.len()),
        rungs: Vec::new(),
        failed: Vec::new(),
        advice: Vec::new(),
    };
    let mut climb = Climb { float: &float, data, picked: &picked, engine, judge: &judge, ladder };
    let found = climb.recipes(start, calibration, progress)?;
    let (recipe, prepared) = match found {
        Climbed::There(recipe, made) => return climb.arrive(*made, &recipe, progress),
        Climbed::Best(recipe, prepared) => (recipe, prepared),
    };
    if let Some((recipe, made)) = climb.nodes(&recipe, &prepared, progress)? {
        return climb.arrive(made, &recipe, progress);
    }
    climb.advise(calibration.samples);
    Ok((None, climb.ladder))
}

/// What is wrong with a budget in points that is smaller than a single answer.
fn doubt(budget: Budget, samples: usize) -> Option<String> {
    let Budget::MaxDrop(points) = budget else { return None };
    let answer = 100.0 / samples as f64;
    (points > 0.0 && answer > points).then(|| {
        format!(
            "one answer of {samples} is {answer:.2} points, more than the budget of {points}: chance decides; give at least {:.0} \
             labelled samples",
            (100.0 / points).ceil()
        )
    })
}

struct Climb<'a, 'd> {
    float: &'a Rewritten<'a>,
    data: &'a Dataset,
    picked: &'a [usize],
    engine: Engine,
    judge: &'a Judge<'d>,
    ladder: Ladder,
}

/// The part of multiply-accumulates that a rung brings into integers; all of it where that is not known.
fn share(rung: &Rung) -> f64 {
    rung.outcome.integer_mac_share.unwrap_or(1.0)
}

enum Climbed {
    There(Recipe, Box<Quantized>),
    Best(Recipe, Box<Prepared>),
}

impl Climb<'_, '_> {
    /// Judges one more rung; gives whether it keeps to the budget.
    fn rung(
        &mut self,
        name: String,
        in_float: Vec<String>,
        made: &Quantized,
        progress: &mut dyn Progress,
    ) -> Result<bool, Error> {
        let outcome = self.judge.judge(&self.float.with(made.graph.clone()), progress)?;
        let met = self.ladder.budget.is_met(&outcome, self.ladder.rungs.first().map_or(0.0, share));
        self.ladder.rungs.push(Rung { name, in_float, outcome, met });
        Ok(met)
    }

    /// The recipes without exceptions: those built in, then single changes of the best.
    fn recipes(
        &mut self,
        start: Option<&Recipe>,
        calibration: &Calibration,
        progress: &mut dyn Progress,
    ) -> Result<Climbed, Error> {
        let mut given: Vec<(String, Recipe)> = start.map(|r| ("as given".to_owned(), r.clone())).into_iter().collect();
        for name in quantal_ptq::recipe::PRESETS {
            given.push((name.to_owned(), Recipe::preset(name)?));
        }
        let mut tried: Vec<Recipe> = Vec::new();
        let mut best: Option<(f64, Recipe, Prepared)> = None;
        let mut failure = None;
        let mut next = 0;
        let mut changed = false;
        while next < given.len() {
            let (name, mut recipe) = given[next].clone();
            next += 1;
            recipe.calibration = calibration.clone();
            if !tried.contains(&recipe) {
                tried.push(recipe.clone());
                let tried = guarded(|| {
                    let prepared = self.float.prepare(self.data, self.picked, &recipe, self.engine, progress)?;
                    let made = prepared.quantize(&BTreeMap::new())?;
                    let met = self.rung(name.clone(), Vec::new(), &made, progress)?;
                    Ok((prepared, made, met))
                });
                match tried {
                    Ok((_, made, true)) => return Ok(Climbed::There(recipe, Box::new(made))),
                    Ok((prepared, _, false)) => {
                        let outcome = &self.ladder.rungs.last().expect("a rung was just added").outcome;
                        let excess = self.ladder.budget.excess(outcome);
                        if best.as_ref().is_none_or(|b| excess < b.0) {
                            best = Some((excess, recipe, prepared));
                        }
                    }
                    Err(cause) => {
                        progress.done();
                        self.ladder.failed.push(FailedRung { name, problem: cause.to_string() });
                        failure.get_or_insert(cause);
                    }
                }
            }
            if next == given.len() && !changed {
                changed = true;
                // What fails for all of them is no matter of a recipe.
                let base = match (&best, failure.take()) {
                    (Some(best), _) => &best.1,
                    (None, Some(cause)) => return Err(cause),
                    (None, None) => break,
                };
                let worth = variations(base).into_iter().filter(|v| v.may_help);
                given.extend(
                    worth.map(|Variation { decision, name, recipe, .. }| (format!("{decision}: {name}"), recipe)),
                );
            }
        }
        let (_, recipe, prepared) = best.ok_or_else(|| Error::job("no recipe was tried", ""))?;
        Ok(Climbed::Best(recipe, Box::new(prepared)))
    }

    /// The best recipe with more and more nodes in float, and then with as few of them as still do.
    fn nodes(
        &mut self,
        recipe: &Recipe,
        prepared: &Prepared,
        progress: &mut dyn Progress,
    ) -> Result<Option<(Recipe, Quantized)>, Error> {
        let ranked = self.ranked(prepared, progress)?;
        let mut attempt = |climb: &mut Self, n: usize| -> Result<(bool, Quantized), Error> {
            let left = &ranked[..n];
            let why = "left in float to keep to the budget";
            let reasons = left.iter().map(|(id, _)| (*id, why.to_owned())).collect();
            let made = prepared.quantize(&reasons)?;
            let names: Vec<String> = left.iter().map(|(_, name)| name.clone()).collect();
            let met = climb.rung(format!("the best of these, {} in float", nodes(n)), names, &made, progress)?;
            Ok((met, made))
        };
        let (mut below, mut n) = (0, 1);
        while n <= ranked.len() {
            let (met, made) = attempt(self, n)?;
            if self.ladder.is_spent() {
                break;
            }
            if met {
                // Between one that is too few and one that is enough: as few as do.
                let (mut enough, mut made) = (n, made);
                while enough - below > 1 {
                    let middle = usize::midpoint(below, enough);
                    match attempt(self, middle)? {
                        (true, m) => (enough, made) = (middle, m),
                        (false, _) => below = middle,
                    }
                }
                let mut recipe = recipe.clone();
                let exception = |(_, name): &(NodeId, String)| Override {
                    node: name.clone(),
                    fallback: true,
                    observer: None,
                    storage: None,
                };
                recipe.overrides.splice(0..0, ranked[..enough].iter().map(exception));
                return Ok(Some((recipe, made)));
            }
            if n == ranked.len() {
                break;
            }
            below = n;
            n = (n + n.div_ceil(2)).min(ranked.len());
        }
        Ok(None)
    }

    /// Nodes that give something back in float, those first that give most for the time they cost.
    fn ranked(&mut self, prepared: &Prepared, progress: &mut dyn Progress) -> Result<Vec<(NodeId, String)>, Error> {
        let quantized = prepared.quantize(&BTreeMap::new())?;
        let members = &self.picked[..self.picked.len().min(SENSITIVITY_SAMPLES)];
        let samples = || -> Stream<'_> { Box::new(self.data.stream(members)) };
        let mut runs = Runs { samples: &samples, isa: self.engine.isa, threads: self.engine.threads, progress };
        let found = quantal_ptq::sensitivity(prepared, &quantized, &mut runs)?;
        let cost = self.cost_in_float(&self.float.with(quantized.graph.clone()))?;
        let least = cost.values().copied().fold(0.0, f64::max) / 1e3 + 1.0;
        let mut rows: Vec<(f64, NodeId, String)> = found
            .rows
            .iter()
            .map(|r| {
                // What several nodes add up to is near the sum of what each makes alone; leaving out a single one says
                // little, since its neighbours hold its values in codes.
                let cost = cost.get(&*r.name).copied().unwrap_or(0.0).max(least);
                (r.alone.sums.noise / cost, r.node, r.name.to_string())
            })
            .filter(|r| r.0 > 0.0)
            .collect();
        rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok(rows.into_iter().map(|(_, id, name)| (id, name)).collect())
    }

    /// Nanoseconds that each node takes longer in float, by name.
    fn cost_in_float(&self, integer: &Model) -> Result<BTreeMap<String, f64>, Error> {
        let feeds = self.data.sample(self.picked[0])?.feeds;
        let mut cost = BTreeMap::new();
        for (model, mode, sign) in [(&self.float.model, Mode::Simulate, 1.0), (integer, Mode::Integer, -1.0)] {
            for (name, time) in node_times(&mut model.session(mode, self.engine)?, &feeds)? {
                *cost.entry(name).or_insert(0.0) += sign * time;
            }
        }
        Ok(cost)
    }

    fn arrive(
        self,
        made: Quantized,
        recipe: &Recipe,
        progress: &mut dyn Progress,
    ) -> Result<(Option<Quantization>, Ladder), Error> {
        let made = self.float.evidence(made, self.data, self.picked, recipe, self.engine, progress)?;
        Ok((Some(made), self.ladder))
    }

    /// What would help where nothing here did.
    fn advise(&mut self, samples: usize) {
        let (rungs, budget) = (&self.ladder.rungs, self.ladder.budget);
        let most = rungs.first().map_or(0.0, share);
        let mut advice = Vec::new();
        if let Some(last) = rungs.last().filter(|_| self.ladder.is_spent()) {
            advice.push(format!(
                "more nodes in float, by `fallback = true` in a recipe: the search ends at {}, with less than half of what \
                 can run in integers left there",
                nodes(last.in_float.len())
            ));
        }
        let kept = rungs.iter().filter(|r| !too_little(&r.outcome, most));
        if let Some(r) = kept.min_by(|a, b| budget.excess(&a.outcome).total_cmp(&budget.excess(&b.outcome))) {
            advice.push(match (budget, r.outcome.drop) {
                (Budget::MaxDrop(_), Some(drop)) => format!("a wider budget: `{}` loses {drop:.2} points", r.name),
                (Budget::MaxDrop(_), None) | (Budget::MinSqnr(_), _) => {
                    format!("a lower budget: `{}` comes to {:.1} dB", r.name, r.outcome.sqnr_db)
                }
            });
        }
        if samples < Recipe::default().calibration.samples {
            advice.push(format!(
                "more data: calibration saw {samples} samples; 256 are usual (`quantal check-data` says more)"
            ));
        }
        advice.push(
            "quantization-aware training: what rounding after training loses, training with rounding wins back"
                .to_owned(),
        );
        self.ladder.advice = advice;
    }
}

/// Runs of a profile, of which each node's least time counts.
const PROFILED_RUNS: usize = 5;

/// Nanoseconds that each node takes, by name.
fn node_times(
    session: &mut Session,
    feeds: &[(String, quantal_tensor::Tensor)],
) -> Result<BTreeMap<String, f64>, Error> {
    let mut least: BTreeMap<String, f64> = BTreeMap::new();
    for _ in 0..PROFILED_RUNS {
        let mut run: BTreeMap<String, f64> = BTreeMap::new();
        for step in session.run_profiled(feeds)?.1 {
            *run.entry(step.name.to_string()).or_insert(0.0) += step.nanoseconds as f64;
        }
        for (name, time) in run {
            least.entry(name).and_modify(|t| *t = t.min(time)).or_insert(time);
        }
    }
    Ok(least)
}

/// `1 node`, `2 nodes`.
fn nodes(n: usize) -> String {
    format!("{n} node{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quickstart::embedded;
    use quantal_ptq::Silent;

    #[test]
    fn a_budget_below_one_answer_is_doubted() {
        assert!(doubt(Budget::MaxDrop(0.5), 200).is_none());
        let few = doubt(Budget::MaxDrop(0.5), 166).unwrap();
        assert!(few.contains("0.60 points") && few.contains("at least 200"), "{few}");
        assert!(doubt(Budget::MaxDrop(0.0), 10).is_none() && doubt(Budget::MinSqnr(30.0), 10).is_none());
    }

    fn outcome(drop: Option<f64>, sqnr_db: f64, share: f64) -> Outcome {
        Outcome {
            top1: drop.map(|d| 0.8 - d / 100.0),
            drop,
            changed: drop.map(|_| 3),
            agreement: 1.0,
            sqnr_db,
            ms: 1.0,
            float_ms: 1.0,
            integer_mac_share: Some(share),
        }
    }

    #[test]
    fn a_budget_holds_up_to_its_edge_and_only_for_integer_models() {
        let half = Budget::MaxDrop(0.5);
        // 0.5 points as percentages of counts give them.
        assert!(half.is_met(&outcome(Some(100.0 * (0.805 - 0.8)), 10.0, 1.0), 1.0));
        assert!(!half.is_met(&outcome(Some(0.51), 40.0, 1.0), 1.0));
        assert!(!half.is_met(&outcome(None, 40.0, 1.0), 1.0));
        assert!(
            half.is_met(&outcome(Some(-1.0), 10.0, 0.5), 1.0) && !half.is_met(&outcome(Some(-1.0), 10.0, 0.49), 1.0)
        );
        // Where a front end stays in float anyway, half of the rest.
        assert!(
            half.is_met(&outcome(Some(-1.0), 10.0, 0.2), 0.3) && !half.is_met(&outcome(Some(-1.0), 10.0, 0.1), 0.3)
        );
        assert!(!half.is_met(&outcome(Some(-1.0), 10.0, 0.0), 0.0));
        let db = Budget::MinSqnr(20.0);
        assert!(db.is_met(&outcome(None, 20.0, 1.0), 1.0) && !db.is_met(&outcome(None, 19.9, 1.0), 1.0));
    }

    fn climbed(budget: Budget) -> (Option<Quantization>, Ladder) {
        let (model, data, evaluation) = embedded().unwrap();
        let held = HeldOut { data: &evaluation, members: (0..100).collect() };
        let calibration = Calibration { samples: 60, seed: 0 };
        let engine = Engine::detect(1).unwrap();
        quantize_within(&model, &data, held, None, &calibration, budget, engine, &mut Silent).unwrap()
    }

    #[test]
    fn what_the_first_recipe_meets_needs_no_other() {
        let (made, ladder) = climbed(Budget::MaxDrop(5.0));
        assert!(made.is_some() && ladder.rungs.len() == 1 && ladder.chosen().unwrap().name == "fast");
        assert_eq!((ladder.samples, ladder.advice.len()), (100, 0));
    }

    #[test]
    fn a_hard_budget_leaves_nodes_in_float_and_its_recipe_makes_the_same_model() {
        let (_, easy) = climbed(Budget::MinSqnr(0.0));
        let (made, ladder) = climbed(Budget::MinSqnr(easy.rungs[0].outcome.sqnr_db + 3.0));
        let (made, chosen) = (made.unwrap(), ladder.chosen().unwrap());
        assert!(chosen.outcome.sqnr_db >= easy.rungs[0].outcome.sqnr_db + 3.0);
        let (model, data, _) = embedded().unwrap();
        let recipe = Recipe::from_toml(&made.report.recipe.to_toml()).unwrap();
        let again = crate::quantize(&model, &data, &recipe, Engine::detect(1).unwrap(), &mut Silent).unwrap();
        let written = |m: &Model| format!("{:?}", quantal_ir::export(&m.graph).unwrap());
        assert!(written(&again.model) == written(&made.model));
    }

    #[test]
    fn a_budget_that_nothing_meets_says_what_would_help() {
        let (made, ladder) = climbed(Budget::MinSqnr(1e6));
        assert!(made.is_none() && ladder.chosen().is_none() && ladder.rungs.len() > 3);
        assert!(ladder.advice.iter().any(|a| a.contains("more data")), "{:?}", ladder.advice);
    }
}
