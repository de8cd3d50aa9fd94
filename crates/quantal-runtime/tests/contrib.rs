//! Operators of ONNX Runtime (com.microsoft): each against its formula, and what coverage says of them.

use quantal_ir::{Attr, Attrs, Dim, Node, NodeId, Op, ValueId, infer};
use quantal_kernels::Isa;
use quantal_onnx::NodeProto;
use quantal_runtime::{Error, Mode, Reason, Session, Status, compile, survey};
use quantal_tensor::{DType, Tensor};
use quantal_testkit::data;
use quantal_testkit::graph::GraphBuilder;
use std::sync::Arc;

fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

fn i32s(shape: &[usize], values: &[i32]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

/// An operator on inputs that are fed (`Ok`) or constant (`Err`), with free sizes; all outputs are handed out.
fn run(op: Op, inputs: &[Option<Result<Tensor, Tensor>>], outputs: usize, attrs: Attrs) -> Vec<Tensor> {
    let mut b = GraphBuilder::new(17);
    let mut feeds = Vec::new();
    let values: Vec<Option<ValueId>> = (inputs.iter().enumerate())
        .map(|(i, input)| {
            let name = format!("x{i}");
            Some(match input.as_ref()? {
                Ok(t) => {
                    // The last size is known, as it is in files; the others are not.
                    let last = t.rank().saturating_sub(1);
                    let dim = |(a, &d): (usize, &usize)| if a == last { Dim::Known(d) } else { Dim::Unknown };
                    feeds.push((name.clone(), t.clone()));
                    b.input_of(&name, t.dtype(), t.shape().iter().enumerate().map(dim).collect())
                }
                Err(t) => b.constant(&name, t.clone()),
            })
        })
        .collect();
    let made: Vec<ValueId> = (0..outputs).map(|i| b.graph.add_value(&format!("y{i}"), None, None)).collect();
    b.graph.add_node(Node::new(op, "node", values, made.clone(), attrs));
    b.graph.outputs = made;
    infer::run(&mut b.graph).unwrap();
    let program = compile(&b.graph, Mode::Integer, Isa::PORTABLE).unwrap();
    assert_eq!(program.coverage.rows.len(), 1);
    let found = Session::new(program, 1).run(&feeds).unwrap();
    found.into_iter().map(|(_, t)| t).collect()
}

#[track_caller]
fn near(found: &Tensor, shape: &[usize], wanted: &[f64]) {
    within(2e-5, found, shape, wanted);
}

#[track_caller]
fn within(tolerance: f64, found: &Tensor, shape: &[usize], wanted: &[f64]) {
    assert_eq!(found.shape(), shape);
    let found = found.to_f32_vec().unwrap();
    assert_eq!(found.len(), wanted.len());
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        assert!((f64::from(*a) - b).abs() <= tolerance * b.abs().max(1.0), "{i}: {a} instead of {b}");
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))
}

fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

/// `(x − mean) / √(variance + ε)`.
fn normalized(row: &[f64], epsilon: f64) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    row.iter().map(|v| (v - mean) / (variance + epsilon).sqrt()).collect()
}

fn wide(t: &Tensor) -> Vec<f64> {
    t.to_f32_vec().unwrap().into_iter().map(f64::from).collect()
}

/// `softmax(scale · q kᵀ + added) v` of one head, rows of `size` features.
fn attend(q: &[f64], k: &[f64], v: &[f64], size: usize, scale: f64, added: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let width = v.len() / (k.len() / size);
    let mut out = Vec::new();
    for (i, q) in q.chunks(size).enumerate() {
        let scores: Vec<f64> = (k.chunks(size).enumerate())
            .map(|(j, k)| scale * q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() + added(i, j))
            .collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
        let total: f64 = weights.iter().sum();
        out.extend(
            (0..width).map(|c| weights.iter().enumerate().map(|(j, w)| w / total * v[j * width + c]).sum::<f64>()),
        );
    }
    out
}

