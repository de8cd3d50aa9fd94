//! Many products of two run-time tensors of codes, as attention has them: one for each head of each sample.
//!
//! Operands and output are views with strides, so heads are read from and written to tensors where they lie side by side,
//! and no transposed copy is made. Each product packs its B; several run at a time, one on each thread.

use std::ops::Range;

use super::blocks::{Job, run};
use super::epilogue::{Epilogue, RawEpilogue, extent};
use super::source::{Rows, Source};
use crate::error::{KernelError, check_length};
use crate::pack::{BView, PackedB};
use crate::{Isa, Threads};

/// One dimension of the batch, in elements from one index to the next; 0 where an operand is the same for all.
#[derive(Clone, Copy, Debug)]
pub struct Dim {
    /// Number of indices.
    pub count: usize,
    /// In A.
    pub a: usize,
    /// In B.
    pub b: usize,
    /// In the output.
    pub out: usize,
}

/// Products of `[m, k]` by `[k, n]`.
pub struct BatchCall<'a> {
    /// For which instruction set.
    pub isa: Isa,
    /// The codes of A; elements along k lie next to each other.
    pub a: &'a [u8],
    /// Whether they are s8 rather than u8.
    pub a_signed: bool,
    /// Zero point of A, in its own signedness.
    pub a_zero_point: i32,
    /// Elements from one row of A to the next.
    pub a_stride: usize,
    /// Rows of A.
    pub m: usize,
    /// The first B; its bytes are those of all of them.
    pub b: BView<'a>,
    /// Zero point of B, in its own signedness.
    pub b_zero_point: i32,
    /// The batch, outermost first.
    pub dims: &'a [Dim],
    /// What becomes of each sum, without a residual; the output is that of all products.
    pub epilogue: Epilogue<'a>,
}

/// Computes all products. The bits depend neither on the instruction set nor on the number of threads.
///
/// # Errors
/// As [`gemm`](super::gemm), or if two products would write the same element.
pub fn batch(call: BatchCall, threads: &Threads) -> Result<(), KernelError> {
    let BatchCall { isa, a, a_signed, a_zero_point, a_stride, m, b, b_zero_point, dims, epilogue } = call;
    let items = dims.iter().try_fold(1_usize, |n, d| n.checked_mul(d.count)).unwrap_or(usize::MAX);
    if items == 0 || m == 0 || b.n == 0 {
        return Ok(());
    }
    let (out_len, ldc) = match &epilogue {
        Epilogue::Codes { add: Some(_), .. } => return Err(KernelError::Geometry("a batch has no residual")),
        Epilogue::Codes { out, ldc, .. } => (out.len(), *ldc),
        Epilogue::F32 { out, ldc, .. } => (out.len(), *ldc),
        Epilogue::I32 { out, ldc, .. } => (out.len(), *ldc),
    };
    let last = |stride: fn(&Dim) -> usize| {
        dims.iter().fold(0_usize, |at, d| at.saturating_add((d.count - 1).saturating_mul(stride(d))))
    };
    check_length("A", a.len(), last(|d| d.a).saturating_add(extent(m, b.k, a_stride)))?;
    let b_extent = match (b.k, b.n) {
        (0, _) | (_, 0) => 0,
        (k, n) => {
            (k - 1).saturating_mul(b.stride_k).saturating_add((n - 1).saturating_mul(b.stride_n)).saturating_add(1)
        }
    };
    check_length("B", b.bytes.len(), last(|d| d.b).saturating_add(b_extent))?;
    check_length("the output", out_len, last(|d| d.out).saturating_add(extent(m, b.n, ldc)))?;
    if !apart(m, b.n, ldc, dims) {
        return Err(KernelError::Geometry("products of a batch write to the same place"));
    }
    let epilogue = RawEpilogue::new(epilogue, m, b.n)?;
    let zero_points = [b_zero_point];
    let run_items = |items: Range<usize>, threads: &Threads| -> Result<(), KernelError> {
        let (mut packed, mut packed_at) = (PackedB::empty(isa), None);
        for item in items {
            let (mut index, mut at) = (item, Dim { count: 0, a: 0, b: 0, out: 0 });
            for d in dims.iter().rev() {
                let i = index % d.count;
                index /= d.count;
                (at.a, at.b, at.out) = (at.a + i * d.a, at.b + i * d.b, at.out + i * d.out);
            }
            if packed_at != Some(at.b) {
                packed.repack(&BView { bytes: &b.bytes[at.b..], ..b })?;
                packed_at = Some(at.b);
            }
            let source = Source::Rows(Rows { a: &a[at.a..], stride: a_stride, m });
            // No two items write the same element.
            let epilogue = epilogue.at(at.out);
            run(&Job::new(&packed, source, a_signed, a_zero_point, &zero_points, &epilogue, 0), threads);
        }
        Ok(())
    };
    let tasks = items.min(threads.count());
    // With fewer products than threads each product is split instead.
    if tasks < threads.count() || tasks == 1 {
        return run_items(0..items, threads);
    }
    let failed = std::sync::Mutex::new(None);
    // Twice as many tasks as threads evens out what one thread loses to others.
    let tasks = items.min(2 * threads.count());
    threads.parallel_for(tasks, &|t| {
        let done = run_items(t * items / tasks..(t + 1) * items / tasks, &Threads::new(1));
        if let (Err(e), Ok(mut failed)) = (done, failed.lock()) {
            failed.get_or_insert(e);
        }
    });
    failed.into_inner().ok().flatten().map_or(Ok(()), Err)
}

