//! Integer programs against the QDQ graph as it is written: at most one step apart at every quantized value, and the
//! same bits with every instruction set and number of threads.

use quantal_ir::{Attr, Attrs, Dim, Op, ValueId, infer};
use quantal_kernels::Isa;
use quantal_runtime::{Mode, Program, Session, Status, compile, compile_observed};
use quantal_tensor::{DType, Tensor};
use quantal_testkit::data;
use quantal_testkit::graph::GraphBuilder;

/// A QDQ graph under construction: the data lie in −1 … 1, so scales are told as steps in that range.
struct Qdq {
    g: GraphBuilder,
    /// The scale of each output, which is the last `DequantizeLinear` before it.
    scales: Vec<f32>,
}

impl Qdq {
    fn new() -> Self {
        Self { g: GraphBuilder::new(17), scales: Vec::new() }
    }

    fn pair(&mut self, x: ValueId, scale: f32, zero_point: u8) -> ValueId {
        let n = self.g.graph.value_count();
        let s = self.g.constant(&format!("s{n}"), Tensor::scalar(scale).unwrap());
        let z = self.g.constant(&format!("z{n}"), Tensor::scalar(zero_point).unwrap());
        let q = self.g.node(Op::QuantizeLinear, &[x, s, z], Attrs::new());
        self.g.node(Op::DequantizeLinear, &[q, s, z], Attrs::new())
    }

    /// An input of uint8 codes, dequantized.
    fn input(&mut self, name: &str, shape: &[usize], scale: f32, zero_point: u8) -> ValueId {
        let x = self.g.input(name, DType::F32, shape);
        self.pair(x, scale, zero_point)
    }

    /// Constant codes behind a `DequantizeLinear` with a scale for each slice along `axis`.
    fn constant<T: quantal_tensor::Element>(
        &mut self,
        shape: &[usize],
        codes: &[T],
        scales: &[f32],
        axis: i64,
    ) -> ValueId {
        let n = self.g.graph.value_count();
        let codes = self.g.constant(&format!("codes{n}"), Tensor::from_slice(shape, codes).unwrap());
        let scales = self.g.constant(&format!("scales{n}"), Tensor::from_slice(&[scales.len()], scales).unwrap());
        self.g.node(Op::DequantizeLinear, &[codes, scales], Attrs::new().with("axis", Attr::Int(axis)))
    }

    fn weight(&mut self, shape: &[usize], axis: usize) -> (ValueId, Vec<f32>) {
        let seed = self.g.graph.value_count() as u64;
        let codes: Vec<i8> = data::uniform(shape.iter().product(), seed).iter().map(|v| (v * 127.0) as i8).collect();
        let scales: Vec<f32> = (0..shape[axis]).map(|c| 0.002 + 0.0003 * (c % 5) as f32).collect();
        (self.constant(shape, &codes, &scales, axis as i64), scales)
    }

    fn bias(&mut self, scale_x: f32, scales: &[f32]) -> ValueId {
        let codes: Vec<i32> = (0..scales.len() as i32).map(|c| c * 211 - 900).collect();
        let scales: Vec<f32> = scales.iter().map(|s| s * scale_x).collect();
        self.constant(&[codes.len()], &codes, &scales, 0)
    }

    fn conv(&mut self, x: ValueId, scale_x: f32, weight: &[usize], pad: i64, stride: i64, group: i64) -> ValueId {
        let (w, scales) = self.weight(weight, 0);
        let b = self.bias(scale_x, &scales);
        let attrs = Attrs::new()
            .with("pads", Attr::Ints(vec![pad; 4]))
            .with("strides", Attr::Ints(vec![stride; 2]))
            .with("group", Attr::Int(group));
        self.g.node(Op::Conv, &[x, w, b], attrs)
    }

    fn output(&mut self, x: ValueId, scale: f32, zero_point: u8) {
        let y = self.pair(x, scale, zero_point);
        self.g.output(y);
        self.scales.push(scale);
    }

