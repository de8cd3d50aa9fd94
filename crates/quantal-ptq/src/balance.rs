//! How evenly the channels of a value share its range.
//!
//! One scale must serve all channels. Where a few reach far (a swish with a long tail, boxes beside scores in one
//! Concat), the step is theirs, and it drowns the others although the tensor as a whole looks well. So each channel is
//! asked by itself: the part of its variance that rounding would make, `min(1, s² / 12 / var_c)`, is averaged over the
//! channels that are alive. Where a channel is one number (what squeeze-excite gates are made of) it counts with its
//! mean: it scales other values, and need not vary to be right.

use quantal_ir::graph::Uses;
use quantal_ir::{Graph, Op, ValueId};
use quantal_kernels::Isa;
use quantal_kernels::float::add_moments;
use quantal_runtime::Layout;

/// Positions of one tensor of one sample that count for all, evenly spaced.
const POSITIONS: usize = 256;

/// The moments of each channel of a value.
#[derive(Clone, Debug)]
pub struct Balance {
    axis: usize,
    sums: Vec<f64>,
    squares: Vec<f64>,
    count: u64,
    /// Whether some sample had more than one position.
    extended: bool,
}

impl Balance {
    /// For a value whose channels must be told apart: what a convolution makes or reads, and the parts of a Concat.
    pub fn of(graph: &Graph, uses: &Uses, v: ValueId) -> Option<Self> {
        let (rank, maker) = (graph.value(v).rank()?, uses.producer(v).map(|p| graph.node(p)));
        let conv = |op| matches!(op, Op::Conv | Op::ConvTranspose);
        let near_conv = || maker.is_some_and(|n| conv(n.op)) || uses.readers(v).iter().any(|&r| conv(graph.node(r).op));
        let axis = match maker {
            Some(n) if n.op == Op::Concat => {
                let axis = n.attrs.int_or("axis", 0).ok()?;
                usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()?
            }
            _ => Some(1).filter(|_| rank >= 3 && near_conv())?,
        };
        Some(Self { axis, sums: Vec::new(), squares: Vec::new(), count: 0, extended: false })
    }

    /// Takes in one sample, as it lies. Channels of another number than those before are left out.
    pub fn add(&mut self, values: &[f32], shape: &[usize], layout: Layout, isa: Isa) {
        if self.axis >= shape.len() {
            return;
        }
        let axis = layout.physical_axis(self.axis, shape.len());
        let (channels, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
        if self.sums.is_empty() {
            (self.sums, self.squares) = (vec![0.0; channels], vec![0.0; channels]);
        }
        if channels != self.sums.len() || values.is_empty() {
            return;
        }
        let positions = values.len() / channels;
        self.extended |= positions > shape[0];
        let step = positions.div_ceil(POSITIONS);
        if inner == 1 {
            add_moments(isa, values, step, &mut self.sums, &mut self.squares);
        } else {
            for p in (0..positions).step_by(step) {
                let channels = values[p / inner * inner * channels + p % inner..].iter().step_by(inner);
                for ((sum, square), &v) in self.sums.iter_mut().zip(&mut self.squares).zip(channels) {
                    let v = f64::from(v);
                    *sum += v;
                    *square += v * v;
                }
            }
        }
        self.count += positions.div_ceil(step) as u64;
    }

    /// The variance of each channel; where all are one number, its square.
    pub fn variances(&self) -> Vec<f64> {
        let n = self.count.max(1) as f64;
        let mean = |sum: &f64| if self.extended { sum / n } else { 0.0 };
        let variance = |(sum, square): (&f64, &f64)| square / n - mean(sum) * mean(sum);
        self.sums.iter().zip(&self.squares).map(variance).collect()
    }

    /// The mean over live channels of the part that rounding in steps of `step` makes of their variance, in decibels: 0
    /// where all drown, infinite where none is alive.
    pub fn sqnr_db(&self, step: f64) -> f64 {
        let noise = step * step / 12.0;
        // Less than that is a constant: the rounding of the sums.
        let live: Vec<f64> = self.variances().into_iter().filter(|v| *v > noise * 1e-12).collect();
        if live.is_empty() {
            return f64::INFINITY;
        }
        let share: f64 = live.iter().map(|v| (noise / v).min(1.0)).sum();
        -10.0 * libm::log10(share / live.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::Build;

    fn balance(channels: &[[f32; 4]], layout: Layout) -> Balance {
        let mut b = Build::new();
        let x = b.input("x", &[1, channels.len(), 4, 1]);
        b.conv(x, channels.len());
        let mut found = Balance::of(&b.graph, &b.graph.uses(), x).unwrap();
        let standard = channels.concat();
        let last: Vec<f32> = (0..4).flat_map(|p| channels.iter().map(move |c| c[p])).collect();
        match layout {
            Layout::Standard => found.add(&standard, &[1, channels.len(), 4, 1], layout, Isa::PORTABLE),
            Layout::ChannelsLast => found.add(&last, &[1, 4, 1, channels.len()], layout, Isa::PORTABLE),
        }
        found
    }

    #[test]
    fn each_live_channel_counts_alike_in_either_layout() {
        // Variances 12, 0.12, 0; steps of 1.2 make noise of 0.12: shares 0.01 and 1.
        let (a, b) = (12.0_f32.sqrt(), 0.12_f32.sqrt());
        for layout in [Layout::Standard, Layout::ChannelsLast] {
            let found = balance(&[[a, -a, a, -a], [5.0 + b, 5.0 - b, 5.0 + b, 5.0 - b], [3.0; 4]], layout);
            let expected = -10.0 * (1.01_f64 / 2.0).log10();
            assert!((found.sqnr_db(1.2) - expected).abs() < 1e-4, "{}", found.sqnr_db(1.2));
        }
    }

    #[test]
    fn a_channel_of_one_number_counts_with_its_mean() {
        let mut b = Build::new();
        let x = b.input("x", &[1, 2, 1, 1]);
        b.conv(x, 2);
        let mut found = Balance::of(&b.graph, &b.graph.uses(), x).unwrap();
        for nearly in [0.999, 1.001] {
            found.add(&[nearly, nearly], &[1, 2, 1, 1], Layout::Standard, Isa::PORTABLE);
        }
        // Steps of 0.12 make noise of 0.0012, against squares of about 1.
        let expected = -10.0 * 0.0012_f64.log10();
        assert!((found.sqnr_db(0.12) - expected).abs() < 1e-3, "{}", found.sqnr_db(0.12));
    }

    #[test]
    fn where_nothing_varies_nothing_drowns() {
        assert_eq!(balance(&[[2.0; 4], [0.0; 4]], Layout::Standard).sqnr_db(0.1), f64::INFINITY);
    }
}
