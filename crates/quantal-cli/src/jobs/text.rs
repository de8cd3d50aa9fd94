//! Results as people read them.

use quantal::data::{Skipped, SmallCrop};
use quantal::{Comparison, Coverage, Engine, Evaluation, HoleRow, Inspection, Outcome, Quickstart, Report, Status};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(super) fn evaluation(e: &Evaluation) -> String {
    let (low, high) = e.top1_ci95;
    format!(
        "top-1 {:.2} %   (95 % interval {:.2} to {:.2})\ntop-5 {:.2} %\n{} samples\n",
        100.0 * e.top1,
        100.0 * low,
        100.0 * high,
        100.0 * e.top5,
        e.count
    )
}

/// An evaluation with the outcome of each sample, in order, for paired comparisons: `1` where it was right.
pub(super) fn evaluation_json(e: &Evaluation) -> serde_json::Value {
    let mut value = serde_json::to_value(e).expect("plain data with text keys");
    value["hits"] = e.ranks.iter().map(|&rank| if rank == 0 { '1' } else { '0' }).collect::<String>().into();
    value
}

pub(super) fn inspection(i: &Inspection, coverage: Option<&Coverage>) -> String {
    let mut t = String::new();
    let opsets: Vec<String> = i.opsets.iter().map(|(d, v)| format!("{d} {v}")).collect();
    let _ = writeln!(t, "{}   {}, opset {}   {}", i.model, size(i.file_bytes), opsets.join(", "), i.producer);
    for (what, rows) in [("input", &i.inputs), ("output", &i.outputs)] {
        for r in rows {
            let _ = writeln!(t, "{what:>8}  {}  {} [{}]", r.name, r.dtype, r.shape.join(", "));
        }
    }
    let macs = i.macs.map_or("unknown".to_owned(), count);
    let _ =
        writeln!(t, "{}, {} parameters ({}), {macs} MACs", nodes(i.nodes), count(i.parameters), size(i.constant_bytes));
    for r in &i.operators {
        let share = match i.macs {
            Some(all) if all > 0 && r.macs > 0 => format!("{:5.1} % of MACs", 100.0 * r.macs as f64 / all as f64),
            _ => String::new(),
        };
        let _ = writeln!(t, "{:>6}  {:28} {share}", r.count, r.op);
    }
    if !i.quantized.is_empty() {
        let _ = writeln!(t, "quantized values:");
        for q in &i.quantized {
            let zero = q.zero_point.map_or("mixed".to_owned(), |z| z.to_string());
            let scale = if q.scales == 1 {
                format!("scale {:.6e}", q.scale_min)
            } else {
                format!("{} scales {:.3e} to {:.3e}", q.scales, q.scale_min, q.scale_max)
            };
            let kind = if q.constant { "weight" } else { "activation" };
            let _ = writeln!(t, "  {kind:10} {:6} {scale}, zero point {zero}  {}", q.codes, q.name);
        }
    }
    if let Some(c) = coverage {
        let float = i.quantized.is_empty() && c.count(|s| matches!(s, Status::Integer { .. })) == 0;
        t += &if float { float_coverage(c) } else { coverage_table(c) };
        t += &refused(c);
    }
    t
}

/// Coverage of a model in which nothing is quantized: what nodes have in common, for each says the same.
fn float_coverage(c: &Coverage) -> String {
    let mut counts: BTreeMap<(&str, &str, String), usize> = BTreeMap::new();
    for row in &c.rows {
        let (what, why) = match &row.status {
            Status::Fused { into } => ("fused", format!("into {}", c.row(*into).map_or("?", |r| &r.op))),
            Status::Float { reason: quantal::Reason::InputNotQuantized { .. } } => {
                ("float", "its input is not quantized".into())
            }
            other => status(c, other),
        };
        *counts.entry((what, &row.op, why)).or_default() += 1;
    }
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let mut t = String::from("how its nodes run here:\n");
    for ((what, op, why), count) in rows {
        let _ = writeln!(t, "  {what:8} {count:>6}  {op:20} {why}");
    }
    t + "nothing in this model is quantized (--json lists each node)\n"
}

/// The operators that cannot run, with all their nodes; nothing if there are none.
fn refused(c: &Coverage) -> String {
    let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (row, _) in c.refused() {
        names.entry(&row.op).or_default().push(row.name.escape_debug().to_string());
    }
    let each: Vec<String> = names.iter().map(|(op, names)| format!("{op} ({})", names.join(", "))).collect();
    if each.is_empty() { String::new() } else { format!("this model cannot run here, for {}\n", each.join(", ")) }
}

