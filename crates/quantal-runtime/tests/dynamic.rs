//! Products of rows that are quantized while running: written in standard operators, run as one step each.

use quantal_ir::qdq::insert_qdq;
use quantal_ir::{Attr, Attrs, Encoding, Op, Params, QuantPlan, infer};
use quantal_kernels::Isa;
use quantal_runtime::{Mode, Session, Status, compile};
use quantal_tensor::{DType, Granularity, QParams, Scheme, Tensor};
use quantal_testkit::data;
use quantal_testkit::graph::GraphBuilder;

/// Two products of the same rows, one with a bias after it, and a Gemm of what they make.
#[test]
fn the_pattern_is_one_quantization_and_one_product_each_and_gives_the_same_bits() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[2, 7, 33]);
    let mut plan = QuantPlan::default();
    let weight = |g: &mut GraphBuilder, plan: &mut QuantPlan, name: &str, shape: [usize; 2], axis: usize| {
        let w = g.constant(name, Tensor::from_slice(&shape, &data::uniform(shape[0] * shape[1], 9)).unwrap());
        let scheme = Scheme { granularity: Granularity::PerChannel { axis }, ..Scheme::weight_per_tensor() };
        let scale: Vec<f32> = (0..shape[axis]).map(|c| 0.008 + 0.0001 * c as f32).collect();
        let params = Params::Static(QParams { zero_point: vec![0; scale.len()], scale });
        plan.encodings.insert(w, Encoding { scheme, params, why: String::new() });
        w
    };
    let w = weight(&mut g, &mut plan, "w", [33, 20], 1);
    let a = g.node(Op::MatMul, &[x, w], Attrs::new());
    let bias = g.constant("bias", Tensor::from_slice(&[20], &data::uniform(20, 4)).unwrap());
    let a = g.node(Op::Add, &[a, bias], Attrs::new());
    let w = weight(&mut g, &mut plan, "v", [33, 20], 1);
    let b = g.node(Op::MatMul, &[x, w], Attrs::new());
    let sum = g.node(Op::Add, &[a, b], Attrs::new());
    let flat = g.constant("flat", Tensor::from_slice(&[2], &[-1_i64, 20]).unwrap());
    let rows = g.node(Op::Reshape, &[sum, flat], Attrs::new());
    let w = weight(&mut g, &mut plan, "u", [5, 20], 0);
    let bias = g.constant("c", Tensor::from_slice(&[5], &data::uniform(5, 3)).unwrap());
    let y = g.node(Op::Gemm, &[rows, w, bias], Attrs::new().with("transB", Attr::Int(1)));
    g.output(y);
    infer::run(&mut g.graph).unwrap();
    plan.dynamic = g.graph.nodes().filter(|(_, n)| matches!(n.op, Op::MatMul | Op::Gemm)).map(|(id, _)| id).collect();
    let float = g.graph;
    let mut graph = insert_qdq(&float, &plan).unwrap();
    infer::run(&mut graph).unwrap();

    let mut values = data::uniform(2 * 7 * 33, 1);
    // A row of zeros, and one with an outlier.
    values[..33].fill(0.0);
    values[40] = 90.0;
    let feeds = [("x".to_owned(), Tensor::from_slice(&[2, 7, 33], &values).unwrap())];
    let run = |graph, mode, isa, threads| {
        let program = compile(graph, mode, isa).unwrap();
        Session::new(program, threads).run(&feeds).unwrap().remove(0).1
    };
    let program = compile(&graph, Mode::Integer, Isa::PORTABLE).unwrap();
    let steps: Vec<&str> = program.steps.iter().map(|s| s.step.name()).collect();
    let count = |name: &str| steps.iter().filter(|s| **s == name).count();
    assert_eq!((count("quantize_rows"), count("product_rows")), (2, 3), "{steps:?}");
    let float_nodes = program.coverage.rows.iter().filter(|r| matches!(r.status, Status::Float { .. })).count();
    assert_eq!(float_nodes, 1, "the sum of the two products alone: {:?}", program.coverage.rows);
    let simulated = run(&graph, Mode::Simulate, Isa::PORTABLE, 1);
    for isa in Isa::available() {
        for threads in 1..=3 {
            assert_eq!(run(&graph, Mode::Integer, isa, threads).bytes(), simulated.bytes(), "{isa}, {threads} threads");
        }
    }
    let real = run(&float, Mode::Simulate, Isa::PORTABLE, 1);
    let pairs = real.as_slice::<f32>().iter().zip(simulated.as_slice::<f32>());
    let (signal, noise) = pairs.fold((0.0, 0.0), |(s, n), (r, x)| (s + r * r, n + (r - x) * (r - x)));
    assert!(signal > 1000.0 * noise, "{signal} {noise}");
}