    /// Compares both modes and all machines; `float` nodes may stay in float.
    fn check(mut self, float: usize) {
        infer::run(&mut self.g.graph).unwrap();
        let graph = &self.g.graph;
        let feeds: Vec<(String, Tensor)> = (graph.inputs.iter().zip(1..))
            .map(|(&v, seed)| {
                let value = graph.value(v);
                (value.name.to_string(), data::tensor(&value.known_shape().unwrap(), seed))
            })
            .collect();
        let run = |program: Program, threads| Session::new(program, threads).run(&feeds).unwrap();
        let simulated = run(compile(graph, Mode::Simulate, Isa::PORTABLE).unwrap(), 1);
        let program = compile(graph, Mode::Integer, Isa::PORTABLE).unwrap();
        let rows: Vec<_> = program.coverage.rows.iter().filter(|r| matches!(r.status, Status::Float { .. })).collect();
        assert_eq!(rows.len(), float, "in float: {rows:?}");
        let expected = run(program, 1);
        for (((name, a), (_, b)), scale) in expected.iter().zip(&simulated).zip(&self.scales) {
            let b = b.as_slice::<f32>();
            assert!(b.iter().any(|v| (v - b[0]).abs() > 12.0 * scale), "{name} says nothing");
            for (i, (a, b)) in a.as_slice::<f32>().iter().zip(b).enumerate() {
                let steps = ((a - b) / scale).abs();
                assert!(steps < 1.01, "{name}: {a} instead of {b} at {i}, {steps} steps");
            }
        }
        for isa in Isa::available() {
            for threads in 1..=3 {
                let found = run(compile(graph, Mode::Integer, isa).unwrap(), threads);
                for ((name, a), (_, b)) in found.iter().zip(&expected) {
                    assert_eq!(a.bytes(), b.bytes(), "{name} with {} and {threads} threads", isa.level().name());
                }
            }
        }
    }
}

const STEP: f32 = 1.0 / 127.0;

#[test]
fn a_residual_block_stays_within_a_step() {
    let mut q = Qdq::new();
    let x = q.input("x", &[2, 19, 9, 7], STEP, 128);
    let a = q.conv(x, STEP, &[37, 19, 3, 3], 1, 1, 1);
    let a = q.g.node(Op::Relu, &[a], Attrs::new());
    let a = q.pair(a, 0.011, 0);
    let b = q.conv(x, STEP, &[37, 19, 1, 1], 0, 1, 1);
    let b = q.pair(b, 0.013, 117);
    let sum = q.g.node(Op::Add, &[a, b], Attrs::new());
    let y = q.g.node(Op::Relu, &[sum], Attrs::new());
    q.output(y, 0.026, 0);
    q.check(0);
}

#[test]
fn a_residual_that_nobody_reads_again_is_written_over() {
    for (read_again, group) in [(false, 1), (true, 1), (false, 64)] {
        let mut q = Qdq::new();
        let x = q.input("x", &[2, 64, 9, 7], STEP, 128);
        let a = q.conv(x, STEP, &[64, 64, 1, 1], 0, 1, 1);
        let a = q.pair(a, 0.011, 120);
        let b = q.conv(a, 0.011, &[64, 64, 3, 3], 1, 1, 1);
        let b = q.pair(b, 0.013, 117);
        let c = q.conv(b, 0.013, &[64, 64 / group, 3, 3], 1, 1, group as i64);
        let c = q.pair(c, 0.015, 119);
        let sum = q.g.node(Op::Add, &[a, c], Attrs::new());
        let y = q.pair(sum, 0.026, 120);
        let last = if read_again { q.g.node(Op::Concat, &[y, a], Attrs::new().with("axis", Attr::Int(2))) } else { y };
        q.output(last, 0.026, 120);
        infer::run(&mut q.g.graph).unwrap();
        let program = compile(&q.g.graph, Mode::Integer, Isa::PORTABLE).unwrap();
        let over = program.steps.iter().filter(|row| row.overwrites.is_some()).count();
        assert_eq!(over, usize::from(!read_again && group == 1), "read again: {read_again}, group {group}");
        q.check(0);
    }
}

#[test]
fn depthwise_and_strided_convolutions_stay_within_a_step() {
    for (weight, pad, stride, group) in [([21, 1, 3, 3], 1, 1, 21), ([21, 1, 5, 5], 2, 2, 21), ([12, 7, 3, 3], 1, 2, 3)]
    {
        let mut q = Qdq::new();
        let x = q.input("x", &[1, 21, 11, 13], STEP, 131);
        let y = q.conv(x, STEP, &weight, pad, stride, group);
        q.output(y, 0.007, 120);
        q.check(0);
    }
}

#[test]
fn parts_of_different_scales_are_joined_within_a_step() {
    let mut q = Qdq::new();
    let parts = [
        q.input("a", &[1, 5, 6, 6], STEP, 128),
        q.input("b", &[1, 17, 6, 6], 0.005, 77),
        q.input("c", &[1, 3, 6, 6], 0.0091, 3),
    ];
    let y = q.g.node(Op::Concat, &parts, Attrs::new().with("axis", Attr::Int(1)));
    q.output(y, 0.0083, 121);
    q.check(0);
}

#[test]
fn a_part_that_is_joined_twice_is_brought_over_once() {
    let mut q = Qdq::new();
    let x = q.input("x", &[1, 19, 5, 4], STEP, 128);
    let part = q.conv(x, STEP, &[20, 19, 1, 1], 0, 1, 1);
    let part = q.pair(part, 0.0073, 131);
    let joined = q.g.node(Op::Concat, &[part, part], Attrs::new().with("axis", Attr::Int(1)));
    q.output(joined, 0.011, 119);
    q.check(0);
}

