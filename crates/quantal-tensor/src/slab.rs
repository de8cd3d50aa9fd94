//! Memory for what a run reads and writes over and over: pieces of slabs, on huge pages where the system has them. With
//! pages of 4 KiB a network needs more translations than a CPU keeps, and scattered pages compete for the same sets of
//! the L2 cache.
//!
//! What a piece gives back stays with its slab, for other pieces, until all of them are gone.

use crate::bytes::{Claim, OutOfMemory};
use crate::fence;
use memmap2::{MmapMut, MmapRaw};
use offset_allocator::{Allocation, Allocator};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Pieces start on lines of this many bytes: a cache line, and the widest register.
const LINE: usize = 64;
/// Address space that a slab takes at least; only what is written takes memory.
const SLAB_BYTES: usize = 64 << 20;
/// Most pieces of a slab.
const MOST_PIECES: u32 = 1 << 14;

/// One map, and which lines of it are taken.
struct Slab {
    map: MmapRaw,
    book: Mutex<Book>,
}

struct Book {
    allocator: Allocator,
    /// Lines from here on were never given out, and so hold zeros.
    fresh: usize,
}

/// All slabs of which some piece lives.
static SLABS: Mutex<Vec<Weak<Slab>>> = Mutex::new(Vec::new());

/// A part of a slab that nothing else reads or writes.
pub struct Piece {
    slab: Arc<Slab>,
    allocation: Allocation,
    len: usize,
    _claim: Claim,
}

impl Piece {
    /// `len` zero bytes, aligned to 64.
    ///
    /// # Errors
    /// If they would exceed the memory limit, or the system has no more.
    pub fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        let claim = Claim::new(len.div_ceil(LINE).saturating_mul(LINE))?;
        Self::claimed(len, claim).ok_or_else(|| OutOfMemory::now(len))
    }

    /// A piece that was claimed; `None` if the system has no more memory.
    fn claimed(len: usize, claim: Claim) -> Option<Self> {
        let lines = u32::try_from(len.div_ceil(LINE) + fence::GAP / LINE).ok()?.max(1);
        let mut slabs = SLABS.lock().unwrap_or_else(PoisonError::into_inner);
        slabs.retain(|slab| slab.strong_count() > 0);
        let room = |slab: Arc<Slab>| Some((Self::take(&slab, lines)?, slab));
        let found = slabs.iter().filter_map(Weak::upgrade).find_map(room);
        let ((allocation, used), slab) = if let Some(found) = found {
            found
        } else {
            let slab = Arc::new(Slab::holding(lines)?);
            slabs.push(Arc::downgrade(&slab));
            (Self::take(&slab, lines)?, slab)
        };
        drop(slabs);
        let mut piece = Self { slab, allocation, len, _claim: claim };
        fence::open(std::ptr::slice_from_raw_parts(piece.start(), len));
        piece[..len.min(used * LINE)].fill(0);
        Some(piece)
    }

    /// Lines of a slab, and how many of them hold what others left.
    fn take(slab: &Slab, lines: u32) -> Option<(Allocation, usize)> {
        let mut book = slab.book.lock().unwrap_or_else(PoisonError::into_inner);
        let allocation = book.allocator.allocate(lines)?;
        let (from, to) = (allocation.offset as usize, allocation.offset as usize + lines as usize);
        let used = book.fresh.clamp(from, to) - from;
        book.fresh = book.fresh.max(to);
        Some((allocation, used))
    }

    fn start(&self) -> *mut u8 {
        self.slab.map.as_mut_ptr().wrapping_add(self.allocation.offset as usize * LINE)
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the allocator gave these lines of the map to this piece alone, and takes them back when it is dropped;
        // the map lives as long as the piece, and an anonymous map is initialized.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and the piece is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        fence::close(std::ptr::slice_from_raw_parts(self.start(), self.len));
        let mut book = self.slab.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.allocator.free(self.allocation);
    }
}

impl Slab {
    /// One that a piece of so many lines fits in.
    fn holding(lines: u32) -> Option<Self> {
        // The allocator looks for room among sizes of 4 significant bits, rounded up, and files what it has rounded down.
        let lines = lines.checked_add(lines / 8 + 1)?.max((SLAB_BYTES / LINE) as u32);
        let map = MmapMut::map_anon(lines as usize * LINE).ok()?;
        // A system that has none refuses; small pages serve as well.
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = map.advise(memmap2::Advice::HugePage);
        fence::close(&raw const map[..]);
        let allocator = Allocator::with_max_allocs(lines, MOST_PIECES);
        Some(Self { map: map.into(), book: Mutex::new(Book { allocator, fresh: 0 }) })
    }
}

#[cfg(quantal_asan)]
impl Drop for Slab {
    fn drop(&mut self) {
        // The next map may come to lie here.
        fence::open(std::ptr::slice_from_raw_parts(self.map.as_ptr(), self.map.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_apart_and_zero_however_often_their_lines_were_used() {
        let sizes = [1, 64, 1000, SLAB_BYTES - 100, SLAB_BYTES + 1, 100 << 20, 0, 5];
        // Miri takes minutes for what fills more than a few pages.
        let sizes = if cfg!(miri) { &[1, 64, 1000, 0, 5][..] } else { &sizes };
        for round in 1..4_u8 {
            let mut pieces: Vec<Piece> = sizes.iter().map(|&n| Piece::zeroed(n).unwrap()).collect();
            for (piece, &n) in pieces.iter().zip(sizes) {
                assert!(piece.len() == n && piece.as_ptr().addr().is_multiple_of(LINE));
                assert!(piece.iter().all(|&b| b == 0), "round {round}, {n} bytes");
            }
            for (i, piece) in pieces.iter_mut().enumerate() {
                piece.fill(16 * round + i as u8);
            }
            for (i, piece) in pieces.iter().enumerate() {
                assert!(piece.iter().all(|&b| b == 16 * round + i as u8), "round {round}, piece {i}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Piece::zeroed(usize::MAX).is_err());
        assert!(Piece::zeroed(1 << 50).is_err());
    }
}
