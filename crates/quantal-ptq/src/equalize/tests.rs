use super::*;
use crate::place::tests::Build;
use crate::watch::tests::{even_samples, over, sqnr_db};
use crate::{Recipe, place};
use quantal_data::Sample;
use quantal_ir::{Attr, Attrs, Op, ValueId};

const SHAPE: [usize; 4] = [1, 8, 6, 6];

fn samples() -> Vec<Sample> {
    even_samples(&SHAPE, 4)
}

fn equalized(graph: &Graph) -> (Graph, Equalized) {
    let mut graph = graph.clone();
    let products = place(&graph, &Recipe::default()).unwrap().products;
    let done = over(&samples(), |runs| equalize(&mut graph, &products, runs)).unwrap();
    (graph, done)
}

/// Weights of a convolution whose output channels are multiplied by the first list and input channels by the second.
fn weight(b: &mut Build, shape: [usize; 4], outputs: &[f32], inputs: &[f32]) -> ValueId {
    let inner = shape[2] * shape[3];
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|i| {
            let (o, c) = (i / inner / shape[1], i / inner % shape[1]);
            let w = ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
            w * outputs[o % outputs.len()] * inputs[c % inputs.len()]
        })
        .collect();
    b.constant_of("w", &shape, &values)
}

/// Pointwise → Relu → depthwise → LeakyRelu → pointwise, as MobileNets have it; channels between them reach 4096 times
/// further than others, and the function is that of even ones.
fn uneven() -> Graph {
    let first: Vec<f32> = (0..8).map(|c| 2.0_f32.powi(12 * (c % 2) - 6)).collect();
    let second: Vec<f32> = (0..8).map(|c| 2.0_f32.powi(4 * (c % 4) - 6)).collect();
    let (over_first, over_second): (Vec<f32>, Vec<f32>) =
        (first.iter().map(|f| 1.0 / f).collect(), second.iter().map(|f| 1.0 / f).collect());
    let between: Vec<f32> = second.iter().zip(&over_first).map(|(a, b)| a * b).collect();
    let mut b = Build::new();
    let x = b.input("x", &SHAPE);
    let w = weight(&mut b, [8, 8, 1, 1], &first, &[1.0]);
    let bias: Vec<f32> = first.iter().map(|f| 0.5 * f).collect();
    let bias = b.constant_of("bias", &[8], &bias);
    let y = b.node(Op::Conv, &[x, w, bias], Attrs::new());
    let y = b.unary(Op::Relu, y);
    let w = weight(&mut b, [8, 1, 3, 3], &between, &[1.0]);
    let attrs = Attrs::new().with("group", Attr::Int(8)).with("pads", Attr::Ints(vec![1; 4]));
    let y = b.node(Op::Conv, &[y, w], attrs);
    let y = b.unary(Op::LeakyRelu, y);
    let w = weight(&mut b, [4, 8, 1, 1], &[1.0], &over_second);
    let y = b.binary(Op::Conv, y, w);
    b.graph.outputs = vec![y];
    b.graph
}

fn ratio(reach: &[f64]) -> f64 {
    let (min, max) = reach.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), &r| (a.min(r), b.max(r)));
    max / min
}

#[test]
fn channels_reach_equally_far_on_both_sides_and_the_function_is_the_same() {
    let graph = uneven();
    let (even, done) = equalized(&graph);
    assert_eq!(done, Equalized { blocks: 2, absorbed: 0 });
    assert!(sqnr_db(&samples(), &graph, &even) > 100.0, "{} dB", sqnr_db(&samples(), &graph, &even));
    let products = place(&even, &Recipe::default()).unwrap().products;
    let rows: Vec<WeightRows> = products.iter().map(|p| WeightRows::of(&even, p).unwrap()).collect();
    for pair in rows.windows(2) {
        for (made, read) in pair[0].reach_of_outputs().iter().zip(pair[1].reach_of_inputs()) {
            assert!((made / read - 1.0).abs() < 0.01, "{made} beside {read}");
        }
    }
    assert!(ratio(&rows[0].reach_of_outputs()) < 8.0, "{:?}", rows[0].reach_of_outputs());
}

#[test]
fn with_one_scale_a_tensor_equalization_gives_back_what_uneven_channels_lose() {
    let (graph, data) = (uneven(), samples());
    let db = |equalization: bool| {
        let text = format!("equalization = {equalization}\n[weights]\ngranularity = \"per_tensor\"");
        let recipe = Recipe::from_toml(&text).unwrap();
        sqnr_db(&data, &graph, &over(&data, |runs| crate::quantize(&graph, &recipe, runs)).unwrap().graph)
    };
    let (plain, even) = (db(false), db(true));
    assert!(plain < 15.0 && even > 28.0, "{plain:.1} and {even:.1} dB");
}

