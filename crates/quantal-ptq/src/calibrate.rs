//! Calibration: one pass over samples, in which the float model runs and observers look at its values.
//!
//! Samples come one by one and are dropped again; what observers keep does not grow. So memory does not depend on the
//! number of samples.

use crate::balance::Balance;
use crate::bias_correction::ChannelMeans;
use crate::error::{Error, Result};
use crate::observer::{NotFinite, Range, Statistics, range_of};
use crate::place::{Group, Product};
use crate::spread::Spread;
use crate::watch::Runs;
use quantal_ir::{Graph, ValueId};
use quantal_kernels::Isa;
use quantal_kernels::float::survey;
use quantal_runtime::session::Watched;
use std::collections::BTreeMap;

/// What was seen of the values that need a range.
#[derive(Clone, Debug, Default)]
pub struct Calibration {
    /// Number of samples.
    pub samples: usize,
    /// Statistics of each value that was watched.
    pub observed: BTreeMap<ValueId, Statistics>,
    /// Channel means of the data inputs of products, if they were asked for.
    pub means: BTreeMap<ValueId, ChannelMeans>,
    /// What the inputs of normalizations have to show for their ranges.
    pub spreads: BTreeMap<ValueId, Spread>,
    /// How evenly channels share the ranges of values.
    pub balances: BTreeMap<ValueId, Balance>,
}

/// Runs the float `graph` over the samples and watches the members of `groups`, each with the observer of its group, the
/// channel means of the data inputs of `products`, and the spread of what `norms` read, each with its epsilon. Members
/// that only hold values of others are watched too: they are sources of their own once a node between stays in float.
pub fn calibrate(
    graph: &Graph,
    groups: &[Group],
    products: &[Product],
    norms: &[(ValueId, f32)],
    runs: &mut Runs<'_>,
) -> Result<Calibration> {
    let mut calibration = Calibration {
        spreads: norms.iter().map(|&(v, epsilon)| (v, Spread::new(epsilon))).collect(),
        ..Calibration::default()
    };
    let uses = graph.uses();
    for group in groups {
        for &v in group.members.iter().filter(|&&v| graph.value(v).constant.is_none()) {
            calibration.observed.insert(v, Statistics::new(&group.observer));
            calibration.balances.extend(Balance::of(graph, &uses, v).map(|b| (v, b)));
        }
    }
    for product in products {
        calibration.means.insert(product.weighted.data, ChannelMeans::for_input_of(graph.node(product.node).op));
    }
    let taps: Vec<ValueId> = calibration
        .observed
        .keys()
        .chain(calibration.means.keys())
        .chain(calibration.spreads.keys())
        .copied()
        .collect();
    let isa = runs.isa;
    calibration.samples = runs.watch("calibrate", graph, &taps, &mut |seen| calibration.look(isa, seen))?;
    Ok(calibration)
}

impl Calibration {
    /// Takes in one value of one sample: one pass over it, in the layout in which it lies, for its range and the means of
    /// its channels.
    fn look(&mut self, isa: Isa, seen: &Watched<'_>) -> Result<Result<(), NotFinite>, quantal_runtime::Error> {
        let means = self.means.get_mut(&seen.value);
        let statistics = self.observed.get_mut(&seen.value);
        let tensor = seen.floats()?;
        let (values, shape) = (tensor.as_slice::<f32>(), tensor.shape());
        let axis = means.as_ref().and_then(|m| m.axis(shape.len())).map(|a| seen.layout.physical_axis(a, shape.len()));
        let (channels, inner) = axis.map_or((1, 1), |a| (shape[a], shape[a + 1..].iter().product()));
        if values.is_empty() {
            return Ok(Ok(()));
        }
        if let Some(spread) = self.spreads.get_mut(&seen.value) {
            let tensor = seen.standard()?;
            spread.add(tensor.as_slice(), tensor.shape());
        }
        if let Some(balance) = self.balances.get_mut(&seen.value) {
            balance.add(values, shape, seen.layout, isa);
        }
        let found = survey(isa, values, [channels, inner], seen.threads);
        if let (Some(means), Some(_)) = (means, axis) {
            means.add(&found.sums, values.len() / channels);
        }
        Ok(statistics.map_or(Ok(()), |s| s.observe(isa, values, &found)))
    }

    /// What was seen of a group, and the range that its observer proposes for codes of `levels` steps.
    pub fn range(&self, graph: &Graph, group: &Group, levels: u32, symmetric: bool) -> Result<(Range, Range)> {
        let (mut seen, mut chosen) = (group.pinned, group.pinned);
        let mut widen = |s: Range, c: Range| {
            seen = Some(seen.map_or(s, |r| r.union(s)));
            chosen = Some(chosen.map_or(c, |r| r.union(c)));
        };
        for &v in &group.sources {
            if let Some(values) = graph.constant(Some(v)).and_then(|t| t.get::<f32>()) {
                let range = range_of(Isa::PORTABLE, values).map_err(|NotFinite| {
                    let tensor = graph.value(v).name.escape_debug().to_string();
                    Error::ConstantNotFinite { tensor }
                })?;
                if let Some(range) = range {
                    widen(range, range);
                }
            } else if let Some(statistics) = self.observed.get(&v) {
                let proposed = statistics.range(&group.observer, levels, symmetric);
                if let Some((s, c)) = statistics.seen().zip(proposed) {
                    widen(s, c);
                }
            }
        }
        let nothing = Range { min: 0.0, max: 0.0 };
        Ok((seen.unwrap_or(nothing), chosen.unwrap_or(nothing)))
    }
}
