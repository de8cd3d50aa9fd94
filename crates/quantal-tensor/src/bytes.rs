//! Bytes behind a tensor: owned and aligned, or a window of a memory-mapped file. Outside the kernels, this file and
//! [`crate::slab`], for maps, and [`crate::fence`], for AddressSanitizer, alone hold `unsafe`.

use crate::fence;
use crate::slab::Piece;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Owned memory comes in blocks of this many bytes, aligned to as many: a cache line, and the widest vector.
const BLOCK: usize = 64;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Block([u8; BLOCK]);

/// Bytes held by owned buffers now, in the whole process, and the most that they may come to.
static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static LIMIT_BYTES: AtomicUsize = AtomicUsize::new(isize::MAX as usize);

/// Sets the most bytes that all tensors together may hold. Allocations beyond it fail with [`OutOfMemory`].
pub fn set_memory_limit(bytes: usize) {
    LIMIT_BYTES.store(bytes, Ordering::Relaxed);
}

/// How many bytes more tensors may take.
pub fn unused_bytes() -> usize {
    LIMIT_BYTES.load(Ordering::Relaxed).saturating_sub(LIVE_BYTES.load(Ordering::Relaxed))
}

/// Bytes that count against the memory limit for as long as this lives. All memory that grows with a model has one:
/// tensors, packed weights, scratch of kernels, matrices of statistics and the parts of mapped files that are read as
/// tensors.
#[derive(Debug, Default)]
pub struct Claim {
    bytes: usize,
}

impl Claim {
    /// A claim to `bytes` bytes.
    ///
    /// # Errors
    /// If all claims together would exceed the limit.
    pub fn new(bytes: usize) -> Result<Self, OutOfMemory> {
        let mut claim = Self::default();
        claim.grow_to(bytes)?;
        Ok(claim)
    }

    /// Raises the claim to `bytes` bytes if it is smaller.
    ///
    /// # Errors
    /// If all claims together would exceed the limit; this one is then as it was.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), OutOfMemory> {
        let Some(needed) = bytes.checked_sub(self.bytes) else { return Ok(()) };
        let limit = LIMIT_BYTES.load(Ordering::Relaxed);
        let live = LIVE_BYTES.load(Ordering::Relaxed);
        let refused = |live| OutOfMemory { needed, live, limit };
        // Looked at first: an absurd number must not be added for a moment, or others would be refused meanwhile.
        if live.saturating_add(needed) > limit {
            return Err(refused(live));
        }
        let live = LIVE_BYTES.fetch_add(needed, Ordering::Relaxed);
        if live.saturating_add(needed) > limit {
            LIVE_BYTES.fetch_sub(needed, Ordering::Relaxed);
            return Err(refused(live));
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Raises the claim to `bytes` bytes whatever the limit is: for scratch that is small beside the tensors it serves and
    /// that is taken where nothing can be refused any more. Whoever claims next sees it.
    pub fn note(&mut self, bytes: usize) {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            LIVE_BYTES.fetch_add(more, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }
}

impl Clone for Claim {
    /// Another claim to as many bytes, noted whatever the limit is.
    fn clone(&self) -> Self {
        let mut claim = Self::default();
        claim.note(self.bytes);
        claim
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        LIVE_BYTES.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Values outside of tensors that count against the memory limit: for matrices that grow with a model.
#[derive(Debug)]
pub struct Claimed<T> {
    values: Vec<T>,
    _claim: Claim,
}

impl<T: bytemuck::Zeroable> Claimed<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// If they would exceed the limit, or the system has no more memory.
    pub fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        let bytes = len.saturating_mul(size_of::<T>());
        let claim = Claim::new(bytes)?;
        let refused = |()| OutOfMemory::now(bytes);
        let values = bytemuck::allocation::try_zeroed_vec(len).map_err(refused)?;
        Ok(Self { values, _claim: claim })
    }
}

impl<T> std::ops::Deref for Claimed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

impl<T> std::ops::DerefMut for Claimed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values
    }
}

