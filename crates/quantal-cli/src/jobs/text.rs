//! Results as people read them.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quantal::bench::BenchRow;
use quantal::{Coverage, Evaluation, Inspection, Status};
use serde::Serialize;
use std::fmt::Write as _;

/// A progress bar, drawn on a terminal alone.
pub(super) fn bar(what: &'static str) -> ProgressBar {
    let target = if crate::printer::watched() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{msg:>12} [{bar:32}] {pos}/{len} {eta}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
    ProgressBar::with_draw_target(Some(0), target).with_style(style).with_message(what)
}

/// Moves a bar; the last step takes it away.
pub(super) fn advance(bar: &ProgressBar, done: usize, all: usize) {
    bar.set_length(all as u64);
    bar.set_position(done as u64);
    if done == all {
        bar.finish_and_clear();
    }
}

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

/// Times and where they were taken.
#[derive(Serialize)]
pub(super) struct Bench {
    pub(super) cpu: String,
    pub(super) isa: String,
    pub(super) threads: usize,
    pub(super) results: Vec<BenchRow>,
}

pub(super) fn bench(b: &Bench) -> String {
    let mut text = format!("{}, {}, {} thread{}\n", b.cpu, b.isa, b.threads, if b.threads == 1 { "" } else { "s" });
    let width = b.results.iter().map(|r| r.model.chars().count()).max().unwrap_or(0).max(5);
    let _ = writeln!(text, "{:width$}  wall ms: min  median     p90   cpu ms: min   runs", "model");
    for r in &b.results {
        let (w, c) = (r.wall_ms, r.cpu_ms);
        let row = (w.min, w.median, w.p90, c.min, r.runs);
        let _ =
            writeln!(text, "{:width$}  {:12.3} {:7.3} {:7.3} {:13.3} {:6}", r.model, row.0, row.1, row.2, row.3, row.4);
    }
    if let [first, rest @ ..] = b.results.as_slice() {
        for r in rest {
            let ratio = first.wall_ms.median / r.wall_ms.median;
            let _ = writeln!(text, "{} is {ratio:.2} times as fast as {} (median wall time)", r.model, first.model);
        }
    }
    text
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
        writeln!(t, "{} nodes, {} parameters ({}), {macs} MACs", i.nodes, count(i.parameters), size(i.constant_bytes));
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
        t += &coverage_table(c);
    }
    t
}

fn status(c: &Coverage, s: &Status) -> (&'static str, String) {
    match s {
        Status::Integer { kernel } => ("integer", (*kernel).to_owned()),
        Status::Fused { into } => ("fused", format!("into {}", c.row(*into).map_or("?", |r| &r.name).escape_debug())),
        Status::Folded => ("folded", "computed once, while compiling".to_owned()),
        Status::Moves => ("moves", "no arithmetic on data".to_owned()),
        Status::Float { reason } => ("float", reason.to_string()),
    }
}

fn coverage_table(c: &Coverage) -> String {
    let mut t = String::from("how each node runs here:\n");
    for row in &c.rows {
        let (what, why) = status(c, &row.status);
        let _ = writeln!(t, "  {what:8} {:20} {}  {why}", row.op, row.name.escape_debug());
    }
    let float = c.count(|s| matches!(s, Status::Float { .. }));
    let integer = c.count(|s| matches!(s, Status::Integer { .. } | Status::Fused { .. }));
    let share = c.integer_mac_share().map_or("unknown".to_owned(), |s| format!("{:.1} %", 100.0 * s));
    let _ = writeln!(t, "{integer} nodes in integers, {float} in float; {share} of multiply-accumulates in integers");
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
