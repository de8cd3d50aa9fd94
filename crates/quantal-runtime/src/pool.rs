//! Buffers that outlive their tensor: a run takes what the last one gave back, so that a steady state allocates nothing
//! big.

use quantal_tensor::{Bytes, DType, OutOfMemory, Tensor, TensorError};

/// A buffer may be this many times larger than what it is taken for, and this many bytes besides: what is not written
/// costs nothing, but a small output must not leave the session with the largest buffer.
const SLACK_RATIO: usize = 8;
const SLACK_BYTES: usize = 4096;
/// What is free may come to this many times the most that was ever in use: buffers of all sizes of a run, or those that
/// do not fit are made, and cleared, again in each run.
pub(crate) const KEPT_RATIO: usize = 3;

/// Free buffers, the one that was given back last at the end.
#[derive(Default)]
pub struct Pool {
    free: Vec<Bytes>,
    free_bytes: usize,
    live_bytes: usize,
    peak_bytes: usize,
}

impl Pool {
    /// A buffer of `len` bytes; its contents are whatever the last user left.
    pub fn bytes(&mut self, len: usize) -> Result<Bytes, TensorError> {
        let most = len.saturating_mul(SLACK_RATIO).saturating_add(SLACK_BYTES);
        // The last one that fits: of that, most is in a near cache.
        if let Some(i) = self.free.iter().rposition(|bytes| (len..=most).contains(&bytes.capacity())) {
            let found = self.free.remove(i);
            self.free_bytes -= found.capacity();
            if let Some(bytes) = found.resized(len) {
                return Ok(bytes);
            }
        }
        Bytes::zeroed(len).or_else(|OutOfMemory { .. }| {
            self.clear();
            Ok(Bytes::zeroed(len)?)
        })
    }

    /// A tensor whose contents are to be written whole.
    pub fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        let count = quantal_tensor::tensor::element_count(shape);
        let len = count.and_then(|n| n.checked_mul(dtype.size()));
        let len = len.ok_or_else(|| TensorError::TooLarge(shape.to_vec()))?;
        Tensor::from_bytes(dtype, shape, self.bytes(len)?)
    }

    /// Counts a tensor that has come to life, so that the pool knows how much is worth keeping.
    pub(crate) fn count(&mut self, tensor: &Tensor) {
        self.live_bytes = self.live_bytes.saturating_add(held(tensor));
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
    }

    /// The most bytes that were ever in use at once.
    pub(crate) fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    /// Takes back a tensor that was counted and is not needed any more. Its buffer is kept if nobody shares it and all
    /// that is free does not come to more than three times the most that was ever in use.
    pub(crate) fn give_back(&mut self, tensor: Tensor) {
        self.live_bytes = self.live_bytes.saturating_sub(held(&tensor));
        let mut bytes = tensor.into_bytes();
        let capacity = bytes.capacity();
        if self.free_bytes.saturating_add(capacity) <= KEPT_RATIO.saturating_mul(self.peak_bytes) && bytes.is_unique() {
            self.free_bytes += capacity;
            self.free.push(bytes);
        }
    }

    /// Takes a tensor out of the count: it leaves the session, or is fed again.
    pub(crate) fn forget(&mut self, tensor: &Tensor) {
        self.live_bytes = self.live_bytes.saturating_sub(held(tensor));
    }

    fn clear(&mut self) {
        self.free.clear();
        self.free_bytes = 0;
    }
}

/// What a tensor's elements take in memory, where buffers come in whole cache lines. A buffer that was larger than it had
/// to be counts for more when it is free.
fn held(tensor: &Tensor) -> usize {
    tensor.bytes().len().next_multiple_of(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_taken_again_unless_it_is_shared() {
        let mut pool = Pool::default();
        let a = pool.tensor(DType::F32, &[1000]).unwrap();
        pool.count(&a);
        let address = a.bytes().as_ptr();
        pool.give_back(a);
        // An address alone might be the allocator's doing.
        assert_eq!(pool.free_bytes, 4032);
        let b = pool.tensor(DType::U8, &[3000]).unwrap();
        assert_eq!(b.bytes().as_ptr(), address);
        pool.count(&b);
        let shared = b.clone();
        pool.give_back(b);
        let c = pool.tensor(DType::U8, &[3000]).unwrap();
        assert_ne!(c.bytes().as_ptr(), shared.bytes().as_ptr());
    }

    #[test]
    fn the_last_buffer_that_fits_is_taken_and_a_small_tensor_takes_no_large_one() {
        let mut pool = Pool::default();
        let made: Vec<Tensor> =
            [40_000, 80_000, 50_000].iter().map(|&n| pool.tensor(DType::U8, &[n]).unwrap()).collect();
        let addresses: Vec<_> = made.iter().map(|t| t.bytes().as_ptr()).collect();
        for tensor in &made {
            pool.count(tensor);
        }
        for tensor in made {
            pool.give_back(tensor);
        }
        let small = pool.tensor(DType::U8, &[4_000]).unwrap();
        assert!(!addresses.contains(&small.bytes().as_ptr()) && pool.free.len() == 3);
        let taken = [45_000, 30_000, 30_000].map(|n| pool.tensor(DType::U8, &[n]).unwrap());
        let order = [addresses[2], addresses[1], addresses[0]];
        assert_eq!(taken.map(|t| t.bytes().as_ptr()), order);
    }
}
