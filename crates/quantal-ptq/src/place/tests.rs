use super::*;
use quantal_ir::{Attr, Attrs, Dim, Node, Op};
use quantal_tensor::{DType, Granularity, Tensor};

/// Builds small graphs; values are named after the node that makes them.
pub(crate) struct Build {
    pub(crate) graph: Graph,
}

impl Build {
    pub(crate) fn new() -> Self {
        let mut graph = Graph::default();
        graph.opsets.insert(String::new(), 17);
        Self { graph }
    }

    pub(crate) fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let dims = shape.iter().map(|&d| Dim::Known(d)).collect();
        let v = self.graph.add_value(name, Some(DType::F32), Some(dims));
        self.graph.inputs.push(v);
        v
    }

    /// Numbers in −1 … 1 that differ from one another.
    pub(crate) fn constant(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0).collect();
        self.graph.add_constant(name, Tensor::from_slice(shape, &values).unwrap())
    }

    pub(crate) fn constant_of(&mut self, name: &str, shape: &[usize], values: &[f32]) -> ValueId {
        self.graph.add_constant(name, Tensor::from_slice(shape, values).unwrap())
    }

    pub(crate) fn scalar(&mut self, x: f32) -> ValueId {
        self.graph.add_constant("scalar", Tensor::scalar(x).unwrap())
    }

    pub(crate) fn node(&mut self, op: Op, inputs: &[ValueId], attrs: Attrs) -> ValueId {
        self.named(op, op.name(), inputs, attrs)
    }

    pub(crate) fn named(&mut self, op: Op, name: &str, inputs: &[ValueId], attrs: Attrs) -> ValueId {
        let y = self.graph.add_value(name, Some(DType::F32), None);
        let name = self.graph.value(y).name.to_string();
        let inputs = inputs.iter().map(|&v| Some(v)).collect();
        self.graph.add_node(Node::new(op, &name, inputs, vec![y], attrs));
        y
    }

    pub(crate) fn unary(&mut self, op: Op, x: ValueId) -> ValueId {
        self.node(op, &[x], Attrs::new())
    }

    pub(crate) fn binary(&mut self, op: Op, a: ValueId, b: ValueId) -> ValueId {
        self.node(op, &[a, b], Attrs::new())
    }

    /// A 1×1 convolution from and to `channels`, without a bias.
    pub(crate) fn conv(&mut self, x: ValueId, channels: usize) -> ValueId {
        let w = self.constant("w", &[channels, channels, 1, 1]);
        self.binary(Op::Conv, x, w)
    }

    pub(crate) fn norm(&mut self, name: &str, x: ValueId, n: usize) -> ValueId {
        let (gamma, beta) = (self.constant("gamma", &[n]), self.constant("beta", &[n]));
        self.named(Op::LayerNormalization, name, &[x, gamma, beta], Attrs::new())
    }

    pub(crate) fn matmul(&mut self, x: ValueId, n: usize) -> ValueId {
        let w = self.constant("w", &[n, n]);
        self.binary(Op::MatMul, x, w)
    }

    fn place(mut self, outputs: &[ValueId]) -> Placed {
        self.graph.outputs = outputs.to_vec();
        let placement = place_except(&self.graph, &Recipe::default(), &BTreeMap::new()).unwrap();
        Placed { graph: self.graph, placement }
    }
}

struct Placed {
    graph: Graph,
    placement: Placement,
}

impl Placed {
    /// The activations that have an encoding, in order of their making.
    fn encoded(&self) -> Vec<&str> {
        let weights: Vec<ValueId> = self.placement.products.iter().map(|p| p.weighted.weight).collect();
        let activations = self.placement.plan.encodings.keys().filter(|v| !weights.contains(v));
        activations.map(|&v| &*self.graph.value(v).name).collect()
    }

    fn verdict(&self, node: &str) -> Verdict {
        self.placement.decisions.iter().find(|d| &*d.name == node).unwrap().verdict
    }

    fn why(&self, node: &str) -> &str {
        &self.placement.decisions.iter().find(|d| &*d.name == node).unwrap().why
    }

    fn group(&self, v: ValueId) -> &Group {
        self.placement.groups.iter().find(|g| g.members.contains(&v)).unwrap()
    }
}

