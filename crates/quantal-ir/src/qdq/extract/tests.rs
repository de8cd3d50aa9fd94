use super::*;
use crate::attrs::Attr;
use crate::qdq::insert_qdq;
use proptest::prelude::*;

struct Build(Graph);

impl Build {
    fn new() -> Self {
        let mut g = Graph::default();
        g.opsets.insert(String::new(), 21);
        Self(g)
    }

    fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> ValueId {
        let v = self.0.add_value(name, Some(dtype), Some(shape.iter().map(|&d| Dim::Known(d)).collect()));
        self.0.inputs.push(v);
        v
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.0.add_constant("c", tensor)
    }

    fn named(&mut self, op: Op, name: &str, inputs: &[ValueId], dtype: DType, attrs: Attrs) -> ValueId {
        let shape = self.0.value(inputs[0]).shape.clone();
        let y = self.0.add_value(name, Some(dtype), shape);
        let inputs = inputs.iter().copied().map(Some).collect();
        self.0.add_node(Node::new(op, name, inputs, vec![y], attrs));
        y
    }

    fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.named(op, &format!("{}_{}", op.name(), self.0.node_count()), inputs, DType::F32, Attrs::new())
    }

    /// Scale and zero point.
    fn grid(&mut self, scale: f32, zero_point: Tensor) -> [ValueId; 2] {
        [self.constant(Tensor::scalar(scale).unwrap()), self.constant(zero_point)]
    }

    fn quantize(&mut self, x: ValueId, [s, z]: [ValueId; 2]) -> ValueId {
        let dtype = self.0.value(z).dtype.unwrap();
        let name = format!("q_{}", self.0.node_count());
        self.named(Op::QuantizeLinear, &name, &[x, s, z], dtype, Attrs::new())
    }

    fn dequantize(&mut self, q: ValueId, [s, z]: [ValueId; 2]) -> ValueId {
        let name = format!("dq_{}", self.0.node_count());
        self.named(Op::DequantizeLinear, &name, &[q, s, z], DType::F32, Attrs::new())
    }

    fn pair(&mut self, x: ValueId, grid: [ValueId; 2]) -> ValueId {
        let q = self.quantize(x, grid);
        self.dequantize(q, grid)
    }

    fn extracted(mut self, outputs: &[ValueId]) -> Extracted {
        self.0.outputs = outputs.to_vec();
        extract_qdq(&self.0).unwrap()
    }
}

fn ops(graph: &Graph) -> Vec<Op> {
    graph.nodes().map(|(_, n)| n.op).collect()
}

fn u8_of(z: u8) -> Tensor {
    Tensor::scalar(z).unwrap()
}

/// A pair behind a node that can be anything, and the bounds of what it left.
fn left_by(scale: f32, zero_point: Tensor) -> [f32; 2] {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 4]);
    let v = b.node(Op::Neg, &[x]);
    let grid = b.grid(scale, zero_point);
    let d = b.pair(v, grid);
    let y = b.node(Op::Neg, &[d]);
    let e = b.extracted(&[y]);
    assert_eq!(ops(&e.graph), [Op::Neg, Op::Clip, Op::Neg]);
    assert_eq!(e.clamps.len(), 1);
    let clip = e.graph.node(e.clamps[0].node);
    assert_eq!(clip_bounds(&e.graph, clip), Some(e.clamps[0].bounds));
    e.clamps[0].bounds
}

#[test]
fn a_pair_leaves_the_clamp_that_its_range_was() {
    // Scale times (least − zero point) and (greatest − zero point), of each type.
    assert_eq!(left_by(0.5, u8_of(0)), [0.0, 127.5]);
    assert_eq!(left_by(0.5, u8_of(128)), [-64.0, 63.5]);
    assert_eq!(left_by(0.5, Tensor::scalar(-128_i8).unwrap()), [0.0, 127.5]);
    assert_eq!(left_by(0.5, Tensor::scalar(0_i8).unwrap()), [-64.0, 63.5]);
    assert_eq!(left_by(0.25, Tensor::scalar(0_u16).unwrap()), [0.0, 16_383.75]);
    assert_eq!(left_by(0.25, Tensor::scalar(0_i16).unwrap()), [-8192.0, 8191.75]);
}

