use super::*;
use crate::place::tests::Build;
use crate::prepare;
use crate::quantize::Rearranged;
use crate::watch::tests::{even_samples, over, sqnr_db};
use quantal_data::Sample;
use quantal_ir::{Attr, Attrs, Op};
use quantal_runtime::session::Watched;
use quantal_tensor::Tensor;
use std::collections::BTreeMap;

const WIDTH: usize = 32;

fn samples() -> Vec<Sample> {
    even_samples(&[1, 4, WIDTH], 8)
}

/// A normalization, two products that read it and the residual sum that does too; `factor` times as far as the others
/// reaches every eleventh channel of the normalization, and the weights take it back.
fn model(factor: f32, norm: Op, residual: bool) -> Graph {
    let mut b = Build::new();
    let x = b.input("x", &[1, 4, WIDTH]);
    let factors: Vec<f32> = (0..WIDTH).map(|c| if c % 11 == 3 { factor } else { 1.0 }).collect();
    let scale = b.constant_of("scale", &[WIDTH], &factors);
    let n = match norm {
        Op::LayerNormalization => {
            let bias: Vec<f32> = factors.iter().map(|f| 0.1 * f).collect();
            let bias = b.constant_of("bias", &[WIDTH], &bias);
            b.node(norm, &[x, scale, bias], Attrs::new().with("axis", Attr::Int(-1)))
        }
        Op::RmsNormalization => b.node(norm, &[x, scale], Attrs::new().with("axis", Attr::Int(-1))),
        _ => b.binary(norm, x, scale),
    };
    let product = |b: &mut Build, seed: usize| {
        let values: Vec<f32> = (0..WIDTH * WIDTH)
            .map(|i| (((i + seed) * 7919 + 13) % 1009) as f32 / 504.5 - 1.0)
            .zip(factors.iter().flat_map(|f| std::iter::repeat_n(f, WIDTH)))
            .map(|(w, f)| w / f)
            .collect();
        let w = b.constant_of("w", &[WIDTH, WIDTH], &values);
        b.binary(Op::MatMul, n, w)
    };
    let (p, q) = (product(&mut b, 0), product(&mut b, 500));
    let y = b.binary(Op::Add, p, q);
    let y = if residual {
        let over: Vec<f32> = factors.iter().map(|f| 1.0 / f).collect();
        let over = b.constant_of("over", &[WIDTH], &over);
        let back = b.binary(Op::Mul, n, over);
        let y = b.binary(Op::Add, y, back);
        b.binary(Op::Add, y, n)
    } else {
        y
    };
    b.graph.outputs = vec![y];
    b.graph
}

/// SQNR of the smoothed float graph and of the quantized one, and what was smoothed.
fn made(graph: &Graph, text: &str) -> ([f64; 2], Rearranged) {
    let (data, recipe) = (samples(), Recipe::from_toml(text).unwrap());
    let prepared = over(&data, |runs| prepare(graph, &recipe, runs)).unwrap();
    let quantized = prepared.quantize(&BTreeMap::new()).unwrap();
    let db = |other| sqnr_db(&data, graph, other);
    ([db(&prepared.graph), db(&quantized.graph)], quantized.rearranged)
}

#[test]
fn outliers_behind_every_kind_of_norm_are_smoothed_and_the_function_is_the_same() {
    for norm in [Op::LayerNormalization, Op::RmsNormalization, Op::Mul] {
        let (graph, even) = (model(64.0, norm, false), model(1.0, norm, false));
        let ([_, naive], _) = made(&graph, "");
        let ([same, smooth], done) = made(&graph, "smooth_quant = true");
        let ([_, best], _) = made(&even, "");
        assert!(same > 100.0, "{norm:?}: {same:.1} dB");
        assert_eq!(done.smoothed.len(), 1);
        assert!(naive < 20.0 && smooth > best - 3.0, "{norm:?}: {naive:.1}, {smooth:.1} of {best:.1} dB");
    }
}

#[test]
fn whoever_else_reads_the_value_gets_it_as_it_was() {
    let ([same, _], done) = made(&model(64.0, Op::LayerNormalization, true), "smooth_quant = true");
    assert_eq!(done.smoothed.len(), 1);
    assert!(same > 100.0, "{same:.1} dB");
}

