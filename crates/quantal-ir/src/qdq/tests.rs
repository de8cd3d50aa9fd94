use super::*;
use crate::Dim;
use crate::quant_plan::Params;

mod interface;

/// x → Conv(w, b) → Relu → y, with 2 channels.
fn conv_relu() -> (Graph, [ValueId; 4]) {
    let mut g = Graph::default();
    g.opsets.insert(String::new(), 13);
    let dims = |d: &[usize]| Some(d.iter().map(|&n| Dim::Known(n)).collect());
    let x = g.add_value("x", Some(DType::F32), dims(&[1, 1, 2, 2]));
    let w = g.add_constant("w", Tensor::from_slice(&[2, 1, 1, 1], &[0.5_f32, -2.54]).unwrap());
    let b = g.add_constant("b", Tensor::from_slice(&[2], &[0.1_f32, -0.2]).unwrap());
    let c = g.add_value("c", Some(DType::F32), dims(&[1, 2, 2, 2]));
    let y = g.add_value("y", Some(DType::F32), dims(&[1, 2, 2, 2]));
    g.inputs = vec![x];
    g.outputs = vec![y];
    g.add_node(Node::new(Op::Conv, "conv", vec![Some(x), Some(w), Some(b)], vec![c], Attrs::new()));
    g.add_node(Node::new(Op::Relu, "relu", vec![Some(c)], vec![y], Attrs::new()));
    (g, [x, w, b, y])
}

fn plan(x: ValueId, w: ValueId, y: ValueId) -> QuantPlan {
    let of = |scheme, scale: &[f32], zero_point: &[i32]| Encoding {
        scheme,
        params: Params::Static(QParams { scale: scale.to_vec(), zero_point: zero_point.to_vec() }),
        why: "test".into(),
    };
    let mut plan = QuantPlan::default();
    plan.encodings.insert(x, of(Scheme::activation(), &[0.5], &[3]));
    plan.encodings.insert(w, of(Scheme::weight_per_channel(0), &[0.01, 0.02], &[0, 0]));
    plan.encodings.insert(y, of(Scheme::activation(), &[0.25], &[0]));
    plan
}

#[test]
fn a_plan_is_written_as_qdq_with_names_kept() {
    let (g, [x, w, _, y]) = conv_relu();
    let q = insert_qdq(&g, &plan(x, w, y)).unwrap();
    let ops: Vec<Op> = q.nodes().map(|(_, n)| n.op).collect();
    let dq = Op::DequantizeLinear;
    assert_eq!(ops.iter().filter(|&&o| o == dq).count(), 4);
    assert_eq!(ops.iter().filter(|&&o| o == Op::QuantizeLinear).count(), 2);
    assert_eq!(q.value(q.outputs[0]).name.as_ref(), "y");
    let producer = q.uses().producer(q.outputs[0]).unwrap();
    assert_eq!(q.node(producer).op, dq);
    let codes = q.constant(q.find("w_quantized")).unwrap();
    assert_eq!(codes.as_slice::<i8>(), [50, -127]);
    // 0.1 / (0.5 · 0.01) and −0.2 / (0.5 · 0.02).
    assert_eq!(q.constant(q.find("b_quantized")).unwrap().as_slice::<i32>(), [20, -20]);
}

#[test]
fn what_was_written_is_read_back() {
    let (g, [x, w, _, y]) = conv_relu();
    let p = plan(x, w, y);
    let Extracted { graph: back, plan: read, .. } = extract_qdq(&insert_qdq(&g, &p).unwrap()).unwrap();
    // What the ranges of x and y can cut is cut by Clips now; the Relu became part of one.
    assert_eq!(back.nodes().map(|(_, n)| n.op).collect::<Vec<_>>(), [Op::Clip, Op::Conv, Op::Clip]);
    assert_eq!(back.value(back.outputs[0]).name.as_ref(), "y");
    let strip = |p: &QuantPlan| {
        let mut all: Vec<_> = p
            .encodings
            .values()
            .map(|e| format!("{:?} {:?} {:?}", e.params, e.scheme.storage, e.scheme.qmin))
            .collect();
        all.sort();
        all
    };
    assert_eq!(strip(&read), strip(&p));
    // Once more: a decision is baked into the float weights, so writing it again gives the same codes.
    let again = insert_qdq(&back, &read).unwrap();
    let w = again.values().find(|(_, v)| v.dtype == Some(DType::I8) && v.constant.is_some() && v.rank() == Some(4));
    assert_eq!(w.unwrap().1.constant.as_ref().unwrap().as_slice::<i8>(), [50, -127]);
}