#[test]
fn no_clamp_is_left_where_nothing_can_be_cut() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 4]);
    let s = b.node(Op::Sigmoid, &[x]);
    // 255 / 256 is one step below 1: rounded, not cut.
    let grid = b.grid(1.0 / 256.0, u8_of(0));
    let d = b.pair(s, grid);
    let y = b.node(Op::Neg, &[d]);
    let e = b.extracted(&[y]);
    assert_eq!(ops(&e.graph), [Op::Sigmoid, Op::Neg]);
    assert!(e.clamps.is_empty());
    assert_eq!(e.taken, ["Sigmoid_0"]);
}

#[test]
fn a_relu_becomes_the_narrower_clamp_and_what_is_moved_from_it_needs_none() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 1, 4, 4]);
    let r = b.node(Op::Relu, &[x]);
    let grid = b.grid(6.0 / 255.0, u8_of(0));
    let d = b.pair(r, grid);
    let m = b.named(Op::GlobalMaxPool, "pool", &[d], DType::F32, Attrs::new());
    let y = b.pair(m, grid);
    let e = b.extracted(&[y]);
    assert_eq!(ops(&e.graph), [Op::Clip, Op::GlobalMaxPool]);
    let [clamp] = e.clamps[..] else { panic!("{:?}", e.clamps) };
    assert_eq!(clamp.own, [0.0, f32::INFINITY]);
    assert_eq!(clamp.bounds, [0.0, 255.0 * (6.0 / 255.0)]);
    assert_eq!(e.graph.value(e.graph.outputs[0]).name.as_ref(), e.graph.value(y).name.as_ref());

    // Data that stay below the upper bound give the Relu back.
    let mut graph = e.graph.clone();
    assert!(!loosen(&mut graph, &clamp, [-1.0, 9.0]).unwrap());
    assert!(loosen(&mut graph, &clamp, [-1.0, 5.0]).unwrap());
    assert_eq!(ops(&graph), [Op::Relu, Op::GlobalMaxPool]);
}

#[test]
fn a_new_clamp_that_cuts_nothing_goes() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 4]);
    let grid = b.grid(0.5, u8_of(128));
    let d = b.pair(x, grid);
    let y = b.node(Op::Neg, &[d]);
    let mut e = b.extracted(&[y]);
    assert!(loosen(&mut e.graph, &e.clamps[0], [-64.2, 10.0]).unwrap());
    assert_eq!(ops(&e.graph), [Op::Neg]);
    assert_eq!(e.graph.nodes().next().unwrap().1.input(0), Some(x));
}

#[test]
fn several_dequantizations_of_one_value_share_one_clamp() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 4]);
    let v = b.node(Op::Neg, &[x]);
    let grid = b.grid(0.5, u8_of(0));
    let q = b.quantize(v, grid);
    let (d, out) = (b.dequantize(q, grid), b.dequantize(q, grid));
    let y = b.node(Op::Neg, &[d]);
    let name = b.0.value(out).name.clone();
    let e = b.extracted(&[y, out]);
    assert_eq!(e.clamps.len(), 1);
    assert_eq!(e.graph.value(e.graph.outputs[1]).name, name);
    assert!(!ops(&e.graph).contains(&Op::QuantizeLinear));
}

#[test]
fn a_pair_behind_a_pair_leaves_what_it_cuts_more() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 4]);
    let (wide, narrow) = (b.grid(0.5, u8_of(128)), b.grid(0.25, u8_of(128)));
    let first = b.pair(x, wide);
    let second = b.pair(first, narrow);
    let third = b.pair(second, wide);
    let y = b.node(Op::Neg, &[third]);
    let e = b.extracted(&[y]);
    assert_eq!(ops(&e.graph), [Op::Clip, Op::Clip, Op::Neg]);
    assert_eq!(e.clamps.iter().map(|c| c.bounds).collect::<Vec<_>>(), [[-64.0, 63.5], [-32.0, 31.75]]);
}

