//! Cross-layer equalization: channels of neighbouring products are scaled until their weights reach equally far.
//!
//! Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.1. With the
//! reach r₁ of the weights that make a channel and the reach r₂ of those that read it, equation (11) divides the channel by
//!
//! ```text
//! s = √(r₁ / r₂)        after which both reach as far as √(r₁ · r₂)
//! ```
//!
//! and so on over all blocks until nothing moves. What depthwise convolutions need in pairs and triples follows, since
//! each is the maker of one block and the reader of another. Where several products read a channel, r₂ is the largest.
//!
//! Large biases make activations reach far afterwards, so they are absorbed (section 4.1.3): what a channel never falls
//! below, `c = max(0, min x)`, leaves the bias before a Relu and goes, times the weights, into those behind. The paper
//! takes c from batch norm as β − 3γ; here it is the minimum over the samples, so that the function is kept on what they show. A product with padding cannot take it: its
//! zeros would have to become −c. Unlike the paper, a Clip (ReLU6) is never taken for a Relu: the function is kept.

use crate::bias_correction::add_to_bias;
use crate::blocks::{Block, blocks};
use crate::channel_reach::{ChannelReach, channel_reach};
use crate::error::Result;
use crate::place::Product;
use crate::watch::Runs;
use crate::weight_rows::WeightRows;
use quantal_ir::Graph;

/// What was equalized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Equalized {
    /// Values whose channels were scaled between the product that makes them and those that read them.
    pub blocks: usize,
    /// How many of them gave a part of their biases to the next layer.
    pub absorbed: usize,
}

/// Rounds over all blocks, at most.
const ROUNDS: usize = 50;
/// Weights of a channel are dead that reach no more than this part of the furthest: made as large as others, they would
/// take the bias with them.
const DEAD: f64 = 1e-8;
/// Factors this near to 1 move nothing.
const SETTLED: f64 = 0.001;

/// Equalizes the channels between `products`.
pub fn equalize(graph: &mut Graph, products: &[Product], runs: &mut Runs<'_>) -> Result<Equalized> {
    let mut blocks = blocks(graph, products);
    blocks.retain(|b| b.maker.is_some() && b.others.is_empty());
    for _ in 0..ROUNDS {
        let mut settled = true;
        for block in &blocks {
            let factors = factors(graph, block);
            if factors.iter().any(|s| (s - 1.0).abs() > SETTLED) {
                block.scale(graph, &factors)?;
                settled = false;
            }
        }
        if settled {
            break;
        }
    }
    let count = blocks.len();
    let takes = |p: &Product| WeightRows::of(graph, p).is_some_and(|rows| !rows.form.is_padded());
    blocks.retain(|b| b.rectified && b.multiplied.is_empty() && b.readers.iter().all(takes));
    let mut absorbed = 0;
    for (value, reach) in channel_reach("equalize", graph, &blocks, runs)? {
        let block = blocks.iter().find(|b| b.value == value).expect("only blocks were watched");
        absorbed += usize::from(absorb(graph, block, &reach)?);
    }
    Ok(Equalized { blocks: count, absorbed })
}

/// The factor of each channel; 1 where one side is dead.
fn factors(graph: &Graph, block: &Block) -> Vec<f64> {
    let maker = block.maker.as_ref().expect("only blocks with one are equalized");
    let (made, read) = (Block::rows(graph, maker).reach_of_outputs(), block.reach_of_readers(graph));
    let dead = [&made, &read].map(|reach| DEAD * reach.iter().copied().fold(0.0, f64::max));
    let factor = |(&made, &read): (&f64, &f64)| {
        if made <= dead[0] || read <= dead[1] { 1.0 } else { (made / read).sqrt() }
    };
    made.iter().zip(&read).map(factor).collect()
}

/// Moves what the channels of a block never fall below into the biases behind it. False if there is nothing to move, or a
/// product has no bias to take it.
fn absorb(graph: &mut Graph, block: &Block, reach: &ChannelReach) -> Result<bool> {
    let floor: Vec<f64> = reach.min.iter().map(|&m| f64::from(m.max(0.0))).collect();
    if floor.iter().all(|&c| c == 0.0) {
        return Ok(false);
    }
    let mut trial = graph.clone();
    let less: Vec<f64> = floor.iter().map(|c| -c).collect();
    let maker = block.maker.as_ref().expect("only blocks with one are equalized");
    let mut all = add_to_bias(&mut trial, maker, &less)?;
    for reader in &block.readers {
        let rows = Block::rows(graph, reader);
        let mut more = vec![0.0; rows.form.groups * rows.form.outputs];
        rows.each(|o, c, w| more[o] += f64::from(w) * floor[c]);
        all = all && add_to_bias(&mut trial, reader, &more)?;
    }
    if all {
        *graph = trial;
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