#[test]
fn activations_with_and_without_a_bias() {
    let (x, bias) = (data::tensor(&[2, 5], 1), data::tensor(&[5], 2));
    let sums: Vec<f64> = wide(&x).iter().zip(wide(&bias).iter().cycle()).map(|(a, b)| a + b).collect();
    let of = |values: &[f64], f: fn(f64) -> f64| values.iter().map(|&v| f(v)).collect::<Vec<_>>();
    let biased = [Some(Ok(x.clone())), Some(Err(bias))];
    near(&run(Op::BiasGelu, &biased, 1, Attrs::new())[0], &[2, 5], &of(&sums, gelu));
    near(&run(Op::FastGelu, &biased, 1, Attrs::new())[0], &[2, 5], &of(&sums, gelu_tanh));
    near(&run(Op::FastGelu, &biased[..1], 1, Attrs::new())[0], &[2, 5], &of(&wide(&x), gelu_tanh));
    let quick = |alpha: f64| wide(&x).iter().map(|v| v / (1.0 + (-alpha * v).exp())).collect::<Vec<_>>();
    near(&run(Op::QuickGelu, &biased[..1], 1, Attrs::new())[0], &[2, 5], &quick(1.702));
    let attrs = Attrs::new().with("alpha", Attr::Float(0.5));
    near(&run(Op::QuickGelu, &biased[..1], 1, attrs)[0], &[2, 5], &quick(0.5));
}

#[test]
fn normalizations_of_sums_and_their_statistics() {
    let (x, skip) = (data::tensor(&[2, 4], 1), data::tensor(&[2, 4], 2));
    let (scale, shift, bias) = (data::tensor(&[4], 3), data::tensor(&[4], 4), data::tensor(&[4], 5));
    let [s, t, b] = [&scale, &shift, &bias].map(wide);
    let sums: Vec<f64> = wide(&x).iter().zip(wide(&skip)).enumerate().map(|(i, (x, k))| x + k + b[i % 4]).collect();
    let expected: Vec<f64> = sums
        .chunks(4)
        .flat_map(|row| normalized(row, 1e-3).into_iter().enumerate().map(|(i, v)| v * s[i] + t[i]).collect::<Vec<_>>())
        .collect();
    let epsilon = Attrs::new().with("epsilon", Attr::Float(1e-3));
    let [x, skip] = [x, skip].map(|t| Some(Ok(t)));
    let [scale, shift, bias] = [scale, shift, bias].map(|t| Some(Err(t)));
    let inputs = [x.clone(), skip.clone(), scale.clone(), shift, bias.clone()];
    let y = run(Op::SkipLayerNormalization, &inputs, 4, epsilon.clone());
    near(&y[0], &[2, 4], &expected);
    let means: Vec<f64> = sums.chunks(4).map(|r| r.iter().sum::<f64>() / 4.0).collect();
    near(&y[1], &[2, 1], &means);
    near(&y[3], &[2, 4], &sums);
    // Without a mean.
    let rows = |row: &[f64]| {
        let factor = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / 4.0 + 1e-3).sqrt();
        row.iter().enumerate().map(|(i, v)| v * factor * s[i]).collect::<Vec<_>>()
    };
    let expected: Vec<f64> = sums.chunks(4).flat_map(rows).collect();
    let inputs = [x, skip, scale.clone(), bias];
    let mut b = run(Op::SkipSimplifiedLayerNormalization, &inputs, 1, epsilon.clone());
    near(&b.remove(0), &[2, 4], &expected);
    let summed = f32s(&[2, 4], &sums.iter().map(|&v| v as f32).collect::<Vec<_>>());
    let y = run(Op::SimplifiedLayerNormalization, &[Some(Ok(summed)), scale], 2, epsilon);
    near(&y[0], &[2, 4], &expected);
    let inverse: Vec<f64> =
        sums.chunks(4).map(|r| 1.0 / (r.iter().map(|v| v * v).sum::<f64>() / 4.0 + 1e-3).sqrt()).collect();
    near(&y[1], &[2, 1], &inverse);
}

