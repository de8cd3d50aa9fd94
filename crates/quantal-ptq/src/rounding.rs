//! Weights rounded with their data in view: codes chosen by GPTQ or AdaRound and baked into float weights.
//!
//! What is baked is `scale · q`, from which the nearest code at the same scale is q again; so the scales travel with the
//! weights.

use crate::error::Result;
use crate::place::Product;
use crate::recipe::Rounding;
use crate::second_moment::{SecondMoment, second_moments};
use crate::watch::Runs;
use crate::{adaround, gptq};
use quantal_ir::{Graph, QuantPlan, ValueId};
use quantal_kernels::Threads;
use quantal_tensor::bytes::Claim;
use quantal_tensor::{QParams, Scheme, Tensor, TensorError, arith};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The codes of one row of weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) scale: f32,
    pub(crate) zero_point: i32,
    pub(crate) qmin: i32,
    pub(crate) qmax: i32,
}

impl Grid {
    /// The nearest code.
    pub(crate) fn code(&self, x: f32) -> i32 {
        arith::quantize(x, self.scale, self.zero_point, self.qmin, self.qmax)
    }

    /// What a code stands for.
    pub(crate) fn real(&self, code: i32) -> f32 {
        arith::dequantize(code, self.scale, self.zero_point)
    }

    /// The code on the other side of `x` than `code`, if there is one in use.
    pub(crate) fn other(&self, x: f32, code: i32) -> i32 {
        let other = if self.real(code) > x { code - 1 } else { code + 1 };
        other.clamp(self.qmin, self.qmax)
    }
}

/// One weight, rounded.
#[derive(Clone, Debug)]
pub struct Rounded {
    /// `scale · q`, in the weight's shape.
    pub tensor: Tensor,
    /// The scales that it was rounded for.
    pub params: QParams,
    /// The error of the outputs, `Σ δᵀ H δ` over all rows: of the nearest codes, and of these.
    pub errors: [f64; 2],
}

/// Rounds the weights of `products`, whose numbers are in `plan`, each for the data that its products see.
pub fn round_weights(
    graph: &Graph,
    products: &[Product],
    plan: &QuantPlan,
    how: Rounding,
    runs: &mut Runs<'_>,
) -> Result<BTreeMap<ValueId, Rounded>> {
    let (all, failed) = (Mutex::new(BTreeMap::new()), Mutex::new(None));
    let threads = Threads::new(runs.threads);
    second_moments(graph, products, runs, &mut |moments| {
        let moments: Vec<(&ValueId, &SecondMoment)> = moments.iter().collect();
        threads.parallel_for(moments.len(), &|i| {
            let (&weight, moment) = moments[i];
            let encoding = plan.encodings.get(&weight);
            let given = encoding.and_then(|e| Some((graph.constant(Some(weight))?, &e.scheme, e.qparams()?)));
            let Some((tensor, scheme, params)) = given else { return };
            match round(tensor, scheme, params, moment, how) {
                Ok(Some(found)) => _ = all.lock().unwrap_or_else(PoisonError::into_inner).insert(weight, found),
                Ok(None) => {}
                Err(e) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(e),
            }
        });
        match failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(e) => Err(e.into()),
            None => Ok(()),
        }
    })?;
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// `None` where the numbers of the plan do not fit the weight.
fn round(
    tensor: &Tensor,
    scheme: &Scheme,
    params: &QParams,
    moment: &SecondMoment,
    how: Rounding,
) -> std::result::Result<Option<Rounded>, TensorError> {
    let (rows, k) = (&moment.rows, moment.rows.k);
    let count = rows.groups * rows.outputs;
    let grid = |o: usize| {
        let s = if params.scale.len() == 1 { 0 } else { o };
        Grid { scale: params.scale[s], zero_point: params.zero_point[s], qmin: scheme.qmin, qmax: scheme.qmax }
    };
    let Some(values) = tensor.get::<f32>().filter(|_| [1, count].contains(&params.scale.len()) && k > 0) else {
        return Ok(None);
    };
    let grids: Vec<Grid> = (0..count).map(grid).collect();
    // Rows, nearest codes, codes, rounded rows, and those as the weight lies.
    let _claim = Claim::new(values.len().saturating_mul(5 * 4))?;
    let weights = rows.weight_rows(values);
    let mut baked = Vec::with_capacity(weights.len());
    let mut errors = [0.0; 2];
    for ((weights, grids), h) in weights.chunks(rows.outputs * k).zip(grids.chunks(rows.outputs)).zip(&moment.groups) {
        let of_rows = |f: &dyn Fn(f32, &Grid) -> i32| -> Vec<i32> {
            weights.chunks(k).zip(grids).flat_map(|(row, g)| row.iter().map(move |&w| f(w, g))).collect()
        };
        let nearest = of_rows(&|w, g| g.code(w));
        let mut codes = match how {
            Rounding::Nearest => nearest.clone(),
            Rounding::Gptq | Rounding::AdaRound => {
                gptq::round(weights, k, h, grids)?.unwrap_or_else(|| nearest.clone())
            }
        };
        if how == Rounding::AdaRound {
            adaround::refine(weights, k, h, grids, &mut codes);
        }
        let (before, after) = (error(weights, k, h, grids, &nearest), error(weights, k, h, grids, &codes));
        // What the data do not ask for is not done: a group whose nearest codes are better keeps them.
        let (codes, after) = if after <= before { (codes, after) } else { (nearest, before) };
        errors[0] += before;
        errors[1] += after;
        for (codes, grid) in codes.chunks(k).zip(grids) {
            baked.extend(codes.iter().map(|&q| grid.real(q)));
        }
    }
    let tensor = Tensor::from_slice(tensor.shape(), &rows.weight_of_rows(&baked))?;
    Ok(Some(Rounded { tensor, params: params.clone(), errors }))
}

/// `Σ δᵀ H δ` over the rows.
fn error(weights: &[f32], k: usize, h: &[f32], grids: &[Grid], codes: &[i32]) -> f64 {
    let mut sum = 0.0;
    for ((row, codes), grid) in weights.chunks(k).zip(codes.chunks(k)).zip(grids) {
        let d: Vec<f32> = row.iter().zip(codes).map(|(w, &q)| grid.real(q) - w).collect();
        for (d_i, h) in d.iter().zip(h.chunks(k)) {
            let product: f32 = h.iter().zip(&d).map(|(h, d)| h * d).sum();
            sum += f64::from(*d_i) * f64::from(product);
        }
    }
    sum
}
