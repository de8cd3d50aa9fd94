//! RoiAlign: regions of an image pooled to one size.

use super::{choose, image};
use crate::ops::{Inputs, OpError, required};
use crate::ops::{number, strides};
use quantal_ir::{Attrs, Op};
use quantal_tensor::{DType, Tensor};

/// The most sampling points of one call, all regions together: far beyond what an image has pixels, and done in time.
const MAX_POINTS: f64 = (1 << 28) as f64;

/// The attributes of RoiAlign.
#[derive(Debug, Clone)]
pub struct Roi {
    max: bool,
    half_pixel: bool,
    out: [usize; 2],
    /// Points along each side of a bin; 0 for as many as it has pixels.
    ratio: usize,
    scale: f32,
}

/// One sampling point: four elements of a plane and their weights; none outside of the image.
type Point = Option<[(usize, f32); 4]>;

impl Roi {
    pub(super) fn of(attrs: &Attrs, opset: i64) -> Result<Self, OpError> {
        let size = |name: &str, default: i64, least: i64| {
            let n = attrs.int_or(name, default)?;
            let fits = (least..i64::from(i32::MAX)).contains(&n);
            fits.then_some(n as usize)
                .ok_or_else(|| OpError::invalid(format!("`{name}` is {n}, must be at least {least}")))
        };
        let mapping = if opset < 16 { "output_half_pixel" } else { "half_pixel" };
        Ok(Self {
            max: choose("mode", attrs.str_or("mode", "avg")?, &[("avg", false), ("max", true)])?,
            half_pixel: choose(
                "coordinate_transformation_mode",
                attrs.str_or("coordinate_transformation_mode", mapping)?,
                &[("half_pixel", true), ("output_half_pixel", false)],
            )?,
            out: [size("output_height", 1, 1)?, size("output_width", 1, 1)?],
            ratio: size("sampling_ratio", 0, 0)?,
            scale: attrs.float_or("spatial_scale", 1.0)?,
        })
    }

    pub(super) fn run(&self, inputs: &Inputs<'_>) -> Result<Tensor, OpError> {
        let (x, rois, batches) = (required(inputs, 0)?, required(inputs, 1)?, required(inputs, 2)?);
        let (n, c, &[height, width]) = image(Op::RoiAlign, x)? else {
            return Err(OpError::invalid(format!("RoiAlign on shape {:?}", x.shape())));
        };
        let &[count, 4] = rois.shape() else {
            return Err(OpError::invalid(format!("rois must have shape [regions, 4], found {:?}", rois.shape())));
        };
        let batches = batches.get::<i64>().filter(|b| b.len() == count).ok_or_else(|| {
            OpError::invalid(format!("batch_indices must hold {count} of int64, found shape {:?}", batches.shape()))
        })?;
        let [ph, pw] = self.out;
        let mut y = Tensor::zeros(DType::F32, &[count, c, ph, pw])?;
        if y.is_empty() {
            return number::store_as(y, x.dtype());
        }
        let (values, regions) = (number::floats(Op::RoiAlign, x)?, number::floats(Op::RoiAlign, rois)?);
        let plane = strides::count(&[height, width])?;
        let out = y.as_mut_slice::<f32>()?;
        let mut points: Vec<Point> = Vec::new();
        let mut budget = MAX_POINTS;
        for (r, region) in regions.chunks_exact(4).enumerate() {
            let b = usize::try_from(batches[r]).ok().filter(|&b| b < n);
            let b =
                b.ok_or_else(|| OpError::invalid(format!("region {r} is of image {}, there are {n}", batches[r])))?;
            let offset = if self.half_pixel { 0.5 } else { 0.0 };
            let [x0, y0, x1, y1] = [0, 1, 2, 3].map(|i| region[i] * self.scale - offset);
            // Regions of the old mapping are at least one pixel wide.
            let extent = |from: f32, to: f32| if self.half_pixel { to - from } else { (to - from).max(1.0) };
            let bin = [extent(y0, y1) / ph as f32, extent(x0, x1) / pw as f32];
            let grid = bin.map(|b| if self.ratio > 0 { self.ratio as f32 } else { b.ceil().max(0.0) });
            let per_bin = f64::from(grid[0]) * f64::from(grid[1]);
            budget -= per_bin * ph as f64 * pw as f64;
            if !(bin[0].is_finite() && bin[1].is_finite() && budget >= 0.0) {
                return Err(OpError::invalid(format!("region {r}, {region:?}, asks for too many sampling points")));
            }
            let grid = grid.map(|g| g as usize);
            for by in 0..ph {
                for bx in 0..pw {
                    points.clear();
                    for iy in 0..grid[0] {
                        let py = y0 + by as f32 * bin[0] + (iy as f32 + 0.5) * bin[0] / grid[0] as f32;
                        for ix in 0..grid[1] {
                            let px = x0 + bx as f32 * bin[1] + (ix as f32 + 0.5) * bin[1] / grid[1] as f32;
                            points.push(point(py, px, height, width));
                        }
                    }
                    for ch in 0..c {
                        let channel = &values[(b * c + ch) * plane..][..plane];
                        out[((r * c + ch) * ph + by) * pw + bx] = self.pooled(channel, &points);
                    }
                }
            }
        }
        number::store_as(y, x.dtype())
    }

    /// The mean of the interpolated points, or the largest weighted element of all.
    fn pooled(&self, channel: &[f32], points: &[Point]) -> f32 {
        let terms = |p: &Point| p.map_or([0.0; 4], |p| p.map(|(at, w)| w * channel[at]));
        if self.max {
            let largest = points.iter().flat_map(terms).reduce(f32::max);
            return largest.unwrap_or(0.0);
        }
        let sum: f32 = points.iter().map(|p| terms(p).iter().sum::<f32>()).sum();
        sum / points.len().max(1) as f32
    }
}

fn point(y: f32, x: f32, height: usize, width: usize) -> Point {
    let inside = |v: f32, size: usize| (-1.0..=size as f32).contains(&v) && size > 0;
    if !inside(y, height) || !inside(x, width) {
        return None;
    }
    let side = |v: f32, size: usize| {
        let v = v.max(0.0);
        let low = (v as usize).min(size - 1);
        let high = (low + 1).min(size - 1);
        let part = if high == low { 0.0 } else { v - low as f32 };
        (low, high, part)
    };
    let ((y0, y1, ly), (x0, x1, lx)) = (side(y, height), side(x, width));
    let (hy, hx) = (1.0 - ly, 1.0 - lx);
    let at = |y: usize, x: usize| y * width + x;
    Some([(at(y0, x0), hy * hx), (at(y0, x1), hy * lx), (at(y1, x0), ly * hx), (at(y1, x1), ly * lx)])
}