#[test]
fn means_stay_within_a_step() {
    let window = |pads: i64, include: i64| {
        Attrs::new()
            .with("kernel_shape", Attr::Ints(vec![3, 3]))
            .with("pads", Attr::Ints(vec![pads; 4]))
            .with("count_include_pad", Attr::Int(include))
    };
    for (op, attrs) in [
        (Op::AveragePool, window(0, 0)),
        (Op::AveragePool, window(1, 0)),
        (Op::AveragePool, window(1, 1)),
        (Op::GlobalAveragePool, Attrs::new()),
        (Op::ReduceMean, Attrs::new().with("axes", Attr::Ints(vec![2, 3]))),
    ] {
        let mut q = Qdq::new();
        let x = q.input("x", &[2, 33, 7, 5], STEP, 128);
        let y = q.g.node(op, &[x], attrs);
        q.output(y, 0.0041, 125);
        q.check(0);
    }
}

#[test]
fn gates_and_products_stay_within_a_step() {
    let mut q = Qdq::new();
    let x = q.input("x", &[2, 18, 5, 3], 0.04, 110);
    let gate = q.g.node(Op::Sigmoid, &[x], Attrs::new());
    let gate = q.pair(gate, 1.0 / 256.0, 0);
    let own = q.g.node(Op::Mul, &[x, gate], Attrs::new());
    q.output(own, 0.0062, 64);
    let b = q.input("b", &[2, 18, 5, 3], 0.0079, 127);
    let product = q.g.node(Op::Mul, &[x, b], Attrs::new());
    q.output(product, 0.0078, 128);
    let difference = q.g.node(Op::Sub, &[x, b], Attrs::new());
    q.output(difference, 0.0144, 128);
    let c = q.input("c", &[2, 18, 1, 1], 0.0079, 127);
    let scaled = q.g.node(Op::Mul, &[b, c], Attrs::new());
    q.output(scaled, 0.0077, 126);
    q.check(0);
}

#[test]
fn functions_written_out_without_codes_between_are_one_table() {
    let mut q = Qdq::new();
    let x = q.input("x", &[2, 18, 5, 3], 0.02, 110);
    let scalar = |q: &mut Qdq, v: f32| {
        let name = format!("c{}", q.g.graph.value_count());
        q.g.constant(&name, Tensor::scalar(v).unwrap())
    };
    let none = Attrs::new;
    // x · sigmoid(x), in both orders.
    let gate = q.g.node(Op::Sigmoid, &[x], none());
    let swish = q.g.node(Op::Mul, &[gate, x], none());
    q.output(swish, 0.0043, 50);
    // 0.5 · x · (1 + erf(x / √2)).
    let (root, one, half) = (scalar(&mut q, 2.0_f32.sqrt()), scalar(&mut q, 1.0), scalar(&mut q, 0.5));
    let halved = q.g.node(Op::Mul, &[half, x], none());
    let v = q.g.node(Op::Div, &[x, root], none());
    let v = q.g.node(Op::Erf, &[v], none());
    let v = q.g.node(Op::Add, &[one, v], none());
    let gelu = q.g.node(Op::Mul, &[halved, v], none());
    q.output(gelu, 0.0047, 44);
    // x · clip(x + 3, 0, 6) / 6.
    let (three, zero, six) = (scalar(&mut q, 3.0), scalar(&mut q, 0.0), scalar(&mut q, 6.0));
    let v = q.g.node(Op::Add, &[x, three], none());
    let v = q.g.node(Op::Clip, &[v, zero, six], none());
    let v = q.g.node(Op::Mul, &[x, v], none());
    let v = q.g.node(Op::Div, &[v, six], none());
    q.output(v, 0.0044, 60);
    q.check(0);
}

#[test]
fn a_gate_that_is_read_elsewhere_as_well_stays_in_float() {
    let mut q = Qdq::new();
    let x = q.input("x", &[1, 4, 5, 3], 0.02, 110);
    let gate = q.g.node(Op::Sigmoid, &[x], Attrs::new());
    let swish = q.g.node(Op::Mul, &[gate, x], Attrs::new());
    q.output(swish, 0.0043, 50);
    q.g.output(gate);
    q.scales.push(0.01);
    q.check(2);
}

#[test]
fn gemms_stay_within_a_step() {
    let mut q = Qdq::new();
    let x = q.input("x", &[7, 45], STEP, 140);
    let (w, scales) = q.weight(&[29, 45], 0);
    let b = q.bias(STEP, &scales);
    let y = q.g.node(Op::Gemm, &[x, w, b], Attrs::new().with("transB", Attr::Int(1)));
    q.output(y, 0.009, 133);
    let (w, _) = q.weight(&[45, 31], 1);
    let y = q.g.node(Op::MatMul, &[x, w], Attrs::new());
    q.output(y, 0.0091, 127);
    q.check(0);
}