/// An allocation was refused: it is over the memory limit, or the system has no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tensor needs {} MiB, {} are in use and the limit is {}", mebi(*needed), mebi(*live), mebi(*limit))]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub needed: usize,
    /// Bytes that tensors held at that time.
    pub live: usize,
    /// The limit in force.
    pub limit: usize,
}

impl OutOfMemory {
    /// `needed` bytes were refused just now, or the system has no more.
    pub fn now(needed: usize) -> Self {
        Self { needed, live: LIVE_BYTES.load(Ordering::Relaxed), limit: LIMIT_BYTES.load(Ordering::Relaxed) }
    }
}

/// Mebibytes, rounded up: what `--max-memory` counts in.
fn mebi(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}

/// Buffers of so many bytes come from slabs.
const LARGE_BYTES: usize = 16 << 10;

enum Storage {
    Small(Claimed<Block>),
    Large(Piece),
    /// A file. Pages that nobody has read take no memory: who reads a window claims it, see [`Bytes::claimed`].
    Mapped(memmap2::Mmap),
    /// A file of which a window is read, and the claim to that window.
    Window {
        map: Arc<Storage>,
        _claim: Claim,
    },
}

impl Storage {
    /// `len` zero bytes, a number of whole blocks.
    fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        if len < LARGE_BYTES {
            Claimed::zeroed(len / BLOCK).map(Self::Small)
        } else {
            Piece::zeroed(len).map(Self::Large)
        }
    }

    /// Says that nobody may touch what lies behind the first `len` bytes.
    fn fence(&self, len: usize) {
        let (used, rest) = self.as_slice().split_at(len);
        fence::open(used);
        fence::close(rest);
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Small(blocks) => bytemuck::cast_slice(&blocks[..]),
            Self::Large(piece) => piece,
            Self::Mapped(map) => map,
            Self::Window { map, .. } => map.as_slice(),
        }
    }

    #[cfg(all(unix, not(miri)))]
    fn map(&self) -> Option<&memmap2::Mmap> {
        match self {
            Self::Mapped(map) => Some(map),
            Self::Window { map, .. } => map.map(),
            _ => None,
        }
    }

    /// The bytes, writable, if they are owned.
    fn owned_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Self::Small(blocks) => Some(bytemuck::cast_slice_mut(&mut blocks[..])),
            Self::Large(piece) => Some(piece),
            Self::Mapped(_) | Self::Window { .. } => None,
        }
    }
}

/// A cheaply cloned, immutable-when-shared run of bytes.
#[derive(Clone)]
pub struct Bytes {
    storage: Arc<Storage>,
    range: Range<usize>,
}

impl Bytes {
    /// `len` zero bytes, aligned to 64.
    pub fn zeroed(len: usize) -> Result<Self, OutOfMemory> {
        let needed = len.div_ceil(BLOCK).saturating_mul(BLOCK);
        let storage = Storage::zeroed(needed)?;
        storage.fence(len);
        Ok(Self { storage: Arc::new(storage), range: 0..len })
    }

    /// A copy of `bytes`, aligned to 64.
    pub fn copy_from(bytes: &[u8]) -> Result<Self, OutOfMemory> {
        let mut copy = Self::zeroed(bytes.len())?;
        copy.make_mut()?.copy_from_slice(bytes);
        Ok(copy)
    }

