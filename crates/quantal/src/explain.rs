//! `quantal explain`: the table of decisions of one model: what each costs, measured.

use crate::budget::HeldOut;
use crate::engine::Engine;
use crate::error::Error;
use crate::guard::guarded;
use crate::judge::{Judge, Outcome};
use crate::model::Model;
use crate::quantize::Rewritten;
use crate::variations::{Variation, sample_counts, variations};
use quantal_data::Dataset;
use quantal_ptq::{Progress, Recipe};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Every decision about one model, made in every way.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The model.
    pub model: String,
    /// The recipe that every row differs from in one decision.
    pub base: Recipe,
    /// What calibration drew its samples from.
    pub data: String,
    /// How many it drew, where a row does not say otherwise.
    pub calibrated: usize,
    /// What the rows were judged on.
    pub judged_on: String,
    /// Number of those samples.
    pub samples: usize,
    /// Top-1 of the float model on them, with labels.
    pub float_top1: Option<f64>,
    /// A row for each way to make each decision.
    pub rows: Vec<ExplanationRow>,
    /// Whether quantization after training will do, in words, with its evidence.
    pub advice: String,
}

/// One decision, made in one way.
#[derive(Clone, Debug, Serialize)]
pub struct ExplanationRow {
    /// The decision.
    pub decision: &'static str,
    /// How it is made here.
    pub choice: String,
    /// Whether this is the recipe that the others differ from.
    pub is_base: bool,
    /// Whether it is the most accurate way to make this decision: by SQNR, among those whose top-1 is the highest or as
    /// near to it as its noise.
    pub best: bool,
    /// What it was found to cost; `None` if the model cannot be quantized so.
    #[serde(flatten)]
    pub outcome: Option<Outcome>,
    /// Why not.
    pub problem: Option<String>,
}

/// Quantizes the model by every variation of `base`, and judges each on what was held out.
pub fn explain(
    model: &Model,
    data: &Dataset,
    held: HeldOut<'_>,
    base: &Recipe,
    engine: Engine,
    progress: &mut dyn Progress,
) -> Result<Explanation, Error> {
    let float = Rewritten::of(model, data, data.pick(1, 0)[0], engine)?;
    let judge = Judge::new(&float, held.data, held.members, engine, progress)?;
    let mut all = Vec::new();
    for name in quantal_ptq::recipe::PRESETS {
        let calibration = base.calibration.clone();
        let recipe = Recipe { calibration, ..Recipe::preset(name)? };
        all.push(Variation { decision: "recipe", name: name.to_owned(), recipe, may_help: true });
    }
    all.extend(variations(base));
    all.extend(sample_counts(base, data.len()));
    let mut seen: BTreeMap<String, Result<Outcome, String>> = BTreeMap::new();
    let mut failed = None;
    let mut rows = Vec::new();
    for Variation { decision, name, recipe, .. } in all {
        let key = recipe.to_toml();
        if !seen.contains_key(&key) {
            let picked = data.pick(recipe.calibration.samples, recipe.calibration.seed);
            // Rows are independent: a decision that this model does not allow, or that fails here, is a row of its own.
            let outcome = guarded(|| {
                let prepared = float.prepare(data, &picked, &recipe, engine, progress)?;
                let made = prepared.quantize(&BTreeMap::new())?;
                judge.judge(&float.with(made.graph), progress)
            });
            if outcome.is_err() {
                progress.done();
            }
            let outcome = outcome.map_err(|e| {
                let text = e.to_string();
                failed.get_or_insert(e);
                text
            });
            seen.insert(key.clone(), outcome);
        }
        let outcome = &seen[&key];
        rows.push(ExplanationRow {
            decision,
            choice: name,
            is_base: recipe == *base,
            best: false,
            outcome: outcome.as_ref().ok().cloned(),
            problem: outcome.as_ref().err().cloned(),
        });
    }
    // What fails for all of them is no matter of a decision.
    if rows.iter().all(|r| r.outcome.is_none())
        && let Some(error) = failed
    {
        return Err(error);
    }
    mark_best(&mut rows, judge.len());
    let advice = advice(&rows, judge.len());
    Ok(Explanation {
        model: model.name.clone(),
        base: base.clone(),
        data: data.describe(),
        calibrated: base.calibration.samples.min(data.len()),
        judged_on: held.data.describe(),
        samples: judge.len(),
        float_top1: judge.float_top1(),
        rows,
        advice,
    })
}