#[test]
fn attention_stays_within_a_step() {
    let mut q = Qdq::new();
    let a = q.input("a", &[2, 3, 9, 16], STEP, 128);
    let b = q.input("b", &[2, 3, 16, 11], 0.0082, 120);
    let y = q.g.node(Op::MatMul, &[a, b], Attrs::new());
    q.output(y, 0.031, 125);
    let rows = q.input("rows", &[2, 3, 9, 21], 0.05, 128);
    let y = q.g.node(Op::Softmax, &[rows], Attrs::new().with("axis", Attr::Int(-1)));
    q.output(y, 1.0 / 256.0, 0);
    q.check(0);
}

#[test]
fn an_image_is_quantized_and_moved_in_one_step_if_nobody_else_reads_its_codes() {
    // Few channels, more than are interleaved, and codes that are handed out as well.
    for (channels, shared) in [(3, false), (5, false), (3, true)] {
        let mut q = Qdq::new();
        let x = q.input("x", &[2, channels, 9, 8], 0.01, 120);
        let y = q.conv(x, 0.01, &[6, channels, 3, 3], 1, 1, 1);
        q.output(y, 0.05, 128);
        if shared {
            q.g.output(x);
            q.scales.push(0.01);
        }
        let mut graph = q.g.graph.clone();
        infer::run(&mut graph).unwrap();
        let program = compile(&graph, Mode::Integer, Isa::PORTABLE).unwrap();
        let joined = program.steps.iter().any(|row| row.step.name() == "quantize_channels_last");
        assert_eq!(joined, !shared, "{channels} channels");
        q.check(0);
    }
}

/// A value that a Concat alone reads lies in its result from the beginning; one that somebody else reads as well, or that
/// no convolution makes, is copied to its columns.
#[test]
fn convolutions_write_side_by_side_what_a_concat_alone_reads() {
    let (s, z) = (0.011, 119);
    for size in [[2, 9, 7], [1, 1, 1], [1, 4, 12], [1, 13, 30]] {
        for other in ["none", "output", "pool"] {
            let mut q = Qdq::new();
            let x = q.input("x", &[size[0], 19, size[1], size[2]], STEP, 128);
            let h = q.conv(x, STEP, &[64, 19, 1, 1], 0, 1, 1);
            let h = q.pair(h, s, z);
            let sum = q.conv(x, STEP, &[64, 19, 3, 3], 1, 1, 1);
            let sum = q.pair(sum, s, z);
            let sum = q.g.node(Op::Add, &[sum, h], Attrs::new());
            let gate = q.conv(x, STEP, &[20, 19, 1, 1], 0, 1, 1);
            let gate = q.pair(gate, 0.013, 128);
            let gate = q.g.node(Op::Sigmoid, &[gate], Attrs::new());
            let depthwise = q.conv(h, s, &[64, 1, 3, 3], 1, 1, 64);
            let dense = q.conv(h, s, &[37, 64, 3, 3], 1, 1, 1);
            // The order of the parts is not the one in which they are made.
            let mut parts: Vec<_> = [gate, sum, depthwise].iter().map(|&v| q.pair(v, s, z)).collect();
            // A part of another scale is brought over where it is made.
            parts.insert(0, q.pair(dense, 0.0073, 131));
            match other {
                "output" => {
                    q.g.output(parts[1]);
                    q.scales.push(s);
                }
                "pool" => {
                    let window = Attrs::new().with("kernel_shape", Attr::Ints(vec![3; 2]));
                    let pool = q.g.node(Op::MaxPool, &[h], window.with("pads", Attr::Ints(vec![1; 4])));
                    parts.insert(2, q.pair(pool, s, z));
                }
                _ => {}
            }
            let joined = q.g.node(Op::Concat, &parts, Attrs::new().with("axis", Attr::Int(1)));
            let joined = q.pair(joined, s, z);
            q.g.output(joined);
            q.scales.push(s);
            let channels = if other == "pool" { 249 } else { 185 };
            let y = q.conv(joined, s, &[11, channels, 1, 1], 0, 1, 1);
            q.output(y, 0.05, 128);
            let mut graph = q.g.graph.clone();
            infer::run(&mut graph).unwrap();
            let names = |program: Program| program.steps.iter().map(|row| row.step.name()).collect::<Vec<_>>();
            let steps = names(compile(&graph, Mode::Integer, Isa::PORTABLE).unwrap());
            assert!(!steps.contains(&"op") && !steps.contains(&"lut"), "the Concat is left: {steps:?}");
            assert_eq!(steps.contains(&"join_codes"), other != "none", "{steps:?}");
            // Whoever looks at a part finds it by itself.
            let part = graph.node(graph.uses().producer(parts[3]).unwrap()).input(0).unwrap();
            let steps = names(compile_observed(&graph, Mode::Integer, Isa::PORTABLE, &[part]).unwrap());
            assert!(steps.contains(&"join_codes"), "{steps:?}");
            q.check(0);
        }
    }
}

