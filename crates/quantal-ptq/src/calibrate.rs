//! Calibration: one pass over samples, in which the float model runs and observers look at its values.
//!
//! Samples come a few at a time and are dropped again; what observers keep does not grow. So memory does not depend on
//! the number of samples.

use crate::balance::Balance;
use crate::bias_correction::ChannelMeans;
use crate::error::{Error, Result};
use crate::observer::{NotFinite, Range, Statistics, range_of};
use crate::orders::{self, Orders};
use crate::place::{Group, Product};
use crate::spread::Spread;
use crate::watch::{Hole, Runs, Seen};
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
    /// Over how many orders of magnitude the values spread that lead to a logarithm, a root or a division.
    pub orders: BTreeMap<ValueId, Orders>,
    /// Values that were not finite in samples whose outputs are.
    pub holes: BTreeMap<ValueId, Hole>,
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
    let mut kept: BTreeMap<ValueId, Kept> = BTreeMap::new();
    let uses = graph.uses();
    for group in groups {
        for &v in group.members.iter().filter(|&&v| graph.value(v).constant.is_none()) {
            let kept = kept.entry(v).or_default();
            kept.observed = Some(Statistics::new(&group.observer));
            kept.balance = Balance::of(graph, &uses, v);
        }
    }
    for product in products {
        let means = ChannelMeans::for_input_of(graph.node(product.node).op);
        kept.entry(product.weighted.data).or_default().means = Some(means);
    }
    for &(v, epsilon) in norms {
        kept.entry(v).or_default().spread = Some(Spread::new(epsilon));
    }
    if !kept.is_empty() {
        for v in orders::watched(graph, &uses) {
            kept.entry(v).or_default().orders = Some(Orders::new());
        }
    }
    let isa = runs.isa;
    let looked = runs.watch("calibrate", graph, &mut kept, &|kept, _, seen| kept.look(isa, seen))?;
    let (samples, holes) = (looked.samples, looked.holes);
    let mut calibration = Calibration { samples, holes, ..Calibration::default() };
    for (v, kept) in kept {
        calibration.observed.extend(kept.observed.map(|k| (v, k)));
        calibration.means.extend(kept.means.map(|k| (v, k)));
        calibration.spreads.extend(kept.spread.map(|k| (v, k)));
        calibration.balances.extend(kept.balance.map(|k| (v, k)));
        calibration.orders.extend(kept.orders.map(|k| (v, k)));
    }
    Ok(calibration)
}

/// What is kept of one value while samples run.
#[derive(Default)]
struct Kept {
    observed: Option<Statistics>,
    means: Option<ChannelMeans>,
    spread: Option<Spread>,
    balance: Option<Balance>,
    orders: Option<Orders>,
}

impl Kept {
    /// Takes in the value of one sample: one pass over it, in the layout in which it lies, for its range and the means of
    /// its channels.
    fn look(&mut self, isa: Isa, seen: &Watched<'_>) -> Seen {
        let tensor = seen.floats()?;
        let (values, shape) = (tensor.as_slice::<f32>(), tensor.shape());
        let axis = self.means.as_ref().and_then(|m| m.axis(shape.len()));
        let axis = axis.map(|a| seen.layout.physical_axis(a, shape.len()));
        let (channels, inner) = axis.map_or((1, 1), |a| (shape[a], shape[a + 1..].iter().product()));
        let found = survey(isa, values, [channels, inner], seen.threads);
        if !found.finite {
            return Ok(Err(NotFinite));
        }
        if values.is_empty() {
            return Ok(Ok(()));
        }
        if let Some(spread) = &mut self.spread {
            let tensor = seen.standard()?;
            spread.add(tensor.as_slice(), tensor.shape());
        }
        if let Some(balance) = &mut self.balance {
            balance.add(values, shape, seen.layout, isa);
        }
        if let Some(orders) = &mut self.orders {
            orders.add(values, found.range);
        }
        if let (Some(means), Some(_)) = (&mut self.means, axis) {
            means.add(&found.sums, values.len() / channels);
        }
        Ok(self.observed.as_mut().map_or(Ok(()), |s| s.observe(isa, values, &found)))
    }
}

impl Calibration {
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
        // Where nothing but zeros was seen any range is as good, but not for the bias of a product that reads the value:
        // a step of 1 would round it to whole steps of the weights.
        let fine = Range { min: 0.0, max: 1.0 };
        Ok((seen.unwrap_or(nothing), chosen.filter(|r| *r != nothing).unwrap_or(fine)))
    }
}
