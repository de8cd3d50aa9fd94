use super::*;
use crate::place::tests::Build;
use crate::{Error, Silent, Stream};
use quantal_data::Sample;
use quantal_ir::{Attrs, Op};
use quantal_runtime::{Mode, Session, compile};
use quantal_tensor::stats::SqnrSums;
use quantal_tensor::{Tensor, arith};

fn sample(name: usize, x: &[f32]) -> Sample {
    let tensor = Tensor::from_slice(&[1, 8, x.len() / 8, 1], x).unwrap();
    Sample { name: format!("sample {name}"), feeds: vec![("x".into(), tensor)], label: None }
}

fn samples(n: usize) -> Vec<Vec<f32>> {
    (0..n).map(|s| (0..64).map(|i| (((s * 64 + i) * 2741 + 97) % 4093) as f32 / 1023.0 - 1.5).collect()).collect()
}

/// Two convolutions with a residual, and a product at the end.
fn model() -> Graph {
    let mut b = Build::new();
    let x = b.input("x", &[1, 8, 8, 1]);
    let a = b.conv(x, 8);
    let a = b.unary(Op::Relu, a);
    let c = b.conv(a, 8);
    let sum = b.binary(Op::Add, c, a);
    let sum = b.unary(Op::Relu, sum);
    let mean = b.unary(Op::GlobalAveragePool, sum);
    let flat = b.unary(Op::Flatten, mean);
    let y = b.matmul(flat, 8);
    b.graph.outputs = vec![y];
    b.graph
}

fn run(graph: &Graph, mode: Mode, feeds: &[(String, Tensor)]) -> Vec<f32> {
    let mut session = Session::new(compile(graph, mode, Isa::PORTABLE).unwrap(), 1);
    session.run(feeds).unwrap().remove(0).1.as_slice::<f32>().to_vec()
}

fn quantized(graph: &Graph, data: &[Vec<f32>], recipe: &Recipe) -> Result<Quantized> {
    let samples = || -> Stream<'_> { Box::new(data.iter().enumerate().map(|(i, x)| Ok(sample(i, x)))) };
    let mut runs = Runs { samples: &samples, isa: Isa::PORTABLE, threads: 1, progress: &mut Silent };
    quantize(graph, recipe, &mut runs)
}

#[test]
fn a_quantized_model_is_near_its_float_model() {
    let (graph, data) = (model(), samples(6));
    for text in ["", "[observer]\nkind = \"mse\"\nbins = 2048", "[observer]\nkind = \"percentile\"\npercent = 100.0"] {
        let q = quantized(&graph, &data, &Recipe::from_toml(text).unwrap()).unwrap();
        assert_eq!(q.calibration.samples, 6);
        let mut noise = SqnrSums::default();
        for (i, x) in data.iter().enumerate() {
            let feeds = sample(i, x).feeds;
            noise.add(&run(&graph, Mode::Simulate, &feeds), &run(&q.graph, Mode::Simulate, &feeds));
        }
        assert!(noise.db() > 25.0, "{text}: {} dB", noise.db());
    }
}

#[test]
fn the_range_of_an_input_is_what_was_fed() {
    let data = samples(5);
    let recipe = Recipe::from_toml("[observer]\nkind = \"min_max\"").unwrap();
    let q = quantized(&model(), &data, &recipe).unwrap();
    let x = &q.calibration.ranges[0];
    let all = data.concat();
    let (min, max) = all.iter().fold((0.0_f32, 0.0_f32), |(a, b), &v| (a.min(v), b.max(v)));
    assert_eq!((&*x.name, x.chosen.min, x.chosen.max), ("x", min, max));
    let (scale, zero_point) = arith::range_to_qparams(min, max, 0, 255, false).unwrap();
    assert_eq!(q.plan.encodings[&x.value].qparams(), Some(&QParams::per_tensor(scale, zero_point)));
}

#[test]
fn the_order_of_samples_does_not_show() {
    let (graph, mut data) = (model(), samples(7));
    for text in
        ["", "[observer]\nkind = \"moving_average\"", "[observer]\nkind = \"entropy\"\nbins = 2048\nlevels = 128"]
    {
        let recipe = Recipe::from_toml(text).unwrap();
        let once = quantized(&graph, &data, &recipe).unwrap().plan;
        data.reverse();
        data.swap(1, 4);
        assert_eq!(quantized(&graph, &data, &recipe).unwrap().plan, once, "{text}");
    }
}

#[test]
fn data_that_is_not_finite_is_named_and_extremes_work() {
    let (graph, recipe) = (model(), Recipe::default());
    let mut data = samples(3);
    data[1][9] = f32::NAN;
    let message = quantized(&graph, &data, &recipe).unwrap_err().to_string();
    assert!(message.contains("`x`") && message.contains("`sample 1`"), "{message}");
    assert!(matches!(quantized(&graph, &[], &recipe), Err(Error::NoSamples)));
    for extreme in [vec![0.0; 64], vec![1e-42; 64], vec![-3.5; 64], vec![1e30; 64]] {
        let q = quantized(&graph, &[extreme], &recipe).unwrap();
        for encoding in q.plan.encodings.values() {
            assert!(encoding.qparams().unwrap().scale.iter().all(|s| s.is_normal()));
        }
    }
}