#[test]
fn parts_of_other_sizes_do_not_join() {
    for other in ["conv", "pool"] {
        let mut q = Qdq::new();
        let sizes = |name: &str| vec![Dim::Symbol("n".into()), Dim::Known(3), Dim::Symbol(name.into()), Dim::Known(5)];
        let mut parts = Vec::new();
        for name in ["a", "b"] {
            let x = q.g.input_of(name, DType::F32, sizes(name));
            let x = q.pair(x, STEP, 128);
            let y = if name == "b" && other == "pool" {
                q.g.node(Op::MaxPool, &[x], Attrs::new().with("kernel_shape", Attr::Ints(vec![1; 2])))
            } else {
                q.conv(x, STEP, &[3, 3, 1, 1], 0, 1, 1)
            };
            parts.push(q.pair(y, STEP, 128));
        }
        let y = q.g.node(Op::Concat, &parts, Attrs::new().with("axis", Attr::Int(1)));
        q.output(y, STEP, 128);
        infer::run(&mut q.g.graph).unwrap();
        let program = compile(&q.g.graph, Mode::Integer, Isa::PORTABLE).unwrap();
        assert!(program.steps.iter().all(|row| row.step.name() != "op"));
        let mut session = Session::new(program, 1);
        let mut run = |n: usize, a: usize, b: usize| {
            let feed = |name: &str, h: usize| (name.to_owned(), data::tensor(&[n, 3, h, 5], 1));
            session.run(&[feed("a", a), feed("b", b)])
        };
        assert_eq!(run(1, 4, 4).unwrap()[0].1.shape(), [1, 6, 4, 5]);
        let error = run(1, 4, 6).unwrap_err().to_string();
        assert!(error.contains("do not join"), "{error}");
        // Nothing to write, and no column to begin at.
        assert_eq!(run(0, 4, 4).unwrap()[0].1.shape(), [0, 6, 4, 5]);
    }
}

/// Heads split from and merged into rows, scores with a factor: all of it strides and multipliers.
#[test]
fn heads_are_split_and_merged_without_copies() {
    let mut q = Qdq::new();
    let perm = |axes: [i64; 4]| Attrs::new().with("perm", Attr::Ints(axes.to_vec()));
    let x = q.input("x", &[2, 19, 3, 16], STEP, 128);
    let k = q.input("k", &[2, 19, 3, 16], 0.0081, 120);
    let v = q.input("v", &[2, 19, 3, 8], 0.0085, 131);
    let x = q.g.node(Op::Transpose, &[x], perm([0, 2, 1, 3]));
    let x = q.pair(x, STEP, 128);
    let k = q.g.node(Op::Transpose, &[k], perm([0, 2, 3, 1]));
    let k = q.pair(k, 0.0081, 120);
    let v = q.g.node(Op::Transpose, &[v], perm([0, 2, 1, 3]));
    let v = q.pair(v, 0.0085, 131);
    let y = q.g.node(Op::MatMul, &[x, k], Attrs::new());
    let eight = q.g.constant("eight", Tensor::scalar(8.0_f32).unwrap());
    let y = q.g.node(Op::Div, &[y, eight], Attrs::new());
    let scores = q.pair(y, 0.0042, 125);
    let y = q.g.node(Op::Softmax, &[scores], Attrs::new().with("axis", Attr::Int(-1)));
    let y = q.pair(y, 1.0 / 256.0, 0);
    let y = q.g.node(Op::MatMul, &[y, v], Attrs::new());
    let y = q.pair(y, 0.0027, 120);
    let y = q.g.node(Op::Transpose, &[y], perm([0, 2, 1, 3]));
    q.output(y, 0.0027, 120);
    infer::run(&mut q.g.graph).unwrap();
    let program = compile(&q.g.graph, Mode::Integer, Isa::PORTABLE).unwrap();
    let steps: Vec<&str> = program.steps.iter().map(|s| s.step.name()).collect();
    assert!(!steps.contains(&"op"), "moves are left: {steps:?}");
    q.check(0);
}

#[test]
fn masked_attention_stays_within_a_step() {
    for (mask, hidden) in
        [(&[1, 1, 1, 21][..], -10_000.0), (&[2, 1, 1, 21], f32::MIN), (&[3, 9, 1], -3.5), (&[9, 21], -3.5)]
    {
        let mut q = Qdq::new();
        let rows = q.input("rows", &[2, 3, 9, 21], 0.05, 128);
        let n = mask.iter().product::<usize>();
        let values: Vec<f32> = (0..n).map(|i| if i % 4 == 1 { hidden } else { 0.0 }).collect();
        let m = q.g.constant("mask", Tensor::from_slice(mask, &values).unwrap());
        let half = q.g.constant("half", Tensor::scalar(0.5_f32).unwrap());
        // Not folded: a mask comes from an input.
        let m = if mask.len() == 2 { q.g.node(Op::Mul, &[m, half], Attrs::new()) } else { m };
        let y = q.g.node(Op::Add, &[rows, m], Attrs::new());
        let y = q.g.node(Op::Softmax, &[y], Attrs::new().with("axis", Attr::Int(-1)));
        q.output(y, 1.0 / 256.0, 0);
        q.check(0);
    }
}