/// Marks the best row of each decision; the first of equals.
fn mark_best(rows: &mut [ExplanationRow], samples: usize) {
    let decisions: BTreeSet<&'static str> = rows.iter().map(|r| r.decision).collect();
    for decision in decisions {
        let figures = || rows.iter().enumerate().filter(|(_, r)| r.decision == decision);
        let figures = || figures().filter_map(|(i, r)| r.outcome.as_ref().map(|o| (i, o)));
        let top = figures().max_by(|a, b| a.1.top1.unwrap_or(0.0).total_cmp(&b.1.top1.unwrap_or(0.0)));
        let least = top.map_or(0.0, |(_, o)| o.top1.unwrap_or(0.0) - noise(o, samples) / 100.0);
        let near = figures().filter(|(_, o)| o.top1.unwrap_or(0.0) >= least);
        let best = near.reduce(|a, b| if b.1.sqnr_db > a.1.sqnr_db { b } else { a }).map(|(i, _)| i);
        if let Some(i) = best {
            rows[i].best = true;
        }
    }
}

/// Points of top-1 that so many changed answers leave open: the standard error of their difference.
fn noise(o: &Outcome, samples: usize) -> f64 {
    100.0 * (o.changed.unwrap_or(0) as f64).sqrt() / samples.max(1) as f64
}

/// Points of top-1 that quantization after training may lose before training with rounding is worth its trouble.
const WORTH_TRAINING: f64 = 1.0;

fn advice(rows: &[ExplanationRow], samples: usize) -> String {
    let Some((row, o)) = rows.iter().filter(|r| r.best).find_map(|r| Some((r, r.outcome.as_ref()?))) else {
        return "the model cannot be quantized by any of these recipes".to_owned();
    };
    let choice = format!("the recipe `{}`", row.choice);
    let Some(drop) = o.drop else {
        return format!(
            "{choice} keeps outputs within {:.1} dB, with the same highest score on {:.1} % of {samples} samples; labels (--eval, \
             --labels) would say what that means for accuracy",
            o.sqnr_db,
            100.0 * o.agreement
        );
    };
    let (moves, noise) = (if drop < 0.0 { "gains" } else { "loses" }, noise(o, samples));
    let figures = format!("{choice} {moves} {:.2} points on {samples} samples (noise: {noise:.2} points)", drop.abs());
    if drop <= WORTH_TRAINING {
        format!("quantization after training will do: {figures}")
    } else if drop <= WORTH_TRAINING + 2.0 * noise {
        format!(
            "so few samples cannot tell whether quantization after training will do: {figures}; give more to --eval"
        )
    } else {
        format!(
            "quantization after training is not enough: {figures}; `quantal quantize --max-drop` looks for nodes to leave in \
             float, quantization-aware training is the other way"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(decision: &'static str, top1: Option<f64>, changed: usize, sqnr_db: f64) -> ExplanationRow {
        let outcome = Outcome {
            top1,
            drop: top1.map(|t| 100.0 * (0.8 - t)),
            changed: top1.map(|_| changed),
            agreement: 1.0,
            sqnr_db,
            ms: 1.0,
            float_ms: 2.0,
            integer_mac_share: Some(1.0),
        };
        ExplanationRow {
            decision,
            choice: format!("{sqnr_db}"),
            is_base: false,
            best: false,
            outcome: Some(outcome),
            problem: None,
        }
    }

    #[test]
    fn the_closest_outputs_win_among_what_noise_cannot_tell_apart() {
        // 16 of 1000 answers changed leave 0.4 points open.
        let mut rows = vec![
            row("a", Some(0.790), 16, 10.0),
            row("a", Some(0.787), 16, 30.0),
            row("a", Some(0.785), 16, 40.0),
            row("b", None, 0, 20.0),
            row("b", None, 0, 25.0),
        ];
        rows.push(ExplanationRow { outcome: None, problem: Some("no".into()), ..rows[4].clone() });
        mark_best(&mut rows, 1000);
        assert_eq!(rows.iter().map(|r| r.best).collect::<Vec<_>>(), [false, true, false, false, true, false]);
    }

    #[test]
    fn advice_follows_the_drop() {
        let of = |top1| {
            let mut rows = vec![row("recipe", top1, 9, 20.0)];
            mark_best(&mut rows, 900);
            advice(&rows, 900)
        };
        assert!(of(Some(0.795)).contains("will do") && of(Some(0.795)).contains("0.50 points"));
        assert!(of(Some(0.75)).contains("not enough"));
        // 9 of 900 answers changed: a loss of 1.5 points may be one of 0.83.
        assert!(of(Some(0.785)).contains("cannot tell"));
        assert!(of(Some(0.81)).contains("gains 1.00 points"));
        assert!(of(None).contains("20.0 dB"));
    }
}
