//! The one body of every integer GEMM kernel.
// Indices are rows and columns of the tile.
#![allow(clippy::needless_range_loop)]

use crate::kernel::Form;
use crate::simd::Simd;

/// One tile: `MR` rows of A against one panel of B.
///
/// `rows` holds `MR` pointers, each to `4·groups` bytes in the kernel's [`Form`]; `panel` points to `groups` steps of
/// `nr` times 4 bytes; `sums` takes `MR × nr` accumulators, rows `nr` apart.
pub(crate) struct TileArgs {
    pub(crate) rows: *const *const u8,
    pub(crate) panel: *const u8,
    pub(crate) groups: usize,
    pub(crate) sums: *mut i32,
}

/// A dot product of 4 bytes with 4 bytes, accumulated in each lane.
///
/// # Safety
/// As [`Simd`].
pub(crate) trait Dot {
    /// Its registers.
    type Lanes: Simd;
    /// What the 4 bytes hold.
    const FORM: Form;
    /// What it is made of, for people.
    const INSTRUCTION: &'static str;
    /// `acc + a·b` in each lane, wrapping and never saturating.
    unsafe fn dot(acc: Reg<Self>, a: Reg<Self>, b: Reg<Self>) -> Reg<Self>;
}

/// The register of a [`Dot`].
pub(crate) type Reg<D> = <<D as Dot>::Lanes as Simd>::I;

/// Accumulates `MR` rows against `NV` registers of columns. Lanes run across columns and all `MR·NV` accumulators stay
/// in registers over the whole of K; a step loads `NV` registers of B once and broadcasts 4 bytes of each row.
///
/// # Safety
/// As [`Simd`], and the pointers of `args` hold what [`TileArgs`] says.
#[inline(always)]
pub(crate) unsafe fn tile<D: Dot, const MR: usize, const NV: usize>(args: &TileArgs) {
    let lanes = D::Lanes::LANES;
    // SAFETY: the caller's promise; every access is within the extents that `TileArgs` states.
    unsafe {
        let rows = args.rows.cast::<[*const u8; MR]>().read();
        let mut panel = args.panel;
        let mut acc = [[D::Lanes::splat(0); NV]; MR];
        for group in 0..args.groups {
            let mut b = [D::Lanes::splat(0); NV];
            for (v, b) in b.iter_mut().enumerate() {
                *b = D::Lanes::load(panel.add(4 * lanes * v).cast());
            }
            panel = panel.add(4 * lanes * NV);
            for r in 0..MR {
                let a = D::Lanes::splat(rows[r].add(4 * group).cast::<i32>().read_unaligned());
                for v in 0..NV {
                    acc[r][v] = D::dot(acc[r][v], a, b[v]);
                }
            }
        }
        for r in 0..MR {
            for v in 0..NV {
                D::Lanes::store(args.sums.add((r * NV + v) * lanes), acc[r][v]);
            }
        }
    }
}