fn status(c: &Coverage, s: &Status) -> (&'static str, String) {
    match s {
        Status::Integer { kernel } => ("integer", (*kernel).to_owned()),
        Status::Fused { into } => ("fused", format!("into {}", c.row(*into).map_or("?", |r| &r.name).escape_debug())),
        Status::Folded => ("folded", "computed once, while compiling".to_owned()),
        Status::Moves => ("moves", "no arithmetic on data".to_owned()),
        Status::Float { reason } => ("float", reason.to_string()),
        Status::Refused { why } => ("refused", why.clone()),
    }
}

fn coverage_table(c: &Coverage) -> String {
    let mut t = String::from("how each node runs here:\n");
    for row in &c.rows {
        let (what, why) = status(c, &row.status);
        let _ = writeln!(t, "  {what:8} {:20} {}  {why}", row.op, row.name.escape_debug());
    }
    let count = |which: fn(&Status) -> bool| c.rows.iter().filter(|r| which(c.run_by(r))).count();
    let float = count(|s| matches!(s, Status::Float { .. }));
    let integer = count(|s| matches!(s, Status::Integer { .. }));
    let share = c.integer_mac_share().map_or("unknown".to_owned(), |s| format!("{:.1} %", 100.0 * s));
    let _ =
        writeln!(t, "{} in integers, {float} in float; {share} of multiply-accumulates in integers", nodes(integer));
    t
}

/// An inspection with the coverage, as JSON wants it.
pub(super) fn inspection_json(i: &Inspection, coverage: Option<&Coverage>) -> serde_json::Value {
    let mut value = serde_json::to_value(i).expect("plain data with text keys");
    if let Some(c) = coverage {
        let row = |r: &quantal::coverage::Row| {
            let (what, why) = status(c, &r.status);
            serde_json::json!({ "node": &*r.name, "op": r.op, "status": what, "detail": why, "macs": r.macs })
        };
        value["coverage"] = c.rows.iter().map(row).collect();
        value["integer_mac_share"] = serde_json::json!(c.integer_mac_share());
    }
    value
}

/// `1 node`, `2 nodes`.
fn nodes(n: usize) -> String {
    format!("{n} node{}", if n == 1 { "" } else { "s" })
}

/// A count with a unit: `3.49 M`.
pub(super) fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..10_000_000 => format!("{:.2} M", n as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{:.0} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

/// A size with a unit: `13.9 MB`.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// What a quantization gave, with the file that it was written to.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    #[serde(flatten)]
    pub(super) report: &'a Report,
    /// The INT8 model.
    pub(super) output: String,
    /// Its size.
    pub(super) output_bytes: u64,
    /// Accuracy of the float and of the INT8 model, if it was asked for.
    pub(super) accuracy: Option<[Evaluation; 2]>,
    /// What is done to images, as it was asked for.
    #[serde(skip)]
    pub(super) preprocess: Option<&'a str>,
    /// Samples of the evaluation that have no label.
    #[serde(skip)]
    pub(super) unlabelled: usize,
}

/// A note about a crop that leaves most of the pictures out.
pub(super) fn small_crop(c: &SmallCrop, preprocess: Option<&str>) -> String {
    let ([h, w], [kept_h, kept_w]) = (c.pixels, c.kept);
    let share = 100.0 * (kept_h * kept_w) as f64 / (h * w) as f64;
    let who = preprocess.unwrap_or("the model's input size").escape_debug();
    let image = &c.image;
    format!(
        "note: {who} keeps {kept_h}x{kept_w} of the {h}x{w} pixels of {image}, {share:.1} %: is this the crop of the model?\n"
    )
}

/// A note for each value that was not finite everywhere.
pub(super) fn holes(rows: &[HoleRow]) -> String {
    let mut t = String::new();
    for h in rows {
        let more = if h.samples > 1 { format!(" and {} more", h.samples - 1) } else { String::new() };
        let (value, sample) = (&h.value, h.sample.escape_debug());
        let _ = writeln!(
            t,
            "note: `{value}` is not finite in sample `{sample}`{more}, but all outputs are: left out of its range"
        );
    }
    t
}

/// A note about files in the data's folder that no sample was read from.
pub(super) fn skipped(s: Option<&Skipped>) -> String {
    let Some(s) = s else { return String::new() };
    let (files, kinds) = (if s.count == 1 { "file" } else { "files" }, s.extensions.join(", "));
    format!("note: {} {files} of other kinds ({kinds}) were left out, the first: {}\n", s.count, s.first)
}

