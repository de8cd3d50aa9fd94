//! The second moment of a product's data, `H = Σ x xᵀ / rows`: all that the error of rounded weights depends on.
//!
//! With weights off by δ, the outputs are off by `x·δ`, and `Σ (x·δ)² = δᵀ H δ`: the objective of GPTQ and AdaRound.

use crate::error::Result;
use crate::observer::NotFinite;
use crate::place::Product;
use crate::product_rows::ProductRows;
use crate::watch::Runs;
use quantal_ir::{Graph, ValueId};
use quantal_kernels::float::{AView, BView, Epilogue, PackedB, gemm};
use quantal_kernels::{Isa, Threads};
use quantal_tensor::bytes::{Claim, Claimed, unused_bytes};
use quantal_tensor::{OutOfMemory, TensorError};
use std::collections::BTreeMap;

/// The moments of one weight's data.
#[derive(Debug)]
pub struct SecondMoment {
    /// How rows are made.
    pub rows: ProductRows,
    /// A matrix `[k, k]` for each group.
    pub groups: Vec<Claimed<f32>>,
    count: usize,
}

/// Rows of all samples together that a moment is made of, at least where there are so many: eight for each input of a
/// wide layer.
const ROWS: usize = 1 << 14;
/// Bytes of moments that are collected in one pass over the samples.
const PASS_BYTES: usize = 512 << 20;

impl SecondMoment {
    fn new(rows: ProductRows) -> Result<Self> {
        let zeros = |_| Claimed::zeroed(rows.k.saturating_mul(rows.k)).map_err(TensorError::from);
        let groups = (0..rows.groups).map(zeros).collect::<std::result::Result<_, _>>()?;
        Ok(Self { rows, groups, count: 0 })
    }

    fn bytes(rows: &ProductRows) -> usize {
        // One more matrix holds the product of a sample.
        (rows.groups + 1).saturating_mul(rows.k.saturating_mul(rows.k)).saturating_mul(4)
    }

    /// Adds `rows · k` values for each group.
    fn add(&mut self, isa: Isa, groups: &[Vec<f32>], threads: &Threads) -> std::result::Result<(), TensorError> {
        let k = self.rows.k;
        let Some(n) = groups.first().map(|g| g.len() / k.max(1)).filter(|&n| n > 0) else { return Ok(()) };
        let mut product = Claimed::zeroed(k * k).map_err(TensorError::from)?;
        for (sum, x) in self.groups.iter_mut().zip(groups) {
            let b = PackedB::pack(BView { data: x, k: n, n: k, stride_k: k, stride_n: 1 });
            let b = b.map_err(|_| TensorError::from(OutOfMemory::now(4 * x.len())))?;
            let a = AView { data: x, m: k, row_stride: 1, col_stride: k };
            gemm(isa, a, &b, &Epilogue::NONE, &mut product, k, threads);
            sum.iter_mut().zip(product.iter()).for_each(|(s, p)| *s += p);
        }
        self.count += n;
        Ok(())
    }
}

/// Runs the float `graph` over the samples, in as many passes as the bound on memory asks for, and hands the moments of
/// each weight to `each`. Weights that several products read see the data of all of them.
pub fn second_moments(
    graph: &Graph,
    products: &[Product],
    runs: &mut Runs<'_>,
    each: &mut dyn FnMut(&BTreeMap<ValueId, SecondMoment>) -> Result<()>,
) -> Result<()> {
    let mut readers: BTreeMap<ValueId, Vec<(ValueId, ProductRows)>> = BTreeMap::new();
    for p in products {
        if let Some(rows) = ProductRows::of(graph, graph.node(p.node), p.weighted.weight) {
            readers.entry(p.weighted.weight).or_default().push((p.weighted.data, rows));
        }
    }
    // Read in different forms, a weight has no one matrix.
    readers.retain(|_, forms| forms.iter().all(|f| (f.1.groups, f.1.k) == (forms[0].1.groups, forms[0].1.k)));
    let mut left: Vec<ValueId> = readers.keys().copied().collect();
    while !left.is_empty() {
        let mut bytes = 0_usize;
        // Rounding takes about as much again for its factors.
        let most = PASS_BYTES.min(unused_bytes() / 3);
        let fit = left.iter().take_while(|w| {
            bytes = bytes.saturating_add(SecondMoment::bytes(&readers[w][0].1));
            bytes <= most
        });
        let now: Vec<ValueId> = left.drain(..fit.count().max(1)).collect();
        let mut found: BTreeMap<ValueId, SecondMoment> =
            now.iter().map(|w| Ok((*w, SecondMoment::new(readers[w][0].1.clone())?))).collect::<Result<_>>()?;
        let taps: Vec<ValueId> = now.iter().flat_map(|w| readers[w].iter().map(|r| r.0)).collect();
        let (isa, most) = (runs.isa, (ROWS / runs.count().unwrap_or(1).max(1)).max(16));
        runs.watch_in_turn("moments", graph, &taps, &mut |seen| {
            let tensor = seen.standard()?;
            if !tensor.as_slice::<f32>().iter().all(|x| x.is_finite()) {
                return Ok(Err(NotFinite));
            }
            for w in &now {
                for (_, rows) in readers[w].iter().filter(|r| r.0 == seen.value) {
                    let positions = tensor.len() / rows.inputs().max(1);
                    let count = positions.min(most).saturating_mul(rows.groups).saturating_mul(rows.k);
                    let _claim = Claim::new(count.saturating_mul(4)).map_err(TensorError::from)?;
                    let data = rows.data_rows(&tensor, most);
                    found.get_mut(w).expect("made above").add(isa, &data, seen.threads)?;
                }
            }
            Ok(Ok(()))
        })?;
        for moment in found.values_mut() {
            let count = moment.count.max(1) as f32;
            moment.groups.iter_mut().flat_map(|g| g.iter_mut()).for_each(|h| *h /= count);
        }
        each(&found)?;
    }
    Ok(())
}
