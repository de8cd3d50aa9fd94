use super::*;
use crate::attrs::{Attr, Attrs};
use crate::graph::Dim;
use quantal_tensor::{DType, Tensor};

#[expect(clippy::unnecessary_wraps, reason = "given where a shape may be unknown")]
fn dims(d: &[usize]) -> Option<Vec<Dim>> {
    Some(d.iter().map(|&n| Dim::Known(n)).collect())
}

fn constant(g: &mut Graph, name: &str, shape: &[usize], values: &[f32]) -> ValueId {
    g.add_constant(name, Tensor::from_slice(shape, values).unwrap())
}

/// x [1, 1, 4, 4] → Conv with 2 channels of 1×1 weights 3 and 5, no bias → c; the node is the first.
fn conv(g: &mut Graph) -> (ValueId, ValueId) {
    let x = g.add_value("x", Some(DType::F32), dims(&[1, 1, 4, 4]));
    let w = constant(g, "w", &[2, 1, 1, 1], &[3.0, 5.0]);
    let c = g.add_value("c", Some(DType::F32), dims(&[1, 2, 4, 4]));
    g.inputs = vec![x];
    g.add_node(Node::new(Op::Conv, "conv", vec![Some(x), Some(w)], vec![c], Attrs::new()));
    (x, c)
}

fn f32s(g: &Graph, v: Option<ValueId>) -> Vec<f32> {
    g.constant(v).unwrap().as_slice::<f32>().to_vec()
}

#[test]
fn batch_norm_scale_and_shift_end_up_in_the_convolution() {
    let mut g = Graph::default();
    let (_, c) = conv(&mut g);
    let p: Vec<_> = [[2.0, 1.0], [1.0, 1.0], [0.5, 0.0], [4.0, 1.0]]
        .iter()
        .enumerate()
        .map(|(i, v)| Some(constant(&mut g, &format!("p{i}"), &[2], v)))
        .collect();
    let n = g.add_value("n", Some(DType::F32), dims(&[1, 2, 4, 4]));
    let inputs = std::iter::once(Some(c)).chain(p).collect();
    let attrs = Attrs::new().with("epsilon", Attr::Float(0.0));
    g.add_node(Node::new(Op::BatchNormalization, "bn", inputs, vec![n], attrs));
    let k = constant(&mut g, "k", &[2, 1, 1], &[10.0, 20.0]);
    let y = g.add_value("y", Some(DType::F32), dims(&[1, 2, 4, 4]));
    g.add_node(Node::new(Op::Mul, "mul", vec![Some(k), Some(n)], vec![y], Attrs::new()));
    g.outputs = vec![y];
    let passes: Vec<_> = canonicalize(&mut g).unwrap().iter().map(|c| c.pass).collect();
    assert_eq!(passes, ["fold_batchnorm", "fold_scale"]);
    let (_, node) = g.nodes().next().unwrap();
    // γ/√σ² is 1 and 1, the shift β − μ·factor is 0.5 and 1; then ·10 and ·20.
    assert_eq!(f32s(&g, node.input(1)), [30.0, 100.0]);
    assert_eq!(f32s(&g, node.input(2)), [5.0, 20.0]);
    assert_eq!((g.node_count(), node.output(0)), (1, Some(y)));
}

#[test]
fn nothing_is_folded_into_a_convolution_that_others_read() {
    let mut g = Graph::default();
    let (_, c) = conv(&mut g);
    let k = constant(&mut g, "k", &[2, 1, 1], &[10.0, 20.0]);
    let y = g.add_value("y", Some(DType::F32), dims(&[1, 2, 4, 4]));
    g.add_node(Node::new(Op::Mul, "mul", vec![Some(c), Some(k)], vec![y], Attrs::new()));
    g.outputs = vec![y, c];
    assert_eq!(canonicalize(&mut g).unwrap(), []);
    g.outputs = vec![y];
    let row = constant(&mut g, "row", &[4], &[1.0, 2.0, 3.0, 4.0]);
    let mul = g.nodes().find(|(_, n)| n.op == Op::Mul).unwrap().0;
    g.node_mut(mul).inputs[1] = Some(row);
    assert_eq!(canonicalize(&mut g).unwrap(), [], "a factor along the width is none of a channel");
}

#[test]
fn identities_go_and_output_names_stay() {
    let mut g = Graph::default();
    let (_, c) = conv(&mut g);
    let y = g.add_value("y", Some(DType::F32), dims(&[1, 2, 4, 4]));
    g.add_node(Node::new(Op::Identity, "id", vec![Some(c)], vec![y], Attrs::new()));
    g.outputs = vec![y];
    assert_eq!(canonicalize(&mut g).unwrap().len(), 1);
    assert_eq!(g.nodes().next().unwrap().1.output(0), Some(y));
}

#[test]
fn zero_padding_moves_into_the_convolution() {
    let mut g = Graph::default();
    let (x, c) = conv(&mut g);
    let pads = g.add_constant("pads", Tensor::from_slice(&[8], &[0_i64, 0, 1, 2, 0, 0, 3, 4]).unwrap());
    let p = g.add_value("p", Some(DType::F32), dims(&[1, 1, 8, 10]));
    g.add_node(Node::new(Op::Pad, "pad", vec![Some(x), Some(pads)], vec![p], Attrs::new()));
    let id = g.nodes().next().unwrap().0;
    g.node_mut(id).inputs[0] = Some(p);
    g.outputs = vec![c];
    canonicalize(&mut g).unwrap();
    let (_, node) = g.nodes().next().unwrap();
    assert_eq!((node.input(0), node.attrs.ints("pads").unwrap()), (Some(x), Some(&[1, 2, 3, 4][..])));
    assert_eq!(g.node_count(), 1);
}
