//! SmoothQuant: outliers among the channels of an activation move into the weights that read it.
//!
//! Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (2022),
//! section 4. Equation (4) divides the channel c of x by
//!
//! ```text
//! s = max|x_c|^α / max|W_c|^(1 − α)
//! ```
//!
//! where max|W_c| goes over all products that read x. The paper has one α for a model; here each block gets the one that
//! makes the error of its products least, or none. With the steps Δ of uniform rounding, the error is
//!
//! ```text
//! Σ_o ( Σ_c (s W)²_oc · min(Δ_x² / 12, E[x_c²] / s²)  +  Δ_o² / 12 · Σ_c E[x_c²] / s² )
//! ```
//!
//! so the extremes and the energy of each channel are all that is needed of the data: one pass, and nothing is kept of a
//! sample. Where x has other readers (the residual sum behind a normalization), they get it back through a Mul.

use crate::blocks::{Block, blocks};
use crate::channel_reach::{ChannelReach, channel_reach};
use crate::error::Result;
use crate::place::Product;
use crate::recipe::{Recipe, WeightGranularity};
use crate::watch::Runs;
use crate::weight_rows::WeightRows;
use quantal_ir::{Graph, ValueId};
use std::sync::Arc;

/// One value whose channels were smoothed.
#[derive(Clone, Debug)]
pub struct Smoothed {
    /// The value.
    pub value: ValueId,
    /// Its name.
    pub name: Arc<str>,
    /// How much of the difficulty moved into the weights, 0 to 1.
    pub alpha: f64,
    /// The expected squared error of the products that read it as they were, and as they are, on average over rows.
    pub errors: [f64; 2],
}

/// The strengths that are tried, in tenths.
const TENTHS: std::ops::RangeInclusive<u32> = 0..=10;
/// The part of the error that must go: less is within what the formula leaves out.
const LEAST_GAIN: f64 = 0.2;
/// Channels count as if they reached at least this part of the furthest: dead ones must not get all room.
const LEAST_REACH: f64 = 1e-5;

/// Smooths what `products` read, wherever that helps.
pub fn smooth(graph: &mut Graph, products: &[Product], recipe: &Recipe, runs: &mut Runs<'_>) -> Result<Vec<Smoothed>> {
    let blocks = blocks(graph, products);
    let reach = channel_reach("smooth", graph, &blocks, runs)?;
    let mut all = Vec::new();
    for block in &blocks {
        let Some(reach) = reach.get(&block.value) else { continue };
        let trials = Trials::of(graph, block, reach, recipe);
        let before = trials.error(&vec![1.0; block.channels]);
        let of_alpha = |tenths| {
            let alpha = f64::from(tenths) / 10.0;
            let factors = trials.factors(alpha);
            (trials.error(&factors), alpha, factors)
        };
        // Where there is nothing to err on, factors mean nothing, and may not even be numbers.
        let trials = TENTHS.map(of_alpha).filter(|trial| trial.0 < before && trial.2.iter().all(|s| s.is_normal()));
        let best = trials.min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((error, alpha, factors)) = best.filter(|b| b.0 <= (1.0 - LEAST_GAIN) * before) else { continue };
        block.scale(graph, &factors)?;
        let name = Arc::clone(&graph.value(block.value).name);
        all.push(Smoothed { value: block.value, name, alpha, errors: [before, error] });
    }
    Ok(all)
}

/// What is known of a block, to try factors on.
struct Trials<'a> {
    recipe: &'a Recipe,
    reach: &'a ChannelReach,
    energies: Vec<f64>,
    readers: Vec<WeightRows>,
    /// How far the activations of each channel reach, and its weights.
    of_channel: [Vec<f64>; 2],
}

impl<'a> Trials<'a> {
    fn of(graph: &Graph, block: &Block, reach: &'a ChannelReach, recipe: &'a Recipe) -> Self {
        let readers = block.readers.iter().map(|p| Block::rows(graph, p)).collect();
        let weights = block.reach_of_readers(graph);
        let data = reach.min.iter().zip(&reach.max).map(|(a, b)| f64::from(a.abs().max(b.abs()))).collect();
        let of_channel = [data, weights].map(|mut reach: Vec<f64>| {
            let most = reach.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
            for r in &mut reach {
                *r = r.max(most * LEAST_REACH);
            }
            reach
        });
        Self { recipe, reach, energies: reach.energies(), readers, of_channel }
    }

    /// Equation (4).
    fn factors(&self, alpha: f64) -> Vec<f64> {
        let [data, weights] = &self.of_channel;
        data.iter().zip(weights).map(|(x, w)| libm::pow(*x, alpha) / libm::pow(*w, 1.0 - alpha)).collect()
    }

    /// The expected squared error of the outputs of all products, summed over outputs, on average over rows.
    fn error(&self, factors: &[f64]) -> f64 {
        let noise = |step: f64| step * step / 12.0;
        let extreme = |of: &[f32], pick: fn(f64, f64) -> f64| {
            of.iter().zip(factors).fold(0.0, |m, (&x, s)| pick(m, f64::from(x) / s)) as f32
        };
        let scheme = self.recipe.activations.scheme();
        let range = scheme.params_of_range(extreme(&self.reach.min, f64::min), extreme(&self.reach.max, f64::max));
        let step = range.map_or(f64::INFINITY, |(scale, _)| f64::from(scale));
        let energies: Vec<f64> = self.energies.iter().zip(factors).map(|(e, s)| e / (s * s)).collect();
        let levels = f64::from(self.recipe.weights.qmax.abs_diff(self.recipe.weights.qmin));
        let mut sum = 0.0;
        for reader in &self.readers {
            let outputs = reader.form.groups * reader.form.outputs;
            let (mut reach, mut seen) = (vec![0.0_f64; outputs], vec![0.0; outputs]);
            reader.each(|o, c, w| {
                let w = f64::from(w) * factors[c];
                reach[o] = reach[o].max(w.abs());
                seen[o] += energies[c];
                sum += w * w * noise(step).min(energies[c]);
            });
            if self.recipe.weights.granularity == WeightGranularity::PerTensor {
                let most = reach.iter().copied().fold(0.0, f64::max);
                reach.fill(most);
            }
            sum += reach.iter().zip(&seen).map(|(r, e)| noise(2.0 * r / levels) * e).sum::<f64>();
        }
        sum
    }
}

#[cfg(test)]
mod tests;
