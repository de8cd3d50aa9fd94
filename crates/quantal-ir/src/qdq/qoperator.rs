//! Operators on codes (QLinearConv, com.microsoft.QLinearAdd …) to the QDQ form that they stand for: so the rules that
//! run QDQ models in integers run these too.

use super::QdqError;
use crate::attrs::{Attr, Attrs};
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::Op;
use quantal_tensor::{DType, Tensor};

/// Codes with their scale and zero point: three inputs of a node.
#[derive(Clone, Copy)]
struct Code {
    codes: ValueId,
    scale: ValueId,
    zero_point: Option<ValueId>,
}

/// Rewrites every operator on codes whose scales and zero points are constants. Gives the names of the nodes that it
/// rewrote; those with scales computed at run time stay as they are.
pub fn expand_qoperators(graph: &mut Graph) -> Result<Vec<String>, QdqError> {
    let mut expanded = Vec::new();
    let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
    for id in ids {
        let node = graph.node(id).clone();
        if expand(graph, id, &node)?.is_some() {
            expanded.push(node.name.to_string());
        }
    }
    graph.sort()?;
    Ok(expanded)
}

fn expand(graph: &mut Graph, id: NodeId, node: &Node) -> Result<Option<()>, QdqError> {
    let rewritten = match node.op {
        Op::QLinearConv => product(graph, node, Op::Conv, [0, 3, 6], Some(8), kept(&node.attrs))?,
        Op::QLinearMatMul => product(graph, node, Op::MatMul, [0, 3, 6], None, Attrs::new())?,
        Op::QGemm => product(graph, node, Op::Gemm, [0, 3, 7], Some(6), kept(&node.attrs))?,
        Op::QLinearAdd => of_codes(graph, node, Op::Add, &[0, 3], 6, Attrs::new()),
        Op::QLinearMul => of_codes(graph, node, Op::Mul, &[0, 3], 6, Attrs::new()),
        Op::QLinearSigmoid => of_codes(graph, node, Op::Sigmoid, &[0], 3, Attrs::new()),
        Op::QLinearLeakyRelu => of_codes(graph, node, Op::LeakyRelu, &[0], 3, kept(&node.attrs)),
        Op::QLinearGlobalAveragePool if !channels_last(node) => {
            of_codes(graph, node, Op::GlobalAveragePool, &[0], 3, Attrs::new())
        }
        Op::QLinearAveragePool if !channels_last(node) => {
            of_codes(graph, node, Op::AveragePool, &[0], 3, kept(&node.attrs))
        }
        // Before version 13 a softmax ran over all axes from `axis` on; only the newer one has the form of today.
        Op::QLinearSoftmax if node.attrs.int("opset")?.is_some_and(|v| v >= 13) => {
            let axis = Attrs::new().with("axis", Attr::Int(node.attrs.int_or("axis", -1)?));
            of_codes(graph, node, Op::Softmax, &[0], 3, axis)
        }
        Op::QLinearConcat => concat(graph, node),
        Op::QLinearWhere => choice(graph, node),
        _ => None,
    };
    if rewritten.is_some() {
        graph.remove_node(id);
    }
    Ok(rewritten)
}

fn channels_last(node: &Node) -> bool {
    node.attrs.flag("channels_last", false).unwrap_or(true)
}

/// The attributes that the float operator has too.
fn kept(attrs: &Attrs) -> Attrs {
    let mut kept = attrs.clone();
    kept.remove("channels_last");
    kept
}

/// The three inputs from `at` on, if scale and zero point are constants.
fn code(graph: &Graph, node: &Node, at: usize) -> Option<Code> {
    let (codes, scale, zero_point) = (node.input(at)?, node.input(at + 1)?, node.input(at + 2));
    let constant = |v| graph.value(v).constant.is_some();
    (constant(scale) && zero_point.is_none_or(constant)).then_some(Code { codes, scale, zero_point })
}

fn float_value(graph: &mut Graph, node: &Node, what: &str, like: ValueId) -> ValueId {
    let shape = graph.value(like).shape.clone();
    graph.add_value(&format!("{}_{what}", node.name), Some(DType::F32), shape)
}