#[test]
fn a_range_that_one_reader_has_is_not_that_of_the_others() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 4]);
    let r = b.node(Op::Relu, &[x]);
    let grid = b.grid(0.5, u8_of(0));
    let q = b.quantize(r, grid);
    let hi = b.constant(u8_of(200));
    let lo = b.constant(u8_of(0));
    let c = b.named(Op::Clip, "clip", &[q, lo, hi], DType::U8, Attrs::new());
    let (narrow, wide) = (b.dequantize(c, grid), b.dequantize(q, grid));
    let (y, z) = (b.node(Op::Neg, &[narrow]), b.node(Op::Neg, &[wide]));
    let e = b.extracted(&[y, z]);
    let uses = e.graph.uses();
    let bounds_before = |v: ValueId| {
        let neg = e.graph.node(uses.producer(v).unwrap());
        clip_bounds(&e.graph, e.graph.node(uses.producer(neg.input(0).unwrap()).unwrap())).unwrap()
    };
    assert_eq!(bounds_before(e.graph.outputs[0])[1], 100.0);
    assert_eq!(bounds_before(e.graph.outputs[1]), [0.0, 127.5]);
}

#[test]
fn pairs_of_few_levels_stay() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 4]);
    let grid = b.grid(0.3, Tensor::scalar(0_i8).unwrap());
    let q = b.quantize(x, grid);
    let (lo, hi) = (b.constant(Tensor::scalar(-7_i8).unwrap()), b.constant(Tensor::scalar(7_i8).unwrap()));
    let c = b.named(Op::Clip, "clip", &[q, lo, hi], DType::I8, Attrs::new());
    let t = b.named(Op::Transpose, "move", &[c], DType::I8, Attrs::new());
    let y = b.dequantize(t, grid);
    let e = b.extracted(&[y]);
    // But what moves them does so in floats.
    assert_eq!(ops(&e.graph), [Op::QuantizeLinear, Op::Clip, Op::DequantizeLinear, Op::Transpose]);
    assert!(e.taken.is_empty() && e.clamps.is_empty());
}

#[test]
fn a_clip_of_quantized_values_is_a_narrower_range() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 4]);
    let grid = b.grid(0.5, Tensor::scalar(0_i8).unwrap());
    let q = b.quantize(x, grid);
    let (lo, hi) = (b.constant(Tensor::scalar(-100_i8).unwrap()), b.constant(Tensor::scalar(90_i8).unwrap()));
    let c = b.named(Op::Clip, "clip", &[q, lo, hi], DType::I8, Attrs::new());
    let y = b.dequantize(c, grid);
    let e = b.extracted(&[y]);
    assert_eq!(e.clamps[0].bounds, [-50.0, 45.0]);
    let scheme = e.plan.encodings.values().next().unwrap().scheme;
    assert_eq!((scheme.qmin, scheme.qmax), (-100, 90));
}

#[test]
fn nodes_between_a_pair_work_on_floats() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 1, 4, 4]);
    let other = b.input("other", DType::U8, &[1, 1, 4, 4]);
    let v = b.node(Op::Relu, &[x]);
    let grid = b.grid(0.5, u8_of(3));
    let q = b.quantize(v, grid);
    let all = b.named(Op::Concat, "concat", &[q, other], DType::U8, Attrs::new().with("axis", Attr::Int(1)));
    let pads = b.constant(Tensor::from_slice(&[8], &[0_i64, 0, 1, 1, 0, 0, 1, 1]).unwrap());
    let fill = b.constant(u8_of(3));
    let p = b.named(Op::Pad, "pad", &[all, pads, fill], DType::U8, Attrs::new());
    let y = b.dequantize(p, grid);
    let e = b.extracted(&[y]);
    let found = ops(&e.graph);
    // The values that come in quantized are dequantized at once.
    assert_eq!(found.iter().filter(|&&op| op == Op::DequantizeLinear).count(), 1);
    assert!(!found.contains(&Op::QuantizeLinear));
    let concat = e.graph.nodes().find(|(_, n)| n.op == Op::Concat).unwrap().1;
    assert!(concat.inputs.iter().flatten().all(|v| e.graph.value(*v).dtype == Some(DType::F32)));
    let pad = e.graph.nodes().find(|(_, n)| n.op == Op::Pad).unwrap().1;
    assert_eq!(e.graph.constant(pad.input(2)).unwrap().as_slice::<f32>(), [0.0]);
}