#[test]
fn norms_stay_within_a_step() {
    for (op, columns, bias) in
        [(Op::LayerNormalization, 37, true), (Op::LayerNormalization, 16, false), (Op::RmsNormalization, 21, false)]
    {
        let mut q = Qdq::new();
        let x = q.input("x", &[2, 9, columns], STEP, 131);
        let gamma: Vec<f32> = data::uniform(columns, 5).iter().map(|v| 1.0 + 0.3 * v).collect();
        let gamma = q.g.constant("gamma", Tensor::from_slice(&[columns], &gamma).unwrap());
        let beta = q.g.constant("beta", Tensor::from_slice(&[columns], &data::uniform(columns, 6)).unwrap());
        let inputs = if bias { vec![x, gamma, beta] } else { vec![x, gamma] };
        let y = q.g.node(op, &inputs, Attrs::new().with("axis", Attr::Int(-1)));
        q.output(y, 0.021, 120);
        q.check(0);
    }
}

#[test]
fn convolutions_over_three_axes_stay_within_a_step() {
    let attrs = |pads: [i64; 6], strides: [i64; 3], dilations: [i64; 3], group: i64| {
        Attrs::new()
            .with("pads", Attr::Ints(pads.to_vec()))
            .with("strides", Attr::Ints(strides.to_vec()))
            .with("dilations", Attr::Ints(dilations.to_vec()))
            .with("group", Attr::Int(group))
    };
    let cases = [
        ([5, 4, 3, 3, 3], attrs([1; 6], [1; 3], [1; 3], 1)),
        ([6, 2, 2, 3, 1], attrs([0, 1, 0, 2, 1, 0], [2, 1, 2], [1; 3], 2)),
        ([4, 1, 3, 3, 3], attrs([1; 6], [1; 3], [1; 3], 4)),
        ([7, 4, 1, 3, 3], attrs([0, 1, 1, 0, 1, 1], [1, 2, 1], [1; 3], 1)),
        ([7, 4, 2, 1, 1], attrs([0; 6], [1; 3], [3, 1, 1], 1)),
        ([3, 4, 5, 1, 1], attrs([4, 0, 0, 4, 0, 0], [3, 1, 1], [2, 1, 1], 1)),
    ];
    for (weight, attrs) in cases {
        let mut q = Qdq::new();
        let x = q.input("x", &[2, 4, 6, 5, 7], STEP, 117);
        let (w, scales) = q.weight(&weight, 0);
        let b = q.bias(STEP, &scales);
        let y = q.g.node(Op::Conv, &[x, w, b], attrs);
        let y = q.g.node(Op::Relu, &[y], Attrs::new());
        q.output(y, 0.03, 4);
        q.check(0);
    }
}

#[test]
fn the_largest_code_of_a_box_is_that_of_its_values() {
    for (kernel, strides, pads) in [([2, 3, 2], [1, 2, 1], [0; 6]), ([3, 1, 2], [2, 1, 2], [1, 0, 1, 1, 0, 0])] {
        let mut q = Qdq::new();
        let x = q.input("x", &[2, 3, 5, 6, 7], STEP, 100);
        let attrs = Attrs::new()
            .with("kernel_shape", Attr::Ints(kernel.to_vec()))
            .with("strides", Attr::Ints(strides.to_vec()))
            .with("pads", Attr::Ints(pads.to_vec()));
        let y = q.g.node(Op::MaxPool, &[x], attrs);
        q.output(y, STEP, 100);
        q.check(0);
    }
}

#[test]
fn stacks_of_weights_are_multiplied_matrix_by_matrix() {
    let cases: [(&[usize], &[usize]); 5] = [
        (&[3, 4, 5], &[3, 5, 6]),
        (&[2, 1, 4, 5], &[3, 5, 6]),
        (&[4, 5], &[2, 3, 5, 6]),
        (&[2, 3, 4, 5], &[1, 1, 5, 6]),
        (&[3, 1, 5], &[3, 5, 6]),
    ];
    for (x_shape, w_shape) in cases {
        for one_scale in [true, false] {
            let mut q = Qdq::new();
            let x = q.input("x", x_shape, STEP, 90);
            let n: usize = w_shape.iter().product();
            let codes: Vec<i8> = data::uniform(n, 3).iter().map(|v| (v * 127.0) as i8).collect();
            let scales: Vec<f32> = (0..6).map(|c| 0.004 + 0.0005 * c as f32).collect();
            let scales = if one_scale { &scales[..1] } else { &scales[..] };
            let last = w_shape.len() as i64 - 1;
            let w = q.constant(w_shape, &codes, scales, last);
            let y = q.g.node(Op::MatMul, &[x, w], Attrs::new());
            q.output(y, 0.01, 120);
            // With a bias that a node of its own adds.
            let bias =
                q.g.constant("bias", Tensor::from_slice(&[1, 6], &[0.3_f32, -0.2, 0.1, 0.0, 0.5, -0.4]).unwrap());
            let z = q.g.node(Op::MatMul, &[x, w], Attrs::new());
            let z = q.g.node(Op::Add, &[z, bias], Attrs::new());
            q.output(z, 0.01, 120);
            q.check(0);
        }
    }
}

