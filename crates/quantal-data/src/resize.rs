//! Antialiased bilinear resize in fixed point, as the Python Imaging Library does it (`Resample.c`): the triangle
//! filter widened by the reduction factor, weights in 22 fractional bits, rows first, rounded to 8 bits between the
//! passes. Bit-exact with it, because models are trained on its output.

/// Fractional bits of a weight: 32, less 8 for the pixel and 2 for the headroom of a sum of weights.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// For each output position, where its window starts and the weights over it.
struct Weights {
    starts: Vec<usize>,
    lengths: Vec<usize>,
    fixed: Vec<i32>,
    stride: usize,
}

impl Weights {
    fn new(from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let support = scale.max(1.0);
        let stride = support.ceil() as usize * 2 + 1;
        let mut table = Self {
            starts: Vec::with_capacity(to),
            lengths: Vec::with_capacity(to),
            fixed: vec![0; stride * to],
            stride,
        };
        let mut window = Vec::with_capacity(stride);
        for (i, out) in table.fixed.chunks_exact_mut(stride).enumerate() {
            let center = (i as f64 + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            window.clear();
            window.extend((start..end).map(|x| {
                let distance = (x as f64 - center + 0.5) * (1.0 / support);
                (1.0 - distance.abs()).max(0.0)
            }));
            let sum: f64 = window.iter().sum();
            for (q, w) in out.iter_mut().zip(&window) {
                *q = (w / sum * f64::from(1_u32 << WEIGHT_BITS) + 0.5) as i32;
            }
            table.starts.push(start);
            table.lengths.push(end - start);
        }
        table
    }

    fn window(&self, i: usize) -> (usize, &[i32]) {
        (self.starts[i], &self.fixed[i * self.stride..][..self.lengths[i]])
    }
}

/// Resizes interleaved 8-bit pixels `[h, w, channels]` to `[to_h, to_w, channels]`. All sizes are at least 1.
pub(crate) fn bilinear(
    pixels: &[u8],
    (h, w): (usize, usize),
    (to_h, to_w): (usize, usize),
    channels: usize,
) -> Vec<u8> {
    let wide = (w != to_w).then(|| rows(pixels, w, to_w, channels));
    let pixels = wide.as_deref().unwrap_or(pixels);
    if h == to_h { pixels.to_vec() } else { columns(pixels, h, to_h, to_w * channels) }
}

fn rows(pixels: &[u8], w: usize, to_w: usize, channels: usize) -> Vec<u8> {
    let table = Weights::new(w, to_w);
    let mut out = vec![0; pixels.len() / w * to_w];
    for (row, out) in pixels.chunks_exact(w * channels).zip(out.chunks_exact_mut(to_w * channels)) {
        for (i, out) in out.chunks_exact_mut(channels).enumerate() {
            let (start, weights) = table.window(i);
            let window = row[start * channels..].chunks_exact(channels);
            for (c, out) in out.iter_mut().enumerate() {
                let sum: i32 = window.clone().zip(weights).map(|(p, &k)| i32::from(p[c]) * k).sum();
                *out = rounded(sum);
            }
        }
    }
    out
}

fn columns(pixels: &[u8], h: usize, to_h: usize, row_len: usize) -> Vec<u8> {
    let table = Weights::new(h, to_h);
    let mut out = vec![0; to_h * row_len];
    let mut sums = vec![0_i32; row_len];
    for (i, out) in out.chunks_exact_mut(row_len).enumerate() {
        let (start, weights) = table.window(i);
        sums.fill(0);
        for (row, &k) in pixels[start * row_len..].chunks_exact(row_len).zip(weights) {
            for (sum, &p) in sums.iter_mut().zip(row) {
                *sum += i32::from(p) * k;
            }
        }
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = rounded(sum);
        }
    }
    out
}

fn rounded(sum: i32) -> u8 {
    ((sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in f64: a triangle of half-width `max(1, from/to)` around each output's center, normalized.
    fn reference(values: &[f64], to: usize) -> Vec<f64> {
        let scale = values.len() as f64 / to as f64;
        let half = scale.max(1.0);
        let at = |i: usize| {
            let center = (i as f64 + 0.5) * scale;
            let weight = |x: usize| (1.0 - ((x as f64 + 0.5 - center) / half).abs()).max(0.0);
            let total: f64 = (0..values.len()).map(weight).sum();
            values.iter().enumerate().map(|(x, v)| v * weight(x)).sum::<f64>() / total
        };
        (0..to).map(at).collect()
    }

    #[test]
    fn within_one_grey_level_of_the_triangle_filter() {
        let mut seed = 1_u32;
        let mut noise = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        };
        for (h, w, to_h, to_w) in
            [(40, 30, 13, 11), (7, 9, 21, 20), (33, 64, 33, 5), (50, 3, 17, 3), (1, 1, 4, 4), (9, 9, 1, 1)]
        {
            let pixels: Vec<u8> = (0..h * w * 3).map(|_| noise()).collect();
            let got = bilinear(&pixels, (h, w), (to_h, to_w), 3);
            assert_eq!(got.len(), to_h * to_w * 3);
            for c in 0..3 {
                let rows: Vec<Vec<f64>> = (0..h)
                    .map(|y| (0..w).map(|x| f64::from(pixels[(y * w + x) * 3 + c])).collect::<Vec<_>>())
                    .map(|row| reference(&row, to_w))
                    .collect();
                for x in 0..to_w {
                    let column: Vec<f64> = rows.iter().map(|r| r[x]).collect();
                    for (y, wanted) in reference(&column, to_h).into_iter().enumerate() {
                        let found = f64::from(got[(y * to_w + x) * 3 + c]);
                        // Half a level of rounding in each of the two passes.
                        assert!((found - wanted).abs() <= 1.0 + 1e-6, "{h}x{w}: {found} for {wanted}");
                    }
                }
            }
        }
    }
}
