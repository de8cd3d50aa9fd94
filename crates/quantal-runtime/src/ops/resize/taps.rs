//! One axis of a Resize: which input elements make an output element, and by how much.

use super::cubic;
use crate::ops::OpError;

/// How a place between two elements becomes one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// How elements are weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kernel {
    Nearest(Rounding),
    Linear { antialias: bool },
    Cubic { a: f64, antialias: bool },
}

/// How a place in the output becomes a place in the input: the standard's `coordinate_transformation_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    TfHalfPixel,
    AlignCorners,
    Asymmetric,
    Crop,
}

/// Sizes of an axis; the scale is finite and above 0. The region is that of `Crop`, in shares of the axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) input: usize,
    pub(super) out: usize,
    pub(super) scale: f64,
    pub(super) region: [f64; 2],
}

impl Axis {
    /// Whether the axis stays as it is.
    pub(super) fn is_identity(&self) -> bool {
        (self.scale - 1.0).abs() <= 1e-9 && self.out == self.input && self.region == [0.0, 1.0]
    }

    fn place(&self, mapping: Mapping, o: usize) -> f64 {
        let (y, input, scale) = (o as f64, self.input as f64, self.scale);
        // The standard's length of the output, before it was rounded down.
        let out = scale * input;
        match mapping {
            Mapping::HalfPixel => (y + 0.5) / scale - 0.5,
            Mapping::HalfPixelSymmetric => input / 2.0 * (1.0 - self.out as f64 / out) + (y + 0.5) / scale - 0.5,
            Mapping::PytorchHalfPixel => {
                if out == 1.0 {
                    -0.5
                } else {
                    (y + 0.5) / scale - 0.5
                }
            }
            Mapping::TfHalfPixel => (y + 0.5) / scale,
            Mapping::AlignCorners => {
                if out == 1.0 {
                    0.0
                } else {
                    y * (input - 1.0) / (out - 1.0)
                }
            }
            Mapping::Asymmetric => y / scale,
            Mapping::Crop => {
                let [start, end] = self.region;
                let along = if out == 1.0 { 0.5 } else { y / (out - 1.0) };
                (start + along * (end - start)) * (input - 1.0)
            }
        }
    }
}

/// For each output element its input elements and weights; `None` where `Crop` reaches outside.
pub(super) struct Taps {
    pub(super) rows: Vec<Option<Vec<(usize, f32)>>>,
}

impl Taps {
    /// The taps of an axis whose input is not empty.
    pub(super) fn new(kernel: Kernel, mapping: Mapping, exclude: bool, axis: Axis) -> Result<Self, OpError> {
        let mut rows = Vec::new();
        let refuse = || OpError::invalid(format!("an axis of {} elements is too long to resize to", axis.out));
        rows.try_reserve_exact(axis.out).map_err(|_| refuse())?;
        let last = axis.input as i64 - 1;
        for o in 0..axis.out {
            let x = axis.place(mapping, o);
            if mapping == Mapping::Crop && !(0.0..=last as f64).contains(&x) {
                rows.push(None);
                continue;
            }
            // Far outside is as good as just outside; NaN becomes 0.
            let x = if x.is_nan() { 0.0 } else { x.clamp(-1e12, 1e12) };
            rows.push(Some(row(kernel, exclude, x, axis.scale, last)));
        }
        Ok(Self { rows })
    }
}

fn row(kernel: Kernel, exclude: bool, x: f64, scale: f64, last: i64) -> Vec<(usize, f32)> {
    let floor = x.floor();
    let clamp = |i: i64| i.clamp(0, last) as usize;
    // How far a kernel reaches to each side; shrinking without aliases widens it.
    let stretch = |antialias: bool| if antialias { scale.min(1.0) } else { 1.0 };
    let (mut weights, start): (Vec<f64>, i64) = match kernel {
        Kernel::Nearest(rounding) => {
            let part = x - floor;
            let up = match rounding {
                Rounding::PreferFloor => part > 0.5,
                Rounding::PreferCeil => part >= 0.5,
                Rounding::Floor => false,
                Rounding::Ceil => part > 0.0,
            };
            return vec![(clamp(floor as i64 + i64::from(up)), 1.0)];
        }
        Kernel::Linear { antialias: false } => (vec![1.0 - (x - floor), x - floor], floor as i64),
        Kernel::Cubic { a, antialias: false } => (cubic(x - floor, a).to_vec(), floor as i64 - 1),
        Kernel::Linear { antialias } => sampled(x, 1.0, stretch(antialias), |d| (1.0 - d).max(0.0)),
        Kernel::Cubic { a, antialias } => sampled(x, 2.0, stretch(antialias), |d| match d {
            d if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            d if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            _ => 0.0,
        }),
    };
    if exclude {
        for (i, w) in weights.iter_mut().enumerate() {
            if !(0..=last).contains(&(start + i as i64)) {
                *w = 0.0;
            }
        }
        let sum: f64 = weights.iter().sum();
        if sum != 0.0 {
            for w in &mut weights {
                *w /= sum;
            }
        }
    }
    weights.iter().enumerate().map(|(i, &w)| (clamp(start + i as i64), w as f32)).collect()
}

/// A kernel of `reach` taken at each element within it, its argument shrunk by `stretch`, normalized. The output axis
/// is at least one long, so `stretch` is at least 1 / input: there are at most about four times the input's elements.
fn sampled(x: f64, reach: f64, stretch: f64, f: impl Fn(f64) -> f64) -> (Vec<f64>, i64) {
    let start = (x - reach / stretch).floor() as i64;
    let end = (x + reach / stretch).ceil() as i64;
    let mut weights: Vec<f64> = (start..=end).map(|i| f(((i as f64 - x) * stretch).abs())).collect();
    let sum: f64 = weights.iter().sum();
    if sum != 0.0 {
        for w in &mut weights {
            *w /= sum;
        }
    }
    (weights, start)
}
