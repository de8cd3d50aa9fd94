//! Which nodes have an integer form, by operator, attributes and constants alone; what lies around them comes later.

use quantal_ir::op::gemm::GemmAttrs;
use quantal_ir::op::weighted::Weighted;
use quantal_ir::{Graph, Node, Op, QuantClass, ValueId};
use quantal_tensor::{DType, Tensor};

/// A constant operand of an integer node has at most this many elements: the positions of a vision transformer, but not
/// the words of a language model, which are data of their own.
const MAX_OPERAND: usize = 1 << 20;

/// The integer form of a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    /// Multiplies data by constant weights.
    Weighted(Weighted),
    /// Runs in integers where its neighbours do.
    Optional {
        /// Float inputs that carry data, constants included.
        data: Vec<ValueId>,
        /// What it does with codes.
        kind: Kind,
    },
}

/// What an optional node does with codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Each element by itself, given one input that is not a constant: a table.
    Elementwise,
    /// Arithmetic on codes.
    Arithmetic,
    /// Moves or selects codes.
    Moves,
}

/// Whether an operator normalizes rows.
pub(crate) fn is_norm(op: Op) -> bool {
    matches!(op, Op::LayerNormalization | Op::RmsNormalization | Op::SimplifiedLayerNormalization)
}

/// Why a node has no integer form.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NoForm {
    /// There is nothing to quantize: shapes, indices, conditions, integers.
    Nothing,
    /// It stays in float, for a reason in words.
    Float(String),
}

fn float(reason: impl Into<String>) -> NoForm {
    NoForm::Float(reason.into())
}

/// The integer form of a node, or why it has none.
pub(super) fn of(graph: &Graph, node: &Node) -> Result<Form, NoForm> {
    match node.op.quant_class() {
        QuantClass::Weighted => weighted(graph, node),
        QuantClass::Integer => {
            only_floats(graph, node)?;
            integer(graph, node)
        }
        QuantClass::Table => {
            only_floats(graph, node)?;
            table(graph, node)
        }
        QuantClass::SameScale => {
            only_floats(graph, node)?;
            same_scale(graph, node)
        }
        QuantClass::Shape => Err(NoForm::Nothing),
        QuantClass::Float if node.op == Op::Div => {
            only_floats(graph, node)?;
            division(graph, node)
        }
        QuantClass::Float if node.op == Op::PRelu => {
            only_floats(graph, node)?;
            prelu(graph, node)
        }
        QuantClass::Float if is_norm(node.op) => {
            only_floats(graph, node)?;
            normalization(graph, node)
        }
        QuantClass::Quant if is_quantize(node.op) || is_dequantize(node.op) => Err(NoForm::Nothing),
        QuantClass::Quant | QuantClass::Float => Err(float(format!("{} has no integer form", node.op_name()))),
    }
}

/// Whether an operator quantizes with a scale that it is given.
pub(crate) fn is_quantize(op: Op) -> bool {
    matches!(op, Op::QuantizeLinear | Op::MsQuantizeLinear)
}

/// Whether an operator takes that back.
pub(crate) fn is_dequantize(op: Op) -> bool {
    matches!(op, Op::DequantizeLinear | Op::MsDequantizeLinear)
}

fn only_floats(graph: &Graph, node: &Node) -> Result<(), NoForm> {
    let dtype = node.output(0).and_then(|v| graph.value(v).dtype);
    match dtype {
        Some(DType::F32) => Ok(()),
        Some(t) if t.is_float() => Err(float(format!("it works on {t}; only float32 is quantized"))),
        Some(_) => Err(NoForm::Nothing),
        None => Err(float("the type of its output is not known")),
    }
}

/// The float tensor of a constant.
fn constant(graph: &Graph, v: Option<ValueId>) -> Option<&Tensor> {
    graph.constant(v).map(|t| &**t).filter(|t| t.dtype() == DType::F32)
}

/// Whether a value is a constant of one float.
pub(super) fn is_scalar(graph: &Graph, v: ValueId) -> bool {
    constant(graph, Some(v)).is_some_and(|t| t.len() == 1)
}

