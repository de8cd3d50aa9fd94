//! Bytes behind a tensor: owned and aligned, or a window of a memory-mapped file. Outside the kernels, this file and
//! [`crate::slab`] alone hold `unsafe`: what maps need.

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
static LIMIT_BYTES: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Sets the most bytes that all tensors together may hold. Allocations beyond it fail with [`OutOfMemory`].
pub fn set_memory_limit(bytes: usize) {
    LIMIT_BYTES.store(bytes, Ordering::Relaxed);
}

/// How many bytes more tensors may take.
pub fn unused_bytes() -> usize {
    LIMIT_BYTES.load(Ordering::Relaxed).saturating_sub(LIVE_BYTES.load(Ordering::Relaxed))
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

/// Mebibytes, rounded up: what `--max-memory` counts in.
fn mebi(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}

/// Buffers of so many bytes come from slabs.
const LARGE_BYTES: usize = 16 << 10;

enum Storage {
    Small(Vec<Block>),
    Large(Piece),
    Mapped(memmap2::Mmap),
}

impl Storage {
    /// `len` zero bytes, a number of whole blocks.
    fn zeroed(len: usize) -> Option<Self> {
        if len < LARGE_BYTES {
            bytemuck::allocation::try_zeroed_vec(len / BLOCK).map(Self::Small).ok()
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
            Self::Small(blocks) => bytemuck::cast_slice(blocks),
            Self::Large(piece) => piece,
            Self::Mapped(map) => map,
        }
    }

    /// The bytes, writable, if they are owned.
    fn owned_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Self::Small(blocks) => Some(bytemuck::cast_slice_mut(blocks)),
            Self::Large(piece) => Some(piece),
            Self::Mapped(_) => None,
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Some(owned) = self.owned_mut() {
            LIVE_BYTES.fetch_sub(owned.len(), Ordering::Relaxed);
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
        let limit = LIMIT_BYTES.load(Ordering::Relaxed);
        let live = LIVE_BYTES.fetch_add(needed, Ordering::Relaxed);
        let refused = OutOfMemory { needed, live, limit };
        if live.saturating_add(needed) > limit {
            LIVE_BYTES.fetch_sub(needed, Ordering::Relaxed);
            return Err(refused);
        }
        let storage = Storage::zeroed(needed).inspect(|storage| storage.fence(len));
        storage.map(|storage| Self { storage: Arc::new(storage), range: 0..len }).ok_or_else(|| {
            LIVE_BYTES.fetch_sub(needed, Ordering::Relaxed);
            refused
        })
    }

    /// A copy of `bytes`, aligned to 64.
    pub fn copy_from(bytes: &[u8]) -> Result<Self, OutOfMemory> {
        let mut copy = Self::zeroed(bytes.len())?;
        copy.make_mut()?.copy_from_slice(bytes);
        Ok(copy)
    }

    /// The whole of an open file, mapped. The file must not be truncated while the map lives.
    #[allow(unsafe_code)]
    pub fn map(file: &File) -> std::io::Result<Self> {
        // SAFETY: the map is read-only and private to this process; as for every user of a map, the contents are only
        // as stable as the file, and all readers treat them as untrusted bytes.
        let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(file)? };
        let range = 0..map.len();
        Ok(Self { storage: Arc::new(Storage::Mapped(map)), range })
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
    }
}
