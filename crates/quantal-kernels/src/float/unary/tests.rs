use super::super::test_data::assert_same_bits;
use super::*;

/// Every 4099th f32 of both signs (a prime, so that mantissas vary), and the corners.
fn sweep() -> Vec<f32> {
    let corners = [0.0, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, 1.0, 0.95, 4.0, 88.722_84, 103.9, 104.0];
    let mut x: Vec<f32> = (0..0x7F80_0000).step_by(4099).map(f32::from_bits).chain(corners).collect();
    x.extend(x.clone().iter().map(|x| -x));
    x.push(f32::NAN);
    x
}

/// Units in the last place of `e` (as f32) between `got` and the exact value.
fn ulps(got: f32, exact: f64) -> f64 {
    let e = exact as f32;
    if e.is_infinite() || got.is_infinite() {
        return if e == got { 0.0 } else { f64::INFINITY };
    }
    let unit = f64::from(f32::from_bits(e.abs().to_bits() + 1)) - f64::from(e.abs());
    (f64::from(got) - exact).abs() / unit
}

const FUNCTIONS: [Unary; 18] = [
    Unary::Abs,
    Unary::Exp,
    Unary::Erf,
    Unary::Elu { alpha: 1.5 },
    Unary::Gelu,
    Unary::GeluTanh,
    Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
    Unary::HardSwish,
    Unary::LeakyRelu { slope: 0.01 },
    Unary::Ln,
    Unary::Neg,
    Unary::Reciprocal,
    Unary::Relu,
    Unary::Sigmoid,
    Unary::Silu,
    Unary::Softplus,
    Unary::Sqrt,
    Unary::Tanh,
];

#[test]
fn every_row_gives_the_scalar_bits() {
    let x = sweep();
    for function in FUNCTIONS {
        let expected: Vec<f32> = x.iter().map(|&x| function.of(x)).collect();
        for isa in Isa::available() {
            let mut y = vec![0.0; x.len()];
            unary(isa, function, &x, &mut y, &Threads::new(2));
            assert_same_bits(&y, &expected, &format!("{isa} {function:?}"));
            let mut y = x[..45].to_vec();
            unary_in_place(isa, function, &mut y, &Threads::new(1));
            assert_same_bits(&y, &expected[..45], &format!("{isa} {function:?} in place"));
        }
    }
}

/// The largest error in ulps over the sweep, where `within` holds.
fn worst(function: Unary, exact: impl Fn(f64) -> f64, within: impl Fn(f32) -> bool) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    for x in sweep().into_iter().filter(|x| !x.is_nan() && within(*x)) {
        let got = function.of(x);
        assert!(!got.is_nan(), "{function:?} of {x:e}");
        let error = ulps(got, exact(f64::from(x)));
        if error > worst.0 {
            worst = (error, x);
        }
    }
    worst
}

#[test]
fn errors_are_within_the_stated_bounds() {
    let all = |_: f32| true;
    let sigmoid = |x: f64| if x < 0.0 { libm::exp(x) / (1.0 + libm::exp(x)) } else { 1.0 / (1.0 + libm::exp(-x)) };
    let softplus = |x: f64| x.max(0.0) + libm::log1p(libm::exp(-x.abs()));
    let elu = |x: f64| if x < 0.0 { 1.5 * libm::expm1(x) } else { x };
    let table: [(Unary, &dyn Fn(f64) -> f64, &dyn Fn(f32) -> bool, f64); 8] = [
        (Unary::Exp, &libm::exp, &all, 1.0),
        (Unary::Ln, &libm::log, &|x| x >= 0.0, 1.0),
        (Unary::Sigmoid, &sigmoid, &all, 3.0),
        (Unary::Silu, &|x| x * sigmoid(x), &|x| x > -80.0, 3.0),
        (Unary::Tanh, &libm::tanh, &all, 3.0),
        (Unary::Erf, &libm::erf, &all, 2.0),
        (Unary::Softplus, &softplus, &all, 3.0),
        (Unary::Elu { alpha: 1.5 }, &elu, &all, 3.0),
    ];
    for (function, exact, within, bound) in table {
        let (error, x) = worst(function, exact, within);
        assert!(error <= bound, "{function:?}: {error:.2} ulp at {x:e}");
    }
    for x in sweep().into_iter().filter(|x| x.abs() < 1e30) {
        let wide = f64::from(x);
        let exact = wide / 2.0 * (1.0 + libm::erf(wide / std::f64::consts::SQRT_2));
        assert!((f64::from(Unary::Gelu.of(x)) - exact).abs() <= 2e-7 * wide.abs() + 2e-45, "gelu of {x:e}");
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044_715 * wide * wide * wide);
        let exact = wide / 2.0 * (1.0 + libm::tanh(inner));
        assert!((f64::from(Unary::GeluTanh.of(x)) - exact).abs() <= 4e-7 * wide.abs() + 2e-45, "gelu_tanh of {x:e}");
    }
}

#[test]
fn corners() {
    assert_eq!(Unary::Exp.of(f32::NEG_INFINITY), 0.0);
    assert_eq!(Unary::Exp.of(0.0), 1.0);
    assert_eq!(Unary::Exp.of(-103.0).to_bits(), 1);
    assert_eq!(Unary::Ln.of(0.0), f32::NEG_INFINITY);
    assert_eq!(Unary::Ln.of(-0.0), f32::NEG_INFINITY);
    assert_eq!(Unary::Ln.of(1.0), 0.0);
    assert_eq!(Unary::Tanh.of(-0.0).to_bits(), (-0.0f32).to_bits());
    assert_eq!(Unary::Erf.of(f32::INFINITY), 1.0);
    assert_eq!(Unary::HardSwish.of(-4.0), 0.0);
    assert_eq!(Unary::HardSwish.of(3.5), 3.5);
    assert!(Unary::Ln.of(-1.0).is_nan());
    for function in FUNCTIONS {
        assert!(function.of(f32::NAN).is_nan(), "{function:?} of NaN");
    }
}
