//! Models of float16 and bfloat16: every operator runs in float32 between inputs and outputs of their own type.

use half::{bf16, f16};
use quantal_ir::{Attr, Attrs, Op, infer};
use quantal_kernels::Isa;
use quantal_runtime::{Mode, Program, Session, Status, compile};
use quantal_tensor::{DType, Element, Tensor};
use quantal_testkit::graph::GraphBuilder;

fn program(g: &mut GraphBuilder) -> Program {
    infer::run(&mut g.graph).unwrap();
    compile(&g.graph, Mode::Integer, Isa::PORTABLE).unwrap()
}

fn run(program: Program, feeds: &[(&str, Tensor)]) -> Vec<Tensor> {
    let feeds: Vec<_> = feeds.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
    Session::new(program, 1).run(&feeds).unwrap().into_iter().map(|o| o.1).collect()
}

fn halves(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(shape, &values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>()).unwrap()
}

fn sum_of_products<T: Element>(dtype: DType, of: impl Fn(f32) -> T) -> Tensor {
    let tensor = |shape: &[usize], values: &[f32]| {
        Tensor::from_slice(shape, &values.iter().map(|&v| of(v)).collect::<Vec<_>>()).unwrap()
    };
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", dtype, &[1, 3]);
    let w = g.constant("w", tensor(&[3, 1], &[1.0, 1.0, 1.0]));
    let product = g.node(Op::MatMul, &[x, w], Attrs::new());
    g.output(product);
    let program = program(&mut g);
    assert_eq!(program.coverage.rows.len(), 1, "a row a node of the model as it came: {:?}", program.coverage.rows);
    run(program, &[("x", tensor(&[1, 3], &[256.0, 0.5, 0.5]))]).remove(0)
}

#[test]
fn sums_are_rounded_once_to_the_type_of_the_output() {
    // In float16 all of it is exact. In bfloat16, whose steps are 2 there, 257 ties to 256.
    assert_eq!(sum_of_products(DType::F16, f16::from_f32).as_slice::<f16>(), [f16::from_f32(257.0)]);
    assert_eq!(sum_of_products(DType::BF16, bf16::from_f32).as_slice::<bf16>(), [bf16::from_f32(256.0)]);
}

#[test]
fn a_value_may_leave_the_range_of_halves_between_two_nodes() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F16, &[2]);
    let square = g.node(Op::Mul, &[x, x], Attrs::new());
    let y = g.node(Op::Sqrt, &[square], Attrs::new());
    g.output(y);
    // 60,000² is beyond 65,504 and within float32; so is what ONNX Runtime gives on a CPU.
    let y = run(program(&mut g), &[("x", halves(&[2], &[60_000.0, 3.0]))]).remove(0);
    assert_eq!(y.as_slice::<f16>(), [f16::from_f32(60_000.0), f16::from_f32(3.0)]);
}

#[test]
fn subgraphs_read_and_give_halves() {
    let side = |op: Op| {
        let mut g = GraphBuilder::new(17);
        let (a, c) = (g.capture("a"), g.capture("c"));
        for v in [a, c] {
            g.graph.value_mut(v).dtype = Some(DType::F16);
        }
        let y = g.node(op, &[a, c], Attrs::new());
        g.output(y);
        infer::run(&mut g.graph).unwrap();
        g.into_attr()
    };
    let mut g = GraphBuilder::new(17);
    let condition = g.input("condition", DType::Bool, &[]);
    let x = g.input("x", DType::F16, &[2]);
    let (c, a) = (halves(&[2], &[10.0, 20.0]), g.graph.add_value("a", Some(DType::F16), None));
    g.constant("c", c);
    g.graph.add_node(quantal_ir::Node::new(Op::Neg, "neg", vec![Some(x)], vec![a], Attrs::new()));
    let attrs = Attrs::new().with("then_branch", side(Op::Add)).with("else_branch", side(Op::Mul));
    let chosen = g.node(Op::If, &[condition], attrs);
    let y = g.node(Op::Add, &[chosen, a], Attrs::new());
    g.output(y);
    infer::run(&mut g.graph).unwrap();
    for (flag, expected) in [(true, [8.0, 16.0]), (false, [-11.0, -42.0])] {
        let flag = Tensor::from_bools(&[], &[flag]).unwrap();
        let out = run(program(&mut g), &[("condition", flag), ("x", halves(&[2], &[1.0, 2.0]))]).remove(0);
        assert_eq!(out.as_slice::<f16>(), expected.map(f16::from_f32));
    }
}

#[test]
fn codes_with_scales_of_float16_run_in_integers() {
    let mut g = GraphBuilder::new(19);
    let x = g.input("x", DType::F16, &[2, 4]);
    let (s, z) = (halves(&[], &[0.5]), Tensor::scalar(128_u8).unwrap());
    let (s, z) = (g.constant("s", s), g.constant("z", z));
    let w = g.constant("w", Tensor::from_slice(&[4, 2], &[1_i8, -2, 3, 4, -5, 6, 7, 8]).unwrap());
    let ws = g.constant("ws", halves(&[2], &[0.25, 0.5]));
    let pair = |g: &mut GraphBuilder, x| {
        let q = g.node(Op::QuantizeLinear, &[x, s, z], Attrs::new());
        g.node(Op::DequantizeLinear, &[q, s, z], Attrs::new())
    };
    let x = pair(&mut g, x);
    let w = g.node(Op::DequantizeLinear, &[w, ws], Attrs::new().with("axis", Attr::Int(1)));
    let product = g.node(Op::MatMul, &[x, w], Attrs::new());
    let y = pair(&mut g, product);
    g.output(y);
    let program = program(&mut g);
    let row = program.coverage.rows.iter().find(|r| r.op == "MatMul").unwrap();
    assert!(matches!(row.status, Status::Integer { .. }), "{row:?}");
    assert!(program.coverage.rows.iter().all(|r| r.op != "Cast"));
    // Row 0: 1·0.25 + 0.5·0.75 + 0·(−1.25) + 2·1.75 = 4.125 → 8.25 steps → 4; −1 + 1 + 0 + 8 = 8. Row 1 is its negative.
    let data = halves(&[2, 4], &[1.0, 0.5, 0.0, 2.0, -1.0, -0.5, 0.0, -2.0]);
    let y = run(program, &[("x", data)]).remove(0);
    assert_eq!((y.shape(), y.as_slice::<f16>()), (&[2, 2][..], &[4.0, 8.0, -4.0, -8.0].map(f16::from_f32)[..]));
}
