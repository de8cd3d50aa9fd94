//! Activations with a bias, and products and convolutions with an activation behind them.

use super::{Parts, Refusal};
use crate::attrs::{Attr, Attrs};
use crate::graph::ValueId;
use crate::op::Op;

/// `BiasGelu(a, b) = gelu(a + b)`, by the error function.
pub(super) fn bias_gelu(p: &mut Parts<'_>) -> Result<(), Refusal> {
    biased(p, Op::MsGelu)
}

/// `FastGelu(x, b)`: gelu of `x + b` by the hyperbolic tangent.
pub(super) fn fast_gelu(p: &mut Parts<'_>) -> Result<(), Refusal> {
    biased(p, Op::FastGelu)
}

fn biased(p: &mut Parts<'_>, op: Op) -> Result<(), Refusal> {
    let (x, bias, y) = (p.input(0, "the input")?, p.input(1, "the bias")?, p.output(0));
    let sum = p.op(Op::Add, &[x, bias], Attrs::new());
    p.main(op, &[Some(sum)], &[y], Attrs::new());
    Ok(())
}

/// A convolution, the tensor that is added to it, and the activation of the sum.
pub(super) fn fused_conv(p: &mut Parts<'_>) -> Result<(), Refusal> {
    let y = p.output(0);
    let given = p.node.attrs.floats("activation_params")?.unwrap_or_default();
    let parameters = [0, 1].map(|i| given.get(i).copied());
    let mut attrs = p.node.attrs.clone();
    attrs.remove("activation");
    attrs.remove("activation_params");
    let inputs: Vec<Option<ValueId>> = (0..3).map(|i| p.node.input(i)).collect();
    let inputs = if inputs[2].is_some() { &inputs[..] } else { &inputs[..2] };
    let result = result(p);
    p.main(Op::Conv, inputs, &[result], attrs);
    let result = match p.node.input(3) {
        None => result,
        Some(z) => p.op(Op::Add, &[result, z], Attrs::new()),
    };
    activate(p, result, y, parameters)
}

/// A Gemm and the activation of its result.
pub(super) fn fused_gemm(p: &mut Parts<'_>) -> Result<(), Refusal> {
    let y = p.output(0);
    let parameters = [p.node.attrs.float("activation_alpha")?, p.node.attrs.float("activation_beta")?];
    let mut attrs = p.node.attrs.clone();
    for name in ["activation", "activation_alpha", "activation_beta", "activation_gamma"] {
        attrs.remove(name);
    }
    let result = result(p);
    let inputs = p.node.inputs.clone();
    p.main(Op::Gemm, &inputs, &[result], attrs);
    activate(p, result, y, parameters)
}

fn result(p: &mut Parts<'_>) -> ValueId {
    let name = format!("{}_result", p.node.name);
    p.graph.add_value(&name, None, None)
}

/// The activation that attribute `activation` names, from `x` to `y`.
fn activate(p: &mut Parts<'_>, x: ValueId, y: ValueId, [a, b]: [Option<f32>; 2]) -> Result<(), Refusal> {
    let name = p.node.attrs.str_or("activation", "")?.to_owned();
    let float = |name: &str, v: Option<f32>| v.map_or_else(Attrs::new, |v| Attrs::new().with(name, Attr::Float(v)));
    let (op, attrs) = match name.as_str() {
        "" => (Op::Identity, Attrs::new()),
        "Relu" => (Op::Relu, Attrs::new()),
        "Sigmoid" => (Op::Sigmoid, Attrs::new()),
        "Tanh" => (Op::Tanh, Attrs::new()),
        "Softplus" => (Op::Softplus, Attrs::new()),
        "LeakyRelu" => (Op::LeakyRelu, float("alpha", a)),
        "Elu" => (Op::Elu, float("alpha", a)),
        "HardSigmoid" => {
            let attrs = float("alpha", a);
            (Op::HardSigmoid, b.map_or(attrs.clone(), |b| attrs.with("beta", Attr::Float(b))))
        }
        "Clip" => {
            let dtype = p.dtype(x);
            let low = p.float("low", a.unwrap_or(f32::MIN), dtype)?;
            let high = p.float("high", b.unwrap_or(f32::MAX), dtype)?;
            p.into(Op::Clip, &[x, low, high], y, Attrs::new());
            return Ok(());
        }
        other => return Err(format!("activation `{}` is not known here", other.escape_debug()).into()),
    };
    p.into(op, &[x], y, attrs);
    Ok(())
}