#[test]
fn embeddings_are_summed_and_masks_counted() {
    let (words, positions, segments) = (data::tensor(&[5, 3], 1), data::tensor(&[4, 3], 2), data::tensor(&[2, 3], 3));
    let (ids, kinds) = ([4, 0, 2, 1], [0, 1, 1, 0]);
    let [w, p, t] = [&words, &positions, &segments].map(wide);
    let mut sums = Vec::new();
    for (i, (&id, &kind)) in ids.iter().zip(&kinds).enumerate() {
        sums.extend((0..3).map(|c| w[id as usize * 3 + c] + p[i % 2 * 3 + c] + t[kind as usize * 3 + c]));
    }
    let inputs = [
        Some(Ok(i32s(&[2, 2], &ids))),
        Some(Ok(i32s(&[2, 2], &kinds))),
        Some(Err(words)),
        Some(Err(positions)),
        Some(Err(segments)),
        Some(Err(f32s(&[3], &[1.0; 3]))),
        Some(Err(f32s(&[3], &[0.0; 3]))),
        Some(Ok(i32s(&[2, 2], &[1, 0, 1, 1]))),
    ];
    let y = run(Op::EmbedLayerNormalization, &inputs, 3, Attrs::new());
    near(&y[2], &[2, 2, 3], &sums);
    near(&y[0], &[2, 2, 3], &sums.chunks(3).flat_map(|r| normalized(r, 1e-12)).collect::<Vec<_>>());
    assert_eq!(y[1].as_slice::<i32>(), [1, 2]);
    // Without segments and mask.
    let mut fewer = inputs[..7].to_vec();
    (fewer[1], fewer[4]) = (None, None);
    assert_eq!(run(Op::EmbedLayerNormalization, &fewer, 2, Attrs::new())[1].as_slice::<i32>(), [0, 0]);
}

#[test]
fn a_fused_product_turns_its_sides_and_scales() {
    // [[1, 2], [3, 4]]ᵀ · [[5, 6], [7, 8]]ᵀ / 2.
    let (a, b) = (f32s(&[2, 2], &[1., 2., 3., 4.]), f32s(&[2, 2], &[5., 6., 7., 8.]));
    let set = |names: &[&str]| {
        let attrs = Attrs::new().with("alpha", Attr::Float(0.5));
        names.iter().fold(attrs, |attrs, name| attrs.with(name, Attr::Int(1)))
    };
    for b in [Ok(b.clone()), Err(b)] {
        let y = run(Op::FusedMatMul, &[Some(Ok(a.clone())), Some(b)], 1, set(&["transA", "transB"]));
        near(&y[0], &[2, 2], &[11.5, 15.5, 17., 23.]);
    }
    // A[row, batch, inner], each batch a row of ones and twos times a column.
    let a = f32s(&[2, 2, 2], &[1., 1., 2., 2., 3., 3., 4., 4.]);
    let b = f32s(&[2, 2, 1], &[1., 1., 10., 10.]);
    let y = run(Op::FusedMatMul, &[Some(Ok(a)), Some(Ok(b))], 1, set(&["transBatchA"]));
    near(&y[0], &[2, 2, 1], &[1., 3., 20., 40.]);
}