/// Whether no two elements of the outputs lie at the same place: sorted by stride, each dimension steps over all that
/// the smaller ones reach.
fn apart(m: usize, n: usize, ldc: usize, dims: &[Dim]) -> bool {
    let mut steps: Vec<(usize, usize)> = dims.iter().map(|d| (d.out, d.count)).chain([(ldc, m), (1, n)]).collect();
    steps.retain(|s| s.1 > 1);
    steps.sort_unstable();
    let mut reach = 1_usize;
    steps.into_iter().all(|(stride, count)| {
        let fits = stride >= reach;
        reach = reach.saturating_add((count - 1).saturating_mul(stride));
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, code};
    use quantal_tensor::arith;

    /// Heads side by side, `[s, heads · d]`, as a projection leaves them; B transposed or not; the output merged or not.
    #[test]
    fn heads_are_read_and_written_where_they_lie() {
        for (samples, heads, [m, k, n], signed, transposed, merged) in [
            (1, 1, [1, 1, 1], false, false, false),
            (2, 3, [19, 16, 11], true, true, false),
            (1, 12, [33, 32, 33], false, true, false),
            (2, 5, [17, 29, 8], false, false, true),
        ] {
            let mut random = Seeded::new(k as u64);
            let (a, b) = (random.bytes(samples * m * heads * k), random.bytes(samples * n * heads * k));
            let (a_zero, b_zero) = (if signed { -3 } else { 117 }, 130);
            // B is `[samples, n, heads, k]` or `[samples, k, heads, n]`.
            let (stride_k, stride_n) = if transposed { (1, heads * k) } else { (heads * n, 1) };
            let b_head = if transposed { k } else { n };
            let (ldc, out_head, out_sample) =
                if merged { (heads * n, n, m * heads * n) } else { (n, m * n, heads * m * n) };
            let dims = [
                Dim { count: samples, a: m * heads * k, b: n * heads * k, out: out_sample },
                Dim { count: heads, a: k, b: b_head, out: out_head },
            ];
            let multiplier = 1.0 / (40.0 * k as f32);
            let mut want = vec![0; samples * heads * m * n];
            for (s, h) in (0..samples).flat_map(|s| (0..heads).map(move |h| (s, h))) {
                for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let acc = (0..k)
                        .map(|p| {
                            let x = code(a[s * m * heads * k + i * heads * k + h * k + p], signed) - a_zero;
                            let w = i32::from(b[s * n * heads * k + h * b_head + p * stride_k + j * stride_n]) - b_zero;
                            x * w
                        })
                        .sum();
                    want[s * out_sample + h * out_head + i * ldc + j] =
                        arith::requantize(acc, multiplier, 121, 0, 255) as u8;
                }
            }
            for isa in Isa::available() {
                for threads in 1..=3 {
                    let mut out = vec![0; want.len()];
                    let epilogue = Epilogue::Codes {
                        bias: None,
                        multiplier: &[multiplier],
                        zero_point: 121,
                        qmin: 0,
                        qmax: 255,
                        add: None,
                        table: None,
                        out: &mut out,
                        ldc,
                    };
                    let call = BatchCall {
                        isa,
                        a: &a,
                        a_signed: signed,
                        a_zero_point: a_zero,
                        a_stride: heads * k,
                        m,
                        b: BView { bytes: &b, signed: false, k, n, stride_k, stride_n },
                        b_zero_point: b_zero,
                        dims: &dims,
                        epilogue,
                    };
                    batch(call, &Threads::new(threads)).unwrap();
                    assert_eq!(out, want, "{isa}, {threads} threads, {samples} × {heads} × {m}×{k}×{n}");
                }
            }
        }
    }

    #[test]
    fn products_that_write_to_the_same_place_are_refused() {
        let dim = |out| Dim { count: 2, a: 0, b: 0, out };
        assert!(apart(3, 4, 4, &[dim(12)]));
        assert!(apart(3, 4, 8, &[dim(4)]));
        assert!(!apart(3, 4, 4, &[dim(11)]));
        assert!(!apart(3, 4, 8, &[dim(3)]));
        assert!(!apart(1, 1, 1, &[dim(0)]));
    }
}
