//! How far each channel of a value reaches, over all samples.

use crate::blocks::Block;
use crate::error::Result;
use crate::observer::NotFinite;
use crate::watch::Runs;
use quantal_ir::{Graph, Op, ValueId};
use std::collections::BTreeMap;

/// The extremes and the energy of each channel of a value.
#[derive(Clone, Debug)]
pub struct ChannelReach {
    /// The smallest element of each channel.
    pub min: Vec<f32>,
    /// The largest.
    pub max: Vec<f32>,
    squares: Vec<f64>,
    count: u64,
}

impl ChannelReach {
    fn new(channels: usize) -> Self {
        let (min, max) = (vec![f32::INFINITY; channels], vec![f32::NEG_INFINITY; channels]);
        Self { min, max, squares: vec![0.0; channels], count: 0 }
    }

    /// Takes in one tensor whose channels lie along `axis`; one of another number of channels is left out.
    fn add(&mut self, values: &[f32], shape: &[usize], axis: usize) -> Result<(), NotFinite> {
        let inner: usize = shape[axis + 1..].iter().product();
        if shape[axis] != self.min.len() || values.is_empty() {
            return Ok(());
        }
        // Squares of finite values may overflow a f32, never a f64.
        if !values.iter().all(|x| x.is_finite()) {
            return Err(NotFinite);
        }
        for position in values.chunks(inner * self.min.len()) {
            let channels = self.min.iter_mut().zip(&mut self.max).zip(&mut self.squares);
            for (((min, max), squares), run) in channels.zip(position.chunks(inner)) {
                for &x in run {
                    (*min, *max) = (min.min(x), max.max(x));
                    *squares += f64::from(x) * f64::from(x);
                }
            }
            self.count += inner as u64;
        }
        Ok(())
    }

    /// The mean square of each channel.
    pub fn energies(&self) -> Vec<f64> {
        self.squares.iter().map(|s| s / self.count.max(1) as f64).collect()
    }
}

/// One pass over the samples that looks at the values of `blocks`. Those of which nothing was seen are left out.
pub fn channel_reach(
    stage: &str,
    graph: &Graph,
    blocks: &[Block],
    runs: &mut Runs<'_>,
) -> Result<BTreeMap<ValueId, ChannelReach>> {
    let mut found: BTreeMap<ValueId, ChannelReach> =
        blocks.iter().map(|b| (b.value, ChannelReach::new(b.channels))).collect();
    let spatial: BTreeMap<ValueId, bool> =
        blocks.iter().map(|b| (b.value, graph.node(b.readers[0].node).op == Op::Conv)).collect();
    runs.watch(stage, graph, &mut found, &|reach, _, seen| {
        let tensor = seen.floats()?;
        let shape = tensor.shape();
        let Some(last) = shape.len().checked_sub(1) else { return Ok(Ok(())) };
        let axis = seen.layout.physical_axis(if spatial[&seen.value] { 1 } else { last }, shape.len());
        Ok(reach.add(tensor.as_slice::<f32>(), shape, axis))
    })?;
    found.retain(|_, reach| reach.count > 0);
    Ok(found)
}