#[test]
fn residual_block_keeps_clamps_inside_and_the_classifier_in_float() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 8, 4, 4]);
    let a = b.conv(x, 8);
    let a = b.unary(Op::Relu, a);
    let c = b.conv(a, 8);
    let sum = b.binary(Op::Add, c, a);
    let sum = b.unary(Op::Relu, sum);
    let mean = b.unary(Op::GlobalAveragePool, sum);
    let flat = b.unary(Op::Flatten, mean);
    let (w, bias) = (b.constant("w", &[8, 8]), b.constant("bias", &[8]));
    let y = b.node(Op::Gemm, &[flat, w, bias], Attrs::new());
    let soft = b.unary(Op::Softmax, y);
    let p = b.place(&[soft]);
    assert_eq!(p.encoded(), ["x", "Relu", "Conv_1", "Relu_1", "GlobalAveragePool", "Flatten"]);
    assert_eq!(p.verdict("Relu_1"), Verdict::Fused(p.graph.nodes().nth(3).unwrap().0));
    assert_eq!(p.verdict("Add"), Verdict::Integer);
    assert_eq!(p.verdict("Softmax"), Verdict::Float);
    assert!(p.why("Softmax").contains("nothing that reads"), "{}", p.why("Softmax"));
    assert!(p.placement.plan.fallback.len() == 1);
    // The pool has qparams of its own; Flatten moves what it made.
    assert_eq!(p.group(flat).members, [mean, flat]);
    assert_eq!(p.group(flat).sources, [mean]);
    assert_eq!(p.placement.products[2].weighted.bias, Some(bias));
}

#[test]
fn squeeze_and_excite_stays_in_integers_and_swish_is_one_table() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 8, 4, 4]);
    let c = b.conv(x, 8);
    let s = b.unary(Op::Sigmoid, c);
    let swish = b.binary(Op::Mul, c, s);
    let pooled = b.unary(Op::GlobalAveragePool, swish);
    let squeezed = b.conv(pooled, 8);
    let gate = b.named(Op::Sigmoid, "gate", &[squeezed], Attrs::new());
    let gated = b.named(Op::Mul, "gated", &[swish, gate], Attrs::new());
    let y = b.conv(gated, 8);
    let p = b.place(&[y]);
    assert_eq!(p.encoded(), ["x", "Conv", "Mul", "GlobalAveragePool", "Conv_1", "gate", "gated", "Conv_2"]);
    let gate = p.group(gate);
    assert_eq!((gate.pinned, gate.sources.len()), (Some(crate::observer::Range { min: 0.0, max: 1.0 }), 0));
}

#[test]
fn transformer_block_runs_in_integers_with_its_mask_out_of_the_range() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 4, 8]);
    let mask = b.input("mask", &[1, 1, 4]);
    let (gamma, beta) = (b.constant("gamma", &[8]), b.constant("beta", &[8]));
    let norm = b.node(Op::LayerNormalization, &[x, gamma, beta], Attrs::new());
    let q = b.matmul(norm, 8);
    let bias = b.constant("bias", &[8]);
    let q = b.named(Op::Add, "q", &[bias, q], Attrs::new());
    let k = b.matmul(norm, 8);
    let k = b.unary(Op::Transpose, k);
    let scores = b.named(Op::MatMul, "scores", &[q, k], Attrs::new());
    let root = b.scalar(2.8);
    let scores = b.named(Op::Div, "scaled", &[scores, root], Attrs::new());
    let masked = b.named(Op::Add, "masked", &[scores, mask], Attrs::new());
    let soft = b.unary(Op::Softmax, masked);
    let v = b.matmul(norm, 8);
    let mixed = b.named(Op::MatMul, "mixed", &[soft, v], Attrs::new());
    let out = b.matmul(mixed, 8);
    let residual = b.named(Op::Add, "residual", &[out, norm], Attrs::new());
    let second = b.named(Op::LayerNormalization, "second", &[residual, gamma, beta], Attrs::new());
    // Gelu, written out.
    let up = b.matmul(second, 8);
    let root = b.scalar(1.414);
    let scaled = b.binary(Op::Div, up, root);
    let erf = b.unary(Op::Erf, scaled);
    let one = b.scalar(1.0);
    let plus = b.named(Op::Add, "plus", &[erf, one], Attrs::new());
    let product = b.binary(Op::Mul, up, plus);
    let half = b.scalar(0.5);
    let gelu = b.named(Op::Mul, "gelu", &[product, half], Attrs::new());
    let down = b.named(Op::MatMul, "down", &[gelu, half], Attrs::new());
    let last = b.matmul(gelu, 8);
    let p = b.place(&[last, down]);
    // Neither the product of the scores nor their sum with the mask has codes, and the Gelu has none inside.
    let encoded = ["LayerNormalization", "q", "MatMul_1", "Transpose", "scaled", "Softmax", "MatMul_2", "mixed"];
    let encoded: Vec<&str> =
        encoded.into_iter().chain(["MatMul_3", "residual", "second", "MatMul_4", "gelu"]).collect();
    assert_eq!(p.encoded(), encoded);
    assert_eq!(p.verdict("q"), Verdict::Fused(p.graph.nodes().nth(1).unwrap().0));
    for node in ["scores", "Softmax", "mixed", "residual", "second", "Transpose"] {
        assert_eq!(p.verdict(node), Verdict::Integer, "{node}");
    }
    // The first norm is fed in float, but what it makes goes into products: the residual stream goes on in codes.
    assert_eq!(p.verdict("LayerNormalization"), Verdict::Float);
    assert!(matches!(p.verdict("masked"), Verdict::Fused(_)), "{:?}", p.verdict("masked"));
    assert!(p.why("masked").contains("`Softmax`"), "{}", p.why("masked"));
    assert!(matches!(p.verdict("scaled"), Verdict::Fused(_)));
    assert_eq!(p.verdict("Erf"), Verdict::Integer);
}

