//! The one body of every integer GEMM kernel.
// Indices are rows and columns of the tile.
#![allow(clippy::needless_range_loop)]

use crate::kernel::{Form, RowCodes};
use crate::simd::Simd;

/// One tile: some runs of rows of A against one panel of B.
///
/// `starts` holds a pointer for each run; row `i` of a run starts `i·stride` bytes after it. What a row is multiplied
/// by lies in `spans` pieces of `4·groups` bytes in the kernel's [`Form`], each `offsets[s]` bytes after the row's
/// start. But where packing placed the steps, `places` has for each span how many there are, and for each step where
/// in the span each register of columns reads 4 bytes. `panel` points to at least as many steps, of `nr` times 4 bytes each;
/// `sums` takes a row of `nr` accumulators for each row, of which the first `cols` matter. Each starts from its column's
/// `init`.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "some fields are for AMX alone"))]
pub(crate) struct TileArgs {
    pub(crate) starts: *const *const u8,
    pub(crate) stride: usize,
    pub(crate) offsets: *const usize,
    pub(crate) spans: usize,
    pub(crate) groups: usize,
    pub(crate) places: *const u32,
    pub(crate) panel: *const u8,
    pub(crate) init: *const i32,
    pub(crate) sums: *mut i32,
    pub(crate) cols: usize,
    /// Null, or what to fetch into L2 meanwhile: from here on a quarter as much as is read of the panel, or half where
    /// the tile is one of AMX and the address is odd.
    pub(crate) ahead: *const u8,
    /// Whether the rows are s8; only where the kernel takes them.
    pub(crate) signed: bool,
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
    /// Which codes of A those are.
    const ROW_CODES: RowCodes = RowCodes::U8;
    /// Whether it must be fed in steps that packing placed.
    const PLACED: bool = false;
    /// What it is made of, for people.
    const INSTRUCTION: &'static str;
    /// `acc + a·b` in each lane, wrapping and never saturating.
    unsafe fn dot(acc: Reg<Self>, a: Reg<Self>, b: Reg<Self>) -> Reg<Self>;
}

/// The register of a [`Dot`].
pub(crate) type Reg<D> = <<D as Dot>::Lanes as Simd>::I;

/// Sums that grow side by side: enough to hide the latency, few enough for the registers, of which AVX-512 has 32.
pub(super) const fn chains<D: Dot>() -> usize {
    if D::Lanes::LANES >= 16 { 24 } else { 12 }
}

/// Accumulates `MR` rows against `NV` registers of columns. Lanes run across columns and all accumulators stay in
/// registers over the whole of K; a step loads `NV` registers of B once and broadcasts 4 bytes of each row. Steps take
/// turns between up to four sets of `MR·NV` accumulators, as registers last, so that few sums need not wait for their own
/// last product.
///
/// # Safety
/// As [`Simd`], and the pointers of `args` hold what [`TileArgs`] says.
#[inline(always)]
pub(crate) unsafe fn tile<D: Dot, const MR: usize, const NV: usize>(args: &TileArgs) {
    // SAFETY: handed on.
    unsafe {
        match chains::<D>() / (MR * NV) {
            0 | 1 => tile_in_turns::<D, MR, NV, 1>(args),
            2 | 3 => tile_in_turns::<D, MR, NV, 2>(args),
            _ => tile_in_turns::<D, MR, NV, 4>(args),
        }
    }
}

/// [`tile`] with `TURNS` sets of accumulators.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn tile_in_turns<D: Dot, const MR: usize, const NV: usize, const TURNS: usize>(args: &TileArgs) {
    let lanes = D::Lanes::LANES;
    // SAFETY: the caller's promise; every access is within the extents that `TileArgs` states.
    unsafe {
        let rows = args.starts.cast::<[*const u8; MR]>().read();
        let mut init = [D::Lanes::splat(0); NV];
        for (v, init) in init.iter_mut().enumerate() {
            *init = D::Lanes::load(args.init.add(lanes * v));
        }
        let mut acc = [[[D::Lanes::splat(0); NV]; MR]; TURNS];
        acc[0] = [init; MR];
        // A quarter of what a step reads; or the panel itself again and again, which costs less than to ask each time.
        let (ahead, ahead_step) = if args.ahead.is_null() { (args.panel, 0) } else { (args.ahead, lanes * NV) };
        let mut next = Next { at: 0, panel: args.panel, places: args.places, ahead, ahead_step };
        for span in 0..args.spans {
            let start = *args.offsets.add(span);
            let mut groups = args.groups;
            if D::PLACED {
                groups = *next.places as usize;
                next.places = next.places.add(1);
            }
            next.at = start;
            let end = start + 4 * groups;
            let whole = end - 4 * (groups % TURNS);
            while next.at < whole {
                for acc in &mut acc {
                    step::<D, MR, NV>(acc, &rows, start, &mut next);
                }
            }
            while next.at < end {
                step::<D, MR, NV>(&mut acc[0], &rows, start, &mut next);
            }
        }
        for r in 0..MR {
            for v in 0..NV {
                let mut sum = acc[0][r][v];
                for acc in &acc[1..] {
                    sum = D::Lanes::add(sum, acc[r][v]);
                }
                D::Lanes::store(args.sums.add((r * NV + v) * lanes), sum);
            }
        }
    }
}

/// What the next step of a tile reads.
struct Next {
    /// Bytes from a row's start; where steps are placed, it only counts them.
    at: usize,
    panel: *const u8,
    places: *const u32,
    ahead: *const u8,
    ahead_step: usize,
}

/// One step in the span that begins at `start`.
///
/// # Safety
/// As [`tile`], while there are steps left.
#[inline(always)]
unsafe fn step<D: Dot, const MR: usize, const NV: usize>(
    acc: &mut [[Reg<D>; NV]; MR],
    rows: &[*const u8; MR],
    start: usize,
    next: &mut Next,
) {
    let lanes = D::Lanes::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        let mut b = [D::Lanes::splat(0); NV];
        for (v, b) in b.iter_mut().enumerate() {
            *b = D::Lanes::load(next.panel.add(4 * lanes * v).cast());
        }
        next.panel = next.panel.add(4 * lanes * NV);
        fetch(next.ahead);
        next.ahead = next.ahead.wrapping_add(next.ahead_step);
        if D::PLACED {
            for v in 0..NV {
                let place = start + *next.places.add(v) as usize;
                for r in 0..MR {
                    let a = D::Lanes::splat(rows[r].add(place).cast::<i32>().read_unaligned());
                    acc[r][v] = D::dot(acc[r][v], a, b[v]);
                }
            }
            next.places = next.places.add(NV);
        } else {
            for r in 0..MR {
                let a = D::Lanes::splat(rows[r].add(next.at).cast::<i32>().read_unaligned());
                for v in 0..NV {
                    acc[r][v] = D::dot(acc[r][v], a, b[v]);
                }
            }
        }
        next.at += 4;
    }
}

/// Brings a cache line into L2, if there is one at `p`.
#[inline(always)]
pub(crate) fn fetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has SSE, and a prefetch of any address is without effect on the program.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}
