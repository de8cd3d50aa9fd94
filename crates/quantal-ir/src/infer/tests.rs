//! Tables of (operator, inputs, attributes) → outputs, by the ONNX specification.
//!
//! An input is written as its shape (`2,N,?`; nothing for a scalar, `-` for one that is left out), with `=` before it
//! as the integers that it holds, with `~` as float32. Outputs are written with their element type.

use super::*;
use crate::attrs::Attr;
use quantal_tensor::Tensor;
use std::sync::Arc;

fn dims(text: &str) -> Vec<Dim> {
    let one = |d: &str| match d {
        "?" => Dim::Unknown,
        d => d.parse().map_or_else(|_| Dim::Symbol(d.into()), Dim::Known),
    };
    if text.is_empty() { Vec::new() } else { text.split(',').map(one).collect() }
}

fn add_input(graph: &mut Graph, text: &str) -> Option<ValueId> {
    let numbers = |list: &str| list.split(',').filter(|v| !v.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    Some(match text.as_bytes().first() {
        Some(b'-') => return None,
        Some(b'=') => {
            let v: Vec<i64> = numbers(&text[1..]).iter().map(|v| v.parse().unwrap()).collect();
            graph.add_constant("c", Tensor::from_slice(&[v.len()], &v).unwrap())
        }
        Some(b'~') => {
            let v: Vec<f32> = numbers(&text[1..]).iter().map(|v| v.parse().unwrap()).collect();
            graph.add_constant("c", Tensor::from_slice(&[v.len()], &v).unwrap())
        }
        Some(b'#') => graph.add_value("x", Some(DType::F32), None),
        _ => graph.add_value("x", Some(DType::F32), Some(dims(text))),
    })
}

/// Attributes from `name=1`, `name=1,2`, `name=[1]`, `name=0.5` or `name='text'`, separated by spaces.
fn attrs(text: &str) -> Attrs {
    text.split_whitespace().fold(Attrs::new(), |attrs, item| {
        let (name, value) = item.split_once('=').unwrap();
        let attr = if let Some(s) = value.strip_prefix('\'') {
            Attr::Str(s.trim_end_matches('\'').as_bytes().into())
        } else if let Some(list) = value.strip_prefix('[') {
            let list = list.trim_end_matches(']').split(',').filter(|v| !v.is_empty());
            Attr::Ints(list.map(|v| v.parse().unwrap()).collect())
        } else {
            value.parse().map_or_else(|_| Attr::Float(value.parse().unwrap()), Attr::Int)
        };
        attrs.with(name, attr)
    })
}

fn infer_one(op: Op, inputs: &[&str], attributes: &str, outputs: usize) -> Result<Vec<String>, InferError> {
    let mut graph = Graph::default();
    graph.opsets.insert(String::new(), 21);
    let inputs = inputs.iter().map(|text| add_input(&mut graph, text)).collect();
    let outputs: Vec<ValueId> = (0..outputs).map(|_| graph.add_value("y", None, None)).collect();
    let id = graph.add_node(Node::new(op, "node", inputs, outputs.clone(), attrs(attributes)));
    Inferer::new().node(&mut graph, id)?;
    Ok(outputs.into_iter().map(|v| show(graph.value(v))).collect())
}

fn show(value: &crate::Value) -> String {
    let dtype = value.dtype.map_or("?", DType::name);
    value.shape.as_ref().map_or_else(|| format!("{dtype} ?"), |s| format!("{dtype} {}", dims::show(s)))
}

#[track_caller]
fn gives(op: Op, inputs: &[&str], attributes: &str, outputs: &[&str]) {
    let found = infer_one(op, inputs, attributes, outputs.len());
    assert_eq!(found.as_deref().map(|f| f.join(" | ")), Ok(outputs.join(" | ")), "{op:?} {inputs:?} {attributes}");
}

#[track_caller]
fn fails(op: Op, inputs: &[&str], attributes: &str, parts: &[&str]) {
    let text = infer_one(op, inputs, attributes, 1).expect_err("contradiction").to_string();
    assert!(parts.iter().all(|p| text.contains(p)), "{op:?} {inputs:?} {attributes}: {text}");
}

#[test]
fn elementwise_operators_broadcast_and_keep_symbols() {
    gives(Op::Relu, &["2,N,?"], "", &["float32 [2, N, ?]"]);
    gives(Op::Add, &["N,1,5", "3,1"], "", &["float32 [N, 3, 5]"]);
    gives(Op::Mul, &["N,4", "N,1"], "", &["float32 [N, 4]"]);
    gives(Op::Mul, &["N,4", "M,?"], "", &["float32 [?, 4]"]);
    gives(Op::Sub, &["N", "7"], "", &["float32 [7]"]);
    gives(Op::Max, &["2,1", "1,3", "4,1,1"], "", &["float32 [4, 2, 3]"]);
    gives(Op::Equal, &["3", "2,3"], "", &["bool [2, 3]"]);
    gives(Op::Where, &["3,1", "1,4", ""], "", &["float32 [3, 4]"]);
    gives(Op::PRelu, &["1,8,N,N", "8,1,1"], "", &["float32 [1, 8, N, N]"]);
    gives(Op::Cast, &["N"], "to=7", &["int64 [N]"]);
    gives(Op::Dropout, &["N,2"], "", &["float32 [N, 2]", "bool [N, 2]"]);
    gives(Op::QLinearAdd, &["N,2", "", "", "1,2", "", "", "", ""], "", &["float32 [N, 2]"]);
    fails(Op::Add, &["2,3", "4"], "", &["[2, 3]", "[4]"]);
    fails(Op::PRelu, &["1,8", "4"], "", &["[4]", "[1, 8]"]);
    fails(Op::Cast, &["1"], "to=99", &["99"]);
}

#[test]
fn convolutions_follow_the_onnx_formulas() {
    let conv = "kernel_shape=[7,7] strides=[2,2] pads=[3,3,3,3]";
    gives(Op::Conv, &["N,3,224,224", "64,3,7,7", "64"], conv, &["float32 [N, 64, 112, 112]"]);
    gives(Op::Conv, &["1,4,H,W", "8,1,3,5"], "group=4 pads=[1,2,1,2]", &["float32 [1, 8, H, W]"]);
    gives(Op::Conv, &["1,4,H,W", "8,4,3,3"], "", &["float32 [1, 8, ?, ?]"]);
    gives(Op::Conv, &["1,2,9", "2,2,3"], "dilations=[3]", &["float32 [1, 2, 3]"]);
    gives(Op::Conv, &["1,2,5,5", "2,2,3,3"], "auto_pad='SAME_UPPER' strides=[2,2]", &["float32 [1, 2, 3, 3]"]);
    gives(Op::Conv, &["#", "8,4,3,3"], "", &["float32 [?, 8, ?, ?]"]);
    gives(Op::ConvInteger, &["1,2,5,5", "4,2,3,3"], "", &["int32 [1, 4, 3, 3]"]);
    let transposed = "strides=[3,2] output_padding=[1,1] kernel_shape=[3,3]";
    // The example of the specification: 3·(3−1) + 1 + 3 = 10, 2·(3−1) + 1 + 3 = 8.
    gives(Op::ConvTranspose, &["1,1,3,3", "1,2,3,3"], transposed, &["float32 [1, 2, 10, 8]"]);
    gives(Op::ConvTranspose, &["1,4,3,3", "4,2,3,3"], "group=2 output_shape=[9,7]", &["float32 [1, 4, 9, 7]"]);
    let q = ["1,3,7,7", "", "", "2,3,1,1", "2", "2", "", "", "2"];
    gives(Op::QLinearConv, &q, "", &["float32 [1, 2, 7, 7]"]);
    fails(Op::Conv, &["1,3,8,8", "4,5,3,3"], "", &["3 channels", "takes 5"]);
    fails(Op::Conv, &["1,3,8", "4,3,3,3"], "", &["4 dimensions", "input 3"]);
    fails(Op::Conv, &["1,3,8,8", "4,3,3,3", "5"], "", &["5 elements", "4 output"]);
    fails(Op::Conv, &["1,3,2,8", "4,3,3,3"], "", &["kernel of 3", "into 2"]);
    fails(Op::Conv, &["1,4,8,8", "3,2,1,1"], "group=2", &["3 output channels", "2 groups"]);
    fails(Op::QLinearConv, &["1,3,7,7", "", "", "2,3,1,1", "5", "", "", ""], "", &["5 scales", "2 output"]);
}

#[test]
fn pooling_rounds_as_it_is_told() {
    gives(
        Op::MaxPool,
        &["1,3,32,32"],
        "kernel_shape=[5,5] strides=[3,3]",
        &["float32 [1, 3, 10, 10]", "int64 [1, 3, 10, 10]"],
    );
    gives(Op::AveragePool, &["1,1,4,4"], "kernel_shape=[3,3] strides=[2,2] ceil_mode=1", &["float32 [1, 1, 2, 2]"]);
    // The last window would start in the padding behind the image.
    gives(Op::MaxPool, &["1,1,2,2"], "kernel_shape=[1,1] strides=[2,2] ceil_mode=1", &["float32 [1, 1, 1, 1]"]);
    gives(Op::GlobalAveragePool, &["N,8,H,W"], "", &["float32 [N, 8, 1, 1]"]);
    gives(Op::QLinearGlobalAveragePool, &["N,7,7,8", "", "", "", ""], "channels_last=1", &["float32 [N, 1, 1, 8]"]);
    fails(Op::MaxPool, &["1,1,8"], "kernel_shape=[2,2]", &["2 dimensions", "1 spatial"]);
}

#[test]
fn products_follow_numpy() {
    gives(Op::MatMul, &["N,12,S,64", "12,64,S"], "", &["float32 [N, 12, S, S]"]);
    gives(Op::MatMul, &["3", "3"], "", &["float32 []"]);
    gives(Op::MatMul, &["3", "5,3,2"], "", &["float32 [5, 2]"]);
    gives(Op::MatMul, &["5,2,3", "3"], "", &["float32 [5, 2]"]);
    gives(Op::Gemm, &["K,M", "N,K", "N"], "transA=1 transB=1", &["float32 [M, N]"]);
    gives(Op::QGemm, &["M,4", "", "", "4,8", "", "", "-", "-", "-"], "", &["float32 [M, 8]"]);
    gives(Op::MatMulInteger, &["4,3", "3,2"], "", &["int32 [4, 2]"]);
    gives(Op::QLinearMatMul, &["2,4,3", "", "", "2,3,2", "", "", "", ""], "", &["float32 [2, 4, 2]"]);
    gives(Op::Einsum, &["B,2,3", "B,3,4"], "equation='bij,bjk->bik'", &["float32 [B, 2, 4]"]);
    gives(Op::Einsum, &["5,4,2,3"], "equation='...ij->...ji'", &["float32 [5, 4, 3, 2]"]);
    fails(Op::MatMul, &["2,3", "4,5"], "", &["3 and 4"]);
    fails(Op::Gemm, &["2,3", "3,5", "4"], "", &["[4]", "[2, 5]"]);
    fails(Op::Einsum, &["2,3", "4,5"], "equation='ij,jk->ik'", &["`j`", "3", "4"]);
}

#[test]
fn reshaping_copies_infers_and_refuses() {
    gives(Op::Reshape, &["2,3,4", "=0,-1"], "", &["float32 [2, 12]"]);
    gives(Op::Reshape, &["N,512,7,7", "=0,-1"], "", &["float32 [N, 25088]"]);
    gives(Op::Reshape, &["?,512,7,7", "=0,-1"], "", &["float32 [?, 25088]"]);
    gives(Op::Reshape, &["N,512", "=-1,512"], "", &["float32 [N, 512]"]);
    gives(Op::Reshape, &["N,512", "=1,-1"], "", &["float32 [1, ?]"]);
    gives(Op::Reshape, &["0,3", "=3,0"], "allowzero=1", &["float32 [3, 0]"]);
    gives(Op::Flatten, &["2,3,4,5"], "axis=-2", &["float32 [6, 20]"]);
    gives(Op::Flatten, &["2,3"], "axis=2", &["float32 [6, 1]"]);
    gives(Op::Flatten, &["N,3,4"], "", &["float32 [N, 12]"]);
    gives(Op::Squeeze, &["1,3,1,N", "=0,-2"], "", &["float32 [3, N]"]);
    gives(Op::Squeeze, &["1,3,1"], "", &["float32 [3]"]);
    gives(Op::Unsqueeze, &["3,N", "=0,-1"], "", &["float32 [1, 3, N, 1]"]);
    gives(Op::Expand, &["3,1", "=2,1,6"], "", &["float32 [2, 3, 6]"]);
    fails(Op::Reshape, &["2,3", "=4,2"], "", &["[2, 3]", "[4, 2]", "6", "8"]);
    fails(Op::Reshape, &["2,3", "=-1,4"], "", &["6", "4"]);
    fails(Op::Reshape, &["2,3", "=-1,-1"], "", &["2 entries -1"]);
    fails(Op::Squeeze, &["1,3", "=1"], "", &["dimension 1", "[1, 3]"]);
    fails(Op::Unsqueeze, &["3", "=4"], "", &["axis", "4", "2 dimensions"]);
}

#[test]
fn layout_operators_move_dimensions() {
    gives(Op::Transpose, &["N,2,3"], "perm=[2,0,1]", &["float32 [3, N, 2]"]);
    gives(Op::Transpose, &["N,2,3"], "", &["float32 [3, 2, N]"]);
    gives(Op::Concat, &["N,2", "?,3"], "axis=-1", &["float32 [N, 5]"]);
    gives(Op::Concat, &["N,2", "3,2"], "axis=0", &["float32 [?, 2]"]);
    gives(Op::QLinearConcat, &["", "", "1,2", "", "", "1,3", "", ""], "axis=1", &["float32 [1, 5]"]);
    gives(Op::Split, &["N,6"], "axis=1", &["float32 [N, 3]", "float32 [N, 3]"]);
    gives(Op::Split, &["7", "-"], "num_outputs=3", &["float32 [3]", "float32 [3]", "float32 [1]"]);
    gives(Op::Split, &["N,M", "=2,4"], "axis=1", &["float32 [N, 2]", "float32 [N, 4]"]);
    gives(Op::Slice, &["20,10,5", "=0,0", "=3,10", "=0,1"], "", &["float32 [3, 10, 5]"]);
    gives(Op::Slice, &["20,10,5", "=20,10,4", "=0,0,1", "-", "=-1,-3,-2"], "", &["float32 [19, 3, 2]"]);
    gives(Op::Slice, &["20,10", "=-1", "=-9223372036854775808", "=1", "=-1"], "", &["float32 [20, 10]"]);
    gives(Op::Slice, &["N,10", "=0,1", "=9223372036854775807,1000", "=0,1"], "", &["float32 [N, 9]"]);
    gives(Op::Pad, &["N,3,H,4", "=0,0,1,1,0,0,1,-2"], "", &["float32 [N, 3, ?, 3]"]);
    gives(Op::Pad, &["2,3", "=1,2", "-", "=-1"], "", &["float32 [2, 6]"]);
    gives(Op::Tile, &["2,N,1", "=3,1,2"], "", &["float32 [6, N, 2]"]);
    gives(Op::DepthToSpace, &["1,8,2,3"], "blocksize=2", &["float32 [1, 2, 4, 6]"]);
    gives(Op::SpaceToDepth, &["1,1,4,6"], "blocksize=2", &["float32 [1, 4, 2, 3]"]);
    fails(Op::Transpose, &["2,3"], "perm=[0,0]", &["[0, 0]", "2 dimensions"]);
    fails(Op::Concat, &["2,3", "3,3"], "axis=1", &["[3, 3]", "[2, 3]", "axis 1"]);
    fails(Op::Concat, &["2,3", "2,3"], "axis=2", &["axis", "2"]);
    fails(Op::Split, &["7", "=3,3"], "", &["2 sizes", "1 outputs"]);
    fails(Op::Pad, &["2,3", "=0,-3,0,-1"], "", &["[2, 3]", "-3", "-1"]);
    fails(Op::DepthToSpace, &["1,6,2,2"], "blocksize=2", &["6", "4"]);
}

#[test]
fn selections_and_reductions() {
    gives(Op::Gather, &["30522,768", "N,S"], "", &["float32 [N, S, 768]"]);
    gives(Op::Gather, &["N,5,7", ""], "axis=1", &["float32 [N, 7]"]);
    gives(Op::GatherElements, &["3,3", "2,3"], "axis=0", &["float32 [2, 3]"]);
    gives(Op::GatherND, &["2,2,2", "2,1"], "batch_dims=1", &["float32 [2, 2]"]);
    gives(Op::GatherND, &["2,3,4", "7,2"], "", &["float32 [7, 4]"]);
    gives(Op::ScatterND, &["4,4,4", "2,1", "2,4,4"], "", &["float32 [4, 4, 4]"]);
    gives(Op::ReduceMean, &["N,8,7,7", "=2,3"], "keepdims=0", &["float32 [N, 8]"]);
    gives(Op::ReduceSum, &["2,3"], "", &["float32 [1, 1]"]);
    gives(Op::ReduceSum, &["2,3", "="], "noop_with_empty_axes=1", &["float32 [2, 3]"]);
    gives(Op::ReduceMax, &["2,3,4"], "axes=[-1]", &["float32 [2, 3, 1]"]);
    gives(Op::ReduceMin, &["2,3", "2"], "", &["float32 [?, ?]"]);
    gives(Op::ArgMax, &["N,1000"], "axis=1 keepdims=0", &["int64 [N]"]);
    gives(Op::TopK, &["N,1000", "=5"], "", &["float32 [N, 5]", "int64 [N, 5]"]);
    gives(Op::OneHot, &["2,3", "=10", "2"], "", &["float32 [2, 3, 10]"]);
    gives(Op::NonZero, &["2,3"], "", &["int64 [2, ?]"]);
    gives(Op::Range, &["=10", "=4", "=-2"], "", &["int64 [3]"]);
    gives(Op::Shape, &["N,3,4"], "start=1 end=-1", &["int64 [1]"]);
    gives(Op::ConstantOfShape, &["=2,3"], "", &["float32 [2, 3]"]);
    fails(Op::Gather, &["4,5", "=4"], "", &["index 4", "[4, 5]"]);
    fails(Op::TopK, &["2,3", "=5"], "", &["k is 5", "[2, 3]"]);
    fails(Op::ReduceSum, &["2,3", "=2"], "", &["2", "2 dimensions"]);
    fails(Op::GatherND, &["2,2", "1,3"], "", &["3", "2 dimensions"]);
}

#[test]
fn normalizations_check_their_parameters() {
    gives(Op::BatchNormalization, &["N,8,H,W", "8", "8", "8", "8"], "", &["float32 [N, 8, H, W]"]);
    gives(Op::LayerNormalization, &["N,S,768", "768", "768"], "", &["float32 [N, S, 768]", "float32 [N, S, 1]"]);
    gives(Op::GroupNormalization, &["1,8,4", "8", "8"], "num_groups=4", &["float32 [1, 8, 4]"]);
    gives(Op::Softmax, &["N,10"], "", &["float32 [N, 10]"]);
    fails(Op::BatchNormalization, &["1,8,2", "8", "7", "8", "8"], "", &["input 2", "7", "8 channels"]);
    fails(Op::LayerNormalization, &["2,3", "4"], "", &["[4]", "[2, 3]"]);
    fails(Op::GroupNormalization, &["1,8,4", "8", "8"], "num_groups=3", &["8 channels", "3 groups"]);
    fails(Op::Softmax, &["2,3"], "axis=2", &["2"]);
}

#[test]
fn recurrent_attending_and_resampling_operators() {
    let lstm = ["7,B,10", "2,20,10", "2,20,5", "2,40"];
    let y = ["float32 [7, 2, B, 5]", "float32 [2, B, 5]", "float32 [2, B, 5]"];
    gives(Op::Lstm, &lstm, "hidden_size=5 direction='bidirectional'", &y);
    gives(Op::Gru, &["3,1,2", "1,15,2", "1,15,5"], "layout=1", &["float32 [3, 1, 1, 5]", "float32 [3, 1, 5]"]);
    let y = ["float32 [2, 4, 24]", "float32 [2, 3, 18, 8]", "float32 [2, 3, 18, 8]"];
    let qkv = ["2,4,24", "2,6,24", "2,6,24", "4,18", "2,3,12,8", "2,3,12,8"];
    gives(Op::Attention, &qkv, "q_num_heads=3 kv_num_heads=3", &y);
    gives(Op::RotaryEmbedding, &["2,4,3,8", "50,4", "50,4", "2,3"], "", &["float32 [2, 4, 3, 8]"]);
    gives(Op::Resize, &["N,3,5,5", "-", "~1,1,0.6,2"], "", &["float32 [N, 3, 3, 10]"]);
    gives(Op::Resize, &["N,3,5,5", "-", "-", "=7,8"], "axes=[2,3]", &["float32 [N, 3, 7, 8]"]);
    // Scale min(7/2, 8/4) = 2: 4 and 8; max = 3.5: 7 and 14.
    gives(
        Op::Resize,
        &["1,1,2,4", "-", "-", "=7,8"],
        "axes=[2,3] keep_aspect_ratio_policy='not_larger'",
        &["float32 [1, 1, 4, 8]"],
    );
    gives(
        Op::Resize,
        &["1,1,2,4", "-", "-", "=7,8"],
        "axes=[2,3] keep_aspect_ratio_policy='not_smaller'",
        &["float32 [1, 1, 7, 14]"],
    );
    gives(Op::Upsample, &["1,1,2,2", "~1,1,2,3"], "", &["float32 [1, 1, 4, 6]"]);
    gives(Op::GridSample, &["N,3,4,4", "N,6,7,2"], "", &["float32 [N, 3, 6, 7]"]);
    gives(Op::RoiAlign, &["N,3,10,10", "R,4", "R"], "output_height=5 output_width=7", &["float32 [R, 3, 5, 7]"]);
    gives(Op::NonMaxSuppression, &["1,6,4", "1,1,6"], "", &["int64 [?, 3]"]);
    fails(Op::Lstm, &["7,1,10", "1,20,9", "1,20,5"], "hidden_size=5", &["W", "[1, 20, 9]", "[1, 20, 10]"]);
    fails(Op::Resize, &["1,1,2,2", "-", "~1,2"], "", &["2 scales", "4 axes"]);
}

#[test]
fn quantization_checks_the_number_of_scales() {
    gives(Op::QuantizeLinear, &["N,8,4", ""], "", &["uint8 [N, 8, 4]"]);
    gives(Op::QuantizeLinear, &["N,8", "8"], "output_dtype=3", &["int8 [N, 8]"]);
    gives(Op::DequantizeLinear, &["8,N", "8", "8"], "axis=0", &["float32 [8, N]"]);
    gives(Op::DequantizeLinear, &["8,32", "8,2"], "block_size=16", &["float32 [8, 32]"]);
    gives(Op::DynamicQuantizeLinear, &["N"], "", &["uint8 [N]", "float32 []", "uint8 []"]);
    fails(Op::DequantizeLinear, &["8,4", "5"], "axis=0", &["5 scales", "8 channels", "axis 0"]);
    fails(Op::DequantizeLinear, &["8,32", "8,3"], "block_size=16", &["[8, 3]", "must be 2"]);
    fails(Op::QuantizeLinear, &["8,4", "4", "3"], "", &["[4]", "[3]"]);
    fails(Op::DequantizeLinear, &["=1,2", "", ""], "", &["the data is int64", "zero point float32"]);
}

#[test]
fn numbers_from_hostile_files_do_not_overflow() {
    let huge = "4611686018427387904";
    let square = format!("{huge},{huge}");
    gives(Op::Flatten, &[&square], "axis=2", &["float32 [?, 1]"]);
    gives(Op::Tile, &[huge, "=4"], "", &["float32 [?]"]);
    gives(Op::Concat, &[huge, huge], "axis=0", &["float32 [?]"]);
    gives(
        Op::Slice,
        &["9223372036854775807", "=-9223372036854775808", "=-1", "-", "=-9223372036854775808"],
        "",
        &["float32 [0]"],
    );
    gives(Op::Range, &["=-9223372036854775808", "=9223372036854775807", "=1"], "", &["int64 [?]"]);
    fails(Op::Pad, &["3", "=9223372036854775807,9223372036854775807"], "", &["cannot be padded"]);
    fails(Op::Conv, &["1,1,4,4", "1,1,3,3"], "dilations=[2147483646,2147483646]", &["dilation 2147483646"]);
    fails(Op::Relu, &[&["1"; 65].join(",")], "", &["65 dimensions"]);
    fails(Op::Unsqueeze, &["1", &format!("={}", ["0"; 70].join(","))], "", &["70 axes"]);
}

#[test]
fn missing_and_surplus_inputs_are_named() {
    fails(Op::Conv, &["1,3,8,8"], "", &["input 1", "Conv"]);
    fails(Op::Relu, &["1", "1"], "", &["2 inputs", "at most 1"]);
    fails(Op::Concat, &["1"], "", &["axis"]);
}

/// Adds a node with one output and infers it.
fn step(graph: &mut Graph, inferer: &mut Inferer, op: Op, inputs: &[ValueId], attributes: &str) -> ValueId {
    let y = graph.add_value("y", None, None);
    let inputs = inputs.iter().map(|&v| Some(v)).collect();
    let id = graph.add_node(Node::new(op, "node", inputs, vec![y], attrs(attributes)));
    inferer.node(graph, id).unwrap();
    y
}

#[test]
fn shapes_that_a_model_computes_come_out() {
    let (mut g, mut inferer) = (Graph::default(), Inferer::new());
    let constant = |g: &mut Graph, v: &[i64]| add_input(g, &format!("={v:?}").replace(['[', ']', ' '], "")).unwrap();
    let x = add_input(&mut g, "N,12,S,64").unwrap();
    let shape = step(&mut g, &mut inferer, Op::Shape, &[x], "");
    // [N] and [S], gathered as PyTorch does: a scalar each, then a dimension for Concat.
    let mut pick = |g: &mut Graph, i: i64| {
        let index = g.add_constant("i", Tensor::scalar(i).unwrap());
        let scalar = step(g, &mut inferer, Op::Gather, &[shape, index], "axis=0");
        let zero = constant(g, &[0]);
        step(g, &mut inferer, Op::Unsqueeze, &[scalar, zero], "")
    };
    let (n, s) = (pick(&mut g, 0), pick(&mut g, -2));
    let rest = constant(&mut g, &[-1]);
    let target = step(&mut g, &mut inferer, Op::Concat, &[n, s, rest], "axis=0");
    let y = step(&mut g, &mut inferer, Op::Reshape, &[x, target], "");
    assert_eq!(show(g.value(y)), "float32 [N, S, 768]");

    // Where(shape == -1, 1, shape) is how Expand is exported.
    let four = constant(&mut g, &[4]);
    let minus = constant(&mut g, &[-1]);
    let one = constant(&mut g, &[1]);
    let fours = step(&mut g, &mut inferer, Op::Concat, &[minus, four, n], "axis=0");
    let is_minus = step(&mut g, &mut inferer, Op::Equal, &[fours, minus], "");
    let wanted = step(&mut g, &mut inferer, Op::Where, &[is_minus, one, fours], "");
    let small = add_input(&mut g, "7,1,1").unwrap();
    let y = step(&mut g, &mut inferer, Op::Expand, &[small, wanted], "");
    assert_eq!(show(g.value(y)), "float32 [7, 4, N]");
}

#[test]
fn sizes_are_computed_in_integers_and_floats() {
    let (mut g, mut inferer) = (Graph::default(), Inferer::new());
    let x = add_input(&mut g, "1,3,5,7").unwrap();
    let shape = step(&mut g, &mut inferer, Op::Shape, &[x], "start=2");
    let three = add_input(&mut g, "=3").unwrap();
    let two = add_input(&mut g, "=2").unwrap();
    // (5·3 % 2, 7·3 % 2) = (1, 1); 5 / 2 = 2, 7 / 2 = 3.
    let tripled = step(&mut g, &mut inferer, Op::Mul, &[shape, three], "");
    let odd = step(&mut g, &mut inferer, Op::Mod, &[tripled, two], "");
    let half = step(&mut g, &mut inferer, Op::Div, &[shape, two], "");
    let both = step(&mut g, &mut inferer, Op::Concat, &[odd, half], "axis=0");
    let zeros = step(&mut g, &mut inferer, Op::ConstantOfShape, &[both], "");
    assert_eq!(show(g.value(zeros)), "float32 [1, 1, 2, 3]");
    // floor(5 · 1.5) = 7, floor(7 · 1.5) = 10, as Upsample is exported.
    let float = step(&mut g, &mut inferer, Op::Cast, &[shape], "to=1");
    let scale = add_input(&mut g, "~1.5").unwrap();
    let scaled = step(&mut g, &mut inferer, Op::Mul, &[float, scale], "");
    let floor = step(&mut g, &mut inferer, Op::Floor, &[scaled], "");
    let sizes = step(&mut g, &mut inferer, Op::Cast, &[floor], "to=7");
    let zeros = step(&mut g, &mut inferer, Op::ConstantOfShape, &[sizes], "");
    assert_eq!(show(g.value(zeros)), "float32 [7, 10]");
}

#[test]
fn pads_built_the_way_pytorch_builds_them_are_followed() {
    let (mut g, mut inferer) = (Graph::default(), Inferer::new());
    let x = add_input(&mut g, "N,3,5,7").unwrap();
    // Pads come as (before, after) pairs from the last axis on; reversed, transposed and flattened they are ONNX's.
    let pairs = add_input(&mut g, "=1,2,3,4,0,0,0,0").unwrap();
    let two = add_input(&mut g, "=-1,2").unwrap();
    let table = step(&mut g, &mut inferer, Op::Reshape, &[pairs, two], "");
    let ends = ["=-1", "=-9223372036854775807", "=0", "=-1"].map(|c| add_input(&mut g, c).unwrap());
    let turned = step(&mut g, &mut inferer, Op::Slice, &[table, ends[0], ends[1], ends[2], ends[3]], "");
    let columns = step(&mut g, &mut inferer, Op::Transpose, &[turned], "perm=[1,0]");
    let flat = add_input(&mut g, "=-1").unwrap();
    let pads = step(&mut g, &mut inferer, Op::Reshape, &[columns, flat], "");
    let y = step(&mut g, &mut inferer, Op::Pad, &[x, pads], "");
    assert_eq!(show(g.value(y)), "float32 [N, 3, 12, 10]");
}

#[test]
fn declared_shapes_fill_what_inference_leaves_open() {
    let mut g = Graph::default();
    let x = add_input(&mut g, "N,3,H,?").unwrap();
    let y = g.add_value("y", Some(DType::F16), Some(dims("2,9,?,W")));
    let z = g.add_value("z", Some(DType::F16), Some(dims("1,2")));
    g.add_node(Node::new(Op::Relu, "a", vec![Some(x)], vec![y], Attrs::new()));
    g.add_node(Node::new(Op::Opaque, "b", vec![Some(y)], vec![z], Attrs::new()));
    run(&mut g).unwrap();
    assert_eq!(show(g.value(y)), "float32 [2, 3, H, W]");
    assert_eq!(show(g.value(z)), "float16 [1, 2]");
}

#[test]
fn an_error_of_a_whole_graph_names_the_node() {
    let mut g = Graph::default();
    let (a, b) = (add_input(&mut g, "2").unwrap(), add_input(&mut g, "3").unwrap());
    let y = g.add_value("y", None, None);
    g.add_node(Node::new(Op::Add, "sum_of_both", vec![Some(a), Some(b)], vec![y], Attrs::new()));
    assert!(run(&mut g).unwrap_err().to_string().contains("`sum_of_both` (Add)"));
}

fn subgraph(outputs: &[(DType, &str)], inputs: usize) -> Attr {
    let mut g = Graph::default();
    g.inputs = (0..inputs).map(|_| g.add_value("i", None, None)).collect();
    g.outputs = outputs.iter().map(|&(t, s)| g.add_value("o", Some(t), Some(dims(s)))).collect();
    Attr::Graph(Arc::new(g), Arc::default())
}

#[test]
fn branches_and_loops_keep_what_is_certain() {
    let mut g = Graph::default();
    let condition = g.add_value("c", Some(DType::Bool), None);
    let y = g.add_value("y", None, None);
    let branches = Attrs::new()
        .with("then_branch", subgraph(&[(DType::F32, "N,3,4")], 0))
        .with("else_branch", subgraph(&[(DType::F32, "N,1,4")], 0));
    g.add_node(Node::new(Op::If, "if", vec![Some(condition)], vec![y], branches));
    let body = [(DType::Bool, ""), (DType::F32, "2,3"), (DType::I64, "4"), (DType::F32, "5,N")];
    let first = [add_input(&mut g, "2,3").unwrap(), add_input(&mut g, "3").unwrap()];
    let outputs: Vec<ValueId> = (0..3).map(|_| g.add_value("l", None, None)).collect();
    let inputs = vec![None, Some(condition), Some(first[0]), Some(first[1])];
    let attrs = Attrs::new().with("body", subgraph(&body, 4));
    g.add_node(Node::new(Op::Loop, "loop", inputs, outputs.clone(), attrs));
    run(&mut g).unwrap();
    assert_eq!(show(g.value(y)), "float32 [N, ?, 4]");
    let found: Vec<String> = outputs.iter().map(|&v| show(g.value(v))).collect();
    assert_eq!(found, ["float32 [2, 3]", "int64 [?]", "float32 [?, 5, N]"]);
}

#[test]
fn every_operator_takes_unknown_inputs() {
    let required = "shape=[1] num_heads=1 hidden_size=1 K=1 N=1 kernel_shape=[1] axis=0 num_groups=1 blocksize=1 size=1 to=1 equation='i' q_num_heads=1 \
                    kv_num_heads=1 axes=[0]";
    for &op in Op::ALL {
        let (least, _, outputs) = op.arity();
        if matches!(op, Op::If | Op::Loop | Op::Scan | Op::Constant | Op::Resize) {
            continue;
        }
        let inputs = vec!["#"; if op == Op::QLinearConcat { 5 } else { least }];
        let found = infer_one(op, &inputs, required, outputs.min(2));
        assert!(found.is_ok(), "{op:?}: {found:?}");
    }
}
