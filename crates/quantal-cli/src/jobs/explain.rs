//! `quantal explain`, as people read it.

use super::{bar, data_and_evaluation, engine, json, text};
use crate::args::ExplainArgs;
use quantal::{Error, Explanation, HeldOut, Model};
use std::fmt::Write as _;

pub(super) fn explain(a: &ExplainArgs, as_json: bool) -> Result<String, Error> {
    let engine = engine(&a.threads)?;
    let mut recipe = quantal::load_recipe(&a.recipe)?;
    let model = Model::open(&a.model)?;
    let (data, evaluation) = data_and_evaluation(&a.data, a.eval.as_deref(), &a.model, &model)?;
    let held = match &evaluation {
        Some(data) => HeldOut::all(data),
        None => HeldOut::rest(&data, &mut recipe.calibration),
    };
    let found = quantal::explain(&model, &data, held, &recipe, engine, &mut bar::Bar::default())?;
    Ok(if as_json { json(&found) } else { table(&found) })
}

fn table(e: &Explanation) -> String {
    let float = e.float_top1.map_or_else(String::new, |t| format!(", float top-1 {:.2} %", 100.0 * t));
    let (judged, all) = (e.samples, &e.judged_on);
    let mut t =
        format!("{}: calibrated on {} of {}, judged on {judged} of {all}{float}\n", e.model, e.calibrated, e.data);
    t += "each row makes one decision in another way; = is the recipe they differ from, * the best of a decision\n";
    t += "ms is the least time of a sample, taken in turns with the float model's, not with other rows'\n";
    let mut decision = "";
    for r in &e.rows {
        if r.decision != decision {
            decision = r.decision;
            let _ = writeln!(t, "\n{decision:33}{}", text::outcome_columns(e.float_top1.is_some()));
        }
        let mark = |on, c| if on { c } else { ' ' };
        let _ = write!(t, " {}{} {:28} ", mark(r.is_base, '='), mark(r.best, '*'), r.choice);
        let _ = match (&r.outcome, &r.problem) {
            (Some(o), _) => writeln!(t, "{}", text::outcome(o)),
            (None, problem) => writeln!(t, "  failed: {}", problem.as_deref().unwrap_or_default()),
        };
    }
    let _ = writeln!(t, "\n{}", e.advice);
    t
}