#[test]
fn attention_with_its_weights_sees_what_its_mask_leaves() {
    // Two texts of three words, four features, two heads of two.
    let (x, w, bias) = (data::tensor(&[2, 3, 4], 1), data::tensor(&[4, 12], 2), data::tensor(&[12], 3));
    let (wx, ww, wb) = (wide(&x), wide(&w), wide(&bias));
    let column = |text: usize, word: usize, c: usize| {
        wb[c] + (0..4).map(|k| wx[(text * 3 + word) * 4 + k] * ww[k * 12 + c]).sum::<f64>()
    };
    let expected = |seen: &dyn Fn(usize, usize, usize) -> f64| {
        let mut y = vec![0.0; 24];
        for text in 0..2 {
            for head in 0..2 {
                let part = |first: usize| -> Vec<f64> {
                    (0..3)
                        .flat_map(|word| (0..2).map(move |c| (word, c)))
                        .map(|(word, c)| column(text, word, first + head * 2 + c))
                        .collect()
                };
                let out = attend(&part(0), &part(4), &part(8), 2, 0.5f64.sqrt(), |i, j| seen(text, i, j));
                for (i, v) in out.into_iter().enumerate() {
                    y[(text * 3 + i / 2) * 4 + head * 2 + i % 2] = v;
                }
            }
        }
        y
    };
    let heads = Attrs::new().with("num_heads", Attr::Int(2));
    let fixed = [Some(Ok(x.clone())), Some(Err(w.clone())), Some(Err(bias.clone()))];
    let with = |mask: Tensor| [&fixed[..], &[Some(Ok(mask))]].concat();
    near(&run(Op::MsAttention, &fixed, 1, heads.clone())[0], &[2, 3, 4], &expected(&|_, _, _| 0.0));
    // Weights that are not constant are multiplied as one.
    let fed = [Some(Ok(x)), Some(Ok(w)), Some(Err(bias))];
    near(&run(Op::MsAttention, &fed, 1, heads.clone())[0], &[2, 3, 4], &expected(&|_, _, _| 0.0));
    let hide = |hidden: bool| if hidden { -1e4 } else { 0.0 };
    // Lengths; lengths and first keys; a mark for each key; and one for each pair.
    let y = run(Op::MsAttention, &with(i32s(&[2], &[2, 3])), 1, heads.clone());
    near(&y[0], &[2, 3, 4], &expected(&|b, _, j| hide(b == 0 && j >= 2)));
    let y = run(Op::MsAttention, &with(i32s(&[4], &[2, 3, 1, 0])), 1, heads.clone());
    near(&y[0], &[2, 3, 4], &expected(&|b, _, j| hide(b == 0 && j != 1)));
    let y = run(Op::MsAttention, &with(i32s(&[2, 3], &[1, 0, 1, 0, 1, 1])), 1, heads.clone());
    near(&y[0], &[2, 3, 4], &expected(&|b, _, j| hide([[false, true, false], [true, false, false]][b][j])));
    let pairs = i32s(&[2, 3, 3], &[1, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1]);
    let marks = pairs.as_slice::<i32>().to_vec();
    let y = run(Op::MsAttention, &with(pairs), 1, heads.clone());
    near(&y[0], &[2, 3, 4], &expected(&|b, i, j| hide(marks[(b * 3 + i) * 3 + j] == 0)));
    let causal = heads.clone().with("unidirectional", Attr::Int(1));
    let y = run(Op::MsAttention, &fixed, 1, causal);
    near(&y[0], &[2, 3, 4], &expected(&|_, i, j| if j > i { f64::NEG_INFINITY } else { 0.0 }));
}

#[test]
fn attention_goes_on_from_its_past() {
    // One text, one head of two features; the past has one key, and the two new words see what is before them.
    let (x, w, past) = (data::tensor(&[1, 2, 2], 1), data::tensor(&[2, 6], 2), data::tensor(&[2, 1, 1, 1, 2], 3));
    let (wx, ww, wp) = (wide(&x), wide(&w), wide(&past));
    let part = |first: usize| -> Vec<f64> {
        let at = |word: usize, c: usize| (0..2).map(|k| wx[word * 2 + k] * ww[k * 6 + first + c]).sum::<f64>();
        vec![at(0, 0), at(0, 1), at(1, 0), at(1, 1)]
    };
    let (k, v) = ([&wp[..2], &part(2)].concat(), [&wp[2..], &part(4)].concat());
    let later = |i: usize, j: usize| if j > i + 1 { f64::NEG_INFINITY } else { 0.0 };
    let expected = attend(&part(0), &k, &v, 2, 0.5f64.sqrt(), later);
    let attrs = Attrs::new().with("num_heads", Attr::Int(1)).with("unidirectional", Attr::Int(1));
    let y = run(Op::MsAttention, &[Some(Ok(x)), Some(Err(w)), None, None, Some(Ok(past))], 2, attrs.clone());
    near(&y[0], &[1, 2, 2], &expected);
    near(&y[1], &[2, 1, 1, 3, 2], &[&k[..], &v].concat());
    // The same with queries, keys and values given.
    let rows = |values: Vec<f64>| Some(Ok(f32s(&[1, 2, 2], &values.iter().map(|&v| v as f32).collect::<Vec<_>>())));
    let half = |from: &[f64]| Some(Ok(f32s(&[1, 1, 1, 2], &from.iter().map(|&v| v as f32).collect::<Vec<_>>())));
    let (past_key, past_value) = (half(&wp[..2]), half(&wp[2..]));
    let inputs = [rows(part(0)), rows(part(2)), rows(part(4)), None, None, None, past_key, past_value];
    let y = run(Op::MultiHeadAttention, &inputs, 3, attrs);
    near(&y[0], &[1, 2, 2], &expected);
    near(&y[1], &[1, 1, 3, 2], &k);
    near(&y[2], &[1, 1, 3, 2], &v);
}

