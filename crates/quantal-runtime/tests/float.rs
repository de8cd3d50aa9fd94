//! Channels-last and fused steps against the operators as ONNX defines them, one by one.

use quantal_ir::{Attr, Attrs, NodeId, Op, ValueId};
use quantal_kernels::{Isa, Threads};
use quantal_runtime::ops::{Context, OpKernel};
use quantal_runtime::{Error, Mode, Session, Status, compile, compile_observed};
use quantal_tensor::{DType, Tensor};
use quantal_testkit::data;
use quantal_testkit::graph::GraphBuilder;
use std::collections::BTreeMap;

/// Steps sum in chains of fused multiply-adds, operators in plain loops; the data lie in −1 … 1 and chains are short.
const TOLERANCE: f32 = 2e-5;

/// Every value of the graph, each node run by its operator on tensors in the standard layout.
fn one_by_one(g: &GraphBuilder, feeds: &[(String, Tensor)]) -> BTreeMap<ValueId, Tensor> {
    let graph = &g.graph;
    let mut values: BTreeMap<ValueId, Tensor> =
        graph.values().filter_map(|(id, v)| Some((id, (**v.constant.as_ref()?).clone()))).collect();
    for (name, tensor) in feeds {
        values.insert(graph.find(name).unwrap(), tensor.clone());
    }
    let threads = Threads::new(1);
    for (_, node) in graph.nodes() {
        let kernel = OpKernel::prepare(node, graph.opset()).unwrap();
        let inputs: Vec<Option<&Tensor>> = node.inputs.iter().map(|v| v.map(|v| &values[&v])).collect();
        let results = kernel.run(&inputs, &Context { isa: Isa::PORTABLE, threads: &threads }).unwrap();
        for (v, tensor) in node.outputs.iter().zip(results) {
            values.insert(v.unwrap(), tensor);
        }
    }
    values
}

fn close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    // Of the largest value: an output of a tile has the rounding of its neighbours.
    let most = TOLERANCE * expected.as_slice::<f32>().iter().fold(1.0, |m: f32, x| m.max(x.abs()));
    for (i, (a, b)) in found.as_slice::<f32>().iter().zip(expected.as_slice::<f32>()).enumerate() {
        assert!((a - b).abs() <= most, "{what}: {a} instead of {b} at {i}");
    }
}

/// Compiles, runs twice on every instruction set, and compares all outputs; gives the kinds of steps.
fn check(g: &GraphBuilder) -> Vec<&'static str> {
    let feeds: Vec<(String, Tensor)> = (g.graph.inputs.iter().zip(1..))
        .map(|(&v, seed)| {
            let value = g.graph.value(v);
            (value.name.to_string(), data::tensor(&value.known_shape().unwrap(), seed))
        })
        .collect();
    let expected = one_by_one(g, &feeds);
    let mut kinds = Vec::new();
    for isa in Isa::available() {
        let program = compile(&g.graph, Mode::Simulate, isa).unwrap();
        kinds = program.steps.iter().map(|s| s.step.name()).collect();
        assert_eq!(program.coverage.rows.len(), g.graph.node_count());
        let mut session = Session::new(program, 2);
        for _ in 0..2 {
            for ((name, found), v) in session.run(&feeds).unwrap().iter().zip(&g.graph.outputs) {
                close(found, &expected[v], name);
            }
        }
    }
    // Every value that is made can be observed, fused or not.
    let taps: Vec<ValueId> = g.graph.nodes().flat_map(|(_, n)| n.outputs.iter().flatten().copied()).collect();
    let program = compile_observed(&g.graph, Mode::Simulate, Isa::PORTABLE, &taps).unwrap();
    let mut seen = BTreeMap::new();
    let mut tap = |v: ValueId, t: &Tensor| {
        seen.insert(v, t.clone());
    };
    Session::new(program, 1).run_taps(&feeds, &taps, &mut tap).unwrap();
    for v in taps {
        close(&seen[&v], &expected[&v], &g.graph.value(v).name);
    }
    kinds
}

