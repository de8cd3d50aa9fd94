//! What a profile says of each step, against the graph's own count of its work.

use quantal_ir::{Attr, Attrs, Op, cost, infer};
use quantal_kernels::Isa;
use quantal_kernels::kernel::select;
use quantal_runtime::{Mode, Session, StepTime, Unit, compile};
use quantal_tensor::{DType, Tensor};
use quantal_testkit::data;
use quantal_testkit::graph::GraphBuilder;

/// Runs the graph once on made-up floats; the multiply-accumulates of all steps must be those of all nodes.
fn profiled(mut g: GraphBuilder, isa: Isa) -> Vec<StepTime> {
    infer::run(&mut g.graph).unwrap();
    let feeds: Vec<(String, Tensor)> = (g.graph.inputs.iter())
        .map(|&v| (g.graph.value(v).name.to_string(), data::tensor(&g.graph.value(v).known_shape().unwrap(), 1)))
        .collect();
    let program = compile(&g.graph, Mode::Integer, isa).unwrap();
    let (_, steps) = Session::new(program, 1).run_profiled(&feeds).unwrap();
    let expected: u64 = g.graph.nodes().map(|(node, _)| cost::macs(&g.graph, node).unwrap()).sum();
    assert_eq!(steps.iter().map(|s| s.work.macs).sum::<u64>(), expected, "{steps:?}");
    assert!(steps.is_sorted_by_key(|s| s.start_nanoseconds + s.nanoseconds), "{steps:?}");
    steps
}

fn convolution(pad: i64, stride: i64, group: i64) -> Attrs {
    Attrs::new()
        .with("pads", Attr::Ints(vec![pad; 4]))
        .with("strides", Attr::Ints(vec![stride; 2]))
        .with("group", Attr::Int(group))
}

#[test]
fn float_steps_tell_shape_work_and_traffic() {
    let mut g = GraphBuilder::new(17);
    let x = g.input("x", DType::F32, &[2, 3, 8, 10]);
    let dense = g.constant("dense", data::tensor(&[4, 3, 3, 3], 1));
    let depthwise = g.constant("depthwise", data::tensor(&[4, 1, 3, 5], 2));
    let grouped = g.constant("grouped", data::tensor(&[6, 2, 1, 1], 3));
    let matrix = g.constant("matrix", data::tensor(&[5, 7], 4));
    let y = g.node(Op::Conv, &[x, dense], convolution(1, 2, 1));
    let attrs = Attrs::new().with("pads", Attr::Ints(vec![1, 2, 1, 2])).with("group", Attr::Int(4));
    let y = g.node(Op::Conv, &[y, depthwise], attrs);
    let y = g.node(Op::Conv, &[y, grouped], convolution(0, 1, 2));
    let y = g.node(Op::MatMul, &[y, matrix], Attrs::new());
    g.output(y);
    let steps = profiled(g, Isa::PORTABLE);
    let found = |shape: &str| {
        let step = steps.iter().find(|s| s.work.shape == shape);
        &step.unwrap_or_else(|| panic!("no step of shape {shape}: {steps:?}")).work
    };
    let conv = found("conv:2x8x10x3:4:3:2");
    assert_eq!((conv.kernel, conv.unit), ("conv_f32", Some(Unit::F32)));
    // Input, weights and output, 4 bytes each.
    assert_eq!(conv.bytes, 4 * (2 * 8 * 10 * 3 + 4 * 27 + 2 * 4 * 5 * 4));
    assert_eq!(conv.macs, 2 * 4 * 5 * 4 * 27);
    assert_eq!(found("dw:2x4x5x4:3x5:1").macs, 2 * 4 * 5 * 4 * 15);
    assert_eq!(found("conv:2x4x5x4:6:1:1:g2").macs, 2 * 4 * 5 * 6 * 2);
    let product = found("48x7x5");
    assert_eq!((product.macs, product.bytes), (48 * 7 * 5, 4 * (48 * 5 + 5 * 7 + 48 * 7)));
    // A move back to ONNX's order is told in that order.
    assert!(steps.iter().any(|s| s.step == "to_standard" && s.work.shape == "2x6x4x5" && s.work.unit.is_none()));
}

