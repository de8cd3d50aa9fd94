//! Memory in whole cache lines: scratch that a thread keeps between calls, and packed weights.

use quantal_tensor::bytes::Claim;
use quantal_tensor::fence::Closed;
use quantal_tensor::slab::Piece;
use std::cell::RefCell;

/// One cache line, which is also the widest register.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

const ZERO: Line = Line([0; 64]);

/// A buffer of whole cache lines.
pub(crate) enum Lines {
    /// Grows: for scratch, and for what is packed anew in each run.
    Growing(Vec<Line>, Claim),
    /// For what is packed once and read in every run: part of a slab, taken when room is first asked for.
    Lasting(Option<Piece>),
}

impl Default for Lines {
    fn default() -> Self {
        Self::Growing(Vec::new(), Claim::default())
    }
}

impl Lines {
    /// The buffer with room for at least `bytes`, zeroed where it is new; what lasts is new whenever it grows. `None` if memory ran out or
    /// its limit is reached.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Option<&mut [u8]> {
        match self {
            Self::Growing(_, claim) => {
                claim.grow_to(bytes.checked_next_multiple_of(64)?).ok()?;
                self.grow(bytes)?;
            }
            Self::Lasting(piece) => {
                if piece.as_ref().is_none_or(|piece| piece.len() < bytes) {
                    *piece = None;
                    *piece = Some(Piece::zeroed(bytes.checked_next_multiple_of(64)?).ok()?);
                }
            }
        }
        Some(self.bytes_mut())
    }

    /// Makes a growing buffer as large as `bytes`, if it is not. `None` if the system has no more memory.
    fn grow(&mut self, bytes: usize) -> Option<()> {
        let Self::Growing(lines, _) = self else { return Some(()) };
        let wanted = bytes.div_ceil(64);
        if let Some(more) = wanted.checked_sub(lines.len()) {
            lines.try_reserve_exact(more).ok()?;
            lines.resize(wanted, ZERO);
        }
        Some(())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            // SAFETY: a `Line` is 64 plain bytes without padding.
            Self::Growing(lines, _) => unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 64) },
            Self::Lasting(piece) => piece.as_deref().unwrap_or_default(),
        }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Growing(lines, _) => {
                // SAFETY: a `Line` is 64 plain bytes without padding.
                unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 64) }
            }
            Self::Lasting(piece) => piece.as_deref_mut().unwrap_or_default(),
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Lines> = RefCell::new(Lines::default());
}

/// Runs `work` on `bytes` bytes of this thread's scratch, aligned to 64, holding whatever the last user left. A nested
/// use gets memory of its own. Scratch counts against the memory limit but is never refused, for it is a few rows of an
/// operand that is in memory already.
pub(crate) fn with_scratch<R>(bytes: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    let run = |lines: &mut Lines| {
        if let Lines::Growing(_, claim) = lines {
            claim.note(bytes);
        }
        lines.grow(bytes).expect("the system has memory for a few rows of one operand");
        let (wanted, rest) = lines.bytes_mut().split_at_mut(bytes);
        let _rest = Closed::new(rest);
        work(wanted)
    };
    SCRATCH.with(|cell| match cell.try_borrow_mut() {
        Ok(mut lines) => run(&mut lines),
        Err(_) => run(&mut Lines::default()),
    })
}
