use super::super::testing::{f32s, run, text};
use super::*;
use quantal_ir::{Attr, Attrs};

fn einsum(equation: &str, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
    let inputs: Vec<_> = inputs.iter().map(|&t| Some(t)).collect();
    Ok(run(Op::Einsum, text(Attrs::new(), "equation", equation), 12, &inputs)?.remove(0))
}

#[test]
fn matmul_broadcasts_batches_and_takes_vectors() {
    let a = f32s(&[2, 1, 2], &[1., 2., 3., 4.]);
    let b = f32s(&[2, 2], &[1., 0., 0., 10.]);
    let y = run(Op::MatMul, Attrs::new(), 13, &[Some(&a), Some(&b)]).unwrap();
    assert_eq!((y[0].shape(), y[0].as_slice::<f32>()), (&[2, 1, 2][..], &[1., 20., 3., 40.][..]));
    let v = f32s(&[2], &[1., 1.]);
    let y = run(Op::MatMul, Attrs::new(), 13, &[Some(&v), Some(&v)]).unwrap();
    assert_eq!((y[0].shape(), y[0].as_slice::<f32>()), (&[][..], &[2.][..]));
    let bad = f32s(&[3], &[1.; 3]);
    assert!(run(Op::MatMul, Attrs::new(), 13, &[Some(&v), Some(&bad)]).is_err());
}

#[test]
fn gemm_transposes_scales_and_adds() {
    let a = f32s(&[2, 1], &[1., 2.]);
    let b = f32s(&[3, 2], &[1., 2., 3., 4., 5., 6.]);
    let c = f32s(&[3], &[1., 2., 3.]);
    let attrs = Attrs::new().with("transA", Attr::Int(1)).with("transB", Attr::Int(1));
    let attrs = attrs.with("alpha", Attr::Float(2.0)).with("beta", Attr::Float(0.5));
    let y = run(Op::Gemm, attrs, 13, &[Some(&a), Some(&b), Some(&c)]).unwrap();
    assert_eq!(y[0].as_slice::<f32>(), [10.5, 23., 35.5]);
}

#[test]
fn einsum_follows_numpy() {
    let a = f32s(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
    assert_eq!(einsum("ij->ji", &[&a]).unwrap().as_slice::<f32>(), [1., 4., 2., 5., 3., 6.]);
    assert_eq!(einsum("ij->", &[&a]).unwrap().as_slice::<f32>(), [21.]);
    assert_eq!(einsum("ij, kj -> ik", &[&a, &a]).unwrap().as_slice::<f32>(), [14., 32., 32., 77.]);
    assert_eq!(einsum("...j,j", &[&a, &f32s(&[3], &[1., 10., 100.])]).unwrap().as_slice::<f32>(), [321., 654.]);
    let square = f32s(&[2, 2], &[1., 2., 3., 4.]);
    assert_eq!(einsum("ii->i", &[&square]).unwrap().as_slice::<f32>(), [1., 4.]);
    assert_eq!(einsum("ii", &[&square]).unwrap().as_slice::<f32>(), [5.]);
    // a · b · c summed over all three: 21 · 21 · 21, without a loop over 6³ terms being wrong.
    assert_eq!(einsum("ab,cd,ef->", &[&a, &a, &a]).unwrap().as_slice::<f32>(), [9261.]);
}

#[test]
fn malformed_equations_are_refused() {
    let a = f32s(&[2], &[1., 2.]);
    for bad in ["i->j", "ij->i", "i->ii", "i,j->i", "i->i->i", "....", "......", "i.->i", "ï", "i,"] {
        assert!(einsum(bad, &[&a]).is_err(), "{bad}");
    }
}

#[test]
fn integer_products_are_exact_and_requantize_by_the_multiplier() {
    let a = Tensor::from_slice(&[1, 2], &[255_u8, 255]).unwrap();
    let b = Tensor::from_slice(&[2, 2], &[127_i8, -128, 127, -128]).unwrap();
    let y = run(Op::MatMulInteger, Attrs::new(), 10, &[Some(&a), Some(&b)]).unwrap();
    assert_eq!(y[0].as_slice::<i32>(), [64770, -65280]);
    let z = Tensor::from_slice(&[2], &[127_i8, -128]).unwrap();
    let y = run(Op::MatMulInteger, Attrs::new(), 10, &[Some(&a), Some(&b), None, Some(&z)]).unwrap();
    assert_eq!(y[0].as_slice::<i32>(), [0, 0]);
    // Per-column scales: 64770 · (0.5 · 2^-8 / 1) and −65280 · (0.5 · 2^-9 / 1), plus 3.
    let one = |v: f32| Tensor::scalar(v).unwrap();
    let (s_a, s_y, s_b) = (one(0.5), one(1.0), f32s(&[2], &[1. / 256., 1. / 512.]));
    let (z_a, z_b, z_y) = (Tensor::scalar(0_u8).unwrap(), Tensor::scalar(0_i8).unwrap(), Tensor::scalar(3_i8).unwrap());
    let inputs = [Some(&a), Some(&s_a), Some(&z_a), Some(&b), Some(&s_b), Some(&z_b), Some(&s_y), Some(&z_y)];
    let y = run(Op::QLinearMatMul, Attrs::new(), 21, &inputs).unwrap();
    assert_eq!(y[0].as_slice::<i8>(), [127, -61]);
}

#[test]
fn qgemm_takes_a_bias_in_accumulator_units() {
    let a = Tensor::from_slice(&[1, 2], &[12_u8, 14]).unwrap();
    let b = Tensor::from_slice(&[2, 1], &[3_i8, 5]).unwrap();
    let (s, z_a, z_b) =
        (Tensor::scalar(0.5_f32).unwrap(), Tensor::scalar(12_u8).unwrap(), Tensor::scalar(0_i8).unwrap());
    let c = Tensor::from_slice(&[1], &[7_i32]).unwrap();
    let inputs = [Some(&a), Some(&s), Some(&z_a), Some(&b), Some(&s), Some(&z_b), Some(&c)];
    let y = run(Op::QGemm, Attrs::new(), 1, &inputs).unwrap();
    assert_eq!(y[0].as_slice::<f32>(), [17.0 * 0.25]);
}