fn shaped(g: &mut GraphBuilder, v: ValueId, shape: &[usize]) -> ValueId {
    let value = g.graph.value_mut(v);
    value.dtype = Some(DType::F32);
    value.shape = Some(shape.iter().map(|&d| quantal_ir::Dim::Known(d)).collect());
    v
}

fn conv(g: &mut GraphBuilder, x: ValueId, weight: &[usize], pad: i64, group: i64, out: &[usize]) -> ValueId {
    let n = g.graph.value_count();
    let w = g.constant(&format!("w{n}"), data::tensor(weight, n as u64));
    let b = g.constant(&format!("b{n}"), data::tensor(&weight[..1], n as u64 + 100));
    let spatial = weight.len() - 2;
    let attrs = Attrs::new().with("pads", Attr::Ints(vec![pad; 2 * spatial])).with("group", Attr::Int(group));
    let y = g.node(Op::Conv, &[x, w, b], attrs);
    shaped(g, y, out)
}

#[test]
fn conv_add_relu_becomes_one_step_and_the_shortcut_another() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[2, 3, 7, 6]);
    let shape = [2, 8, 7, 6];
    let a = conv(&mut g, x, &[8, 3, 3, 3], 1, 1, &shape);
    let a = g.node(Op::Relu, &[a], Attrs::new());
    let a = conv(&mut g, a, &[8, 1, 3, 3], 1, 8, &shape);
    let b = conv(&mut g, x, &[8, 3, 1, 1], 0, 1, &shape);
    let sum = g.node(Op::Add, &[a, b], Attrs::new());
    let y = g.node(Op::Relu, &[sum], Attrs::new());
    g.output(y);
    assert_eq!(check(&g), ["to_channels_last", "conv_f32", "conv_f32", "conv_f32", "to_standard"]);
    let program = compile(&g.graph, Mode::Simulate, Isa::PORTABLE).unwrap();
    let fused = |s: &Status| matches!(s, Status::Fused { into } if *into != NodeId(0));
    assert_eq!(program.coverage.count(fused), 2);
}

#[test]
fn a_large_value_before_a_depthwise_convolution_is_not_made_whole_unless_it_comes_in_tiles() {
    let apart = ["to_channels_last", "conv_f32", "conv_f32", "to_standard"];
    let together = ["to_channels_last", "conv_f32", "to_standard"];
    for (channels, kernel, kinds) in [(3, 1, &together[..]), (16, 3, &apart[..])] {
        let mut g = GraphBuilder::new(17);
        let x = g.input("x", DType::F32, &[2, channels, 96, 70]);
        let shape = [2, 48, 96, 70];
        let a = conv(&mut g, x, &[48, channels, kernel, kernel], kernel as i64 / 2, 1, &shape);
        let a = g.node(Op::Relu, &[a], Attrs::new());
        let a = shaped(&mut g, a, &shape);
        let b = conv(&mut g, a, &[48, 1, 3, 3], 1, 48, &shape);
        let y = g.node(Op::Sigmoid, &[b], Attrs::new());
        g.output(y);
        assert_eq!(check(&g), kinds);
    }
}

#[test]
fn what_is_read_twice_or_handed_out_is_not_fused_away() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[1, 4, 5, 5]);
    let a = conv(&mut g, x, &[4, 4, 1, 1], 0, 1, &[1, 4, 5, 5]);
    let r = g.node(Op::Relu, &[a], Attrs::new());
    let again = g.node(Op::Add, &[a, r], Attrs::new());
    let b = conv(&mut g, again, &[4, 4, 1, 1], 0, 1, &[1, 4, 5, 5]);
    let clipped = g.node(Op::Sigmoid, &[b], Attrs::new());
    let twice = g.node(Op::Add, &[clipped, clipped], Attrs::new());
    for v in [b, twice] {
        g.output(v);
    }
    check(&g);
}