fn weighted(graph: &Graph, node: &Node) -> Result<Form, NoForm> {
    let Some(w) = Weighted::of(graph, node) else { return Err(float("an input or an attribute is missing")) };
    let fixed = |v: ValueId| graph.value(v).constant.is_some();
    if node.op == Op::MatMul && !fixed(w.data) && !fixed(w.weight) {
        only_floats(graph, node)?;
        return Ok(optional(vec![w.data, w.weight], Kind::Arithmetic));
    }
    if fixed(w.data) {
        return Err(float("its first input is the constant one"));
    }
    let Some(weight) = graph.constant(Some(w.weight)) else {
        return Err(float("its weights are computed while running"));
    };
    if weight.dtype() != DType::F32 {
        return Err(if weight.dtype().is_float() {
            float(format!("its weights are {}; only float32 is quantized", weight.dtype()))
        } else {
            NoForm::Nothing
        });
    }
    if weight.is_empty() || weight.rank() < 2 {
        return Err(float("its weights are no matrix"));
    }
    if w.bias.is_some() && constant(graph, w.bias).is_none() {
        return Err(float("its bias is computed while running"));
    }
    if node.op == Op::Gemm {
        let gemm = GemmAttrs::of(&node.attrs).map_err(|e| float(e.to_string()))?;
        if gemm.trans_a {
            return Err(float("its data is transposed"));
        }
        if gemm.alpha != 1.0 || w.bias.is_some() && gemm.beta != 1.0 {
            return Err(float("its product or bias has a factor"));
        }
    }
    Ok(Form::Weighted(w))
}

fn optional(data: Vec<ValueId>, kind: Kind) -> Form {
    Form::Optional { data, kind }
}

fn first(node: &Node) -> Result<ValueId, NoForm> {
    node.input(0).ok_or_else(|| float("an input is missing"))
}

fn integer(graph: &Graph, node: &Node) -> Result<Form, NoForm> {
    let x = first(node)?;
    match node.op {
        Op::Add | Op::Sub | Op::Mul => {
            let y = node.input(1).ok_or_else(|| float("an input is missing"))?;
            let big = |v| graph.constant(Some(v)).is_some_and(|t| t.len() > MAX_OPERAND);
            if big(x) || big(y) {
                return Err(float(format!("its constant has more than {MAX_OPERAND} elements")));
            }
            let kind = if is_scalar(graph, x) || is_scalar(graph, y) { Kind::Elementwise } else { Kind::Arithmetic };
            Ok(optional(vec![x, y], kind))
        }
        Op::ReduceMean if node.input(1).is_some() && graph.constant(node.input(1)).is_none() => {
            Err(float("its axes are computed while running"))
        }
        Op::Softmax => {
            if on_last_axis(graph, node, x) || over_channels(graph, node, x) {
                Ok(optional(vec![x], Kind::Arithmetic))
            } else {
                Err(float("it runs over neither the last axis nor the channels"))
            }
        }
        _ => Ok(optional(vec![x], Kind::Arithmetic)),
    }
}

/// Whether the axis of a node is the last one of its input.
fn on_last_axis(graph: &Graph, node: &Node, x: ValueId) -> bool {
    let axis = node.attrs.int_or("axis", -1).unwrap_or(-1);
    axis == -1 || graph.value(x).rank().is_some_and(|r| axis + 1 == r as i64)
}

/// Whether the axis of a node is that of the channels of an image.
fn over_channels(graph: &Graph, node: &Node, x: ValueId) -> bool {
    let rank = graph.value(x).rank().map_or(0, |r| r as i64);
    let axis = node.attrs.int_or("axis", -1).unwrap_or(-1);
    rank >= 3 && (axis == 1 || axis + rank == 1)
}

fn normalization(graph: &Graph, node: &Node) -> Result<Form, NoForm> {
    let x = first(node)?;
    if !on_last_axis(graph, node, x) {
        return Err(float("it does not run over the last axis alone"));
    }
    if node.outputs.iter().skip(1).any(Option::is_some) {
        return Err(float("it hands out its moments"));
    }
    let along_row = |t: &Tensor| t.len() == t.shape().last().copied().unwrap_or(1);
    let fixed = |v: Option<ValueId>| constant(graph, v).is_some_and(along_row);
    if !fixed(node.input(1)) || node.input(2).is_some() && !fixed(node.input(2)) {
        return Err(float("its scale or bias is no constant along its rows"));
    }
    Ok(optional(vec![x], Kind::Arithmetic))
}

fn division(graph: &Graph, node: &Node) -> Result<Form, NoForm> {
    let x = first(node)?;
    let by = constant(graph, node.input(1)).filter(|t| t.len() == 1).map(|t| t.as_slice::<f32>()[0]);
    match by {
        Some(d) if d != 0.0 && d.is_finite() => Ok(optional(vec![x], Kind::Elementwise)),
        Some(_) | None => Err(float("it does not divide by one constant")),
    }
}

