use super::*;
use crate::ops::Context;
use half::f16;
use quantal_ir::{Attr, Attrs, Node, Op};
use quantal_kernels::{Isa, Threads};
use quantal_tensor::Element;

fn unary(op: Op, attrs: Attrs, inputs: &[Option<&Tensor>]) -> Result<Tensor, OpError> {
    let node = Node::new(op, "n", Vec::new(), Vec::new(), attrs);
    let context = Context { isa: Isa::detect().unwrap(), threads: &Threads::new(1) };
    Unary::prepare(&node, 18)?.run(inputs, &context).map(|mut out| out.remove(0))
}

fn many(op: Op, attrs: Attrs, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
    let node = Node::new(op, "n", Vec::new(), Vec::new(), attrs);
    let inputs: Vec<Option<&Tensor>> = inputs.iter().copied().map(Some).collect();
    let context = Context { isa: Isa::detect().unwrap(), threads: &Threads::new(1) };
    Broadcast::prepare(&node, 18)?.run(&inputs, &context).map(|mut out| out.remove(0))
}

fn list<T: Element>(values: &[T]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).unwrap()
}

fn near(a: &[f32], b: &[f64]) {
    for (a, b) in a.iter().zip(b) {
        assert!((f64::from(*a) - b).abs() <= 2e-6 * b.abs().max(1.0), "{a} is not {b}");
    }
}

#[test]
fn smooth_functions_follow_their_formulas() {
    let points = [-20.0_f32, -3.0, -1.0, -0.1, 0.0, 0.1, 1.0, 3.0, 20.0];
    let x = list(&points);
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    let softplus = |v: f64| v.exp().ln_1p();
    let formulas: [(Op, &dyn Fn(f64) -> f64); 12] = [
        (Op::Sigmoid, &sigmoid),
        (Op::Tanh, &f64::tanh),
        (Op::Softplus, &softplus),
        (Op::Mish, &|v| v * softplus(v).tanh()),
        (Op::Swish, &|v| v * sigmoid(v)),
        (Op::Elu, &|v| if v < 0.0 { v.exp() - 1.0 } else { v }),
        (Op::HardSigmoid, &|v| (0.2 * v + 0.5).clamp(0.0, 1.0)),
        (Op::HardSwish, &|v| v * (v / 6.0 + 0.5).clamp(0.0, 1.0)),
        (Op::LeakyRelu, &|v| if v < 0.0 { 0.01 * v } else { v }),
        (Op::Gelu, &|v| 0.5 * v * (1.0 + libm::erf(v / 2.0_f64.sqrt()))),
        (Op::Sin, &f64::sin),
        (Op::Cos, &f64::cos),
    ];
    for (op, f) in formulas {
        let expected: Vec<f64> = points.iter().map(|&v| f(f64::from(v))).collect();
        near(unary(op, Attrs::new(), &[Some(&x)]).unwrap().as_slice::<f32>(), &expected);
    }
    let tanh = Attrs::new().with("approximate", Attr::Str(b"tanh"[..].into()));
    let gelu = unary(Op::Gelu, tanh, &[Some(&list(&[1.0_f32]))]).unwrap();
    near(gelu.as_slice::<f32>(), &[0.841_191_990_6]);
    let swish = unary(Op::Swish, Attrs::new().with("alpha", Attr::Float(2.0)), &[Some(&list(&[3.0_f32]))]).unwrap();
    near(swish.as_slice::<f32>(), &[3.0 * sigmoid(6.0)]);
}

#[test]
fn halves_round_to_even_and_nan_passes_a_clip() {
    let y = unary(Op::Round, Attrs::new(), &[Some(&list(&[0.5_f32, 1.5, 2.5, -0.5, -2.5]))]).unwrap();
    assert_eq!(y.as_slice::<f32>(), [0.0, 2.0, 2.0, 0.0, -2.0]);
    let (x, low, high) =
        (list(&[-1.0, f32::NAN, 7.0]), Tensor::scalar(0.0_f32).unwrap(), Tensor::scalar(6.0_f32).unwrap());
    let y = unary(Op::Clip, Attrs::new(), &[Some(&x), Some(&low), Some(&high)]).unwrap();
    assert!(y.as_slice::<f32>()[1].is_nan());
    assert_eq!((y.as_slice::<f32>()[0], y.as_slice::<f32>()[2]), (0.0, 6.0));
    let x = list(&[-1.0, 7.0].map(f16::from_f32));
    let high = Tensor::scalar(f16::from_f32(6.0)).unwrap();
    let y = unary(Op::Clip, Attrs::new(), &[Some(&x), None, Some(&high)]).unwrap();
    assert_eq!(y.as_slice::<f16>(), [-1.0, 6.0].map(f16::from_f32));
    assert!(unary(Op::Clip, Attrs::new(), &[Some(&x), Some(&low)]).is_err());
}