#[test]
fn unmasked_attention_runs_in_integers_throughout() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 4, 8]);
    let (q, k, v) = (b.matmul(x, 8), b.matmul(x, 8), b.matmul(x, 8));
    let k = b.unary(Op::Transpose, k);
    let scores = b.named(Op::MatMul, "scores", &[q, k], Attrs::new());
    let soft = b.unary(Op::Softmax, scores);
    let mixed = b.named(Op::MatMul, "mixed", &[soft, v], Attrs::new());
    let y = b.matmul(mixed, 8);
    let p = b.place(&[y]);
    assert_eq!(
        p.encoded(),
        ["x", "MatMul", "MatMul_1", "MatMul_2", "Transpose", "scores", "Softmax", "mixed"],
        "the result itself leaves as floats"
    );
}

#[test]
fn concat_shares_with_parts_that_nobody_else_reads() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 8, 4, 4]);
    let a = b.conv(x, 8);
    let c = b.conv(x, 8);
    let pooled = b.unary(Op::MaxPool, c);
    let up = b.unary(Op::Resize, pooled);
    let cat = b.node(Op::Concat, &[a, up, c], Attrs::new().with("axis", Attr::Int(1)));
    let w = b.constant("w", &[8, 24, 1, 1]);
    let y = b.binary(Op::Conv, cat, w);
    let p = b.place(&[y]);
    // `c` is in through the pool; it is moved, so all hold the same values.
    assert_eq!(p.group(cat).members, [a, c, pooled, up, cat]);
    assert_eq!(p.group(cat).sources, [a, c]);

    let mut b = Build::new();
    let x = b.input("x", &[1, 8, 4, 4]);
    let a = b.conv(x, 8);
    let c = b.conv(a, 8);
    let cat = b.node(Op::Concat, &[a, c], Attrs::new().with("axis", Attr::Int(1)));
    let w = b.constant("w", &[8, 16, 1, 1]);
    let y = b.binary(Op::Conv, cat, w);
    let p = b.place(&[y]);
    assert_eq!(p.group(cat).members, [c, cat], "`a` has another reader and keeps its scale");
    assert_eq!(p.group(cat).sources, [c, cat], "the part from `a` is seen in the whole");
}

#[test]
fn moving_an_input_is_done_on_codes_but_not_computing_on_it() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 8, 4, 4]);
    let moved = b.unary(Op::Transpose, x);
    let y = b.conv(moved, 8);
    let p = b.place(&[y]);
    assert_eq!(p.encoded(), ["x", "Transpose", "Conv"]);

    let mut b = Build::new();
    let x = b.input("x", &[1, 8, 4, 4]);
    let scale = b.constant("scale", &[8, 1, 1]);
    let scaled = b.binary(Op::Mul, x, scale);
    let y = b.conv(scaled, 8);
    let p = b.place(&[y]);
    assert_eq!(p.encoded(), ["Mul", "Conv"]);
}