fn prelu(graph: &Graph, node: &Node) -> Result<Form, NoForm> {
    let x = first(node)?;
    let Some(slope) = constant(graph, node.input(1)) else { return Err(float("its slopes are no constant")) };
    Ok(optional(vec![x], if slope.len() == 1 { Kind::Elementwise } else { Kind::Arithmetic }))
}

fn table(graph: &Graph, node: &Node) -> Result<Form, NoForm> {
    match node.op {
        Op::Ceil | Op::Floor | Op::Round | Op::Sign => {
            Err(float("it jumps: a small rounding error before it would become a large one"))
        }
        Op::Exp | Op::Log | Op::Reciprocal | Op::Sqrt | Op::Sin | Op::Cos => {
            Err(float("its results spread too unevenly for 256 codes"))
        }
        Op::Clip if [1, 2].iter().any(|&i| node.input(i).is_some() && constant(graph, node.input(i)).is_none()) => {
            Err(float("its bounds are computed while running"))
        }
        _ => Ok(optional(vec![first(node)?], Kind::Elementwise)),
    }
}

fn same_scale(graph: &Graph, node: &Node) -> Result<Form, NoForm> {
    let x = first(node)?;
    match node.op {
        Op::Concat => {
            let data: Vec<ValueId> = node.inputs.iter().copied().flatten().collect();
            return if data.iter().any(|&v| graph.constant(Some(v)).is_some_and(|t| t.len() > MAX_OPERAND)) {
                Err(float(format!("a constant part has more than {MAX_OPERAND} elements")))
            } else {
                Ok(optional(data, Kind::Moves))
            };
        }
        Op::MaxPool if node.output(1).is_some() => return Err(float("it hands out indices")),
        Op::Pad => {
            if node.attrs.str_or("mode", "constant") != Ok("constant") {
                return Err(float("it does not pad with a constant"));
            }
            if pad_value(graph, node).is_none_or(|v| !v.is_finite()) {
                return Err(float("it pads with infinity or a value computed while running"));
            }
        }
        Op::Resize | Op::Upsample => {
            if !matches!(node.attrs.str_or("mode", "nearest"), Ok("nearest" | "linear")) {
                return Err(float("it neither repeats values nor interpolates linearly"));
            }
            if node.attrs.str_or("coordinate_transformation_mode", "half_pixel") == Ok("tf_crop_and_resize") {
                return Err(float("it may reach outside the image"));
            }
        }
        Op::ReduceMax | Op::ReduceMin if node.input(1).is_some() && graph.constant(node.input(1)).is_none() => {
            return Err(float("its axes are computed while running"));
        }
        _ => {}
    }
    Ok(optional(vec![x], Kind::Moves))
}

/// What a Pad fills in; `None` if it is not a constant.
pub(super) fn pad_value(graph: &Graph, node: &Node) -> Option<f32> {
    match node.input(2) {
        None => Some(0.0),
        v => constant(graph, v)?.as_slice::<f32>().first().copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::Build;
    use quantal_ir::{Attr, Attrs};

    fn no_form(b: &Build) -> NoForm {
        of(&b.graph, b.graph.nodes().last().unwrap().1).unwrap_err()
    }

    #[test]
    fn forms_that_do_not_fit_say_why() {
        let mut b = Build::new();
        let x = b.input("x", &[1, 8, 4, 4]);
        let w = b.input("w", &[8, 8, 1, 1]);
        b.node(Op::Conv, &[x, w], Attrs::new());
        assert!(matches!(no_form(&b), NoForm::Float(why) if why.contains("weights")));
        b.node(Op::Div, &[x, w], Attrs::new());
        assert!(matches!(no_form(&b), NoForm::Float(why) if why.contains("constant")));
        b.node(Op::Floor, &[x], Attrs::new());
        assert!(matches!(no_form(&b), NoForm::Float(why) if why.contains("jumps")));
        b.node(Op::Pad, &[x, w], Attrs::new().with("mode", Attr::Str((*b"reflect").into())));
        assert!(matches!(no_form(&b), NoForm::Float(why) if why.contains("pad")));
        b.node(Op::Softmax, &[x], Attrs::new().with("axis", Attr::Int(2)));
        assert!(matches!(no_form(&b), NoForm::Float(why) if why.contains("last axis")));
        let y = b.node(Op::Reshape, &[x, w], Attrs::new());
        b.graph.value_mut(y).dtype = Some(DType::I64);
        assert_eq!(no_form(&b), NoForm::Nothing);
    }
}
