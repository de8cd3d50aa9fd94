//! Matrix products of 8-bit codes: `y[m, n] = epilogue( Σ_k (a[m, k] − z_a) · (b[k, n] − z_b[n]) )`.
//!
//! The tile multiplies u8 by s8 and never sees a zero point: s8 rows of A are shifted by 128 (xor 0x80) as they are
//! read (but where a kernel takes them as they are), u8 columns of B as they are packed, and what the zero points add is
//! taken off at the end,
//!
//! ```text
//! Σ (a − z_a)(b − z_b) = Σ a·b − z_a · Σ b − z_b · (Σ a − k · z_a)
//! ```
//!
//! with the column sums `Σ b` known since packing, and the row sums `Σ a` taken only where some `z_b` is not 0. All of
//! it wraps around 2³², so only the result must fit.

#[cfg(any(test, target_arch = "x86_64"))]
pub(crate) mod amx;
mod batch;
pub(crate) mod blocks;
pub(crate) mod epilogue;
pub(crate) mod peak;
pub(crate) mod rows;
pub(crate) mod source;
#[cfg(test)]
mod tests;
pub(crate) mod tile;

pub use batch::{BatchCall, Dim, batch};
pub use epilogue::{Epilogue, Residual};
pub use peak::Feed;

use crate::Threads;
use crate::error::{KernelError, check_length};
use crate::pack::PackedB;
use blocks::Job;
use epilogue::{RawEpilogue, extent};
use source::{Rows, Source};

/// One product: A as it lies in memory, B packed.
pub struct GemmCall<'a> {
    /// `[m, k]` codes as bytes, rows `row_stride` apart.
    pub a: &'a [u8],
    /// Whether the codes of A are s8 rather than u8.
    pub a_signed: bool,
    /// Zero point of A, in its own signedness.
    pub a_zero_point: i32,
    /// Rows of A and of the output.
    pub m: usize,
    /// Elements from one row of A to the next.
    pub row_stride: usize,
    /// `[k, n]`.
    pub b: &'a PackedB,
    /// Zero points of B in its own signedness: none (all 0), one, or one for each column.
    pub b_zero_points: &'a [i32],
    /// What becomes of each sum, and where it goes.
    pub epilogue: Epilogue<'a>,
}

/// Computes one product. The bits do not depend on the kernel nor on the number of threads.
///
/// # Errors
/// If a slice is shorter than the dimensions say, or a zero point or range of codes does not fit 8 bits.
pub fn gemm(call: GemmCall, threads: &Threads) -> Result<(), KernelError> {
    let GemmCall { a, a_signed, a_zero_point, m, row_stride, b, b_zero_points, epilogue } = call;
    check_length("A", a.len(), extent(m, b.k(), row_stride))?;
    check_zero_points(b_zero_points, b.n())?;
    let epilogue = RawEpilogue::new(epilogue, m, b.n())?;
    let source = Source::Rows(Rows { a, stride: row_stride, m });
    let job = Job::new(b, source, a_signed, a_zero_point, b_zero_points, &epilogue, 0);
    blocks::run(&job, threads);
    Ok(())
}

/// `Ok` if there are none, one or `n` zero points.
pub(crate) fn check_zero_points(zero_points: &[i32], n: usize) -> Result<(), KernelError> {
    if zero_points.len() <= 1 { Ok(()) } else { check_length("the zero points of B", zero_points.len(), n) }
}
