use super::super::testing::{assert_near, f32s, run, text};
use super::*;
use quantal_ir::{Attr, Attrs};

fn resize(attrs: Attrs, x: &Tensor, scales: Option<&Tensor>, sizes: Option<&Tensor>) -> Result<Tensor, OpError> {
    Ok(run(Op::Resize, attrs, 19, &[Some(x), None, scales, sizes])?.remove(0))
}

#[test]
fn nearest_and_linear_by_their_formulas() {
    let x = f32s(&[1, 1, 2], &[1., 3.]);
    let scales = f32s(&[3], &[1., 1., 2.]);
    assert_eq!(resize(Attrs::new(), &x, Some(&scales), None).unwrap().as_slice::<f32>(), [1., 1., 3., 3.]);
    // Half-pixel places −0.25, 0.25, 0.75, 1.25.
    let linear = text(Attrs::new(), "mode", "linear");
    assert_near(resize(linear.clone(), &x, Some(&scales), None).unwrap().as_slice(), &[1., 1.5, 2.5, 3.]);
    let corners = text(linear, "coordinate_transformation_mode", "align_corners");
    let sizes = Tensor::from_slice(&[3], &[1_i64, 1, 5]).unwrap();
    assert_near(resize(corners, &x, None, Some(&sizes)).unwrap().as_slice(), &[1., 1.5, 2., 2.5, 3.]);
}

#[test]
fn codes_stay_codes_and_shrinking_without_aliases_averages() {
    let x = Tensor::from_slice(&[4], &[10_u8, 20, 30, 40]).unwrap();
    let scales = f32s(&[1], &[0.5]);
    let y = resize(Attrs::new(), &x, Some(&scales), None).unwrap();
    assert_eq!((y.dtype(), y.len()), (DType::U8, 2));
    // Places 0.5 and 2.5, weights ∝ 1 − |d| / 2: 0.25, 0.75, 0.75, 0.25 halved; the edge element counts for the one outside.
    let x = f32s(&[4], &[0., 8., 8., 8.]);
    let attrs = text(Attrs::new(), "mode", "linear").with("antialias", Attr::Int(1));
    assert_near(resize(attrs, &x, Some(&scales), None).unwrap().as_slice(), &[4., 8.]);
}

#[test]
fn hostile_scales_and_sizes_are_errors() {
    let x = f32s(&[1, 2], &[1., 3.]);
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e30] {
        assert!(resize(Attrs::new(), &x, Some(&f32s(&[2], &[1., bad])), None).is_err(), "{bad}");
    }
    for bad in [-1_i64, i64::MAX] {
        let sizes = Tensor::from_slice(&[2], &[1, bad]).unwrap();
        assert!(resize(Attrs::new(), &x, None, Some(&sizes)).is_err());
    }
    assert!(resize(Attrs::new(), &x, Some(&f32s(&[1], &[1.])), None).is_err());
    assert!(resize(Attrs::new(), &x, None, None).is_err());
    let axes = Attrs::new().with("axes", Attr::Ints(vec![1, -1]));
    assert!(resize(axes, &x, Some(&f32s(&[2], &[1., 2.])), None).is_err());
}

#[test]
fn sizes_can_keep_the_aspect_ratio() {
    let x = f32s(&[2, 4], &[0.; 8]);
    let sizes = Tensor::from_slice(&[2], &[6_i64, 6]).unwrap();
    let attrs = text(Attrs::new(), "keep_aspect_ratio_policy", "not_larger");
    assert_eq!(resize(attrs, &x, None, Some(&sizes)).unwrap().shape(), [3, 6]);
    let attrs = text(Attrs::new(), "keep_aspect_ratio_policy", "not_smaller");
    assert_eq!(resize(attrs, &x, None, Some(&sizes)).unwrap().shape(), [6, 12]);
}

#[test]
fn grids_sample_pad_and_survive_nan() {
    let x = f32s(&[1, 1, 1, 2], &[2., 4.]);
    // Places along the width for −1, 0, 1, 3 and NaN: −0.5, 0.5, 1.5, 3.5.
    let grid = f32s(&[1, 1, 5, 2], &[-1., 0., 0., 0., 1., 0., 3., 0., f32::NAN, 0.]);
    let y = run(Op::GridSample, Attrs::new(), 20, &[Some(&x), Some(&grid)]).unwrap();
    assert_near(y[0].as_slice(), &[1., 3., 2., 0., 0.]);
    let attrs = text(Attrs::new(), "padding_mode", "border");
    let y = run(Op::GridSample, attrs, 20, &[Some(&x), Some(&grid)]).unwrap();
    assert_near(&y[0].as_slice::<f32>()[..4], &[2., 3., 4., 4.]);
    let attrs = text(Attrs::new(), "padding_mode", "reflection").with("align_corners", Attr::Int(1));
    let one = f32s(&[1, 1, 1, 1], &[7.]);
    let y = run(Op::GridSample, attrs, 20, &[Some(&one), Some(&grid)]).unwrap();
    assert_near(y[0].as_slice(), &[7.; 5]);
}

#[test]
fn regions_average_their_points_and_absurd_ones_are_refused() {
    let x = f32s(&[1, 1, 2, 2], &[1., 2., 3., 4.]);
    let batch = Tensor::from_slice(&[1], &[0_i64]).unwrap();
    // The whole image in the half-pixel mapping: four points on the four pixels.
    let whole = f32s(&[1, 4], &[0., 0., 2., 2.]);
    let y = run(Op::RoiAlign, Attrs::new(), 16, &[Some(&x), Some(&whole), Some(&batch)]).unwrap();
    assert_near(y[0].as_slice(), &[2.5]);
    for bad in [f32::NAN, 1e30, f32::INFINITY] {
        let roi = f32s(&[1, 4], &[0., 0., bad, 2e9]);
        assert!(run(Op::RoiAlign, Attrs::new(), 16, &[Some(&x), Some(&roi), Some(&batch)]).is_err());
    }
    let outside = Tensor::from_slice(&[1], &[1_i64]).unwrap();
    assert!(run(Op::RoiAlign, Attrs::new(), 16, &[Some(&x), Some(&whole), Some(&outside)]).is_err());
}
