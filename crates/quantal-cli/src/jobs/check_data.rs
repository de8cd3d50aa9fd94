//! `quantal check-data`, as people read it.

use super::{bar, dataset, engine, json, paths, text};
use crate::args::{CheckDataArgs, DataArgs};
use crate::printer;
use quantal::data::{Dataset, shown};
use quantal::{DataCheck, Distribution, Error, Model};
use std::fmt::Write as _;

pub(super) fn check_data(a: &CheckDataArgs, as_json: bool) -> Result<String, Error> {
    let engine = engine(&a.threads)?;
    let recipe = quantal::load_recipe(&a.recipe)?;
    paths::check_outputs(&[&a.model, &a.data.data], &[a.output.as_deref()])?;
    let model = Model::open(&a.model)?;
    let data = dataset(&a.data, &a.model, &model)?;
    let against = match &a.against {
        Some(path) => Some(dataset(&DataArgs { labels: None, ..a.data.at(path) }, &a.model, &model)?),
        None => None,
    };
    let members = |data: &Dataset| data.pick(a.samples.map_or(data.len(), |n| n as usize), 0);
    let (of_data, of_against) = (members(&data), against.as_ref().map(members).unwrap_or_default());
    let (set, other) = ((&data, &of_data[..]), against.as_ref().map(|d| (d, &of_against[..])));
    let pick = a.pick.unwrap_or(0) as usize;
    let found = quantal::check_data(&model, set, other, pick, &recipe, engine, &mut bar::Bar::default())?;
    if let Some(path) = &a.output {
        quantal::save_text(path, &lines(&found.picked))?;
    }
    let text = if as_json { json(&found) } else { report(&found, pick, a) };
    if found.problems.is_empty() {
        return Ok(text);
    }
    let _ = printer::out(&text);
    let count = found.problems.len();
    Err(Error::job(format!("{count} problem{} in the data", if count == 1 { "" } else { "s" }), ""))
}

fn lines(names: &[String]) -> String {
    names.iter().map(|n| n.clone() + "\n").collect()
}

/// Names of samples that are shown of one problem.
const MOST_NAMES: usize = 10;
/// Rows that are shown of one list.
const MOST_ROWS: usize = 5;

fn report(c: &DataCheck, asked: usize, a: &CheckDataArgs) -> String {
    let mut t = format!("{}: {}", c.model, c.data);
    if let Some(other) = &c.against {
        let _ = write!(t, ", against {other}");
    }
    t += "\n";
    t += &c.small_crop.as_ref().map_or_else(String::new, |c| text::small_crop(c, a.data.preprocess.as_deref()));
    t += &text::skipped(c.skipped.as_ref());
    t += &text::holes(&c.holes);
    if c.problems.is_empty() {
        t += "no problem found: fit to calibrate with\n";
    }
    for p in &c.problems {
        let _ = writeln!(t, "\nproblem: {}", p.what);
        for figure in &p.figures {
            let _ = writeln!(t, "         - {figure}");
        }
        let _ = writeln!(t, "         {}", p.advice);
        for name in p.samples.iter().take(MOST_NAMES) {
            let _ = writeln!(t, "         - {name}");
        }
        if p.samples.len() > MOST_NAMES {
            let _ = writeln!(t, "         and {} more", p.samples.len() - MOST_NAMES);
        }
    }
    t += "\n";
    t += &figures(c);
    if let Some(k) = &c.classes {
        let of = k.of.map_or_else(String::new, |n| format!(" of {n}"));
        let share = 100.0 * k.share;
        let _ =
            writeln!(t, "classes     {}{of} by {}; the most common, {}, is {share:.1} %", k.seen, k.by, k.most_common);
    }
    t += &growth(c);
    t += &spread(c);
    t += &stretching(c);
    t += &against(c);
    if !c.picked.is_empty() {
        let (count, all) = (c.picked.len(), c.samples);
        let short = if count < asked { format!(" ({asked} were asked for, no more are fit)") } else { String::new() };
        let what = format!("{count} of the {all} samples cover them best{short}");
        match &a.output {
            Some(path) => _ = writeln!(t, "\n{what}; their names are in {}", shown(path)),
            None => _ = writeln!(t, "\nthese {what}:\n{}", lines(&c.picked).trim_end()),
        }
    }
    t
}

fn figures(c: &DataCheck) -> String {
    if c.figures.is_empty() {
        return String::new();
    }
    let row = |name: &str, d: &Distribution, digits: usize| {
        let of = [d.min, d.low, d.median, d.high, d.max].map(|v| format!("{v:10.digits$}"));
        format!("{name:12}{}\n", of.concat())
    };
    let mut t = format!("{:12}     least  a tenth<     half<  nine in 10<    most\n", "");
    for f in &c.figures {
        // Tokens are counts; most others are shares.
        let digits = if f.figure == "tokens" { 0 } else { 2 };
        t += &row(f.figure, &f.data, digits);
        t.extend(f.against.iter().map(|d| row("  there", d, digits)));
    }
    t
}

fn growth(c: &DataCheck) -> String {
    if c.samples < quantal::LEAST_SAMPLES {
        return format!("enough      cannot be told from {}: {} at least\n", c.samples, quantal::LEAST_SAMPLES);
    }
    let mut t = format!(
        "enough      {} of {} samples: from there on, nine ranges in ten stay within 10 % of those of all\n",
        c.enough, c.samples
    );
    let doubling = c.growth.iter().enumerate().filter(|(i, _)| (i + 1).is_power_of_two()).map(|(_, g)| g);
    for g in doubling.filter(|g| g.samples < c.samples) {
        let (half, most) = (100.0 * g.half_within, 100.0 * g.most_within);
        let _ = writeln!(t, "  {:>6}    half within {half:4.1} %, nine in ten within {most:4.1} %", g.samples);
    }
    t
}

fn spread(c: &DataCheck) -> String {
    let mut errors: Vec<f64> = c.ranges.iter().filter_map(|r| r.spread).collect();
    errors.sort_by(f64::total_cmp);
    // One sample says nothing about others.
    let Some(most) = errors.get(errors.len() * 9 / 10) else { return String::new() };
    format!(
        "spread      {:.1} %: with other samples of the same kind, nine scales in ten would differ by less (standard error)\n",
        100.0 * most
    )
}

fn stretching(c: &DataCheck) -> String {
    let mut t = String::new();
    for s in c.stretching.iter().take(MOST_ROWS) {
        let narrower = 100.0 * (1.0 - s.width_without);
        let _ = writeln!(
            t,
            "stretching  {} makes {} of {} ranges wider by itself; without it, half of these would be {narrower:.0} % narrower",
            s.sample,
            s.ranges,
            c.ranges.len()
        );
    }
    t
}

/// The ranges that serve the other data worst.
fn against(c: &DataCheck) -> String {
    let mut rows: Vec<_> = c.ranges.iter().filter_map(|r| Some((r, r.against?))).collect();
    if rows.is_empty() {
        return String::new();
    }
    rows.sort_by(|a, b| b.1.clipped.total_cmp(&a.1.clipped));
    let mut t = String::from("\nof the other data: clipped   codes it leaves unused   the scale it would give\n");
    for (r, a) in rows.iter().take(MOST_ROWS) {
        let (clipped, wasted) = (100.0 * a.clipped, 100.0 * a.wasted);
        let _ = writeln!(t, "{clipped:23.3} % {wasted:20.1} % {:20.2} times  {}", a.scale_ratio, r.value);
    }
    t
}