#[test]
fn gates_and_gelus_are_found_however_they_are_written() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[3, 10]);
    let scalar = |g: &mut GraphBuilder, name: &str, v: f32| g.constant(name, Tensor::scalar(v).unwrap());
    let (root, one, half) =
        (scalar(&mut g, "root", 2.0_f32.sqrt()), scalar(&mut g, "one", 1.0), scalar(&mut g, "half", 0.5));
    let (three, six, zero) = (scalar(&mut g, "three", 3.0), scalar(&mut g, "six", 6.0), scalar(&mut g, "zero", 0.0));
    for i in 0..3 {
        let n = format!("w{i}");
        let w = g.constant(&n, data::tensor(&[10, 10], i));
        let b = g.constant(&format!("b{i}"), data::tensor(&[10], i + 9));
        let p = g.node(Op::MatMul, &[x, w], Attrs::new());
        shaped(&mut g, p, &[3, 10]);
        let p = g.node(Op::Add, &[p, b], Attrs::new());
        shaped(&mut g, p, &[3, 10]);
        let divided = g.node(Op::Div, &[p, root], Attrs::new());
        let e = g.node(Op::Erf, &[divided], Attrs::new());
        let e = g.node(Op::Add, &[e, one], Attrs::new());
        let y = match i {
            0 => {
                let y = g.node(Op::Mul, &[p, e], Attrs::new());
                g.node(Op::Mul, &[y, half], Attrs::new())
            }
            1 => {
                let y = g.node(Op::Mul, &[half, e], Attrs::new());
                g.node(Op::Mul, &[y, p], Attrs::new())
            }
            _ => {
                let h = g.node(Op::Mul, &[p, half], Attrs::new());
                g.node(Op::Mul, &[h, e], Attrs::new())
            }
        };
        g.output(y);
    }
    assert_eq!(check(&g), ["product_f32"; 3]);

    let mut g2 = GraphBuilder::new(17);
    let x = g2.input("x", DType::F32, &[1, 3, 4, 4]);
    let a = conv(&mut g2, x, &[6, 3, 1, 1], 0, 1, &[1, 6, 4, 4]);
    let s = g2.node(Op::Sigmoid, &[a], Attrs::new());
    let y = g2.node(Op::Mul, &[a, s], Attrs::new());
    let y = shaped(&mut g2, y, &[1, 6, 4, 4]);
    let [three, six, zero] = [three, six, zero].map(|v| {
        let value = g.graph.value(v);
        g2.constant(&value.name.clone(), (**value.constant.as_ref().unwrap()).clone())
    });
    let t = g2.node(Op::Add, &[y, three], Attrs::new());
    let t = g2.node(Op::Clip, &[t, zero, six], Attrs::new());
    let t = g2.node(Op::Mul, &[y, t], Attrs::new());
    let y = g2.node(Op::Div, &[t, six], Attrs::new());
    g2.output(y);
    assert_eq!(check(&g2), ["to_channels_last", "conv_f32", "activate_f32", "to_standard"]);
}

#[test]
fn concat_split_gates_and_transposes_stay_channels_last() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[1, 4, 5, 3]);
    let a = conv(&mut g, x, &[6, 4, 1, 1], 0, 1, &[1, 6, 5, 3]);
    let b = conv(&mut g, x, &[2, 4, 3, 3], 1, 1, &[1, 2, 5, 3]);
    let joined = g.node(Op::Concat, &[a, b], Attrs::new().with("axis", Attr::Int(1)));
    shaped(&mut g, joined, &[1, 8, 5, 3]);
    let slope = g.constant("slope", data::tensor(&[8, 1, 1], 3));
    let gated = g.node(Op::PRelu, &[joined, slope], Attrs::new());
    shaped(&mut g, gated, &[1, 8, 5, 3]);
    let (_, parts) = g.nodes(Op::Split, &[gated], 2, Attrs::new().with("axis", Attr::Int(-3)));
    for &p in &parts {
        shaped(&mut g, p, &[1, 4, 5, 3]);
    }
    let last = g.node(Op::Transpose, &[parts[0]], Attrs::new().with("perm", Attr::Ints(vec![0, 2, 3, 1])));
    shaped(&mut g, last, &[1, 5, 3, 4]);
    let first = g.node(Op::Transpose, &[last], Attrs::new().with("perm", Attr::Ints(vec![0, 3, 1, 2])));
    shaped(&mut g, first, &[1, 4, 5, 3]);
    let y = g.node(Op::Sub, &[first, parts[1]], Attrs::new());
    for v in [last, y] {
        g.output(v);
    }
    let kinds = check(&g);
    assert_eq!(kinds.iter().filter(|k| k.starts_with("to_")).count(), 2, "{kinds:?}");
}