#[test]
fn what_a_channel_never_falls_below_moves_into_the_next_bias() {
    let mut b = Build::new();
    let x = b.input("x", &SHAPE);
    let w = b.constant("w", &[8, 8, 1, 1]);
    // Without them, the sums lie within ±8: four channels are never near 0, the others are 0 at times.
    let bias = b.constant_of("bias", &[8], &[100.0, 0.0, 100.0, 0.0, 100.0, 0.0, 50.0, 0.0]);
    let y = b.node(Op::Conv, &[x, w, bias], Attrs::new());
    let y = b.unary(Op::Relu, y);
    let w = b.constant("w", &[8, 8, 1, 1]);
    let y = b.binary(Op::Conv, y, w);
    b.graph.outputs = vec![y];
    let (even, done) = equalized(&b.graph);
    assert_eq!(done, Equalized { blocks: 1, absorbed: 1 });
    assert!(sqnr_db(&samples(), &b.graph, &even) > 80.0, "{} dB", sqnr_db(&samples(), &b.graph, &even));
    let products = place(&even, &Recipe::default()).unwrap().products;
    let rows = WeightRows::of(&even, &products[0]).unwrap().reach_of_outputs();
    let bias = even.constant(products[0].weighted.bias).unwrap();
    for (b, reach) in bias.as_slice::<f32>().iter().zip(rows) {
        assert!(f64::from(*b) <= 8.0 * reach, "{b} stays beside weights of {reach}");
    }
}

#[test]
fn what_a_clip_bounds_or_others_read_is_left_alone() {
    let clipped = |bound: bool, handed_out: bool| {
        let mut b = Build::new();
        let x = b.input("x", &SHAPE);
        let y = b.conv(x, 8);
        let y = if bound {
            let (least, most) = (b.scalar(0.0), b.scalar(6.0));
            b.node(Op::Clip, &[y, least, most], Attrs::new())
        } else {
            b.unary(Op::Relu, y)
        };
        let z = b.conv(y, 8);
        b.graph.outputs = if handed_out { vec![z, y] } else { vec![z] };
        equalized(&b.graph).1.blocks
    };
    assert_eq!([clipped(true, false), clipped(false, true), clipped(false, false)], [0, 0, 1]);
}

#[test]
fn a_dead_channel_keeps_its_bias() {
    let mut b = Build::new();
    let x = b.input("x", &SHAPE);
    let w = weight(&mut b, [8, 8, 1, 1], &[1e-20, 4.0, 1.0, 2.0], &[1.0]);
    let bias = b.constant_of("bias", &[8], &[1.0; 8]);
    let y = b.node(Op::Conv, &[x, w, bias], Attrs::new());
    let y = b.unary(Op::Relu, y);
    let y = b.conv(y, 4);
    b.graph.outputs = vec![y];
    let (even, _) = equalized(&b.graph);
    let products = place(&even, &Recipe::default()).unwrap().products;
    let bias = even.constant(products[0].weighted.bias).unwrap();
    assert!(bias.as_slice::<f32>().iter().all(|b| b.abs() < 100.0), "{:?}", bias.as_slice::<f32>());
}

#[test]
fn nothing_is_absorbed_through_a_slope() {
    // Sums of −5 become 5 where the slope is −1: a value that never falls below 0 proves nothing of what makes it.
    let mut b = Build::new();
    let x = b.input("x", &SHAPE);
    let w = b.constant("w", &[8, 8, 1, 1]);
    let bias = b.constant_of("bias", &[8], &[-100.0; 8]);
    let y = b.node(Op::Conv, &[x, w, bias], Attrs::new());
    let y = b.node(Op::LeakyRelu, &[y], Attrs::new().with("alpha", Attr::Float(-1.0)));
    let w = weight(&mut b, [4, 8, 1, 1], &[1.0], &[1.0]);
    let y = b.binary(Op::Conv, y, w);
    b.graph.outputs = vec![y];
    let (even, done) = equalized(&b.graph);
    assert_eq!(done, Equalized { blocks: 1, absorbed: 0 });
    assert!(sqnr_db(&samples(), &b.graph, &even) > 80.0, "{} dB", sqnr_db(&samples(), &b.graph, &even));
}

#[test]
fn nothing_is_absorbed_where_the_value_is_multiplied_elsewhere() {
    // What the bias loses, the Mul would miss: it has no bias to take it.
    let mut b = Build::new();
    let x = b.input("x", &SHAPE);
    let rows = b.node(Op::Flatten, &[x], Attrs::new().with("axis", Attr::Int(3)));
    let (w, bias) = (b.constant("w", &[6, 4]), b.constant_of("bias", &[4], &[100.0; 4]));
    let y = b.node(Op::Gemm, &[rows, w, bias], Attrs::new());
    let y = b.unary(Op::Relu, y);
    let (w, bias) = (b.constant("w", &[4, 4]), b.constant("bias", &[4]));
    let product = b.node(Op::Gemm, &[y, w, bias], Attrs::new());
    let factors = b.constant("factors", &[4]);
    let multiplied = b.binary(Op::Mul, y, factors);
    let sum = b.binary(Op::Add, product, multiplied);
    b.graph.outputs = vec![sum];
    let (even, done) = equalized(&b.graph);
    assert_eq!(done, Equalized { blocks: 1, absorbed: 0 });
    assert!(sqnr_db(&samples(), &b.graph, &even) > 80.0, "{} dB", sqnr_db(&samples(), &b.graph, &even));
}
