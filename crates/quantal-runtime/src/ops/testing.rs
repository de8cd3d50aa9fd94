//! Running one operator in a test.

use super::{Context, Inputs, OpError, OpKernel};
use quantal_ir::{Attr, Attrs, Node, Op, ValueId};
use quantal_kernels::{Isa, Threads};
use quantal_tensor::Tensor;

/// Prepares and runs an operator whose first four outputs are wanted.
pub(super) fn run(op: Op, attrs: Attrs, opset: i64, inputs: &Inputs<'_>) -> Result<Vec<Tensor>, OpError> {
    let node = Node::new(op, "n", vec![None; inputs.len()], (0..4).map(ValueId).collect(), attrs);
    let threads = Threads::new(1);
    OpKernel::prepare(&node, opset)?.run(inputs, &Context { isa: Isa::PORTABLE, threads: &threads })
}

pub(super) fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

/// Attributes with lists of integers added.
pub(super) fn ints(attrs: Attrs, lists: &[(&str, &[i64])]) -> Attrs {
    lists.iter().fold(attrs, |a, (name, values)| a.with(name, Attr::Ints(values.to_vec())))
}

pub(super) fn text(attrs: Attrs, name: &str, value: &str) -> Attrs {
    attrs.with(name, Attr::Str(value.as_bytes().into()))
}

/// Asserts that the values are within 1e-5 of each other.
pub(super) fn assert_near(found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len());
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{i}: {a} instead of {b}");
    }
}