#[test]
fn slices_pads_and_resizes_stay_channels_last() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[1, 4, 6, 5]);
    let ints = |g: &mut GraphBuilder, name: &str, list: &[i64]| {
        g.constant(name, Tensor::from_slice(&[list.len()], list).unwrap())
    };
    let a = conv(&mut g, x, &[4, 4, 1, 1], 0, 1, &[1, 4, 6, 5]);
    let (from, to, axes) =
        (ints(&mut g, "from", &[1, -4]), ints(&mut g, "to", &[4, 100]), ints(&mut g, "axes", &[1, -1]));
    let a = g.node(Op::Slice, &[a, from, to, axes], Attrs::new());
    let a = shaped(&mut g, a, &[1, 3, 6, 4]);
    let pads = ints(&mut g, "pads", &[0, 1, 2, 3, 0, 0, 1, 0]);
    let a = g.node(Op::Pad, &[a, pads], Attrs::new());
    let a = shaped(&mut g, a, &[1, 4, 9, 7]);
    let roi = g.constant("roi", Tensor::zeros(DType::F32, &[0]).unwrap());
    let scales = g.constant("scales", Tensor::from_slice(&[4], &[1.0_f32, 1.0, 2.0, 3.0]).unwrap());
    let mode = Attrs::new().with("mode", Attr::Str(b"linear"[..].into()));
    let y = g.node(Op::Resize, &[a, roi, scales], mode);
    shaped(&mut g, y, &[1, 4, 18, 21]);
    g.output(y);
    assert_eq!(check(&g), ["to_channels_last", "conv_f32", "op", "op", "op", "to_standard"]);
}

#[test]
fn one_dimensional_and_grouped_convolutions() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[2, 6, 11]);
    let a = conv(&mut g, x, &[4, 3, 5], 2, 2, &[2, 4, 11]);
    let y = g.node(Op::Tanh, &[a], Attrs::new());
    g.output(y);
    check(&g);
}

#[test]
fn a_chain_of_thirty_thousand_nodes_compiles_and_runs() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[4]);
    let c = g.constant("c", Tensor::from_slice(&[4], &[1.0_f32; 4]).unwrap());
    let mut v = x;
    for i in 0..30_000 {
        v = if i % 2 == 0 { g.node(Op::Sub, &[v, c], Attrs::new()) } else { g.node(Op::Neg, &[v], Attrs::new()) };
    }
    g.output(v);
    let mut session = Session::new(compile(&g.graph, Mode::Integer, Isa::PORTABLE).unwrap(), 1);
    let out = session.run(&[("x".to_owned(), Tensor::from_slice(&[4], &[0.0_f32, 1.0, 2.0, -1.0]).unwrap())]).unwrap();
    // −(x − 1) applied twice is the identity.
    assert_eq!(out[0].1.as_slice::<f32>(), [0.0, 1.0, 2.0, -1.0]);
}

#[test]
fn a_value_that_was_not_asked_for_cannot_be_observed() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[1]);
    let y = g.node(Op::Relu, &[x], Attrs::new());
    g.output(y);
    let mut session = Session::new(compile(&g.graph, Mode::Simulate, Isa::PORTABLE).unwrap(), 1);
    let result = session.run_taps(&[("x".to_owned(), data::tensor(&[1], 1))], &[y], &mut |_, _| {});
    assert!(matches!(result, Err(Error::NotObservable { .. })));
}