pub(super) fn summary(s: &Summary<'_>) -> String {
    let r = s.report;
    let mut t = format!("{}  ->  {}\n", r.model, s.output);
    if r.samples == 0 {
        t += "nothing to calibrate: no range of this recipe follows from data\n";
    } else {
        let _ = writeln!(t, "calibrated on {} of {}, ranges by {}", r.samples, r.data, r.recipe.observer.name());
    }
    if (1..quantal::LEAST_SAMPLES).contains(&r.samples) {
        t += "note: so few samples leave ranges to chance; `quantal check-data` says how many are enough\n";
    }
    for &quantal::IdleOverride { index: i, why } in &r.idle_overrides {
        let node = r.recipe.overrides[i].node.escape_debug();
        let _ = writeln!(t, "note: `overrides[{i}]`, for `{node}`, changes nothing in this model: {why}");
    }
    t += &r.small_crop.as_ref().map_or_else(String::new, |crop| small_crop(crop, s.preprocess));
    t += &skipped(r.skipped.as_ref());
    t += &holes(&r.holes);
    t += &passes(r);
    t += &rearranged(r);
    t += &rounding(r);
    t += &in_integers(r);
    let _ = writeln!(t, "size: {} -> {}", size(r.float_bytes), size(s.output_bytes));
    t += &cost(r);
    if let Some([float, integer]) = &s.accuracy {
        t += &accuracy(float, integer, s.unlabelled);
    }
    t += &speed(r);
    for w in &r.warnings {
        let _ = writeln!(t, "warning: {}\n         {}", w.what, w.advice);
    }
    t
}

/// What [`outcome`] shows; without labels there is no top-1, nor what follows from it.
pub(super) fn outcome_columns(labelled: bool) -> String {
    let right = if labelled { "  top-1    drop  changed " } else { "" };
    format!("{right}    SQNR        ms  integer")
}

/// The figures of one quantized model, in columns.
pub(super) fn outcome(o: &Outcome) -> String {
    let right = match (o.top1, o.drop, o.changed) {
        (Some(top1), Some(drop), Some(changed)) => format!("{:6.2}% {drop:7.2} {changed:8} ", 100.0 * top1),
        _ => String::new(),
    };
    let share = o.integer_mac_share.map_or_else(|| format!("{:8}", "?"), |s| format!("{:6.1} %", 100.0 * s));
    format!("{right}{:6.1} dB {:8.3}  {share}", o.sqnr_db, o.ms)
}

fn passes(r: &Report) -> String {
    let list: Vec<String> = r.passes.iter().map(|(pass, n)| format!("{pass} {n}")).collect();
    if list.is_empty() { String::new() } else { format!("rewrites before: {}\n", list.join(", ")) }
}

/// What moved between channels.
fn rearranged(r: &Report) -> String {
    let mut t = String::new();
    if let Some(e) = r.equalized {
        let _ = writeln!(t, "equalized: channels of {} values, biases absorbed behind {}", e.blocks, e.absorbed);
    }
    let alphas = r.smoothed.iter().map(|s| s.alpha);
    if let (Some(least), Some(most)) = (alphas.clone().reduce(f64::min), alphas.reduce(f64::max)) {
        let _ = writeln!(t, "smoothed: channels of {} activations, alpha {least} to {most}", r.smoothed.len());
    }
    t
}

/// How much the codes chosen for the data gain on the nearest, in the middle of all weights.
fn rounding(r: &Report) -> String {
    let mut gains: Vec<f64> = r.rounded.iter().filter(|w| w.chosen > 0.0).map(|w| w.nearest / w.chosen).collect();
    gains.sort_by(f64::total_cmp);
    gains.get(gains.len() / 2).map_or_else(String::new, |middle| {
        format!(
            "weights rounded for their data: {} tensors, error of their outputs {middle:.2} times smaller (median) than nearest\n",
            r.rounded.len()
        )
    })
}

fn in_integers(r: &Report) -> String {
    let share = r.integer_mac_share.map_or("an unknown share".to_owned(), |s| format!("{:.1} %", 100.0 * s));
    let mut t = format!("runs in integers: {share} of multiply-accumulates; {} in float\n", nodes(r.fallbacks.len()));
    for f in r.fallbacks.iter().take(MOST_FALLBACKS) {
        let _ = writeln!(t, "  float: {} {}: {}", f.op, f.node, f.reason);
    }
    if r.fallbacks.len() > MOST_FALLBACKS {
        let _ = writeln!(t, "  and {} more (--json lists all)", r.fallbacks.len() - MOST_FALLBACKS);
    }
    t
}

/// Nodes in float that a person is shown.
const MOST_FALLBACKS: usize = 8;