#[test]
fn attention_between_given_tensors_adds_their_bias() {
    // Two queries, three keys, one head; values are wider than keys.
    let (q, k, v) = (data::tensor(&[1, 2, 2], 1), data::tensor(&[1, 3, 2], 2), data::tensor(&[1, 3, 4], 3));
    let (bias, added) = (data::tensor(&[8], 4), data::tensor(&[1, 1, 2, 3], 5));
    let b = wide(&bias);
    let plus = |t: &Tensor, b: &[f64]| wide(t).iter().zip(b.iter().cycle()).map(|(x, b)| x + b).collect::<Vec<_>>();
    let (wq, wk, wv) = (plus(&q, &b[..2]), plus(&k, &b[2..4]), plus(&v, &b[4..]));
    let a = wide(&added);
    let expected = attend(&wq, &wk, &wv, 2, 0.25, |i, j| a[i * 3 + j]);
    for bias in [Ok(bias.clone()), Err(bias)] {
        let inputs =
            [Some(Ok(q.clone())), Some(Ok(k.clone())), Some(Ok(v.clone())), Some(bias), None, Some(Ok(added.clone()))];
        let attrs = Attrs::new().with("num_heads", Attr::Int(1)).with("scale", Attr::Float(0.25));
        near(&run(Op::MultiHeadAttention, &inputs, 1, attrs)[0], &[1, 2, 4], &expected);
    }
}

#[test]
fn weights_of_few_bits_are_those_that_they_stand_for() {
    // Two columns of K = 3 in blocks of 2, low bits first: 9 7 | 10, then 8 15 | 0, around 8.
    let codes = Tensor::from_slice(&[2, 2, 1], &[0x79_u8, 0x0A, 0xF8, 0x00]).unwrap();
    let scales = f32s(&[4], &[0.5, 2.0, 1.0, 0.25]);
    let attrs = [("N", 2), ("K", 3), ("bits", 4), ("block_size", 2)]
        .iter()
        .fold(Attrs::new(), |a, &(name, v)| a.with(name, Attr::Int(v)));
    let x = f32s(&[1, 3], &[1.0, 10.0, 100.0]);
    let inputs = [Some(Ok(x)), Some(Err(codes)), Some(Err(scales))];
    let y = run(Op::MatMulNBits, &inputs, 1, attrs.clone());
    // Columns 0.5 −0.5 4 and 0 7 −2.
    near(&y[0], &[1, 2], &[395.5, -130.0]);
    // With zero points 9, 2 and 7, 0, and a bias.
    let zeros = Tensor::from_slice(&[2], &[0x29_u8, 0x07]).unwrap();
    let more = [Some(Err(zeros)), None, Some(Err(f32s(&[2], &[1.0, 2.0])))];
    let y = run(Op::MatMulNBits, &[&inputs[..], &more].concat(), 1, attrs);
    // Columns 0 −1 16 and 1 8 0.
    near(&y[0], &[1, 2], &[1591.0, 83.0]);
}

