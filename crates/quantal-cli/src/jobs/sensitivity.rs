//! `quantal sensitivity`, as people read it.

use super::{bar, dataset, engine, json};
use crate::args::SensitivityArgs;
use quantal::{EffectRow, Error, Model, SensitivityReport};
use std::fmt::Write as _;

pub(super) fn sensitivity(a: &SensitivityArgs, as_json: bool) -> Result<String, Error> {
    let engine = engine(&a.threads)?;
    let recipe = quantal::load_recipe(&a.recipe)?;
    let model = Model::open(&a.model)?;
    let data = dataset(&a.data, &a.model, &model)?;
    let members = data.pick(a.samples as usize, 0);
    let found = quantal::sensitivity(&model, &data, &members, &recipe, engine, &mut bar::Bar::default())?;
    Ok(if as_json { json(&found) } else { chart(&found) })
}

/// Width of the longest bar, in characters.
const BAR: usize = 24;

fn chart(s: &SensitivityReport) -> String {
    let top1 = |e: &EffectRow| e.top1.map_or_else(String::new, |t| format!("{:7.2} %", 100.0 * t));
    let mut t = format!("{}: measured on {} of {}\n", s.model, s.samples, s.data);
    if let Some(float) = s.float_top1 {
        let _ = writeln!(t, "float top-1 {:.2} %", 100.0 * float);
    }
    let _ = writeln!(t, "everything quantized: {:.1} dB{}", s.all.sqnr_db, top1(&s.all));
    t += "\nalone: this node in integers, all others in float. without: this node in float, all others in integers.\n";
    t += "The bar is the share of the noise that all nodes make alone.\n\n";
    let wide = if s.float_top1.is_some() { "    top-1" } else { "" };
    let _ = writeln!(t, "{:BAR$}  alone dB{wide}  without dB{wide}   MACs  node", "");
    let most = s.nodes.first().map_or(0.0, |n| n.noise_share);
    for n in &s.nodes {
        let filled = if most > 0.0 { (BAR as f64 * n.noise_share / most).round() as usize } else { 0 };
        let macs = n.mac_share.map_or("      ".to_owned(), |m| format!("{:4.1} %", 100.0 * m));
        let _ = writeln!(
            t,
            "{:BAR$}  {:8.1}{}    {:8.1}{}  {macs}  {} {}",
            "#".repeat(filled),
            n.alone.sqnr_db,
            top1(&n.alone),
            n.without.sqnr_db,
            top1(&n.without),
            n.op,
            n.node
        );
    }
    t
}