#[test]
fn quantized_inputs_and_outputs_stay_so() {
    let mut b = Build::new();
    let x = b.input("x", DType::U8, &[1, 4]);
    let grid = b.grid(0.5, u8_of(3));
    let d = b.dequantize(x, grid);
    let n = b.node(Op::Neg, &[d]);
    let y = b.quantize(n, grid);
    let e = b.extracted(&[y]);
    assert_eq!(ops(&e.graph), [Op::DequantizeLinear, Op::Neg, Op::QuantizeLinear]);
    assert_eq!(e.graph.value(e.graph.outputs[0]).dtype, Some(DType::U8));
}

#[test]
fn blocks_of_int4_are_constants_by_hand() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 4]);
    let mut codes = Tensor::zeros(DType::I4, &[4, 2]).unwrap();
    codes.as_mut_slice::<i8>().unwrap().copy_from_slice(&[-8, 7, 1, 2, 3, -4, 5, 6]);
    let (w, s) = (b.constant(codes), b.constant(Tensor::from_slice(&[2, 2], &[0.5_f32, 1.0, 2.0, 0.25]).unwrap()));
    let mut zeros = Tensor::zeros(DType::I4, &[2, 2]).unwrap();
    zeros.as_mut_slice::<i8>().unwrap().copy_from_slice(&[0, 1, -1, 2]);
    let z = b.constant(zeros);
    let attrs = Attrs::new().with("axis", Attr::Int(0)).with("block_size", Attr::Int(2));
    let wf = b.named(Op::DequantizeLinear, "dq", &[w, s, z], DType::F32, attrs);
    let y = b.node(Op::MatMul, &[x, wf]);
    let e = b.extracted(&[y]);
    let product = e.graph.nodes().next().unwrap().1;
    let weights = e.graph.constant(product.input(1)).unwrap();
    // Rows 0 and 1 have the scales 0.5 and 1 and zero points 0 and 1, rows 2 and 3 2 and 0.25, −1 and 2.
    assert_eq!(weights.as_slice::<f32>(), [-4.0, 6.0, 0.5, 1.0, 8.0, -1.5, 12.0, 1.0]);
    // Not an encoding that a plan can hold.
    assert!(e.plan.encodings.is_empty());
}

#[test]
fn weights_that_are_rounded_while_running_keep_their_rounded_values() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 2]);
    let w = b.constant(Tensor::from_slice(&[2, 2], &[0.3_f32, -0.8, 99.0, 0.26]).unwrap());
    let grid = b.grid(0.5, Tensor::scalar(0_i8).unwrap());
    let q = b.quantize(w, grid);
    let (lo, hi) = (b.constant(Tensor::scalar(-7_i8).unwrap()), b.constant(Tensor::scalar(7_i8).unwrap()));
    let c = b.named(Op::Clip, "clip", &[q, lo, hi], DType::I8, Attrs::new());
    let d = b.dequantize(c, grid);
    let y = b.node(Op::MatMul, &[x, d]);
    let e = b.extracted(&[y]);
    let product = e.graph.nodes().next().unwrap().1;
    assert_eq!(e.graph.constant(product.input(1)).unwrap().as_slice::<f32>(), [0.5, -1.0, 3.5, 0.5]);
}

#[test]
fn channels_with_scales_of_their_own_are_clamped_one_by_one() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 2, 3]);
    let s = b.constant(Tensor::from_slice(&[2], &[0.5_f32, 0.25]).unwrap());
    let z = b.constant(Tensor::from_slice(&[2], &[0_u8, 128]).unwrap());
    let y = b.pair(x, [s, z]);
    let e = b.extracted(&[y]);
    assert_eq!(ops(&e.graph), [Op::Max, Op::Min]);
    let bound = |op: Op| {
        let node = e.graph.nodes().find(|(_, n)| n.op == op).unwrap().1;
        let tensor = e.graph.constant(node.input(1)).unwrap();
        assert_eq!(tensor.shape(), [2, 1]);
        tensor.as_slice::<f32>().to_vec()
    };
    assert_eq!((bound(Op::Max), bound(Op::Min)), (vec![0.0, -32.0], vec![127.5, 31.75]));
}