#[test]
fn attention_and_products_of_codes_are_those_of_the_dequantized() {
    let x = Tensor::from_slice(&[1, 2, 2], &[130_u8, 120, 7, 255]).unwrap();
    let codes: Vec<i8> = vec![3, -7, 100, 12, -128, 0, 55, 1, -2, 90, 127, -31];
    let (sx, zx, sw, zw) = (0.02_f32, 120_u8, 0.01_f32, 2_i8);
    let floats: Vec<f32> = x.as_slice::<u8>().iter().map(|&q| sx * (f32::from(q) - f32::from(zx))).collect();
    let weights: Vec<f32> = codes.iter().map(|&q| sw * (f32::from(q) - f32::from(zw))).collect();
    let (floats, weights) = (f32s(&[1, 2, 2], &floats), f32s(&[2, 6], &weights));
    let bias = data::tensor(&[6], 1);
    let attrs = Attrs::new().with("num_heads", Attr::Int(1));
    let plain = [Some(Ok(floats.clone())), Some(Err(weights.clone())), Some(Err(bias.clone()))];
    let expected = wide(&run(Op::MsAttention, &plain, 1, attrs.clone())[0]);
    let w = Tensor::from_slice(&[2, 6], &codes).unwrap();
    let scalar = |v: f32| Tensor::scalar(v).unwrap();
    // With a constant scale of the input, and with one that is computed while running.
    // The former runs in integers, with a bias that is rounded to s_x·s_w.
    let rounded = f64::from(sx) * f64::from(sw) / 2.0 + 2e-5;
    for (scale, tolerance) in [(Err(scalar(sx)), rounded), (Ok(scalar(sx)), 2e-5)] {
        let inputs = [
            Some(Ok(x.clone())),
            Some(Err(w.clone())),
            Some(Err(bias.clone())),
            Some(scale.clone()),
            Some(Err(scalar(sw))),
            None,
            Some(Err(Tensor::scalar(zx).unwrap())),
            Some(Err(Tensor::scalar(zw).unwrap())),
        ];
        within(2.0 * tolerance, &run(Op::QAttention, &inputs, 1, attrs.clone())[0], &[1, 2, 2], &expected);
        let [x, w, b, sx, sw, _, zx, zw] = inputs;
        let product = run(Op::MatMulIntegerToFloat, &[x, w, sx, sw, zx, zw, b], 1, Attrs::new());
        let (f, v, b) = (wide(&floats), wide(&weights), wide(&bias));
        let at = |row: usize, c: usize| b[c] + (0..2).map(|k| f[row * 2 + k] * v[k * 6 + c]).sum::<f64>();
        let wanted: Vec<f64> =
            (0..2).flat_map(|row| (0..6).map(move |c| (row, c))).map(|(row, c)| at(row, c)).collect();
        within(tolerance, &product[0], &[1, 2, 6], &wanted);
    }
}

#[test]
fn a_quantized_lstm_is_the_lstm_of_its_weights() {
    // One direction, two inputs, one hidden: weights [1, 2, 4] stand for [1, 4, 2].
    let (w, r) = ([10_i8, -20, 30, 40, 5, 6, -7, 8], [50_i8, -60, 70, 80]);
    let float = |codes: &[i8], inputs: usize| -> Vec<f32> {
        (0..4).flat_map(|g| (0..inputs).map(move |i| 0.02 * f32::from(codes[i * 4 + g] - 1))).collect()
    };
    let x = data::tensor(&[3, 1, 2], 1);
    let attrs = Attrs::new().with("hidden_size", Attr::Int(1));
    let plain =
        [Some(Ok(x.clone())), Some(Err(f32s(&[1, 4, 2], &float(&w, 2)))), Some(Err(f32s(&[1, 4, 1], &float(&r, 1))))];
    let expected = run(Op::Lstm, &plain, 3, attrs.clone());
    let (scale, zero) = (Some(Err(f32s(&[1], &[0.02]))), Some(Err(Tensor::from_slice(&[1], &[1_i8]).unwrap())));
    let w = Some(Err(Tensor::from_slice(&[1, 2, 4], &w).unwrap()));
    let r = Some(Err(Tensor::from_slice(&[1, 1, 4], &r).unwrap()));
    let inputs = [Some(Ok(x)), w, r, None, None, None, None, None, scale.clone(), zero.clone(), scale, zero];
    let found = run(Op::DynamicQuantizeLstm, &inputs, 3, attrs);
    for (found, expected) in found.iter().zip(&expected) {
        near(found, expected.shape(), &wide(expected));
    }
}

#[test]
fn convolutions_and_products_with_what_is_behind_them() {
    let x = f32s(&[1, 1, 1, 3], &[1., 2., -3.]);
    let w = f32s(&[1, 1, 1, 1], &[2.0]);
    let z = f32s(&[1, 1, 1, 3], &[10., -10., 1.]);
    let leaky = Attrs::new()
        .with("activation", Attr::Str((*b"LeakyRelu").into()))
        .with("activation_params", Attr::Floats(vec![0.5]));
    let y = run(Op::FusedConv, &[Some(Ok(x)), Some(Err(w)), None, Some(Ok(z))], 1, leaky);
    near(&y[0], &[1, 1, 1, 3], &[12., -3., -2.5]);
    let (a, b) = (f32s(&[1, 2], &[1., 2.]), f32s(&[2, 2], &[1., -1., 1., -1.]));
    let relu = Attrs::new().with("activation", Attr::Str((*b"Relu").into())).with("alpha", Attr::Float(2.0));
    near(&run(Op::FusedGemm, &[Some(Ok(a)), Some(Err(b))], 1, relu)[0], &[1, 2], &[6., 0.]);
}

