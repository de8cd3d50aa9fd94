//! Constant folding: what is computed once, and what stays.

use quantal_ir::{Attrs, Op};
use quantal_kernels::Isa;
use quantal_runtime::fold_constants;
use quantal_tensor::{DType, Tensor};
use quantal_testkit::graph::GraphBuilder;

#[test]
fn chains_of_constants_are_folded_and_quantized_weights_stay() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[2]);
    let a = g.constant("a", Tensor::from_slice(&[2], &[1.0_f32, 2.0]).unwrap());
    let scale = g.constant("scale", Tensor::scalar(0.5_f32).unwrap());
    let zero = g.constant("zero", Tensor::scalar(0_i8).unwrap());
    let sum = g.node(Op::Add, &[a, a], Attrs::new());
    let root = g.node(Op::Neg, &[sum], Attrs::new());
    let codes = g.node(Op::QuantizeLinear, &[root, scale, zero], Attrs::new());
    let weights = g.node(Op::DequantizeLinear, &[codes, scale, zero], Attrs::new());
    let y = g.node(Op::Mul, &[x, weights], Attrs::new());
    g.output(y);
    let folded = fold_constants(&mut g.graph, Isa::PORTABLE).unwrap();
    assert_eq!(folded, ["Add_0", "Neg_1"]);
    assert_eq!(g.graph.constant(Some(root)).unwrap().as_slice::<f32>(), [-2.0, -4.0]);
    let left: Vec<Op> = g.graph.nodes().map(|(_, n)| n.op).collect();
    assert_eq!(left, [Op::QuantizeLinear, Op::DequantizeLinear, Op::Mul]);
}

#[test]
fn a_result_far_larger_than_its_inputs_is_left_to_the_run() {
    let mut g = GraphBuilder::new(17);
    let huge = g.constant("huge", Tensor::from_slice(&[2], &[1_i64 << 20, 1 << 20]).unwrap());
    let filled = g.node(Op::ConstantOfShape, &[huge], Attrs::new());
    let row = g.constant("row", Tensor::zeros(DType::F32, &[1, 1 << 16]).unwrap());
    let column = g.constant("column", Tensor::zeros(DType::F32, &[1 << 16, 1]).unwrap());
    let product = g.node(Op::Mul, &[row, column], Attrs::new());
    for v in [filled, product] {
        g.output(v);
    }
    assert!(fold_constants(&mut g.graph, Isa::PORTABLE).unwrap().is_empty());
}

#[test]
fn a_constant_node_of_any_size_becomes_the_constant_that_it_holds() {
    let large = Tensor::zeros(DType::F32, &[1 << 10, 1 << 9]).unwrap();
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[1, 1 << 10]);
    let held = g.node(Op::Constant, &[], Attrs::new());
    // As import leaves it: the contents are known.
    g.graph.set_constant(held, large);
    let y = g.node(Op::MatMul, &[x, held], Attrs::new());
    g.output(y);
    assert_eq!(fold_constants(&mut g.graph, Isa::PORTABLE).unwrap(), ["Constant_0"]);
    assert_eq!(g.graph.nodes().map(|(_, n)| n.op).collect::<Vec<_>>(), [Op::MatMul]);
    assert!(g.graph.constant(Some(held)).is_some());
}