#[test]
fn signs_of_the_ends() {
    let y = unary(Op::Abs, Attrs::new(), &[Some(&list(&[i8::MIN, -1, 5]))]).unwrap();
    assert_eq!(y.as_slice::<i8>(), [i8::MIN, 1, 5]);
    assert!(unary(Op::Neg, Attrs::new(), &[Some(&list(&[1_u8]))]).is_err());
    assert!(matches!(unary(Op::Sin, Attrs::new(), &[Some(&list(&[1_i32]))]), Err(OpError::Unsupported(_))));
    let one_sided = Attrs::new().with("detect_negative", Attr::Int(0));
    let y = unary(Op::IsInf, one_sided, &[Some(&list(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN]))]).unwrap();
    assert_eq!(y.as_slice::<u8>(), [1, 0, 0]);
}

#[test]
fn operands_stretch_either_way() {
    let a = Tensor::from_slice(&[3, 1], &[10_i32, 20, 30]).unwrap();
    let y = many(Op::Sub, Attrs::new(), &[&list(&[1_i32, 2]), &a]).unwrap();
    assert_eq!((y.shape(), y.as_slice::<i32>()), (&[3, 2][..], &[-9, -8, -19, -18, -29, -28][..]));
    let y = many(Op::Sub, Attrs::new(), &[&a, &list(&[1_i32, 2])]).unwrap();
    assert_eq!(y.as_slice::<i32>(), [9, 8, 19, 18, 29, 28]);
    let y = many(Op::Less, Attrs::new(), &[&a, &Tensor::scalar(20_i32).unwrap()]).unwrap();
    assert_eq!((y.dtype(), y.as_slice::<u8>()), (DType::Bool, &[1, 0, 0][..]));
    let condition = Tensor::from_bools(&[2], &[true, false]).unwrap();
    let y = many(Op::Where, Attrs::new(), &[&condition, &a, &Tensor::scalar(0_i32).unwrap()]).unwrap();
    assert_eq!(y.as_slice::<i32>(), [10, 0, 20, 0, 30, 0]);
    assert!(many(Op::Add, Attrs::new(), &[&a, &list(&[1_i64])]).is_err());
    assert!(many(Op::PRelu, Attrs::new(), &[&list(&[1.0_f32]), &list(&[1.0_f32, 2.0])]).is_err());
}

#[test]
fn integer_division_truncates_wraps_and_refuses_zero() {
    let (a, b) = (list(&[7_i32, -7, i32::MIN]), list(&[2_i32, 2, -1]));
    assert_eq!(many(Op::Div, Attrs::new(), &[&a, &b]).unwrap().as_slice::<i32>(), [3, -3, i32::MIN]);
    for op in [Op::Div, Op::Mod] {
        assert!(many(op, Attrs::new(), &[&a, &Tensor::scalar(0_i32).unwrap()]).is_err());
    }
}

#[test]
fn remainders_take_the_sign_that_is_asked_for() {
    // The examples of the specification.
    let (a, b) = (list(&[-4_i64, 7, 5, 4, -7, 8]), list(&[2_i64, -3, 8, -2, 3, 5]));
    assert_eq!(many(Op::Mod, Attrs::new(), &[&a, &b]).unwrap().as_slice::<i64>(), [0, -2, 5, 0, 2, 3]);
    let fmod = Attrs::new().with("fmod", Attr::Int(1));
    assert_eq!(many(Op::Mod, fmod, &[&a, &b]).unwrap().as_slice::<i64>(), [0, 1, 5, 0, -1, 3]);
}

#[test]
fn powers_keep_the_type_of_the_base() {
    let y = many(Op::Pow, Attrs::new(), &[&list(&[1_i64, 2, 3]), &list(&[4.0_f32, 5.0, 6.0])]).unwrap();
    assert_eq!(y.as_slice::<i64>(), [1, 32, 729]);
    let y = many(Op::Pow, Attrs::new(), &[&list(&[2_i32, -1, 3, 7]), &list(&[31_i64, -3, -1, 0])]).unwrap();
    assert_eq!(y.as_slice::<i32>(), [i32::MIN, -1, 0, 1]);
    let y = many(Op::Pow, Attrs::new(), &[&list(&[1.5_f32, -2.0]), &Tensor::scalar(2_i32).unwrap()]).unwrap();
    assert_eq!(y.as_slice::<f32>(), [2.25, 4.0]);
}

#[test]
fn folds_take_any_number_of_inputs() {
    let (a, b, c) = (list(&[3.0_f32, 0.0]), list(&[1.0_f32, f32::NAN]), Tensor::scalar(2.0_f32).unwrap());
    let of = |op| many(op, Attrs::new(), &[&a, &b, &c]).unwrap().as_slice::<f32>().to_vec();
    assert_eq!((of(Op::Max)[0], of(Op::Min)[0], of(Op::Sum)[0], of(Op::Mean)[0]), (3.0, 1.0, 6.0, 2.0));
    assert!(of(Op::Max)[1].is_nan() && of(Op::Min)[1].is_nan());
    assert_eq!(many(Op::Mean, Attrs::new(), &[&a]).unwrap().as_slice::<f32>(), [3.0, 0.0]);
    assert!(many(Op::Sum, Attrs::new(), &[]).is_err());
}
