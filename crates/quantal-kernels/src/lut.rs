//! Any function of one 8-bit code, as a table of 256 bytes: equation (6) of `arith`.

use crate::Threads;
use crate::chunks::for_chunks;
use crate::error::{KernelError, check_length};
use quantal_tensor::arith::{Affine, table};

/// `out[i] = table[x[i]]`.
///
/// # Errors
/// If `out` is shorter than `x`.
pub fn lut(table: &[u8; 256], x: &[u8], out: &mut [u8], threads: &Threads) -> Result<(), KernelError> {
    const CHUNK: usize = 1 << 14;
    check_length("the output", out.len(), x.len())?;
    for_chunks(&mut out[..x.len()], CHUNK, x.len(), threads, |i, out| {
        for (y, &x) in out.iter_mut().zip(&x[i * CHUNK..]) {
            *y = table[usize::from(x)];
        }
    });
    Ok(())
}

/// The table that turns codes of `input` into codes of `output`: equation (2), then (1).
pub fn requantize_table(input: Affine, output: Affine) -> [u8; 256] {
    table(|x| x, input, output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requantizing_to_the_same_parameters_changes_nothing() {
        let s8 = Affine { scale: 0.037, zero_point: -5, qmin: -128, qmax: 127 };
        assert!(requantize_table(s8, s8).iter().enumerate().all(|(i, &y)| usize::from(y) == i));
    }

    #[test]
    fn every_byte_goes_through_the_table() {
        let table: [u8; 256] = std::array::from_fn(|i| (i * 7 + 3) as u8);
        let x: Vec<u8> = (0..100_003_u32).map(|i| (i * 31) as u8).collect();
        let mut y = vec![0; x.len()];
        lut(&table, &x, &mut y, &Threads::new(3)).unwrap();
        assert!(x.iter().zip(&y).all(|(&x, &y)| y == (usize::from(x) * 7 + 3) as u8));
        assert!(lut(&table, &x, &mut y[..5], &Threads::new(1)).is_err());
    }
}
