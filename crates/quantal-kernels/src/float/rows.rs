//! The table: one row of kernels per instruction set, each the same generic body compiled for it.

use super::binary::{self, Pairs};
use super::calibrate::{self, Bins, Moments, Pass};
use super::conv_transpose::{self, TransposedRow};
use super::dwconv::{self, DwRow};
use super::gather::{self, Gather};
use super::lanes::{FloatIsa, Portable};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::norm::{self, Norm};
use super::peak::{self, Peak};
use super::pooling::{self, PoolRow};
use super::reduce::{self, Outputs};
use super::tile::{self, Tile};
use super::unary::{self, Map};
use super::winograd::transform::{self, TileIn, TileOut};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};
use crate::{Isa, Level};

/// Emits `Row` and one row per instruction set. `$attribute` is what lets the compiler use the instructions.
macro_rules! rows {
    (@row $name:ident, $isa:ty, $attribute:meta, $($op:ident($args:ty) = $body:path;)*) => {
        #[doc = concat!("Kernels for ", stringify!($name), ".")]
        pub(super) mod $name {
            #[allow(clippy::wildcard_imports)]
            use super::*;

            $(
                #[$attribute]
                unsafe fn $op(args: &$args) {
                    // SAFETY: the row is chosen for CPUs that have the instructions; the rest is the caller's word.
                    unsafe { $body(<$isa>::new(), args) }
                }
            )*

            pub(in super::super) static ROW: Row = Row {
                tile_rows: <$isa>::ROWS,
                tile_vectors: <$isa>::VECTORS,
                $($op,)*
            };
        }
    };
    ($($op:ident($args:ty) = $body:path;)*) => {
        /// The kernels for an instruction set. Each asks for what the body of the same name asks for.
        pub(super) struct Row {
            /// The largest tile.
            pub(super) tile_rows: usize,
            /// The widest tile, in vectors of 16.
            pub(super) tile_vectors: usize,
            $(pub(super) $op: unsafe fn(&$args),)*
        }

        rows!(@row portable, Portable, inline(never), $($op($args) = $body;)*);
        #[cfg(target_arch = "x86_64")]
        rows!(@row avx2, Avx2, target_feature(enable = "avx2,fma"), $($op($args) = $body;)*);
        #[cfg(target_arch = "x86_64")]
        rows!(@row avx512, Avx512, target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl"),
            $($op($args) = $body;)*);
        #[cfg(target_arch = "aarch64")]
        rows!(@row neon, Neon, inline(never), $($op($args) = $body;)*);
    };
}

rows! {
    tile(Tile) = tile::tile;
    peak(Peak) = peak::peak;
    map(Map) = unary::map;
    gather(Gather<'_>) = gather::gather;
    pairs(Pairs) = binary::pairs;
    dw_row(DwRow<'_>) = dwconv::dw_row;
    transposed_row(TransposedRow<'_>) = conv_transpose::transposed_row;
    pool_row(PoolRow<'_>) = pooling::pool_row;
    reduce_axis(Outputs<'_>) = reduce::reduce_axis;
    norm(Norm<'_>) = norm::norm;
    survey(Pass<'_>) = calibrate::survey_by;
    bins(Bins<'_>) = calibrate::bins;
    moments(Moments<'_>) = calibrate::moments;
    tile_in(TileIn<'_>) = transform::tile_in;
    tile_out(TileOut) = transform::tile_out;
}

/// The row for an instruction set: `isa` proves that the CPU has it.
pub(super) fn row(isa: Isa) -> &'static Row {
    match isa.level() {
        Level::Portable => &portable::ROW,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::AvxVnni => &avx2::ROW,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni | Level::Amx => &avx512::ROW,
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::AvxVnni | Level::Avx512Vnni | Level::Amx => &portable::ROW,
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => &neon::ROW,
        #[cfg(not(target_arch = "aarch64"))]
        Level::Neon | Level::NeonDot => &portable::ROW,
    }
}
