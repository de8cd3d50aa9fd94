//! Every form that is placed in integers, quantized and compiled: the decision and the coverage say the same.

use crate::place::tests::Build;
use crate::{Quantized, Recipe, Runs, Silent, Stream, Verdict, quantize};
use quantal_data::Sample;
use quantal_ir::passes::canonicalize;
use quantal_ir::{Attr, Attrs, Graph, Op, ValueId, infer};
use quantal_kernels::Isa;
use quantal_runtime::{Mode, Session, Status, compile};
use quantal_tensor::Tensor;

fn ints(name: &str, list: &[i64]) -> Attrs {
    Attrs::new().with(name, Attr::Ints(list.to_vec()))
}

fn quantized(graph: &mut Graph) -> Quantized {
    infer::run(graph).unwrap();
    canonicalize(graph).unwrap();
    infer::run(graph).unwrap();
    let feeds = feeds(graph);
    let sample = || Sample { name: "sample".into(), feeds: feeds.clone(), label: None };
    let samples = || -> Stream<'_> { Box::new((0..2).map(|_| Ok(sample()))) };
    let mut runs = Runs { samples: &samples, isa: Isa::PORTABLE, threads: 1, progress: &mut Silent };
    quantize(graph, &Recipe::default(), &mut runs).unwrap()
}

fn feeds(graph: &Graph) -> Vec<(String, Tensor)> {
    let feed = |&v: &ValueId| {
        let shape = graph.value(v).known_shape().unwrap();
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| ((i * 2741 + 97) % 4093) as f32 / 2046.0 - 1.0).collect();
        (graph.value(v).name.to_string(), Tensor::from_slice(&shape, &values).unwrap())
    };
    graph.inputs.iter().map(feed).collect()
}

/// Quantizes, compiles and runs a graph whose node `name` is looked at: whether it runs in integers. Decisions and
/// coverage must agree on every node, and the outputs be near those of the float graph.
fn runs_in_integers(name: &str, mut graph: Graph) -> bool {
    let original = graph.clone();
    let q = quantized(&mut graph);
    let program = compile(&q.graph, Mode::Integer, Isa::PORTABLE).unwrap();
    for d in &q.decisions {
        let Some(row) = program.coverage.row(d.node) else { continue };
        let float = matches!(row.status, Status::Float { .. });
        match d.verdict {
            Verdict::Integer | Verdict::Fused(_) => {
                assert!(!float, "{name}: {} runs in float: {:?}", d.name, row.status);
            }
            Verdict::Float => assert!(
                !matches!(row.status, Status::Integer { .. }),
                "{name}: {} runs in integers, placed in float: {}",
                d.name,
                d.why
            ),
            Verdict::Untouched => {}
        }
    }

    let feeds = feeds(&original);
    let run = |program| Session::new(program, 1).run(&feeds).unwrap().remove(0).1;
    let mut noise = quantal_tensor::stats::SqnrSums::default();
    let float = run(compile(&original, Mode::Simulate, Isa::PORTABLE).unwrap());
    noise.add(float.as_slice::<f32>(), run(program).as_slice::<f32>());
    assert!(noise.db() > 20.0, "{name}: {} dB", noise.db());
    let looked_at = q.decisions.iter().find(|d| &*d.name == name).unwrap();
    !matches!(looked_at.verdict, Verdict::Float)
}

/// An image of `shape` through a convolution, what `make` builds, named `node`, and another convolution.
fn between_convolutions(shape: &[usize], make: impl Fn(&mut Build, ValueId) -> ValueId) -> bool {
    let mut b = Build::new();
    let x = b.input("x", shape);
    let spatial = shape.len() - 2;
    let conv = |b: &mut Build, x: ValueId| {
        let w = b.constant("w", &[&[6, 6], &vec![1; spatial][..]].concat());
        b.binary(Op::Conv, x, w)
    };
    let a = conv(&mut b, x);
    let y = make(&mut b, a);
    let y = conv(&mut b, y);
    b.graph.outputs = vec![y];
    runs_in_integers("node", b.graph)
}

/// Rows of `shape` through a product, what `make` builds, and another product.
fn between_products(shape: &[usize], make: impl Fn(&mut Build, ValueId) -> ValueId) -> bool {
    let mut b = Build::new();
    let x = b.input("x", shape);
    let a = b.matmul(x, 6);
    let a = b.unary(Op::Relu, a);
    let y = make(&mut b, a);
    let y = b.matmul(y, 6);
    b.graph.outputs = vec![y];
    runs_in_integers("node", b.graph)
}

const IMAGE: [usize; 4] = [1, 6, 8, 8];
const VIDEO: [usize; 5] = [1, 6, 5, 6, 7];
const ROWS: [usize; 3] = [2, 3, 6];

