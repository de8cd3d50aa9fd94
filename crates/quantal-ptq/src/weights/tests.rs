use super::*;
use crate::place::tests::Build;
use crate::watch::tests::over;
use crate::{Recipe, place};
use quantal_data::Sample;
use quantal_ir::{Attrs, Op};

/// The scales of the weights `[4, 2]` (a row a channel) of a Gemm with `bias`, its data at `scale_x`.
fn scales(weights: [f32; 8], bias: [f32; 4], scale_x: f32) -> Result<Vec<f32>> {
    let mut b = Build::new();
    let x = b.input("x", &[1, 2]);
    let w = b.graph.add_constant("w", Tensor::from_slice(&[4, 2], &weights).unwrap());
    let bias = b.graph.add_constant("bias", Tensor::from_slice(&[4], &bias).unwrap());
    let attrs = Attrs::new().with("transB", quantal_ir::Attr::Int(1));
    let y = b.node(Op::Gemm, &[x, w, bias], attrs);
    b.graph.outputs = vec![y];
    let mut p = place(&b.graph, &Recipe::default()).unwrap();
    p.plan.encodings.get_mut(&x).unwrap().params = Params::Static(QParams::per_tensor(scale_x, 0));
    set_weights(&b.graph, &p.products, WeightScales::Largest, &BTreeMap::new(), &mut p.plan, Isa::PORTABLE)?;
    quantal_ir::qdq::insert_qdq(&b.graph, &p.plan).expect("the numbers can be written");
    Ok(p.plan.encodings[&w].qparams().unwrap().scale.clone())
}

fn bias_code(bias: f32, scale_x: f32, scale_w: f32) -> f64 {
    f64::from(bias) / (f64::from(scale_x) * f64::from(scale_w))
}

#[test]
fn the_largest_magnitude_of_a_channel_is_the_largest_code() {
    let s = scales([1.0, -2.0, 0.5, 0.25, -127.0, 0.0, 1e-3, 0.0], [0.0; 4], 0.1).unwrap();
    assert_eq!(s, [2.0_f64 / 127.0, 0.5 / 127.0, 1.0, f64::from(1e-3_f32) / 127.0].map(|s| s as f32));
}

#[test]
fn channels_of_zeros_leave_their_bias_precise() {
    let bias = [0.75, -1e30, 0.0, 1e-20];
    let s = scales([0.0; 8], bias, 0.02).unwrap();
    for (s, b) in s.iter().zip(bias) {
        let code = bias_code(b, 0.02, *s).abs();
        assert!(b == 0.0 || (1e6..1.1e6).contains(&code), "{b}: {code}");
    }
    assert_eq!(s[2], 1.0);
}

#[test]
fn tiny_weights_give_way_to_their_bias() {
    let s = scales([1e-20, 0.0, 1e-44, 0.0, 1e-38, -1e-38, 1.0, 1.0], [1.0, 1.0, -2.0, 1.0], 0.05).unwrap();
    for (s, b) in s.iter().zip([1.0, 1.0, -2.0, 1.0]) {
        assert!(s.is_normal() && bias_code(b, 0.05, *s).abs() <= BIAS_LIMIT * 1.001, "{s}");
    }
    assert_eq!(s[3], (1.0_f64 / 127.0) as f32);
}

#[test]
fn scales_are_normal_numbers_whatever_the_data_scale_is() {
    for scale_x in [f32::MIN_POSITIVE, 1e-30] {
        let s = scales([1e-30, 0.0, 0.0, 0.0, 3e38, 3e38, 1e-45, 0.0], [0.0, 1e-38, 0.0, 1e-30], scale_x);
        assert!(s.unwrap().iter().all(|s| s.is_normal()));
    }
}

#[test]
fn what_is_not_finite_is_named() {
    let mut weights = [1.0; 8];
    weights[5] = f32::NAN;
    let message = scales(weights, [0.0; 4], 1.0).unwrap_err().to_string();
    assert!(message.contains("`w`") && message.contains("`Gemm`"), "{message}");
    let message = scales([1.0; 8], [0.0, f32::INFINITY, 0.0, 0.0], 1.0).unwrap_err().to_string();
    assert!(message.contains("`bias`"), "{message}");
}

#[test]
fn a_weight_for_a_dead_channel_sets_the_scale_only_where_the_largest_does() {
    let even = |i: usize| ((i * i * 31 + i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
    let mut b = Build::new();
    let x = b.input("x", &[1, 64, 2, 2]);
    let wide: Vec<f32> = (0..512).map(|i| if i == 5 { 3.0 } else { even(i) }).collect();
    let w = b.constant_of("wide", &[8, 64, 1, 1], &wide);
    let y = b.binary(Op::Conv, x, w);
    b.graph.outputs = vec![y];
    let data: Vec<f32> = (0..256).map(|i| if i / 4 == 5 { 0.0 } else { even(i) }).collect();
    let feeds = vec![("x".to_owned(), Tensor::from_slice(&[1, 64, 2, 2], &data).unwrap())];
    let samples = [Sample { name: "one".into(), feeds, label: None }];
    let scale = |scales: &str| {
        let recipe = Recipe::from_toml(&format!("[weights]\nscales = \"{scales}\"")).unwrap();
        let plan = over(&samples, |runs| crate::quantize(&b.graph, &recipe, runs)).unwrap().plan;
        plan.encodings[&w].qparams().unwrap().scale[0]
    };
    assert_eq!(scale("largest"), (3.0_f64 / 127.0) as f32);
    assert!(scale("least_error") < 0.5 * scale("largest"), "{}", scale("least_error"));
}