#[test]
fn pairs_that_differ_or_are_computed_while_running_stay() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 4]);
    let running = b.input("s", DType::F32, &[]);
    let (a, other) = (b.grid(0.5, u8_of(0)), b.grid(0.25, u8_of(0)));
    let q = b.quantize(x, a);
    let first = b.dequantize(q, other);
    let second = b.pair(first, [running, a[1]]);
    let e = b.extracted(&[second]);
    assert_eq!(ops(&e.graph).len(), 4);
    assert!(e.taken.is_empty());
}

/// `x → DynamicQuantizeLinear → MatMulInteger · w → Cast → · (s · s_w)`.
#[test]
fn products_of_dynamic_ranges_are_float_products() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[1, 2]);
    let values = [("xq", DType::U8), ("xs", DType::F32), ("xz", DType::U8)];
    let [q, s, z] = values.map(|(name, dtype)| b.0.add_value(name, Some(dtype), None));
    b.0.add_node(Node::new(Op::DynamicQuantizeLinear, "dql", vec![Some(x)], vec![q, s, z], Attrs::new()));
    let w = b.constant(Tensor::from_slice(&[2, 2], &[1_i8, -2, 3, 4]).unwrap());
    let wz = b.constant(Tensor::scalar(1_i8).unwrap());
    let sw = b.constant(Tensor::from_slice(&[2], &[0.5_f32, 0.25]).unwrap());
    let sum = b.named(Op::MatMulInteger, "product", &[q, w, z, wz], DType::I32, Attrs::new());
    let real = b.named(Op::Cast, "cast", &[sum], DType::F32, Attrs::new().with("to", Attr::Int(1)));
    let scales = b.node(Op::Mul, &[s, sw]);
    let y = b.node(Op::Mul, &[real, scales]);
    let e = b.extracted(&[y]);
    assert_eq!(ops(&e.graph), [Op::MatMul]);
    let product = e.graph.nodes().next().unwrap().1;
    assert_eq!((product.input(0), product.output(0)), (Some(x), Some(y)));
    // (1 − 1) / 2, (−2 − 1) / 4, (3 − 1) / 2, (4 − 1) / 4.
    assert_eq!(e.graph.constant(product.input(1)).unwrap().as_slice::<f32>(), [0.0, -0.75, 1.0, 0.75]);
    assert_eq!(e.taken, ["product"]);
}

#[test]
fn rows_quantized_while_running_are_read_back() {
    let mut b = Build::new();
    let x = b.input("x", DType::F32, &[3, 2]);
    let w = b.0.add_constant("w", Tensor::from_slice(&[2, 2], &[0.5_f32, -1.0, 0.25, 1.27]).unwrap());
    let y = b.node(Op::MatMul, &[x, w]);
    b.0.outputs = vec![y];
    let params = Params::Static(QParams { scale: vec![0.25, 0.01], zero_point: vec![0, 0] });
    let mut plan = QuantPlan::default();
    plan.encodings.insert(w, Encoding { scheme: Scheme::weight_per_channel(1), params, why: "test".into() });
    plan.dynamic.insert(b.0.nodes().next().unwrap().0);
    let e = extract_qdq(&insert_qdq(&b.0, &plan).unwrap()).unwrap();
    assert_eq!(ops(&e.graph), [Op::MatMul]);
    let product = e.graph.nodes().next().unwrap().1;
    assert_eq!(product.input(0).map(|v| e.graph.value(v).name.to_string()).as_deref(), Some("x"));
    let weights = e.graph.constant(product.input(1)).unwrap().as_slice::<f32>();
    for (found, wanted) in weights.iter().zip([0.5, -1.0, 0.25, 1.27]) {
        assert!((found - wanted).abs() < 1e-6, "{weights:?}");
    }
}

/// What a value is computed by, written out; constants by their bytes.
fn expression(graph: &Graph, uses: &Uses, v: ValueId) -> String {
    if let Some(tensor) = graph.constant(Some(v)) {
        return format!("{:?}", tensor.bytes());
    }
    let Some(id) = uses.producer(v) else { return graph.value(v).name.to_string() };
    let node = graph.node(id);
    let inputs: Vec<String> = node.inputs.iter().flatten().map(|&v| expression(graph, uses, v)).collect();
    format!("{}({})", node.op.name(), inputs.join(","))
}