#[test]
fn slopes_of_a_prelu_are_multipliers() {
    let slope = |shape: &[usize]| data::tensor(shape, 9);
    for (x_shape, shape) in [
        (&[2, 5, 3, 4][..], &[5, 1, 1][..]),
        (&[2, 5, 3, 4], &[1, 5, 1, 1]),
        (&[2, 5, 3, 4], &[4]),
        (&[2, 5, 3, 4], &[5, 3, 1]),
        (&[2, 5, 3, 4], &[1]),
        (&[3, 70], &[70]),
        (&[2, 5, 9], &[5, 1]),
    ] {
        let mut q = Qdq::new();
        let x = q.input("x", x_shape, STEP, 120);
        let slope = q.g.constant("slope", slope(shape));
        let y = q.g.node(Op::PRelu, &[x, slope], Attrs::new());
        q.output(y, 0.9 * STEP, 100);
        q.check(0);
    }
}

#[test]
fn means_over_axes_in_the_middle_stay_within_a_step() {
    for (axes, keep) in [(&[1][..], true), (&[1, 2], false), (&[0], true), (&[0, 1, 2, 3], true)] {
        let mut q = Qdq::new();
        let x = q.input("x", &[2, 3, 4, 5], STEP, 120);
        let attrs = Attrs::new().with("axes", Attr::Ints(axes.to_vec())).with("keepdims", Attr::Int(i64::from(keep)));
        let y = q.g.node(Op::ReduceMean, &[x], attrs);
        if !keep {
            q.output(y, STEP, 120);
            q.check(0);
            continue;
        }
        // The mean of everything is one number: with the input added, the output says something.
        let y = q.pair(y, STEP, 120);
        let y = q.g.node(Op::Add, &[y, x], Attrs::new());
        q.output(y, 2.0 * STEP, 128);
        q.check(0);
    }
}

#[test]
fn padding_that_follows_from_the_size_of_an_image_is_found_when_it_runs() {
    for (auto, strides) in [("SAME_UPPER", [2, 2]), ("SAME_LOWER", [2, 3]), ("SAME_UPPER", [3, 1])] {
        for group in [1, 4] {
            let mut q = Qdq::new();
            let x = q.input("x", &[1, 4, 9, 8], STEP, 117);
            let (w, scales) = q.weight(&[8, 4 / group, 3, 5], 0);
            let b = q.bias(STEP, &scales);
            let attrs = Attrs::new()
                .with("auto_pad", Attr::Str(auto.as_bytes().into()))
                .with("strides", Attr::Ints(strides.to_vec()))
                .with("group", Attr::Int(group as i64));
            let y = q.g.node(Op::Conv, &[x, w, b], attrs);
            let y = q.pair(y, 0.03, 100);
            q.g.output(y);
            let input = q.g.graph.inputs[0];
            let ids: Vec<ValueId> = q.g.graph.values().map(|(v, _)| v).collect();
            for v in ids {
                if q.g.graph.value(v).constant.is_none() {
                    q.g.graph.value_mut(v).shape = None;
                }
            }
            q.g.graph.value_mut(input).shape =
                Some(vec![Dim::Known(1), Dim::Known(4), Dim::Symbol("h".into()), Dim::Symbol("w".into())]);
            infer::run(&mut q.g.graph).unwrap();
            for [h, w] in [[9, 8], [10, 7], [2, 1], [12, 12]] {
                let feed = vec![("x".to_string(), data::tensor(&[1, 4, h, w], 5))];
                let simulated = compile(&q.g.graph, Mode::Simulate, Isa::PORTABLE).unwrap();
                let float = Session::new(simulated, 1).run(&feed).unwrap();
                for isa in Isa::available() {
                    let program = compile(&q.g.graph, Mode::Integer, isa).unwrap();
                    assert!(program.coverage.fallbacks().next().is_none(), "{:?}", program.coverage.rows);
                    let found = Session::new(program, 2).run(&feed).unwrap();
                    assert_eq!(found[0].1.shape(), float[0].1.shape());
                    for (a, b) in found[0].1.as_slice::<f32>().iter().zip(float[0].1.as_slice::<f32>()) {
                        assert!((a - b).abs() < 1.01 * 0.03, "{auto} {strides:?} {h}x{w}: {a} instead of {b}");
                    }
                }
            }
        }
    }
}