#[test]
fn encodings_that_cannot_be_are_refused() {
    let (g, [x, w, _, y]) = conv_relu();
    let mut p = plan(x, w, y);
    p.encodings.get_mut(&w).unwrap().params = Params::Static(QParams::per_tensor(0.1, 0));
    assert!(insert_qdq(&g, &p).unwrap_err().to_string().contains("needs 2 scales"));
    let mut p = plan(x, w, y);
    p.encodings.get_mut(&x).unwrap().params = Params::Static(QParams::per_tensor(f32::NAN, 0));
    assert!(insert_qdq(&g, &p).is_err());
    p.encodings.get_mut(&x).unwrap().params = Params::Unset;
    assert!(insert_qdq(&g, &p).is_err());
}

#[test]
fn a_vector_added_to_a_product_is_its_bias() {
    let mut g = Graph::default();
    g.opsets.insert(String::new(), 13);
    let dims = |d: &[usize]| Some(d.iter().map(|&n| Dim::Known(n)).collect());
    let x = g.add_value("x", Some(DType::F32), dims(&[3, 1]));
    let w = g.add_constant("w", Tensor::from_slice(&[1, 2], &[0.5_f32, -2.54]).unwrap());
    let b = g.add_constant("b", Tensor::from_slice(&[2], &[0.1_f32, -0.2]).unwrap());
    let p = g.add_value("p", Some(DType::F32), dims(&[3, 2]));
    let y = g.add_value("y", Some(DType::F32), dims(&[3, 2]));
    g.inputs = vec![x];
    g.outputs = vec![y];
    g.add_node(Node::new(Op::MatMul, "product", vec![Some(x), Some(w)], vec![p], Attrs::new()));
    g.add_node(Node::new(Op::Add, "sum", vec![Some(b), Some(p)], vec![y], Attrs::new()));
    let mut plan = plan(x, w, y);
    plan.encodings.get_mut(&w).unwrap().scheme = Scheme::weight_per_channel(1);
    let q = insert_qdq(&g, &plan).unwrap();
    let sum = q.nodes().find(|(_, n)| n.op == Op::Add).unwrap().1;
    let made = q.node(q.uses().producer(sum.input(0).unwrap()).unwrap());
    assert_eq!(made.op, Op::DequantizeLinear);
    // 0.1 / (0.5 · 0.01) and −0.2 / (0.5 · 0.02).
    assert_eq!(q.constant(made.input(0)).unwrap().as_slice::<i32>(), [20, -20]);
    // A product that is read as codes by itself takes no bias.
    plan.encodings.insert(p, plan.encodings[&y].clone());
    let q = insert_qdq(&g, &plan).unwrap();
    let sum = q.nodes().find(|(_, n)| n.op == Op::Add).unwrap().1;
    assert_eq!(sum.input(0), q.find("b"));
}

#[test]
fn codes_of_a_tensor_are_those_of_the_arithmetic() {
    let mut x: Vec<f32> = (-3000..3000).map(|i| i as f32 * 0.25).collect();
    x.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, -0.0, f32::MAX, f32::MIN, 0.499_999_97, 4_194_305.0]);
    x.resize(6012, 0.3);
    let scales = [1.0, 0.5, 3e-39, 0.1];
    for scheme in [Scheme::weight_per_tensor(), Scheme::activation()] {
        for (shape, axis) in [([4, 1503], Some(0)), ([1503, 4], Some(1)), ([4, 1503], None)] {
            let zero_point = if scheme.symmetric { [0; 4] } else { [0, 255, 128, 7] };
            let count = if axis.is_some() { 4 } else { 1 };
            let granularity = axis.map_or(Granularity::PerTensor, |axis| Granularity::PerChannel { axis });
            let scheme = Scheme { granularity, ..scheme };
            let params = QParams { scale: scales[..count].to_vec(), zero_point: zero_point[..count].to_vec() };
            let codes = quantize_tensor(&Tensor::from_slice(&shape, &x).unwrap(), &scheme, &params).unwrap();
            for (i, (&x, q)) in x.iter().zip(codes.to_i64_vec().unwrap()).enumerate() {
                let c = axis.map_or(0, |axis| if axis == 0 { i / 1503 } else { i % 4 });
                let wanted = arith::quantize(x, params.scale[c], params.zero_point[c], scheme.qmin, scheme.qmax);
                assert_eq!(q, i64::from(wanted), "{x} {scheme:?}");
            }
        }
    }
}
