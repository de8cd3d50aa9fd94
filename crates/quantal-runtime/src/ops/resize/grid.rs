//! GridSample over two or three spatial axes.

use super::{choose, cubic, image};
use crate::ops::number;
use crate::ops::strides::count;
use crate::ops::{Inputs, OpError, required};
use quantal_ir::{Attrs, Op};
use quantal_tensor::{DType, Tensor};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// The attributes of GridSample.
#[derive(Debug, Clone)]
pub struct Grid {
    mode: Mode,
    padding: Padding,
    align_corners: bool,
}

impl Grid {
    pub(super) fn of(attrs: &Attrs) -> Result<Self, OpError> {
        let mode = choose(
            "mode",
            attrs.str_or("mode", "linear")?,
            &[
                ("linear", Mode::Linear),
                ("bilinear", Mode::Linear),
                ("nearest", Mode::Nearest),
                ("cubic", Mode::Cubic),
                ("bicubic", Mode::Cubic),
            ],
        )?;
        let padding = choose(
            "padding_mode",
            attrs.str_or("padding_mode", "zeros")?,
            &[("zeros", Padding::Zeros), ("border", Padding::Border), ("reflection", Padding::Reflection)],
        )?;
        Ok(Self { mode, padding, align_corners: attrs.flag("align_corners", false)? })
    }

    pub(super) fn run(&self, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
        let (x, grid) = (required(inputs, 0)?, required(inputs, 1)?);
        let (n, c, sizes) = image(Op::GridSample, x)?;
        let d = sizes.len();
        let g = grid.shape();
        if !(2..=3).contains(&d) || g.len() != d + 2 || g[0] != n || g[d + 1] != d {
            return Err(OpError::invalid(format!(
                "a grid of shape {g:?} does not fit an input of shape {:?}",
                x.shape()
            )));
        }
        let mut shape = vec![n, c];
        shape.extend(&g[1..=d]);
        let mut y = Tensor::zeros(DType::F32, &shape)?;
        if y.is_empty() {
            return number::store_as(y, x.dtype());
        }
        let plane = count(sizes)?;
        if plane == 0 {
            return Err(OpError::invalid(format!("cannot sample from an input of shape {:?}", x.shape())));
        }
        let (values, places) = (number::floats(Op::GridSample, x)?, number::floats(Op::GridSample, grid)?);
        let points = count(&g[1..=d])?;
        let out = y.as_mut_slice::<f32>()?;
        let mut taps = Vec::new();
        for (i, place) in places.chunks_exact(d).enumerate() {
            let (b, p) = (i / points, i % points);
            self.taps(place, sizes, &mut taps);
            for ch in 0..c {
                let channel = &values[(b * c + ch) * plane..][..plane];
                let sum: f64 = taps.iter().map(|&(at, w)| f64::from(channel[at]) * w).sum();
                out[(b * c + ch) * points + p] = sum as f32;
            }
        }
        number::store_as(y, x.dtype())
    }

    /// The elements of a plane that make the value at `place` (last axis first, −1 to 1), with their weights.
    fn taps(&self, place: &[f32], sizes: &[usize], taps: &mut Vec<(usize, f64)>) {
        taps.clear();
        taps.push((0, 1.0));
        for (&at, &size) in place.iter().rev().zip(sizes) {
            let (length, at) = (size as f64, f64::from(at));
            let x =
                if self.align_corners { (at + 1.0) * (length - 1.0) / 2.0 } else { ((at + 1.0) * length - 1.0) / 2.0 };
            // A place that is no number, or beyond all use, samples the padding.
            let x = if x.is_nan() { -1e9 } else { x.clamp(-1e9, 1e9) };
            let (start, weights): (f64, Vec<f64>) = match self.mode {
                Mode::Nearest => (self.inside(x.round_ties_even(), size), vec![1.0]),
                Mode::Linear => {
                    let x = self.inside(x, size);
                    (x.floor(), vec![1.0 - (x - x.floor()), x - x.floor()])
                }
                Mode::Cubic => {
                    let x = self.inside(x, size);
                    (x.floor() - 1.0, cubic(x - x.floor(), -0.75).to_vec())
                }
            };
            let mut next = Vec::with_capacity(taps.len() * weights.len());
            for &(from, w) in taps.iter() {
                for (k, &v) in weights.iter().enumerate() {
                    let i = start + k as f64;
                    let i = if self.padding == Padding::Zeros { i } else { self.inside(i, size).floor() };
                    if (0.0..length).contains(&i) {
                        next.push((from * size + i as usize, w * v));
                    } else if self.padding != Padding::Zeros {
                        next.push((from * size + i.clamp(0.0, length - 1.0) as usize, w * v));
                    }
                }
            }
            *taps = next;
        }
    }

    /// A place moved into the image, as the padding has it.
    fn inside(&self, x: f64, size: usize) -> f64 {
        let last = size as f64 - 1.0;
        let (low, high) = if self.align_corners { (0.0, last) } else { (-0.5, last + 0.5) };
        match self.padding {
            Padding::Zeros => x,
            Padding::Border => x.clamp(0.0, last),
            Padding::Reflection => {
                let range = high - low;
                if range <= 0.0 {
                    return 0.0;
                }
                let t = (x - low).rem_euclid(2.0 * range);
                low + if t > range { 2.0 * range - t } else { t }
            }
        }
    }
}