#[test]
fn weights_have_a_scale_for_each_output_channel_where_they_can() {
    let mut b = Build::new();
    let x = b.input("x", &[4, 8]);
    let shared = b.constant("shared", &[8, 8]);
    let transposed = Attrs::new().with("transB", Attr::Int(1));
    let a = b.node(Op::Gemm, &[x, shared], transposed.clone());
    let c = b.node(Op::Gemm, &[x, shared], Attrs::new());
    let own = b.constant("own", &[8, 8]);
    let d = b.node(Op::Gemm, &[a, own], transposed);
    let deep = b.constant("deep", &[2, 8, 8]);
    let e = b.binary(Op::MatMul, a, deep);
    let p = b.place(&[c, d, e]);
    let granularity = |v| p.placement.plan.encodings[&v].scheme.granularity;
    assert_eq!(granularity(own), Granularity::PerChannel { axis: 0 });
    assert_eq!(granularity(shared), Granularity::PerTensor, "its readers disagree on the axis");
    assert_eq!(granularity(deep), Granularity::PerTensor);
}

#[test]
fn exceptions_of_the_recipe_are_kept() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 8, 4, 4]);
    let a = b.conv(x, 8);
    let c = b.conv(a, 8);
    let d = b.conv(c, 8);
    b.graph.outputs = vec![d];
    let recipe = Recipe::from_toml(
        "[[overrides]]\nnode = \"Conv_2\"\nfallback = true\n\
         [[overrides]]\nnode = \"Conv*\"\nstorage = \"s8\"\nobserver = { kind = \"mse\", bins = 2048 }",
    )
    .unwrap();
    let p = place(&b.graph, &recipe).unwrap();
    let encoded: Vec<ValueId> = p.groups.iter().flat_map(|g| g.members.clone()).collect();
    assert_eq!(encoded, [x, a, c]);
    assert_eq!(p.plan.encodings[&a].scheme.qmin, -128);
    assert_eq!(p.plan.encodings[&x].scheme.qmin, 0);
    assert_eq!(p.groups[1].observer.name(), "mse");
    assert_eq!(p.decisions[2].why, "the recipe says so");
}

#[test]
fn a_model_that_is_quantized_while_running_is_refused() {
    let mut b = Build::new();
    let x = b.input("x", &[1]);
    b.node(Op::DynamicQuantizeLinear, &[x], Attrs::new());
    assert!(matches!(place(&b.graph, &Recipe::default()), Err(Error::AlreadyQuantized { .. })));
}

#[test]
fn what_the_model_quantizes_itself_is_not_quantized_once_more() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 2, 4, 4]);
    let (s, z) = (b.scalar(0.5), b.graph.add_constant("z", Tensor::scalar(0_u8).unwrap()));
    let w = b.constant("w", &[2, 2, 1, 1]);
    let pair = |b: &mut Build, v| {
        let q = b.node(Op::QuantizeLinear, &[v, s, z], Attrs::new());
        b.node(Op::DequantizeLinear, &[q, s, z], Attrs::new())
    };
    let read = pair(&mut b, x);
    let made = b.node(Op::Conv, &[read, w], Attrs::new());
    let again = pair(&mut b, made);
    let y = b.node(Op::Conv, &[again, w], Attrs::new());
    b.graph.outputs = vec![y];
    let placement = place(&b.graph, &Recipe::default()).unwrap();
    let held: Vec<ValueId> = placement.plan.encodings.keys().copied().collect();
    assert!(!held.contains(&x) && !held.contains(&made), "{held:?}");
    for v in [w, read, again, y] {
        assert!(held.contains(&v), "{held:?}");
    }
    let of = |op: &str| placement.decisions.iter().filter(|d| d.op == op).map(|d| d.verdict).collect::<Vec<_>>();
    assert_eq!(of("Conv"), [Verdict::Integer; 2]);
    assert_eq!(of("QuantizeLinear"), [Verdict::Untouched; 2]);
}