#[test]
fn small_forms_that_are_valid_run() {
    // The only window of a pool hangs over the end of the image.
    for op in [Op::MaxPool, Op::AveragePool] {
        let mut q = Qdq::new();
        let x = q.input("x", &[1, 3, 2, 7], STEP, 120);
        let attrs = Attrs::new()
            .with("kernel_shape", Attr::Ints(vec![3, 3]))
            .with("strides", Attr::Ints(vec![2, 2]))
            .with("ceil_mode", Attr::Int(1));
        let y = q.g.node(op, &[x], attrs);
        q.output(y, STEP, 120);
        q.check(0);
    }

    // A mean of rank 1, and scales of a normalization that are broadcast along its rows.
    let mut q = Qdq::new();
    let x = q.input("x", &[9], STEP, 120);
    let mean = q.g.node(Op::ReduceMean, &[x], Attrs::new().with("axes", Attr::Ints(vec![0])));
    let mean = q.pair(mean, STEP, 120);
    let y = q.g.node(Op::Add, &[mean, x], Attrs::new());
    q.output(y, 2.0 * STEP, 128);
    q.check(0);
    for (gamma, beta) in [(&[1][..], &[6][..]), (&[1, 1, 6], &[1]), (&[1, 6], &[1, 1, 1])] {
        let mut q = Qdq::new();
        let x = q.input("x", &[2, 3, 6], STEP, 120);
        let gamma = q.g.constant("gamma", data::tensor(gamma, 3));
        let beta = q.g.constant("beta", data::tensor(beta, 4));
        let y = q.g.node(Op::LayerNormalization, &[x, gamma, beta], Attrs::new());
        q.output(y, 0.02, 128);
        q.check(0);
    }
}

#[test]
fn clips_of_quantized_values_are_narrower_ranges() {
    let mut q = Qdq::new();
    let clipped_pair = |q: &mut Qdq, x: ValueId, scale: f32, zero_point: u8, ends: [u8; 2]| {
        let s = q.g.constant("s", Tensor::scalar(scale).unwrap());
        let z = q.g.constant("z", Tensor::scalar(zero_point).unwrap());
        let ends = ends.map(|end| q.g.constant("end", Tensor::scalar(end).unwrap()));
        let codes = q.g.node(Op::QuantizeLinear, &[x, s, z], Attrs::new());
        let clipped = q.g.node(Op::Clip, &[codes, ends[0], ends[1]], Attrs::new());
        q.g.node(Op::DequantizeLinear, &[clipped, s, z], Attrs::new())
    };
    let x = q.g.input("x", DType::F32, &[2, 19, 9, 7]);
    let x = clipped_pair(&mut q, x, STEP, 128, [100, 180]);
    let a = q.conv(x, STEP, &[8, 19, 3, 3], 1, 1, 1);
    let y = q.g.node(Op::Relu, &[a], Attrs::new());
    let y = clipped_pair(&mut q, y, 0.007, 3, [2, 60]);
    q.g.output(y);
    q.scales.push(0.007);
    infer::run(&mut q.g.graph).unwrap();
    let program = compile(&q.g.graph, Mode::Integer, Isa::PORTABLE).unwrap();
    let clips = program.coverage.rows.iter().filter(|row| row.op == "Clip");
    assert!(clips.clone().count() == 2 && clips.clone().all(|row| matches!(row.status, Status::Fused { .. })));
    q.check(0);
}

#[test]
fn a_clip_of_a_quantized_input_compares_integers() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::U8, &[3]);
    let ends = [3_u8, 100].map(|end| g.constant("end", Tensor::scalar(end).unwrap()));
    let s = g.constant("s", Tensor::scalar(0.5_f32).unwrap());
    let clipped = g.node(Op::Clip, &[x, ends[0], ends[1]], Attrs::new());
    let y = g.node(Op::DequantizeLinear, &[clipped, s], Attrs::new());
    g.output(y);
    infer::run(&mut g.graph).unwrap();
    let program = compile(&g.graph, Mode::Integer, Isa::PORTABLE).unwrap();
    let row = program.coverage.rows.iter().find(|row| row.op == "Clip").unwrap();
    assert!(matches!(row.status, Status::Integer { .. }), "{row:?}");
    let feeds = [("x".to_owned(), Tensor::from_slice(&[3], &[0_u8, 5, 200]).unwrap())];
    let outputs = Session::new(program, 1).run(&feeds).unwrap();
    assert_eq!(outputs[0].1.as_slice::<f32>(), [1.5, 2.5, 50.0]);
}