/// A DequantizeLinear of codes; gives the float value.
fn dequantize(graph: &mut Graph, node: &Node, c: Code, axis: Option<i64>) -> ValueId {
    let y = float_value(graph, node, "float", c.codes);
    let per_channel = graph.constant(Some(c.scale)).is_some_and(|s| s.len() > 1);
    let attrs = match axis {
        Some(axis) if per_channel => Attrs::new().with("axis", Attr::Int(axis)),
        _ => Attrs::new(),
    };
    let name = format!("{}_DequantizeLinear", graph.value(y).name);
    let inputs = vec![Some(c.codes), Some(c.scale), c.zero_point];
    graph.add_node(Node::new(Op::DequantizeLinear, &name, inputs, vec![y], attrs));
    y
}

/// A QuantizeLinear of `x` into the output of `node`.
fn quantize(graph: &mut Graph, node: &Node, x: ValueId, scale: ValueId, zero_point: Option<ValueId>) -> Option<()> {
    let name = format!("{}_QuantizeLinear", node.name);
    let inputs = vec![Some(x), Some(scale), zero_point];
    graph.add_node(Node::new(Op::QuantizeLinear, &name, inputs, vec![node.output(0)?], Attrs::new()));
    Some(())
}

/// `float(DQ(x), DQ(w), DQ(bias)) → Q`; `at` are the places of x, of w and of the output's scale.
fn product(
    graph: &mut Graph,
    node: &Node,
    float: Op,
    at: [usize; 3],
    bias: Option<usize>,
    attrs: Attrs,
) -> Result<Option<()>, QdqError> {
    let (Some(x), Some(w), Some(y)) = (code(graph, node, at[0]), code(graph, node, at[1]), node.output(0)) else {
        return Ok(None);
    };
    let out = (node.input(at[2]), node.input(at[2] + 1));
    if [out.0, out.1].into_iter().flatten().any(|v| graph.value(v).constant.is_none()) {
        return Ok(None);
    }
    let axis = match float {
        Op::Conv => 0,
        Op::Gemm if node.attrs.flag("transB", false)? => 0,
        _ => 1,
    };
    let mut inputs = vec![Some(x.codes), Some(w.codes)];
    if let Some(b) = bias.and_then(|i| node.input(i)) {
        let Some(scale) = bias_scale(graph, node, x, w)? else { return Ok(None) };
        inputs.push(Some(dequantize(graph, node, Code { codes: b, scale, zero_point: None }, Some(0))));
    }
    inputs[0] = Some(dequantize(graph, node, x, None));
    inputs[1] = Some(dequantize(graph, node, w, Some(axis)));
    let r = if out.0.is_some() { float_value(graph, node, "result", y) } else { y };
    graph.add_node(Node::new(float, &node.name, inputs, vec![r], attrs));
    Ok(match out.0 {
        Some(scale) => quantize(graph, node, r, scale, out.1),
        None => Some(()),
    })
}

/// The scale of a 32-bit bias: `s_x · s_w[c]`.
fn bias_scale(graph: &mut Graph, node: &Node, x: Code, w: Code) -> Result<Option<ValueId>, QdqError> {
    let scales = |v| graph.constant(Some(v)).and_then(|t| t.get::<f32>().map(<[f32]>::to_vec));
    let (Some(sx), Some(sw)) = (scales(x.scale), scales(w.scale)) else { return Ok(None) };
    let [sx] = sx[..] else { return Ok(None) };
    let product: Vec<f32> = sw.iter().map(|s| sx * s).collect();
    let shape: &[usize] = if product.len() == 1 { &[] } else { &[product.len()] };
    let tensor = Tensor::from_slice(shape, &product)?;
    Ok(Some(graph.add_constant(&format!("{}_bias_scale", node.name), tensor)))
}

/// `float(DQ(…), …) → Q`, where the inputs lie in threes at `inputs` and the output's scale at `out`.
fn of_codes(graph: &mut Graph, node: &Node, float: Op, inputs: &[usize], out: usize, attrs: Attrs) -> Option<()> {
    let codes: Option<Vec<Code>> = inputs.iter().map(|&at| code(graph, node, at)).collect();
    let (Some(codes), Some(y), Some(scale)) = (codes, node.output(0), node.input(out)) else { return None };
    let zero_point = node.input(out + 1);
    if std::iter::once(scale).chain(zero_point).any(|v| graph.value(v).constant.is_none()) {
        return None;
    }
    let inputs = codes.into_iter().map(|c| Some(dequantize(graph, node, c, None))).collect();
    let r = float_value(graph, node, "result", y);
    graph.add_node(Node::new(float, &node.name, inputs, vec![r], attrs));
    quantize(graph, node, r, scale, zero_point)
}