#[test]
fn what_reads_channels_that_would_drown_stays_in_float_and_says_so() {
    let graph = model();
    // The first of eight channels reaches a thousand times as far as the others.
    let data: Vec<Vec<f32>> = samples(4)
        .into_iter()
        .map(|x| x.iter().enumerate().map(|(i, v)| if i < 8 { v * 1000.0 } else { *v }).collect())
        .collect();
    let verdicts = |limit: u32| {
        let recipe = Recipe::from_toml(&format!("[activations]\nmin_channel_sqnr_db = {limit}")).unwrap();
        quantized(&graph, &data, &recipe).unwrap().decisions
    };
    let first = |limit| verdicts(limit).into_iter().find(|d| d.op == "Conv").unwrap();
    assert_eq!(first(0).verdict, Verdict::Integer);
    let (kept, why) = (first(8).verdict, first(8).why);
    assert!(kept == Verdict::Float && why.contains("`x`") && why.contains("dB"), "{kept:?}: {why}");
}

#[test]
fn weights_rounded_for_their_data_are_written_as_chosen_and_nodes_left_in_float_keep_the_original() {
    let (graph, data) = (model(), samples(6));
    for how in ["gptq", "ada_round"] {
        let recipe = Recipe::from_toml(&format!("[weights]\nqmin = -7\nqmax = 7\nrounding = \"{how}\"")).unwrap();
        let stream = || -> Stream<'_> { Box::new(data.iter().enumerate().map(|(i, x)| Ok(sample(i, x)))) };
        let mut runs = Runs { samples: &stream, isa: Isa::PORTABLE, threads: 1, progress: &mut Silent };
        let prepared = prepare(&graph, &recipe, &mut runs).unwrap();
        let q = prepared.quantize(&BTreeMap::new()).unwrap();
        assert_eq!(q.calibration.rounded.len(), 3);
        assert!(q.calibration.rounded.iter().all(|r| r.chosen < r.nearest), "{how}: {:?}", q.calibration.rounded);
        for &weight in prepared.rounded.keys() {
            // What is baked is a fixed point: the nearest code of scale · q is q.
            let baked = q.float.constant(Some(weight)).unwrap();
            let encoding = &q.plan.encodings[&weight];
            let codes = quantal_ir::qdq::quantize_tensor(baked, &encoding.scheme, encoding.qparams().unwrap()).unwrap();
            let codes = codes.to_i64_vec().unwrap();
            let scales = &encoding.qparams().unwrap().scale;
            let inner = baked.len() / scales.len();
            let last = encoding.scheme.granularity == quantal_tensor::Granularity::PerChannel { axis: 1 };
            for (i, (b, code)) in baked.as_slice::<f32>().iter().zip(codes).enumerate() {
                let s = if last { i % scales.len() } else { i / inner };
                assert!(*b == arith::dequantize(code as i32, scales[s], 0), "{how} {i}");
            }
        }
        let conv = q.decisions.iter().find(|d| d.op == "Conv").unwrap().node;
        let left = prepared.quantize(&BTreeMap::from([(conv, "to see".to_owned())])).unwrap();
        let weight = graph.node(conv).input(1);
        let same = |g: &Graph| {
            g.constant(weight).unwrap().as_slice::<f32>() == graph.constant(weight).unwrap().as_slice::<f32>()
        };
        assert!(same(&left.float) && !same(&q.float), "{how}");
    }
}

#[test]
fn what_was_in_float_when_calibration_looked_gets_no_codes() {
    // The first row of what is summed is faint, so its norm is taken out after calibration. The stream could go on in
    // codes from `sum1`, but that lay beyond a branch in float, and nothing is known of it.
    let mut b = Build::new();
    let x = b.input("x", &[1, 4, 8]);
    let mut stream = b.matmul(x, 8);
    for i in 0..3 {
        let data = if i == 0 {
            x
        } else {
            let norm = b.norm(&format!("norm{i}"), stream, 8);
            b.matmul(norm, 8)
        };
        let weight = b.constant(&format!("weight{i}"), &[8, 8]);
        let branch = b.named(Op::MatMul, &format!("branch{i}"), &[data, weight], Attrs::new());
        stream = b.named(Op::Add, &format!("sum{i}"), &[stream, branch], Attrs::new());
    }
    let y = b.matmul(stream, 8);
    b.graph.outputs = vec![y];
    let recipe = Recipe::from_toml("[[overrides]]\nnode = \"branch1\"\nfallback = true").unwrap();
    let data = samples(4);
    let one = |(i, x): (usize, &Vec<f32>)| {
        let faint = |(i, v): (usize, &f32)| if i < 8 { v * 1e-2 } else { *v };
        let values: Vec<f32> = x[..32].iter().enumerate().map(faint).collect();
        let tensor = Tensor::from_slice(&[1, 4, 8], &values).unwrap();
        Ok(Sample { name: format!("sample {i}"), feeds: vec![("x".into(), tensor)], label: None })
    };
    let samples = || -> Stream<'_> { Box::new(data.iter().enumerate().map(one)) };
    let mut runs = Runs { samples: &samples, isa: Isa::PORTABLE, threads: 1, progress: &mut Silent };
    let q = quantize(&b.graph, &recipe, &mut runs).unwrap();
    let found = |name: &str| q.decisions.iter().find(|d| &*d.name == name).unwrap();
    assert!(found("norm1").why.contains("faintest rows"), "{}", found("norm1").why);
    assert_eq!(found("norm2").verdict, Verdict::Float);
    for range in &q.calibration.ranges {
        assert!(range.seen.min < range.seen.max, "{} was not seen", range.name);
    }
}

