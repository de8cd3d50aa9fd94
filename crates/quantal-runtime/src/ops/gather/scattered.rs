//! Writing updates into places of a tensor, in order.

use crate::ops::OpError;
use crate::ops::cast::cast;
use crate::ops::dispatch::{cells, cells_mut, for_cell, for_number};
use quantal_ir::Op;
use quantal_tensor::{DType, Tensor};

/// What becomes of the element that an update meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Combine {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

/// A copy of `x` with blocks of `updates` combined into it at `places`, which lie inside.
pub(super) fn scatter(
    x: &Tensor,
    places: &[usize],
    block: usize,
    updates: &Tensor,
    combine: Combine,
) -> Result<Tensor, OpError> {
    if updates.dtype() != x.dtype() {
        return Err(OpError::invalid(format!("updates of {} for a tensor of {}", updates.dtype(), x.dtype())));
    }
    if combine != Combine::Replace && matches!(x.dtype(), DType::F16 | DType::BF16) {
        let (wide, updates) = (cast(x, DType::F32)?, cast(updates, DType::F32)?);
        return cast(&scatter(&wide, places, block, &updates, combine)?, x.dtype());
    }
    let mut out = x.clone();
    if updates.is_empty() || block == 0 {
        return Ok(out);
    }
    let op = Op::ScatterElements;
    match combine {
        Combine::Replace => for_cell!(x.dtype().size(), T => {
            let out = cells_mut::<T>(&mut out)?;
            for (&p, update) in places.iter().zip(cells::<T>(updates).chunks_exact(block)) {
                out[p..p + block].copy_from_slice(update);
            }
        }),
        Combine::Add | Combine::Mul | Combine::Max | Combine::Min => for_number!(x.dtype(), op, T => {
            let out = out.as_mut_slice::<T>()?;
            for (&p, update) in places.iter().zip(updates.as_slice::<T>().chunks_exact(block)) {
                for (o, &u) in out[p..p + block].iter_mut().zip(update) {
                    *o = match combine {
                        Combine::Replace => u,
                        Combine::Add => <T as Wrapping>::plus(*o, u),
                        Combine::Mul => <T as Wrapping>::times(*o, u),
                        Combine::Max => if u > *o { u } else { *o },
                        Combine::Min => if u < *o { u } else { *o },
                    };
                }
            }
            Ok(())
        })?,
    }
    Ok(out)
}

/// Sums and products that wrap where they leave an integer type.
trait Wrapping {
    fn plus(self, y: Self) -> Self;
    fn times(self, y: Self) -> Self;
}

macro_rules! wrapping {
    ($($t:ty)*) => { $(impl Wrapping for $t {
        fn plus(self, y: Self) -> Self { self.wrapping_add(y) }
        fn times(self, y: Self) -> Self { self.wrapping_mul(y) }
    })* };
}
wrapping!(i8 i16 i32 i64 u8 u16 u32 u64);

macro_rules! plain {
    ($($t:ty)*) => { $(impl Wrapping for $t {
        fn plus(self, y: Self) -> Self { self + y }
        fn times(self, y: Self) -> Self { self * y }
    })* };
}
plain!(f32 f64);