fn concat(graph: &mut Graph, node: &Node) -> Option<()> {
    let parts: Option<Vec<Code>> = (2..node.inputs.len()).step_by(3).map(|at| code(graph, node, at)).collect();
    let (Some(parts), Some(y), Some(scale)) = (parts, node.output(0), node.input(0)) else { return None };
    let zero_point = node.input(1);
    if std::iter::once(scale).chain(zero_point).any(|v| graph.value(v).constant.is_none()) {
        return None;
    }
    let inputs = parts.into_iter().map(|c| Some(dequantize(graph, node, c, None))).collect();
    let r = float_value(graph, node, "result", y);
    graph.add_node(Node::new(Op::Concat, &node.name, inputs, vec![r], kept(&node.attrs)));
    quantize(graph, node, r, scale, zero_point)
}

fn choice(graph: &mut Graph, node: &Node) -> Option<()> {
    let (Some(condition), Some(a), Some(b)) = (node.input(0), code(graph, node, 1), code(graph, node, 4)) else {
        return None;
    };
    let (Some(y), Some(scale), zero_point) = (node.output(0), node.input(7), node.input(8)) else { return None };
    if std::iter::once(scale).chain(zero_point).any(|v| graph.value(v).constant.is_none()) {
        return None;
    }
    let sides = [a, b].map(|c| Some(dequantize(graph, node, c, None)));
    let r = float_value(graph, node, "result", y);
    graph.add_node(Node::new(Op::Where, &node.name, vec![Some(condition), sides[0], sides[1]], vec![r], Attrs::new()));
    quantize(graph, node, r, scale, zero_point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_on_codes_becomes_its_sandwich() {
        let mut g = Graph::default();
        let x = g.add_value("x", Some(DType::U8), None);
        let mut c = |name: &str, t: Tensor| Some(g.add_constant(name, t));
        let f = |v: f32| Tensor::scalar(v).unwrap();
        let inputs = vec![
            Some(x),
            c("sx", f(0.5)),
            c("zx", Tensor::scalar(3_u8).unwrap()),
            c("w", Tensor::from_slice(&[2, 1, 1, 1], &[1_i8, -2]).unwrap()),
            c("sw", Tensor::from_slice(&[2], &[0.25_f32, 0.5]).unwrap()),
            c("zw", Tensor::from_slice(&[2], &[0_i8, 0]).unwrap()),
            c("sy", f(2.0)),
            c("zy", Tensor::scalar(7_u8).unwrap()),
            c("b", Tensor::from_slice(&[2], &[10_i32, 20]).unwrap()),
        ];
        let y = g.add_value("y", Some(DType::U8), None);
        g.inputs = vec![x];
        g.outputs = vec![y];
        g.add_node(Node::new(Op::QLinearConv, "conv", inputs, vec![y], Attrs::new()));
        assert_eq!(expand_qoperators(&mut g).unwrap(), ["conv"]);
        let ops: Vec<Op> = g.nodes().map(|(_, n)| n.op).collect();
        assert_eq!(ops.iter().filter(|&&o| o == Op::DequantizeLinear).count(), 3);
        let (_, q) = g.nodes().last().unwrap();
        assert_eq!((q.op, q.output(0)), (Op::QuantizeLinear, Some(y)));
        let scale = g.constant(g.find("conv_bias_scale")).unwrap();
        assert_eq!(scale.as_slice::<f32>(), [0.125, 0.25]);
    }

    #[test]
    fn scales_computed_at_run_time_leave_the_node_alone() {
        let mut g = Graph::default();
        let vs: Vec<_> = (0..8).map(|i| Some(g.add_value(&format!("v{i}"), None, None))).collect();
        let y = g.add_value("y", Some(DType::U8), None);
        g.outputs = vec![y];
        g.add_node(Node::new(Op::QLinearAdd, "add", vs, vec![y], Attrs::new()));
        assert!(expand_qoperators(&mut g).unwrap().is_empty());
        assert_eq!(g.node_count(), 1);
    }
}