#[test]
fn integer_steps_name_their_row_of_the_table() {
    for isa in Isa::available() {
        let mut g = GraphBuilder::new(17);
        let x = g.input("x", DType::F32, &[1, 5, 6, 6]);
        let (scale, zero) = (Tensor::scalar(0.01_f32).unwrap(), Tensor::scalar(128_u8).unwrap());
        let (scale, zero) = (g.constant("scale", scale), g.constant("zero", zero));
        let q = g.node(Op::QuantizeLinear, &[x, scale, zero], Attrs::new());
        let x = g.node(Op::DequantizeLinear, &[q, scale, zero], Attrs::new());
        // Neighbours that sum to more than 128 everywhere: no row that adds pairs in 16 bits.
        let codes = g.constant("codes", Tensor::from_slice(&[20, 5, 3, 3], &[127_i8; 20 * 45]).unwrap());
        let w = g.node(Op::DequantizeLinear, &[codes, scale], Attrs::new());
        let y = g.node(Op::Conv, &[x, w], convolution(1, 1, 1));
        let q = g.node(Op::QuantizeLinear, &[y, scale, zero], Attrs::new());
        let y = g.node(Op::DequantizeLinear, &[q, scale, zero], Attrs::new());
        g.output(y);
        let steps = profiled(g, isa);
        let conv = &steps.iter().find(|s| s.step == "conv_codes").expect("the convolution runs on codes").work;
        let row = select(isa.level(), 20);
        assert_eq!((conv.kernel, conv.unit), (row.name, Some(Unit::Codes(row))));
        assert_eq!((&*conv.shape, conv.macs), ("conv:6x6x5:20:3:1", 36 * 20 * 45));
        assert_eq!(conv.bytes, 36 * 5 + 20 * 45 + 36 * 20);
        let edge = &steps.iter().find(|s| s.step == "quantize_channels_last").expect("the input is quantized").work;
        assert_eq!((edge.macs, edge.unit, edge.bytes), (0, None, 36 * 5 * (4 + 1)));
    }
}

#[test]
fn parts_of_a_concat_count_the_channels_that_they_write() {
    let mut g = GraphBuilder::new(17);
    let (scale, zero) = (Tensor::scalar(0.01_f32).unwrap(), Tensor::scalar(128_u8).unwrap());
    let (scale, zero) = (g.constant("scale", scale), g.constant("zero", zero));
    let pair = |g: &mut GraphBuilder, x| {
        let q = g.node(Op::QuantizeLinear, &[x, scale, zero], Attrs::new());
        g.node(Op::DequantizeLinear, &[q, scale, zero], Attrs::new())
    };
    let x = g.input("x", DType::F32, &[1, 5, 6, 6]);
    let x = pair(&mut g, x);
    let mut parts = vec![x];
    for channels in [20, 7] {
        let codes = Tensor::from_slice(&[channels, 5, 3, 3], &vec![1_i8; channels * 45]).unwrap();
        let codes = g.constant(&format!("codes{channels}"), codes);
        let w = g.node(Op::DequantizeLinear, &[codes, scale], Attrs::new());
        let y = g.node(Op::Conv, &[x, w], convolution(1, 1, 1));
        parts.push(pair(&mut g, y));
    }
    let y = g.node(Op::Concat, &parts, Attrs::new().with("axis", Attr::Int(1)));
    let y = pair(&mut g, y);
    g.output(y);
    let steps = profiled(g, Isa::PORTABLE);
    let convolutions: Vec<_> = steps.iter().filter(|s| s.step == "conv_codes").map(|s| &s.work).collect();
    let [first, second] = convolutions[..] else { panic!("two convolutions, not {convolutions:?}") };
    assert_eq!((&*first.shape, &*second.shape), ("conv:6x6x5:20:3:1", "conv:6x6x5:7:3:1"));
    assert_eq!((first.macs, second.macs), (36 * 20 * 45, 36 * 7 * 45));
    assert_eq!((first.bytes, second.bytes), (36 * 5 + 20 * 45 + 36 * 20, 36 * 5 + 7 * 45 + 36 * 7));
    let rest = &steps.iter().find(|s| s.step == "join_codes").expect("x is read by convolutions as well").work;
    assert_eq!((&*rest.shape, rest.bytes), ("1x5x6x6", 2 * 36 * 5));
}