#[test]
fn even_channels_stay_as_they_are() {
    let (_, done) = made(&model(1.0, Op::LayerNormalization, false), "smooth_quant = true");
    assert!(done.smoothed.is_empty(), "{:?}", done.smoothed);
}

#[test]
fn values_without_error_stay_as_they_are() {
    let feeds = vec![("x".to_owned(), Tensor::from_slice(&[1, 4, WIDTH], &[0.0_f32; 4 * WIDTH]).unwrap())];
    let zeros = [Sample { name: "zeros".into(), feeds, label: None }];
    let recipe = Recipe::from_toml("smooth_quant = true").unwrap();
    let prepared = over(&zeros, |runs| prepare(&model(64.0, Op::Mul, false), &recipe, runs)).unwrap();
    assert!(prepared.rearranged.smoothed.is_empty(), "{:?}", prepared.rearranged.smoothed);
}

#[test]
fn the_expected_error_is_within_three_decibels_of_that_of_rounding() {
    // The formula, put beside codes that are rounded and multiplied.
    let (graph, recipe) = (model(8.0, Op::LayerNormalization, false), Recipe::default());
    let data = samples();
    let products = crate::place(&graph, &recipe).unwrap().products;
    let block = blocks(&graph, &products).remove(0);
    let reach = over(&data, |runs| channel_reach("", &graph, std::slice::from_ref(&block), runs)).unwrap();
    let expected = Trials::of(&graph, &block, &reach[&block.value], &recipe).error(&vec![1.0; WIDTH]);
    let min_max = Recipe::from_toml("bias_correction = false\n[observer]\nkind = \"min_max\"").unwrap();
    let plan = over(&data, |runs| crate::quantize(&graph, &min_max, runs)).unwrap().plan;
    let mut rounded = graph.clone();
    for product in &block.readers {
        let w = product.weighted.weight;
        let (scheme, params) = (plan.encodings[&w].scheme, plan.encodings[&w].qparams().unwrap());
        let codes = quantal_ir::qdq::quantize_tensor(graph.constant(Some(w)).unwrap(), &scheme, params).unwrap();
        let real = |(i, q): (usize, i64)| quantal_tensor::arith::dequantize(q as i32, params.scale[i % WIDTH], 0);
        let values: Vec<f32> = codes.to_i64_vec().unwrap().into_iter().enumerate().map(real).collect();
        rounded.set_constant(w, Tensor::from_slice(&[WIDTH, WIDTH], &values).unwrap());
    }
    let encoding = &plan.encodings[&block.value];
    let (params, mut actual, mut rows) = (encoding.qparams().unwrap(), 0.0, 0.0);
    let mut look = |seen: &Watched<'_>| {
        let x = seen.standard()?;
        for row in x.as_slice::<f32>().chunks(WIDTH) {
            rows += 1.0;
            let code = |&x: &f32| quantal_tensor::arith::quantize(x, params.scale[0], params.zero_point[0], 0, 255);
            let held: Vec<f32> = row
                .iter()
                .map(|x| quantal_tensor::arith::dequantize(code(x), params.scale[0], params.zero_point[0]))
                .collect();
            for product in &block.readers {
                let of = |g: &Graph| g.constant(Some(product.weighted.weight)).unwrap().as_slice::<f32>().to_vec();
                let (exact, coarse) = (of(&graph), of(&rounded));
                for o in 0..WIDTH {
                    let sum = |x: &[f32], w: &[f32]| -> f64 {
                        x.iter().zip(w[o..].iter().step_by(WIDTH)).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
                    };
                    actual += (sum(row, &exact) - sum(&held, &coarse)).powi(2);
                }
            }
        }
        Ok(Ok(()))
    };
    over(&data, |runs| runs.watch_in_turn("", &graph, &[block.value], &mut look)).unwrap();
    let ratio = expected / (actual / rows);
    assert!((0.5..2.0).contains(&ratio), "{expected} expected, {} found", actual / rows);
}
