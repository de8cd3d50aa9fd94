//! The table of integer GEMM kernels, and which of them a shape gets.
//!
//! Names follow `{op}_{lhs}{rhs}{out}_{mr}x{nr}x{kr}_{isa}[_{variant}]`. A kernel that is not in [`KERNELS`] does not
//! exist: dispatch, tests, benches and reports all read the table.

use crate::gemm::peak::Feed;
use crate::gemm::tile::TileArgs;
use crate::{Isa, Level};
use std::fmt;

/// How the two operands lie in memory for a kernel. Either way a group of 4 bytes of a row of A meets 4 bytes of each
/// column of B.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Four u8 of A against four s8 of B.
    Bytes,
    /// Two i16 of A against two i16 of B, both widened while packing.
    Pairs,
}

impl Form {
    /// Elements along K in a group of 4 bytes.
    pub const fn kr(self) -> usize {
        4 / self.element_bytes()
    }

    /// A group of ones.
    pub(crate) const fn ones(self) -> [u8; 4] {
        match self {
            Self::Bytes => [1; 4],
            Self::Pairs => [1, 0, 1, 0],
        }
    }

    /// Bytes of an element of A or B.
    pub(crate) const fn element_bytes(self) -> usize {
        match self {
            Self::Bytes => 1,
            Self::Pairs => 2,
        }
    }
}

/// Where the steps of a kernel along K read A.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steps {
    /// One after the other.
    Even,
    /// Where packing placed them: the kernel adds two products in an i16, and no two weights that would overflow it may
    /// stand side by side. How many steps that takes depends on the weights.
    Placed,
}

/// Which codes of A a kernel of 4-byte groups of bytes multiplies as they are. Others are xored with 0x80 on their way
/// into a row, which moves them and their zero point by 128.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), allow(dead_code, reason = "no architecture has rows of all three"))]
pub(crate) enum RowCodes {
    U8,
    S8,
    Either,
}

impl RowCodes {
    /// Whether the kernel reads s8 where the codes are `signed`, what they are xored with, and what that adds to their
    /// zero point.
    pub(crate) fn of(self, signed: bool) -> (bool, u8, i32) {
        match (self, signed) {
            (Self::U8 | Self::Either, false) => (false, 0, 0),
            (Self::S8 | Self::Either, true) => (true, 0, 0),
            (Self::U8, true) => (false, 0x80, 128),
            (Self::S8, false) => (true, 0x80, -128),
        }
    }
}

/// One row of the table: a tile of `mr` rows by `nr` columns.
pub struct GemmKernel {
    /// Its name.
    pub name: &'static str,
    /// The instruction set that it was compiled for.
    pub level: Level,
    /// Most rows of A in a tile.
    pub mr: usize,
    /// Columns of B in a tile, and so in a packed panel.
    pub nr: usize,
    /// Columns of a register of sums.
    pub(crate) lanes: usize,
    /// Elements along K in a step of its loop: what lies together along K is padded to whole steps.
    pub kr: usize,
    /// Layout of its operands.
    pub form: Form,
    /// Where its steps read A.
    pub steps: Steps,
    /// What it multiplies and adds with.
    pub instruction: &'static str,
    /// Rows of A that it reads at one stride from one address.
    pub(crate) run: usize,
    /// Which rows it multiplies as they are.
    pub(crate) row_codes: RowCodes,
    /// A kernel that reads the same panels and is faster at so few rows.
    pub(crate) few: Option<(usize, &'static GemmKernel)>,
    /// `tiles[r − 1]` computes `r` runs of rows.
    pub(crate) tiles: &'static [unsafe fn(&TileArgs)],
    /// Its instruction alone, fed in one of two ways, so many rounds, and how many multiply-adds a round has; `None` where
    /// nothing measures it.
    pub(crate) peak: Option<(unsafe fn(Feed, u64), u64)>,
}

impl GemmKernel {
    /// Runs `rounds` rounds of the kernel's instruction alone, a few dozen independent sums each, and gives the
    /// integer operations done (two for each multiply-add): divided by the time it took, the peak of this core. `None`
    /// where the kernel has no such loop, or `isa` cannot run it.
    pub fn peak_loop(&self, isa: Isa, feed: Feed, rounds: u64) -> Option<u64> {
        let (run, multiply_adds) = self.peak.filter(|_| isa.can_run(self.level))?;
        // SAFETY: `can_run` has just said that the CPU has the instructions; the loop touches no memory but its own.
        unsafe { run(feed, rounds) };
        Some(2 * rounds * multiply_adds)
    }
}

/// Rows are the same if their names are.
impl PartialEq for GemmKernel {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for GemmKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// No kernel has more columns than this.
pub(crate) const MAX_NR: usize = 64;
/// No kernel whose runs are single rows has more of them than this.
pub(crate) const MAX_MR: usize = 16;
/// The largest tile.
pub(crate) const MAX_TILE: usize = 1024;

/// Every kernel of this build, best first within a level. A row may run only where its `level` is detected.
pub static KERNELS: &[&GemmKernel] = crate::gemm::rows::ROWS;

/// The kernel for an `n`-column B of any weights: of those of the highest level at or below `level` with even steps, the
/// one that costs least, the first of equals.
pub fn select(level: Level, n: usize) -> &'static GemmKernel {
    let usable = || KERNELS.iter().copied().filter(|k| k.level <= level && k.steps == Steps::Even);
    let best = usable().map(|k| k.level).max().unwrap_or(Level::Portable);
    usable()
        .filter(|k| k.level == best)
        .min_by_key(|k| cost(k, n))
        .expect("the portable row has even steps and no level above it to miss")
}

/// The kernel of `level` for `n` columns whose steps are placed, if there is one: for weights that are packed once.
pub(crate) fn select_placed(level: Level, n: usize) -> Option<&'static GemmKernel> {
    let placed = KERNELS.iter().copied().filter(|k| k.level == level && k.steps == Steps::Placed);
    placed.min_by_key(|k| cost(k, n))
}

