//! What of a buffer nobody may touch now, told to AddressSanitizer: pieces of a slab, buffers that a pool gives out again
//! and scratch are parts of something larger, and reading past such a part is no error to a tool that sees the whole.
//!
//! Nothing happens but in a build with `--cfg quantal_asan`, which `scripts/asan.sh` makes.

/// Bytes between two pieces of a slab that belong to neither.
pub const GAP: usize = if cfg!(quantal_asan) { 64 } else { 0 };

/// Says that no byte of `bytes` may be read or written from now on. The first is on a boundary of 8 bytes, or the bytes
/// before it in those 8 stay as they are.
#[inline]
pub fn close(bytes: *const [u8]) {
    tell::close(bytes.cast(), bytes.len());
}

/// Says that `bytes` may be read and written from now on.
#[inline]
pub fn open(bytes: *const [u8]) {
    tell::open(bytes.cast(), bytes.len());
}

/// Bytes that nobody may touch while this lives.
pub struct Closed<'a>(#[cfg_attr(not(quantal_asan), expect(dead_code, reason = "nothing to open"))] &'a mut [u8]);

impl<'a> Closed<'a> {
    /// Closes `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        close(bytes);
        Self(bytes)
    }
}

#[cfg(quantal_asan)]
impl Drop for Closed<'_> {
    fn drop(&mut self) {
        open(self.0);
    }
}

#[cfg(quantal_asan)]
#[allow(unsafe_code)]
mod tell {
    unsafe extern "C" {
        fn __asan_poison_memory_region(start: *const u8, len: usize);
        fn __asan_unpoison_memory_region(start: *const u8, len: usize);
    }

    pub(super) fn close(start: *const u8, len: usize) {
        // SAFETY: the runtime notes the addresses and touches no memory of theirs.
        unsafe { __asan_poison_memory_region(start, len) }
    }

    pub(super) fn open(start: *const u8, len: usize) {
        // SAFETY: as for `close`.
        unsafe { __asan_unpoison_memory_region(start, len) }
    }
}

#[cfg(not(quantal_asan))]
mod tell {
    #[inline]
    pub(super) fn close(_: *const u8, _: usize) {}

    #[inline]
    pub(super) fn open(_: *const u8, _: usize) {}
}

#[cfg(all(test, quantal_asan))]
#[allow(unsafe_code)]
mod tests {
    use crate::Bytes;

    unsafe extern "C" {
        fn __asan_address_is_poisoned(address: *const u8) -> i32;
    }

    fn is_closed(bytes: &Bytes, at: usize) -> bool {
        // SAFETY: the runtime looks the address up in its own table.
        unsafe { __asan_address_is_poisoned(bytes.as_ptr().wrapping_add(at)) != 0 }
    }

    #[test]
    fn the_byte_after_a_buffer_is_closed_whatever_it_was_cut_from() {
        for len in [1, 63, 100, 20_001, 3 << 20] {
            let bytes = Bytes::zeroed(len).unwrap();
            assert!(!is_closed(&bytes, 0) && !is_closed(&bytes, len - 1) && is_closed(&bytes, len), "{len}");
            let less = bytes.resized(len / 2 + 1).unwrap();
            assert!(!is_closed(&less, len / 2) && (len == 1 || is_closed(&less, len / 2 + 1)), "{len}");
            let more = less.resized(len).unwrap();
            assert!(!is_closed(&more, len - 1) && is_closed(&more, len), "{len}");
        }
    }
}