/// A log-mel front end as exporters write it, over frames of 8 samples: the DFT as two products, the power, four bands,
/// a floor, the logarithm; and a product behind it.
fn log_mel() -> (Graph, Vec<Vec<f32>>) {
    use std::f64::consts::TAU;
    let (frames, n) = (8, 8);
    let mut b = Build::new();
    let x = b.input("x", &[1, frames, n, 1]);
    let shape = b.graph.add_constant("shape", Tensor::from_slice(&[2], &[frames as i64, n as i64]).unwrap());
    let x = b.binary(Op::Reshape, x, shape);
    let window = |t: usize| 0.5 - 0.5 * (TAU * t as f64 / n as f64).cos();
    let mut dft = |name: &str, phase: f64| {
        let of = |i: usize| {
            let (t, k) = (i / n, i % n);
            (window(t) * (TAU * (t * k) as f64 / n as f64 + phase).cos()) as f32
        };
        let w: Vec<f32> = (0..n * n).map(of).collect();
        let w = b.constant_of("basis", &[n, n], &w);
        let y = b.named(Op::MatMul, name, &[x, w], Attrs::new());
        b.binary(Op::Mul, y, y)
    };
    let (re, im) = (dft("re", 0.0), dft("im", TAU / 4.0));
    let power = b.binary(Op::Add, re, im);
    let bands: Vec<f32> = (0..n * n).map(|i| if (i / n).abs_diff(i % n) < 2 { 0.5 } else { 0.0 }).collect();
    let bands = b.constant_of("bands", &[n, n], &bands);
    let mel = b.named(Op::MatMul, "mel", &[power, bands], Attrs::new());
    let floor = b.scalar(1e-10);
    let mel = b.binary(Op::Add, mel, floor);
    let log = b.unary(Op::Log, mel);
    let y = b.matmul(log, n);
    b.graph.outputs = vec![y];
    for v in b.graph.values().map(|(v, _)| v).collect::<Vec<_>>() {
        if b.graph.value(v).shape.is_none() {
            let dims = [frames, n].map(quantal_ir::Dim::Known).to_vec();
            b.graph.value_mut(v).shape = Some(dims);
        }
    }
    // Tones that fade by 60 dB from the first frame to the last, as speech does.
    let data = |s: usize| {
        let at = |i: usize| {
            let (f, t) = (i / n, i % n);
            let tone = (TAU * (t as f64 * (1.0 + 0.2 * (s % 5) as f64) / n as f64)).sin();
            (tone * 10f64.powf(-3.0 * f as f64 / (frames - 1) as f64)) as f32
        };
        (0..frames * n).map(at).collect()
    };
    (b.graph, (0..8).map(data).collect())
}

#[test]
fn a_log_mel_front_end_stays_in_float_and_says_why() {
    let (graph, data) = log_mel();
    let q = quantized(&graph, &data, &Recipe::default()).unwrap();
    let why = |name: &str| {
        let d = q.decisions.iter().find(|d| &*d.name == name).unwrap();
        (d.verdict, d.why.as_str())
    };
    for name in ["re", "im", "mel"] {
        let (verdict, why) = why(name);
        assert_eq!(verdict, Verdict::Float, "{name}: {why}");
        assert!(why.contains("Log `Log`") && why.contains("orders of magnitude"), "{name}: {why}");
    }
    assert_eq!(why("MatMul").0, Verdict::Integer, "what is behind the logarithm is not concerned: {}", why("MatMul").1);
    let mut noise = SqnrSums::default();
    for (i, x) in data.iter().enumerate() {
        let feeds = sample(i, x).feeds;
        noise.add(&run(&graph, Mode::Simulate, &feeds), &run(&q.graph, Mode::Integer, &feeds));
    }
    assert!(noise.db() > 30.0, "{} dB", noise.db());
}
