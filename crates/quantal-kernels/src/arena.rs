//! Scratch memory: aligned to a cache line, owned by a thread, kept between calls.

use std::cell::RefCell;

/// One cache line, which is also the widest register.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

const ZERO: Line = Line([0; 64]);

/// A growing buffer of whole cache lines.
#[derive(Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// The buffer with room for at least `bytes`, zeroed where it is new. `None` if memory ran out.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let lines = bytes.div_ceil(64);
        if let Some(more) = lines.checked_sub(self.0.len()) {
            self.0.try_reserve_exact(more).ok()?;
            self.0.resize(lines, ZERO);
        }
        Some(self.bytes_mut())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: a `Line` is 64 plain bytes without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 64) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: a `Line` is 64 plain bytes without padding.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 64) }
    }
}

thread_local! {
    static SCRATCH: RefCell<Lines> = const { RefCell::new(Lines(Vec::new())) };
}

/// Runs `work` on `bytes` bytes of this thread's scratch, aligned to 64, holding whatever the last user left. A nested
/// use gets memory of its own.
pub(crate) fn with_scratch<R>(bytes: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    const PROOF: &str = "scratch is a few rows of one operand, far smaller than the operand that is already in memory";
    SCRATCH.with(|cell| match cell.try_borrow_mut() {
        Ok(mut lines) => work(&mut lines.reserve(bytes).expect(PROOF)[..bytes]),
        Err(_) => work(&mut Lines::default().reserve(bytes).expect(PROOF)[..bytes]),
    })
}