    /// The whole of an open file, mapped. The file must not be truncated while the map lives.
    pub fn map(file: &File) -> std::io::Result<Self> {
        // Miri has no maps of files.
        if cfg!(miri) {
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut &*file, &mut contents)?;
            return Self::copy_from(&contents).map_err(std::io::Error::other);
        }
        // SAFETY: the map is read-only and private to this process; as for every user of a map, the contents are only
        // as stable as the file, and all readers treat them as untrusted bytes.
        let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(file)? };
        let range = 0..map.len();
        Ok(Self { storage: Arc::new(Storage::Mapped(map)), range })
    }

    /// The same bytes; if they are a window of a map, they count against the memory limit from here on, as a copy would:
    /// what is read of a file lies in memory, and a large file is not small for being mapped.
    ///
    /// # Errors
    /// If they would exceed the limit.
    pub(crate) fn claimed(mut self) -> Result<Self, OutOfMemory> {
        if matches!(*self.storage, Storage::Mapped(_)) {
            let claim = Claim::new(self.range.len())?;
            self.storage = Arc::new(Storage::Window { map: self.storage, _claim: claim });
        }
        Ok(self)
    }

    /// Lets go of the pages of a mapped file that these bytes lie on, once they were copied: they are read again if somebody
    /// asks for them. Nothing for owned bytes.
    pub(crate) fn let_go(&self) {
        #[cfg(all(unix, not(miri)))]
        if let Some(map) = self.storage.map() {
            // SAFETY: the map is read-only and nothing was written to it, so its pages come back from the file with what
            // they held; neighbours on the first and the last page lose nothing either. A system that refuses keeps them.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.range.start, self.range.len())
            };
        }
    }

    /// A window of these bytes, sharing the storage; `None` if it does not lie inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { storage: Arc::clone(&self.storage), range: start..start + range.len() })
    }

    /// The bytes, writable: in place if owned and not shared, else in a fresh copy.
    pub fn make_mut(&mut self) -> Result<&mut [u8], OutOfMemory> {
        if !self.is_unique() {
            *self = Self::copy_from(self)?;
        }
        let owned = Arc::get_mut(&mut self.storage).and_then(Storage::owned_mut);
        Ok(&mut owned.expect("just made owned and unique")[self.range.clone()])
    }

    /// Whether this handle alone holds an owned buffer, so that [`Bytes::make_mut`] will not copy.
    pub fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.storage).is_some_and(|s| s.owned_mut().is_some())
    }

    /// The bytes of the whole buffer behind this handle: what it costs to keep, and the most that it could hold.
    pub fn capacity(&self) -> usize {
        self.storage.as_slice().len()
    }

    /// The same buffer as a run of `len` bytes from its start, contents as they are. `None` if it is too small.
    pub fn resized(mut self, len: usize) -> Option<Self> {
        (len <= self.capacity()).then(|| {
            self.storage.fence(len);
            self.range = 0..len;
            self
        })
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.storage.as_slice()[self.range.clone()]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_share_and_writes_to_a_shared_buffer_copy() {
        let mut a = Bytes::copy_from(&[1, 2, 3, 4]).unwrap();
        let b = a.slice(1..3).unwrap();
        a.make_mut().unwrap()[1] = 9;
        assert_eq!((&a[..], &b[..]), (&[1, 9, 3, 4][..], &[2, 3][..]));
        assert!(a.slice(3..5).is_none());
    }

    #[test]
    fn an_absurd_size_is_refused_not_aborted() {
        assert!(Bytes::zeroed(1 << 60).is_err());
        assert!(Bytes::zeroed(usize::MAX).is_err());
        assert!(Claimed::<f64>::zeroed(usize::MAX).is_err() && Claim::new(usize::MAX).is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "no maps of files")]
    fn a_claim_grows_once_and_a_window_of_a_file_is_claimed_once() {
        let mut claim = Claim::new(100).unwrap();
        claim.grow_to(60).unwrap();
        assert_eq!(claim.bytes, 100);
        assert!(claim.grow_to(usize::MAX).is_err());
        assert_eq!(claim.bytes, 100);
        claim.note(130);
        assert_eq!(claim.bytes, 130);
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[7; 5000]).unwrap();
        let window = Bytes::map(&file).unwrap().slice(1000..3000).unwrap();
        let claimed = |window: &Bytes| match &*window.storage {
            Storage::Window { _claim: claim, .. } => claim.bytes,
            _ => 0,
        };
        assert_eq!(claimed(&window), 0);
        let window = window.claimed().unwrap();
        let part = window.slice(0..10).unwrap().claimed().unwrap();
        assert_eq!((claimed(&window), claimed(&part)), (2000, 2000));
        assert!(Arc::ptr_eq(&window.storage, &part.storage));
        assert_eq!(part[..], [7; 10]);
    }
}
