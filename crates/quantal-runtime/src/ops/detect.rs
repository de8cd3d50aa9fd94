//! NonMaxSuppression: of boxes that overlap, the one with the best score.

use super::number;
use super::{Context, Inputs, OpError, optional, required};
use quantal_ir::{Node, Op};
use quantal_tensor::Tensor;

/// NonMaxSuppression.
#[derive(Debug, Clone)]
pub struct Detection {
    /// Boxes are centre and size rather than two corners.
    centred: bool,
}

/// A box by its lower and upper corner.
#[derive(Clone, Copy)]
struct Corners {
    low: [f32; 2],
    high: [f32; 2],
}

impl Corners {
    fn of(b: &[f32], centred: bool) -> Self {
        if centred {
            let (w, h) = (b[2] / 2.0, b[3] / 2.0);
            return Self { low: [b[0] - w, b[1] - h], high: [b[0] + w, b[1] + h] };
        }
        Self { low: [b[0].min(b[2]), b[1].min(b[3])], high: [b[0].max(b[2]), b[1].max(b[3])] }
    }

    fn area(self) -> f32 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// Whether both overlap by more than `threshold` of their union.
    fn overlaps(self, other: Self, threshold: f32) -> bool {
        let side = |i: usize| self.high[i].min(other.high[i]) - self.low[i].max(other.low[i]);
        let (w, h) = (side(0), side(1));
        if w.is_nan() || h.is_nan() || w <= 0.0 || h <= 0.0 {
            return false;
        }
        let shared = w * h;
        let union = self.area() + other.area() - shared;
        union > 0.0 && shared / union > threshold
    }
}

impl Detection {
    /// Reads the form of the boxes.
    pub fn prepare(node: &Node, _opset: i64) -> Result<Self, OpError> {
        match node.attrs.int_or("center_point_box", 0)? {
            0 => Ok(Self { centred: false }),
            1 => Ok(Self { centred: true }),
            n => Err(OpError::invalid(format!("`center_point_box` is {n}, must be 0 or 1"))),
        }
    }

    /// Gives `[selected, 3]`: batch, class and box of each that is kept, best score first within a class.
    pub fn run(&self, inputs: &Inputs<'_>, _context: &Context<'_>) -> Result<Vec<Tensor>, OpError> {
        let (boxes, scores) = (required(inputs, 0)?, required(inputs, 1)?);
        let (&[batch, count, 4], &[batch_s, classes, count_s]) = (boxes.shape(), scores.shape()) else {
            let (b, s) = (boxes.shape(), scores.shape());
            return Err(OpError::invalid(format!(
                "boxes of shape {b:?} and scores of shape {s:?}, must be [N, B, 4] and [N, C, B]"
            )));
        };
        if (batch, count) != (batch_s, count_s) {
            let text = format!("boxes of shape {:?} do not fit scores of shape {:?}", boxes.shape(), scores.shape());
            return Err(OpError::invalid(text));
        }
        let most = optional(inputs, 2).map_or(Ok(0), |t| number::one_int("max_output_boxes_per_class", t))?;
        let most = usize::try_from(most).unwrap_or(0);
        let threshold = optional(inputs, 3).map_or(Ok(0.0), |t| number::one_f32("iou_threshold", t))?;
        if !(0.0..=1.0).contains(&threshold) {
            return Err(OpError::invalid(format!("iou_threshold is {threshold}, must lie in 0 to 1")));
        }
        let least = optional(inputs, 4).map(|t| number::one_f32("score_threshold", t)).transpose()?;
        let boxes = number::floats(Op::NonMaxSuppression, boxes)?;
        let scores = number::floats(Op::NonMaxSuppression, scores)?;
        let mut kept: Vec<i64> = Vec::new();
        if most > 0 && count > 0 {
            for (row, scores) in scores.chunks_exact(count).enumerate() {
                let (b, class) = (row / classes, row % classes);
                let corner = |i: usize| Corners::of(&boxes[(b * count + i) * 4..][..4], self.centred);
                let mut order: Vec<usize> = (0..count).filter(|&i| least.is_none_or(|l| scores[i] > l)).collect();
                order.sort_by(|&i, &j| scores[j].total_cmp(&scores[i]));
                // A box without an area overlaps nothing, so it is kept and never looked at again.
                let (mut solid, mut found): (Vec<Corners>, usize) = (Vec::new(), 0);
                for i in order {
                    if found == most {
                        break;
                    }
                    let c = corner(i);
                    let has_area = c.area() > 0.0;
                    if has_area && solid.iter().any(|s| s.overlaps(c, threshold)) {
                        continue;
                    }
                    if has_area {
                        solid.push(c);
                    }
                    kept.extend([b as i64, class as i64, i as i64]);
                    found += 1;
                }
            }
        }
        Ok(vec![Tensor::from_slice(&[kept.len() / 3, 3], &kept)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{f32s, run};
    use super::*;
    use quantal_ir::Attrs;

    #[test]
    fn overlapping_boxes_yield_to_the_best_and_flipped_corners_are_the_same_box() {
        let boxes = f32s(&[1, 4, 4], &[0., 0., 1., 1., 1., 1.1, 0., 0.1, 0., 5., 1., 6., 0., 5., 1., 5.]);
        let scores = f32s(&[1, 1, 4], &[0.5, 0.9, 0.4, 0.3]);
        let (most, iou) = (Tensor::scalar(9_i64).unwrap(), Tensor::scalar(0.5_f32).unwrap());
        let y = run(Op::NonMaxSuppression, Attrs::new(), 11, &[Some(&boxes), Some(&scores), Some(&most), Some(&iou)]);
        assert_eq!(y.unwrap()[0].as_slice::<i64>(), [0, 0, 1, 0, 0, 2, 0, 0, 3]);
        let least = Tensor::scalar(0.4_f32).unwrap();
        let inputs = [Some(&boxes), Some(&scores), Some(&most), Some(&iou), Some(&least)];
        assert_eq!(run(Op::NonMaxSuppression, Attrs::new(), 11, &inputs).unwrap()[0].as_slice::<i64>(), [0, 0, 1]);
    }

    #[test]
    fn without_a_limit_nothing_is_selected_and_misfits_are_errors() {
        let (boxes, scores) = (f32s(&[1, 1, 4], &[0.; 4]), f32s(&[1, 1, 1], &[1.]));
        let y = run(Op::NonMaxSuppression, Attrs::new(), 11, &[Some(&boxes), Some(&scores)]).unwrap();
        assert_eq!(y[0].shape(), [0, 3]);
        let scores = f32s(&[1, 1, 2], &[1.; 2]);
        assert!(run(Op::NonMaxSuppression, Attrs::new(), 11, &[Some(&boxes), Some(&scores)]).is_err());
    }
}