/// A chain of operators that are known and unknown.
fn chain(ops: &[(&str, &str)]) -> GraphBuilder {
    let mut b = GraphBuilder::new(17);
    let mut x = b.input("x", DType::F32, &[2, 4]);
    for (i, (domain, name)) in ops.iter().enumerate() {
        let op = Op::find(domain, name);
        let y = b.graph.add_value(&format!("v{i}"), Some(DType::F32), None);
        let mut node = Node::new(op, &format!("n{i}"), vec![Some(x)], vec![y], Attrs::new());
        if op == Op::FastGelu {
            let bias = b.constant(&format!("b{i}"), f32s(&[4], &[0.5; 4]));
            node.inputs.push(Some(bias));
        }
        let origin = NodeProto { op_type: (*name).to_owned(), domain: (*domain).to_owned(), ..NodeProto::default() };
        node.origin = (op == Op::Opaque).then(|| Arc::new(origin));
        b.graph.add_node(node);
        x = y;
    }
    b.output(x);
    b
}

#[test]
fn all_unknown_operators_are_named_at_once() {
    let b =
        chain(&[("", "Relu"), ("com.acme", "Foo"), ("", "Bar"), ("com.microsoft", "FastGelu"), ("com.acme", "Foo")]);
    let error = compile(&b.graph, Mode::Integer, Isa::PORTABLE).unwrap_err();
    assert!(matches!(&error, Error::UnknownOperators { operators } if operators.len() == 2));
    let text = error.to_string();
    assert!(text.contains("`com.acme.Foo` (2 nodes, the first is `n1`)") && text.contains("`Bar` (`n2`)"), "{text}");
    assert!(error.hint().unwrap().contains("--coverage"));
    // A file of ONNX Runtime's optimizer gets the hint that helps there.
    let b = chain(&[("com.microsoft", "NoSuchFusion")]);
    let error = compile(&b.graph, Mode::Simulate, Isa::PORTABLE).unwrap_err();
    assert!(error.hint().unwrap().contains("optimizer"));
}

#[test]
fn a_survey_tells_of_every_node_of_the_file() {
    let b = chain(&[("", "Relu"), ("com.acme", "Foo"), ("com.microsoft", "FastGelu"), ("", "Bar"), ("", "Tanh")]);
    let coverage = survey(&b.graph, Isa::PORTABLE).unwrap();
    let nodes: Vec<NodeId> = b.graph.nodes().map(|(id, _)| id).collect();
    assert_eq!(coverage.rows.iter().map(|r| r.node).collect::<Vec<_>>(), nodes);
    let refused: Vec<&str> = coverage.refused().map(|(row, _)| &*row.op).collect();
    assert_eq!(refused, ["com.acme.Foo", "Bar"]);
    // The FastGelu, which runs as a sum and a function of it, is one row.
    assert_eq!(coverage.rows[2].op, "com.microsoft.FastGelu");
    assert!(matches!(coverage.rows[2].status, Status::Float { reason: Reason::InputNotQuantized { .. } }));
}

#[test]
fn a_node_that_has_no_form_says_why() {
    let mut b = GraphBuilder::new(17);
    let q = b.input("q", DType::F32, &[1, 2, 2, 3, 2]);
    let y = b.node(Op::MultiHeadAttention, &[q], Attrs::new().with("num_heads", Attr::Int(2)));
    b.output(y);
    let error = compile(&b.graph, Mode::Integer, Isa::PORTABLE).unwrap_err().to_string();
    assert!(error.contains("MultiHeadAttention") && error.contains("in one tensor"), "{error}");
    assert_eq!(survey(&b.graph, Isa::PORTABLE).unwrap().refused().count(), 1);
    let mut b = GraphBuilder::new(17);
    let (a, w) = (b.input_of("a", DType::F32, vec![Dim::Unknown]), b.graph.add_value("w", Some(DType::F32), None));
    b.graph.inputs.push(w);
    let y = b.node(Op::FusedMatMul, &[a, w], Attrs::new().with("transB", Attr::Int(1)));
    b.output(y);
    let error = compile(&b.graph, Mode::Integer, Isa::PORTABLE).unwrap_err().to_string();
    assert!(error.contains("rank"), "{error}");
}
