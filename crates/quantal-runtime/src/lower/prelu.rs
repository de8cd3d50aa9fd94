//! PRelu of codes with constant slopes: a table for one slope, two multipliers for slopes along an axis.

use super::codes;
use super::{Rule, Stop, table};
use crate::compile::Lowering;
use crate::coverage::Reason;
use crate::layout::Layout;
use crate::steps::Step;
use crate::steps::qprelu::QPRelu;
use quantal_ir::{NodeId, ValueId};
use quantal_tensor::{Tensor, arith};

/// Most slopes that are laid out for a whole sample.
const MAX_SLOPES: usize = 1 << 22;

pub(super) fn lower(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let x = codes::operand(l, node.input(0))?;
    let (Some(float), Some(v), Some(y)) = (node.input(0), node.input(1), node.output(0)) else {
        return Err(codes::refusal(l, id).into());
    };
    let Some(slope) = l.constant(v)?.filter(|t| t.get::<f32>().is_some()) else {
        return Err(Reason::WeightNotConstant { input: codes::name(l, v) }.into());
    };
    let values = slope.as_slice::<f32>();
    if let &[a] = values {
        let a = f64::from(a);
        return table::function_of(l, id, x, Box::new(move |x| if x < 0.0 { a * x } else { x }));
    }

    let target = codes::target(l, y)?;
    let (slopes, layout) = rows(l, float, &slope)?;
    let multiplier = |slope: f32| arith::multiplier(x.codes.affine.scale, slope, target.codes.affine.scale);
    let positive = multiplier(1.0);
    let negative: Vec<f32> = slopes.iter().map(|&slope| multiplier(slope)).collect();
    if !positive.is_finite() || negative.iter().any(|m| !m.is_finite()) {
        return Err(Reason::ScaleRange.into());
    }
    let rank = l.rank(x.value);
    let from = l.slot(x.value, layout)?;
    let to = target.define(l, layout, rank);
    let step = QPRelu { x: x.codes, y: target.codes, positive, negative };
    l.emit(id, Step::QPRelu(Box::new(step)), vec![Some(from)], vec![Some(to)]);
    target.done(l, id, "prelu_codes");
    Ok(())
}

/// The slopes of a row that repeats all over `x`, and the layout in which it does.
fn rows(l: &Lowering<'_>, x: ValueId, slope: &Tensor) -> Rule<(Vec<f32>, Layout)> {
    let refused = |text: &str| Stop::from(Reason::Attribute(text.to_owned()));
    let rank = l.rank(x).ok_or_else(|| refused("the rank of its input is not known"))?;
    let first =
        rank.checked_sub(slope.rank()).ok_or_else(|| refused("its slopes have more dimensions than its input"))?;
    let values = slope.as_slice::<f32>().to_vec();
    let long: Vec<usize> = slope.shape().iter().enumerate().filter(|(_, d)| **d != 1).map(|(i, _)| first + i).collect();
    match long[..] {
        [axis] if axis + 1 == rank => return Ok((values, Layout::Standard)),
        [1] if rank >= 3 => return Ok((values, Layout::ChannelsLast)),
        _ => {}
    }

    // Any other slopes are laid out for one sample, whose sizes must be known.
    let shape = l.graph.value(x).shape.as_deref().unwrap_or_default();
    let sizes: Option<Vec<usize>> = shape.iter().skip(1).map(quantal_ir::Dim::known).collect();
    let sizes = sizes.filter(|s| s.len() + 1 == rank && !long.contains(&0));
    let sizes = sizes.ok_or_else(|| refused("its slopes differ along axes of free size or along the batch"))?;
    let count = sizes.iter().try_fold(1_usize, |n, &d| n.checked_mul(d)).filter(|&n| n > 0 && n <= MAX_SLOPES);
    let count = count.ok_or_else(|| refused("its slopes are too many"))?;
    let place = |mut i: usize| {
        let mut at = 0;
        let mut stride = 1;
        for (axis, &size) in sizes.iter().enumerate().rev() {
            let index = i % size;
            i /= size;
            if let Some(&own) = (axis + 1).checked_sub(first).and_then(|j| slope.shape().get(j)) {
                at += if own == 1 { 0 } else { index * stride };
                stride *= own;
            }
        }
        at
    };
    let laid_out = (0..count).map(|i| values.get(place(i)).copied()).collect::<Option<Vec<f32>>>();
    Ok((laid_out.ok_or_else(|| refused("its slopes do not fit its input"))?, Layout::Standard))
}