#[test]
fn windows_run_as_they_are_placed() {
    let window = |op: Op, attrs: Attrs, weights: Option<Vec<usize>>| {
        move |b: &mut Build, x: ValueId| {
            let w = weights.as_ref().map(|shape| b.constant("weights", shape));
            let inputs: Vec<ValueId> = [x].into_iter().chain(w).collect();
            b.named(op, "node", &inputs, attrs.clone())
        }
    };
    let conv = |weights: &[usize], attrs: Attrs| window(Op::Conv, attrs, Some(weights.to_vec()));
    assert!(between_convolutions(&[1, 6, 9], conv(&[6, 6, 3], ints("strides", &[2]))));
    assert!(between_convolutions(&IMAGE, conv(&[6, 1, 3, 3], Attrs::new().with("group", Attr::Int(6)))));
    assert!(between_convolutions(&VIDEO, conv(&[6, 6, 3, 3, 3], ints("pads", &[1; 6]))));
    let grouped = ints("dilations", &[2, 1, 1]).with("group", Attr::Int(2)).with("strides", Attr::Ints(vec![1, 2, 2]));
    assert!(between_convolutions(&VIDEO, conv(&[6, 3, 2, 3, 3], grouped)));
    assert!(between_convolutions(&VIDEO, conv(&[6, 6, 1, 3, 3], Attrs::new())));

    let transposed = |weights: &[usize]| window(Op::ConvTranspose, Attrs::new(), Some(weights.to_vec()));
    assert!(between_convolutions(&IMAGE, transposed(&[6, 6, 2, 2])));
    assert!(!between_convolutions(&VIDEO, transposed(&[6, 6, 2, 2, 2])), "no kernel");

    let pool = |op: Op, kernel: &[i64]| window(op, ints("kernel_shape", kernel), None);
    assert!(between_convolutions(&IMAGE, pool(Op::AveragePool, &[3, 2])));
    assert!(!between_convolutions(&VIDEO, pool(Op::AveragePool, &[2, 2, 2])), "no kernel");
    assert!(between_convolutions(&IMAGE, pool(Op::MaxPool, &[2, 3])));
    assert!(between_convolutions(&VIDEO, pool(Op::MaxPool, &[2, 3, 2])));
    for shape in [&IMAGE[..], &VIDEO] {
        assert!(between_convolutions(shape, window(Op::GlobalAveragePool, Attrs::new(), None)));
        assert!(between_convolutions(shape, window(Op::GlobalMaxPool, Attrs::new(), None)));
    }
}

#[test]
fn functions_run_as_they_are_placed() {
    let slopes = |shape: &'static [usize]| {
        move |b: &mut Build, x: ValueId| {
            let slope = b.constant("slope", shape);
            b.named(Op::PRelu, "node", &[x, slope], Attrs::new())
        }
    };
    for shape in [&[1][..], &[6, 1, 1], &[1, 6, 1, 1], &[8], &[6, 8, 1], &[6, 8, 8]] {
        assert!(between_convolutions(&IMAGE, slopes(Box::leak(shape.to_vec().into_boxed_slice()))), "{shape:?}");
    }
    assert!(between_products(&ROWS, slopes(&[6])));
    for op in [Op::LeakyRelu, Op::Sigmoid, Op::HardSwish, Op::Relu, Op::Neg, Op::Identity] {
        if op != Op::Identity {
            assert!(between_convolutions(&IMAGE, |b, x| b.named(op, "node", &[x], Attrs::new())), "{op:?}");
        }
    }
    assert!(between_convolutions(&IMAGE, |b, x| b.named(Op::Mul, "node", &[x, x], Attrs::new())));
    let last = |b: &mut Build, x| b.named(Op::Softmax, "node", &[x], Attrs::new().with("axis", Attr::Int(-1)));
    assert!(between_products(&ROWS, last));
    let along =
        |axis| move |b: &mut Build, x| b.named(Op::Softmax, "node", &[x], Attrs::new().with("axis", Attr::Int(axis)));
    assert!(between_convolutions(&IMAGE, along(1)));
    assert!(!between_convolutions(&IMAGE, along(2)), "no kernel");
}

