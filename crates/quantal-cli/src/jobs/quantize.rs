//! `quantal quantize`: with a budget, the search for a recipe that keeps to it.

use super::{bar, data_and_evaluation, engine, json, paths, text};
use crate::args::QuantizeArgs;
use crate::printer;
use quantal::data::{Dataset, shown};
use quantal::{Budget, Engine, Error, HeldOut, Ladder, Mode, Model, Quantization, Recipe};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

pub(super) fn quantize(a: &QuantizeArgs, as_json: bool) -> Result<String, Error> {
    let engine = engine(&a.threads)?;
    let mut given = a.recipe.as_deref().map(quantal::load_recipe).transpose()?;
    let output = a.output.clone().unwrap_or_else(|| a.model.with_extension("int8.onnx"));
    let recipe_file = a.recipe.as_deref().map(Path::new);
    let inputs: Vec<&Path> = [Some(a.model.as_path()), recipe_file].into_iter().flatten().collect();
    paths::check_outputs(&inputs, &[Some(output.as_path()), a.save_recipe.as_deref()])?;
    let budget = a.max_drop.map(Budget::MaxDrop).or(a.min_sqnr.map(Budget::MinSqnr));
    if a.data.labels.is_some() && a.eval.is_none() && budget.is_none() {
        return Err(Error::usage("--labels are those of --eval, which is not given", "calibration needs no labels"));
    }
    let model = Model::open(&a.model)?;
    // A search without an evaluation judges by the rest of the data.
    let (data, evaluation) = data_and_evaluation(&a.data, a.eval.as_deref(), &a.model, &model)?;
    if let Some(data) = &evaluation {
        quantal::check_labelled(data)?;
    }
    if let (Some(n), Some(recipe)) = (a.samples, &mut given) {
        recipe.calibration.samples = n as usize;
    }
    let mut bar = bar::Bar::default();
    let (made, ladder) = match budget {
        None => {
            let mut recipe = given.unwrap_or_default();
            if let Some(n) = a.samples {
                recipe.calibration.samples = n as usize;
            }
            (Some(quantal::quantize(&model, &data, &recipe, engine, &mut bar)?), None)
        }
        Some(budget) => {
            let (made, ladder) = search(a, &model, &data, evaluation.as_ref(), given.as_ref(), budget, engine)?;
            (made, Some(ladder))
        }
    };
    let Some(mut made) = made else {
        let ladder = ladder.expect("a search alone can find nothing");
        // What was tried is worth a look; a reader who left has seen enough of it.
        let text = if as_json { json(&serde_json::json!({ "ladder": ladder })) } else { table(&ladder) };
        let _ = printer::out(&text);
        let message = "no recipe keeps to the budget; nothing was written";
        return Err(Error::job(message, &ladder.advice.join("; or ")));
    };
    let accuracy = match &evaluation {
        Some(data) => {
            let mut of = |model: &Model, mode| quantal::evaluate(&mut model.session(mode, engine)?, data, &mut bar);
            Some([of(&model, Mode::Simulate)?, of(&made.model, Mode::Integer)?])
        }
        None => None,
    };
    if let Some(path) = &a.save_recipe {
        quantal::save_text(path, &made.report.recipe.to_toml())?;
    }
    let output_bytes = made.model.save(&output)?;
    made.report.warnings.extend(quantal::size_warning(made.report.float_bytes, output_bytes));
    let unlabelled = evaluation.as_ref().map_or(0, Dataset::unlabelled);
    let (report, preprocess) = (&made.report, a.data.preprocess.as_deref());
    let summary = text::Summary { report, output: shown(&output), output_bytes, accuracy, preprocess, unlabelled };
    let text = if as_json {
        json(&Searched { ladder: ladder.as_ref(), summary })
    } else {
        ladder.as_ref().map(table).unwrap_or_default() + &text::summary(&summary)
    };
    Ok(text)
}

#[derive(Serialize)]
struct Searched<'a> {
    #[serde(flatten)]
    summary: text::Summary<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ladder: Option<&'a Ladder>,
}

fn search(
    a: &QuantizeArgs,
    model: &Model,
    data: &Dataset,
    evaluation: Option<&Dataset>,
    given: Option<&Recipe>,
    budget: Budget,
    engine: Engine,
) -> Result<(Option<Quantization>, Ladder), Error> {
    let mut calibration = given.map_or_else(Default::default, |r| r.calibration.clone());
    if let Some(n) = a.samples {
        calibration.samples = n as usize;
    }
    let held = match evaluation {
        Some(data) => HeldOut::all(data),
        None => HeldOut::rest(data, &mut calibration),
    };
    quantal::quantize_within(model, data, held, given, &calibration, budget, engine, &mut bar::Bar::default())
}

/// The rungs that were tried, a line each.
fn table(ladder: &Ladder) -> String {
    let (what, float) = match (ladder.budget, ladder.float_top1) {
        (Budget::MaxDrop(points), Some(top1)) => {
            (format!("at most {points} points of top-1 lost"), format!(", float top-1 {:.2} %", 100.0 * top1))
        }
        (Budget::MaxDrop(points), None) => (format!("at most {points} points of top-1 lost"), String::new()),
        (Budget::MinSqnr(db), _) => (format!("outputs within {db} dB of float"), String::new()),
    };
    let mut t = format!("budget: {what}, judged on {} of {}{float}\n", ladder.samples, ladder.judged_on);
    if let Some(doubt) = &ladder.doubt {
        let _ = writeln!(t, "note: {doubt}");
    }
    let _ = writeln!(t, "    {}   recipe", text::outcome_columns(ladder.float_top1.is_some()));
    for r in &ladder.rungs {
        let o = &r.outcome;
        let met = if r.met { "-->" } else { "   " };
        let _ = writeln!(t, "{met} {}   {}", text::outcome(o), r.name);
    }
    for f in &ladder.failed {
        let _ = writeln!(t, "    {}: failed: {}", f.name, f.problem);
    }
    if let Some(rung) = ladder.chosen().filter(|r| !r.in_float.is_empty()) {
        let _ = writeln!(t, "left in float: {}", rung.in_float.join(", "));
    }
    t + "\n"
}