/// What a kernel computes for `n` columns, those in vain included, and half a register more for each panel: a narrow tile
/// loads more for a product. `quantal bench kernels --check` holds the choices against times.
pub(crate) fn cost(kernel: &GemmKernel, n: usize) -> usize {
    n.div_ceil(kernel.nr).saturating_mul(kernel.nr + kernel.lanes / 2)
}

/// Declares kernels: for each, the table row `NAME` and the `#[target_feature]` functions of its tiles.
macro_rules! kernel {
    ($row:ident, $name:ident, $dot:ty, $level:ident, $(feature $feature:literal,)? $nv:literal, [$($mr:literal)+]) => {
        mod $name {
            use super::*;
            $(#[target_feature(enable = $feature)])?
            unsafe fn rows<const MR: usize>(args: &TileArgs) {
                // SAFETY: the features are those of `$dot`; the caller vouches for the CPU and the pointers.
                unsafe { tile::<$dot, MR, $nv>(args) }
            }
            $(#[target_feature(enable = $feature)])?
            unsafe fn peak(feed: $crate::gemm::peak::Feed, rounds: u64) {
                // SAFETY: the features are those of `$dot`; the caller vouches for the CPU.
                unsafe { $crate::gemm::peak::peak::<$dot>(feed, rounds) }
            }
            pub(in crate::gemm) static ROW: GemmKernel = GemmKernel {
                name: stringify!($name),
                level: Level::$level,
                mr: [$($mr),+].len(),
                nr: $nv * <<$dot as Dot>::Lanes as Simd>::LANES,
                lanes: <<$dot as Dot>::Lanes as Simd>::LANES,
                kr: <$dot as Dot>::FORM.kr(),
                form: <$dot as Dot>::FORM,
                steps: if <$dot as Dot>::PLACED { Steps::Placed } else { Steps::Even },
                instruction: <$dot as Dot>::INSTRUCTION,
                run: 1,
                row_codes: <$dot as Dot>::ROW_CODES,
                few: None,
                tiles: &[$(rows::<$mr>),+],
                peak: Some((peak, $crate::gemm::peak::multiply_adds::<$dot>())),
            };
        }
        pub(in crate::gemm) use $name::ROW as $row;
    };
}
pub(crate) use kernel;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::rows::twins::TWINS;

    #[test]
    fn a_kernel_for_few_rows_reads_the_same_panels() {
        for kernel in KERNELS.iter().chain(TWINS) {
            let Some((_, few)) = kernel.few else { continue };
            assert!(few.level <= kernel.level && few.nr == kernel.nr && few.form == kernel.form, "{}", kernel.name);
            assert!(kernel.kr.is_multiple_of(few.kr) && few.steps == kernel.steps, "{}", kernel.name);
        }
    }

    #[test]
    fn a_peak_loop_runs_where_its_instructions_are() {
        let best = *Isa::available().last().expect("every CPU has the portable level");
        for kernel in KERNELS {
            assert_eq!(
                kernel.peak_loop(Isa::PORTABLE, Feed::Registers, 1).is_some(),
                kernel.level == Level::Portable,
                "{}",
                kernel.name
            );
            let Some(operations) = kernel.peak_loop(best, Feed::Cache, 3) else { continue };
            // A round has 4, 12 or 24 sums as wide as the kernel's registers, each of two operations for every element.
            assert_eq!(operations % (3 * 4 * 2 * kernel.form.kr() as u64), 0, "{}", kernel.name);
        }
    }
}