#[test]
fn moves_and_means_run_as_they_are_placed() {
    let mean = |axes: &'static [i64]| move |b: &mut Build, x| b.named(Op::ReduceMean, "node", &[x], ints("axes", axes));
    for axes in [&[2, 3][..], &[-1], &[2], &[1, 2]] {
        let keeps_channels = !axes.contains(&1);
        let shape = if keeps_channels { IMAGE } else { [1, 6, 8, 6] };
        let ran = if keeps_channels {
            between_convolutions(&shape, mean(Box::leak(axes.to_vec().into_boxed_slice())))
        } else {
            between_products(&shape, mean(Box::leak(axes.to_vec().into_boxed_slice())))
        };
        assert!(ran, "{axes:?}");
    }
    assert!(!between_products(&[1, 6, 8, 6], mean(&[0, 2])), "axes apart");

    let pads = |b: &mut Build, x: ValueId| {
        let pads = Tensor::from_slice(&[8], &[0_i64, 0, 1, 0, 0, 0, 2, 1]).unwrap();
        let (pads, value) = (b.graph.add_constant("pads", pads), b.scalar(0.25));
        b.named(Op::Pad, "node", &[x, pads, value], Attrs::new())
    };
    assert!(between_convolutions(&IMAGE, pads));
    let resize = |mode: &'static str| {
        move |b: &mut Build, x: ValueId| {
            let scales = b.constant_of("scales", &[4], &[1.0, 1.0, 2.0, 2.0]);
            let none = b.graph.add_constant("none", Tensor::from_slice::<f32>(&[0], &[]).unwrap());
            let attrs = Attrs::new().with("mode", Attr::Str(mode.as_bytes().into()));
            b.named(Op::Resize, "node", &[x, none, scales], attrs)
        }
    };
    assert!(between_convolutions(&IMAGE, resize("nearest")));
    let perm = |b: &mut Build, x| b.named(Op::Transpose, "node", &[x], ints("perm", &[0, 1, 3, 2]));
    assert!(between_convolutions(&IMAGE, perm));
    let join = |b: &mut Build, x: ValueId| {
        let r = b.unary(Op::Relu, x);
        b.named(Op::Concat, "node", &[x, r], Attrs::new().with("axis", Attr::Int(2)))
    };
    assert!(between_convolutions(&IMAGE, join));
}

#[test]
fn products_run_as_they_are_placed() {
    let stack = |shape: &'static [usize]| {
        move |b: &mut Build, x: ValueId| {
            let w = b.constant("weights", shape);
            b.named(Op::MatMul, "node", &[x, w], Attrs::new())
        }
    };
    for shape in [&[6, 6][..], &[1, 6, 6], &[2, 6, 6], &[4, 1, 6, 6], &[4, 2, 6, 6]] {
        assert!(between_products(&ROWS, stack(Box::leak(shape.to_vec().into_boxed_slice()))), "{shape:?}");
    }
    let biased = |b: &mut Build, x: ValueId| {
        let (w, bias) = (b.constant("weights", &[2, 6, 6]), b.constant("bias", &[1, 1, 6]));
        let y = b.named(Op::MatMul, "node", &[x, w], Attrs::new());
        b.binary(Op::Add, y, bias)
    };
    assert!(between_products(&ROWS, biased));

    let gemm = |attrs: Attrs, bias: Option<Vec<usize>>, first: bool| {
        move |b: &mut Build, x: ValueId| {
            let w = b.constant("weights", &[6, 6]);
            let bias = bias.as_ref().map(|shape| b.constant("bias", shape));
            let inputs = if first { [w, x] } else { [x, w] };
            let inputs: Vec<ValueId> = inputs.into_iter().chain(bias).collect();
            b.named(Op::Gemm, "node", &inputs, attrs.clone())
        }
    };
    let factors = || Attrs::new().with("alpha", Attr::Float(0.5)).with("beta", Attr::Float(2.0));
    for trans in [0, 1] {
        let attrs = || factors().with("transA", Attr::Int(trans)).with("transB", Attr::Int(1 - trans));
        for first in [false, true] {
            for bias in [None, Some(vec![1]), Some(vec![6]), Some(vec![1, 6]), Some(vec![6, 1]), Some(vec![6, 6])] {
                assert!(between_products(&[6, 6], gemm(attrs(), bias.clone(), first)), "{trans} {first} {bias:?}");
            }
        }
    }
}

#[test]
fn a_product_too_long_for_its_accumulator_is_not_rounded() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 70_000]);
    let w = b.constant("w", &[70_000, 2]);
    let y = b.named(Op::MatMul, "long", &[x, w], Attrs::new());
    b.graph.outputs = vec![y];
    let mut graph = b.graph;
    let q = quantized(&mut graph);
    assert!(q.plan.encodings.is_empty(), "{:?}", q.plan.encodings);
    assert!(q.graph.nodes().all(|(_, n)| n.op != Op::QuantizeLinear && n.op != Op::DequantizeLinear));
    let why = &q.decisions[0].why;
    assert!(why.contains("product") && why.contains("70000") && !why.contains("bias"), "{why}");
}

#[test]
fn a_bias_is_near_where_calibration_saw_only_zeros() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 6]);
    let zero = b.scalar(0.0);
    let nothing = b.binary(Op::Mul, x, zero);
    let (w, bias) = (b.constant("w", &[6, 6]), b.constant_of("bias", &[1], &[0.37]));
    let y = b.node(Op::Gemm, &[nothing, w, bias], Attrs::new());
    b.graph.outputs = vec![y];
    let mut graph = b.graph;
    let q = quantized(&mut graph);
    let program = compile(&q.graph, Mode::Integer, Isa::PORTABLE).unwrap();
    let y = Session::new(program, 1).run(&feeds(&graph)).unwrap().remove(0).1;
    assert!(y.as_slice::<f32>().iter().all(|y| (y - 0.37).abs() < 0.37e-3), "{:?}", y.as_slice::<f32>());
}