fn cost(r: &Report) -> String {
    let compared = r.compared;
    if r.output_sqnr_db == f64::INFINITY && r.agreeing == compared {
        return format!("cost: none, outputs are those of float (on {compared} samples)\n");
    }
    let (db, agreeing) = (r.output_sqnr_db, r.agreeing);
    if r.warnings.iter().any(|w| w.kind == "nothing_quantized") {
        return format!("cost: none but the rounding of floats, {db:.1} dB SQNR (on {compared} samples)\n");
    }
    format!(
        "cost: on {compared} of the calibration samples, outputs within {db:.1} dB SQNR of float, same highest score on {agreeing}\n"
    )
}

fn accuracy(float: &Evaluation, integer: &Evaluation, unlabelled: usize) -> String {
    let (a, b) = (100.0 * float.top1, 100.0 * integer.top1);
    let changed = float.ranks.iter().zip(&integer.ranks).filter(|(x, y)| (**x == 0) != (**y == 0)).count();
    let mut t = format!(
        "accuracy: top-1 {a:.2} % -> {b:.2} % ({:+.2} points; {changed} of {} answers changed)\n",
        b - a,
        float.count
    );
    if unlabelled > 0 {
        let _ = writeln!(t, "note: {unlabelled} more samples of --eval have no label and do not count");
    }
    if float.top1 < FEW_RIGHT {
        t += "note: the float model itself is seldom right: are these its preprocessing and its labels?\n";
    }
    t
}

/// Below this top-1 a float model is more likely fed wrongly than bad.
const FEW_RIGHT: f64 = 0.2;

fn speed(r: &Report) -> String {
    let Some([float, integer]) = &r.timing else { return String::new() };
    let (a, b) = (float.wall_ms.min, integer.wall_ms.min);
    let how = if b <= a { format!("{:.2} times as fast as", a / b) } else { format!("{:.2} times slower than", b / a) };
    format!("speed: {a:.2} ms -> {b:.2} ms a sample, {how} this runtime's float\n")
}

pub(super) fn comparison(c: &Comparison) -> String {
    let mut t = format!("{} against {} on {} samples\n", c.b, c.a, c.samples);
    let _ = writeln!(
        t,
        "same highest score on {:.1} % of samples; outputs {:.1} dB SQNR",
        100.0 * c.agreement,
        c.output_sqnr_db
    );
    if !c.layers.is_empty() {
        t += "values that both have, SQNR in dB (higher is closer):\n";
        for l in &c.layers {
            let _ = writeln!(t, "  {:7.1}  {:20} {}", l.sqnr_db, l.op, l.value);
        }
    }
    t
}

pub(super) fn quickstart(q: &Quickstart, cpu: &str, engine: Engine) -> String {
    let (r, c) = (&q.quantization.report, &q.quantization.coverage);
    let float = c.count(|s| matches!(s, Status::Float { .. }));
    let mut t = String::from("A small network for handwritten digits goes from FP32 to INT8.\n\n");
    let mut line = |what: &str, figure: String, means: &str| {
        let _ = writeln!(t, "{what:11} {figure:34} {means}");
    };
    line("calibrated", format!("on {} digits", r.samples), "ranges of activations are read off these");
    let share = 100.0 * r.integer_mac_share.unwrap_or(0.0);
    line("integers", format!("{share:.1} % of multiply-accumulates"), "read off the compiled program, not predicted");
    line("in float", nodes(float), "each would be listed here with its reason");
    line(
        "size",
        format!("{} -> {}", size(r.float_bytes), size(r.integer_bytes)),
        "weights take one byte instead of four",
    );
    let (a, b) = (100.0 * q.float.top1, 100.0 * q.integer.top1);
    let changed = q.float.ranks.iter().zip(&q.integer.ranks).filter(|(x, y)| (**x == 0) != (**y == 0)).count();
    line(
        "accuracy",
        format!("{a:.1} % -> {b:.1} %"),
        &format!("on {} digits that neither training nor calibration saw", q.float.count),
    );
    line("changed", format!("{changed} answers"), "right before and wrong now, or the other way round");
    line(
        "closeness",
        format!("{:.1} dB SQNR", r.output_sqnr_db),
        &format!("of the outputs on {} digits; 20 dB is one part in ten, 40 dB one in a hundred", r.compared),
    );
    if let Some([f, i]) = &r.timing {
        let (f, i) = (f.wall_ms.min, i.wall_ms.min);
        line(
            "speed",
            format!("{f:.3} ms -> {i:.3} ms, {:.2} times", f / i),
            &format!("one digit, {cpu}, {}, {} threads", engine.isa, engine.threads),
        );
    }
    for f in r.fallbacks.iter().take(MOST_FALLBACKS) {
        let _ = writeln!(t, "  float: {} {}: {}", f.op, f.node, f.reason);
    }
    t += "\nNow your own: quantal quantize MODEL.onnx --data FOLDER\n";
    t
}
