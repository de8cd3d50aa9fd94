//! Aligned memory that a thread keeps between calls, so that kernels do not allocate in their loops.

use super::lanes::LANES;
use quantal_tensor::bytes::Claim;
use quantal_tensor::fence::Closed;
use std::cell::Cell;

/// Sixteen values on a cache line of their own.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [f32; LANES]);

impl Line {
    pub(super) const ZERO: Self = Self([0.0; LANES]);
}

/// The values of the lines in order.
pub(super) fn values_mut(lines: &mut [Line]) -> &mut [f32] {
    let len = lines.len() * LANES;
    // SAFETY: a `Line` is 16 f32 without padding (repr(C), 64 bytes, alignment 64), so the lines are 16 times as many.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
}

/// The values of the lines in order.
pub(super) fn values(lines: &[Line]) -> &[f32] {
    // SAFETY: as in `values_mut`.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LANES) }
}

thread_local! {
    static LINES: Cell<(Vec<Line>, Claim)> = Cell::default();
}

/// The bytes of values.
fn bytes_mut(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: a f32 is 4 plain bytes, and any bytes are one.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// Calls `body` with `len` values of any content, aligned to 64 bytes. They count against the memory limit but are never
/// refused: they are a part of an operand that is in memory already.
pub(super) fn with_scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken, so that a call within `body` finds an empty vector and makes its own.
    let (mut lines, mut claim) = LINES.take();
    if lines.len() * LANES < len {
        lines.resize(len.div_ceil(LANES), Line::ZERO);
        claim.note(lines.len() * size_of::<Line>());
    }
    let result = {
        let (wanted, rest) = values_mut(&mut lines).split_at_mut(len);
        let _rest = Closed::new(bytes_mut(rest));
        body(wanted)
    };
    LINES.set((lines, claim));
    result
}

/// Values that make a task of an element-wise operation: 64 KiB, some microseconds.
pub(super) const CHUNK: usize = 1 << 14;

/// A pointer that tasks on several threads share, each using a part of its own.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: a plain address; whoever dereferences it answers for the parts being disjoint.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// The address of element `offset`.
    pub(super) fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }

    /// The same memory, its first element counted as element `offset`.
    pub(super) fn back(self, offset: usize) -> Self {
        Self(self.0.wrapping_sub(offset))
    }
}

/// Asks for the cache line of an address, which may be any.
#[inline(always)]
pub(super) fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch does not fault.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}