fn written_out(graph: &Graph, plan: &QuantPlan) -> (Vec<String>, Vec<String>) {
    let uses = graph.uses();
    let outputs = graph.outputs.iter().map(|&v| expression(graph, &uses, v)).collect();
    let of = |(&v, e): (&ValueId, &Encoding)| format!("{} {:?} {:?}", expression(graph, &uses, v), e.scheme, e.params);
    let mut encodings: Vec<String> = plan.encodings.iter().map(of).collect();
    encodings.sort();
    (outputs, encodings)
}

/// Layers of a chain: what each is, and whether and how its result is held.
fn layers() -> impl Strategy<Value = Vec<(u8, Option<(u8, u8, bool)>)>> {
    prop::collection::vec((0_u8..6, prop::option::of((1_u8..=100, any::<u8>(), any::<bool>()))), 1..6)
}

fn chain(layers: &[(u8, Option<(u8, u8, bool)>)]) -> (Graph, QuantPlan) {
    let mut b = Build::new();
    let mut at = b.input("x", DType::F32, &[1, 2, 3, 3]);
    let mut before = at;
    let mut plan = QuantPlan::default();
    let weights = Scheme { qmin: -127, ..Scheme::weight_per_channel(0) };
    for (i, &(kind, held)) in layers.iter().enumerate() {
        let from = at;
        at = match kind {
            0 => b.node(Op::Relu, &[at]),
            1 => b.node(Op::Sigmoid, &[at]),
            2 => b.node(Op::Add, &[at, before]),
            3 => b.named(Op::MaxPool, &format!("pool_{i}"), &[at], DType::F32, Attrs::new()),
            _ => {
                let values: Vec<f32> = (0..4).map(|k| (k as f32 - 1.5) * 0.1 * (i + 1) as f32).collect();
                let w = b.0.add_constant("w", Tensor::from_slice(&[2, 2, 1, 1], &values).unwrap());
                let params = Params::Static(QParams { scale: vec![0.01, 0.02], zero_point: vec![0, 0] });
                plan.encodings.insert(w, Encoding { scheme: weights, params, why: "read from the model".into() });
                let bias = b.0.add_constant("b", Tensor::from_slice(&[2], &[0.3_f32, -0.7]).unwrap());
                b.node(Op::Conv, &[at, w, bias])
            }
        };
        before = from;
        if let Some((scale, zero_point, signed)) = held {
            let (storage, zero) =
                if signed { (Storage::S8, i32::from(zero_point) - 128) } else { (Storage::U8, zero_point.into()) };
            let (qmin, qmax) = storage.full_range();
            let symmetric = zero == if signed { 0 } else { 128 };
            let scheme = Scheme { storage, qmin, qmax, symmetric, granularity: Granularity::PerTensor };
            let params = Params::Static(QParams::per_tensor(f32::from(scale) / 64.0, zero));
            plan.encodings.insert(at, Encoding { scheme, params, why: "read from the model".into() });
        }
    }
    b.0.outputs = vec![at];
    (b.0, plan)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What was read from a model and is written again is read the same; and a model that was written gives back its
    /// nodes, with clamps where ranges can cut.
    #[test]
    fn extracting_undoes_inserting(layers in layers()) {
        let (graph, plan) = chain(&layers);
        let written = insert_qdq(&graph, &plan).unwrap();
        let first = extract_qdq(&written).unwrap();
        let kept = |g: &Graph| {
            let mut ops: Vec<&str> =
                ops(g).into_iter().filter(|op| !matches!(op, Op::Clip | Op::Relu)).map(Op::name).collect();
            ops.sort_unstable();
            ops
        };
        prop_assert_eq!(kept(&first.graph), kept(&graph));
        prop_assert_eq!(first.plan.encodings.len(), plan.encodings.len());

        let again = insert_qdq(&first.graph, &first.plan).unwrap();
        let second = extract_qdq(&again).unwrap();
        prop_assert!(second.clamps.is_empty(), "{:?}", second.clamps);
        prop_assert_eq!(
            written_out(&second.graph, &second.plan),
            written_out(&first.graph, &first.plan)
        );
    }
}