#[test]
fn products_of_rows_quantized_while_running_have_weights_in_the_plan_alone() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 4, 8]);
    let y = b.matmul(x, 8);
    let bias = b.constant("bias", &[8]);
    let y = b.named(Op::Add, "biased", &[y, bias], Attrs::new());
    let y = b.matmul(y, 8);
    b.graph.outputs = vec![y];
    let recipe = Recipe::from_toml("[activations]\nranges = \"dynamic_per_token\"").unwrap();
    let p = place(&b.graph, &recipe).unwrap();
    assert!(p.groups.is_empty());
    assert_eq!((p.plan.dynamic.len(), p.plan.encodings.len()), (2, 2));
    assert_eq!(p.products.iter().map(|p| p.weighted.bias.is_some()).collect::<Vec<_>>(), [true, false]);
    let verdict = |name: &str| p.decisions.iter().find(|d| &*d.name == name).unwrap().verdict;
    assert!(matches!(verdict("biased"), Verdict::Fused(_)), "{:?}", verdict("biased"));
    assert_eq!(verdict("MatMul"), Verdict::Integer);
    let text = "[activations]\nranges = \"dynamic_per_token\"\n[weights]\nsymmetric = false";
    assert!(Recipe::from_toml(text).unwrap_err().to_string().contains("symmetric"));
}

#[test]
fn a_norm_that_is_left_out_takes_the_sum_before_it_along() {
    let mut b = Build::new();
    let x = b.input("x", &[1, 4, 8]);
    let (a, c) = (b.matmul(x, 8), b.matmul(x, 8));
    let sum = b.named(Op::Add, "sum", &[a, c], Attrs::new());
    let norm = b.norm("norm", sum, 8);
    let y = b.matmul(norm, 8);
    b.graph.outputs = vec![y];
    let all = place(&b.graph, &Recipe::default()).unwrap();
    let (id, input) = all.norms[0];
    assert_eq!(input, sum);
    let exceptions = [(id, "outliers".to_owned())].into();
    let p = place_except(&b.graph, &Recipe::default(), &exceptions).unwrap();
    let found = |name: &str| p.decisions.iter().find(|d| &*d.name == name).unwrap();
    assert_eq!((found("norm").verdict, &*found("norm").why), (Verdict::Float, "outliers"));
    assert_eq!(found("sum").verdict, Verdict::Float);
    assert!(p.norms.is_empty());
}

#[test]
fn a_residual_stream_is_back_in_codes_once_they_hold_it() {
    // sum0 = a + b, exposed; sum1 = sum0 + W·norm0; sum2 = sum1 + W·norm1.
    let mut b = Build::new();
    let x = b.input("x", &[1, 4, 8]);
    let mut stream = b.matmul(x, 8);
    for i in 0..3 {
        let branch = if i == 0 {
            b.matmul(x, 8)
        } else {
            let norm = b.norm(&format!("norm{}", i - 1), stream, 8);
            b.matmul(norm, 8)
        };
        stream = b.named(Op::Add, &format!("sum{i}"), &[stream, branch], Attrs::new());
    }
    let norm = b.norm("norm2", stream, 8);
    let y = b.matmul(norm, 8);
    b.graph.outputs = vec![y];
    let id = |name: &str| b.graph.nodes().find(|(_, n)| &*n.name == name).unwrap().0;
    let exceptions = ["sum0", "norm0"].map(|name| (id(name), "faint".to_owned())).into();
    let p = place_except(&b.graph, &Recipe::default(), &exceptions).unwrap();
    let found = |name: &str| p.decisions.iter().find(|d| &*d.name == name).unwrap().verdict;
    assert_eq!(["sum0", "norm0", "sum1"].map(found), [Verdict::Float; 3]);
    assert_eq!(["norm1", "sum2", "norm2"].map(found), [Verdict::Integer; 3]);
    let encoded = |name: &str| p.plan.encodings.contains_key(&b.graph.node(id(name)).output(0).unwrap());
    assert_eq!(["sum0", "sum1", "sum2"].map(encoded), [false, true, true]);
    // The same of a recipe that says so.
    let text = ["sum0", "norm0"].map(|name| format!("[[overrides]]\nnode = \"{name}\"\nfallback = true\n")).concat();
    let asked = place(&b.graph, &Recipe::from_toml(&text).unwrap()).unwrap();
    let verdicts = |p: &Placement| p.decisions.iter().map(|d| d.verdict).collect::<Vec<_>>();
    assert_eq!(verdicts(&asked), verdicts(&p));
}
