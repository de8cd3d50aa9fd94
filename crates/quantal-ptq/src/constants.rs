//! Constants that are not finite: a model that diverged, or was converted badly. They are named before any sample is
//! blamed for what they make.

use crate::error::{Error, Result};
use quantal_ir::{Graph, Node, NodeId, Op, QuantClass, ValueId};
use quantal_tensor::{DType, Tensor};
use std::collections::BTreeSet;

/// Checks the weights of all products, recurrences and normalizations of a graph: one pass over them.
///
/// # Errors
/// [`Error::WeightsNotFinite`] names the first that holds NaN, or an infinity where it is multiplied by data. Other
/// constants may hold either: a mask of −∞ is what it should be.
pub fn check_weights(graph: &Graph) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (_, node) in graph.nodes() {
        let multiplies = node.op.quant_class() == QuantClass::Weighted;
        if !multiplies && !has_weights(node.op) {
            continue;
        }
        for v in node.reads().filter(|&v| seen.insert(v)) {
            let Some(tensor) = graph.value(v).constant.as_deref() else { continue };
            if holds(tensor, |x| x.is_nan() || multiplies && x.is_infinite()) {
                return Err(error(graph, v, node));
            }
        }
    }
    Ok(())
}

fn has_weights(op: Op) -> bool {
    matches!(
        op,
        Op::Lstm
            | Op::Gru
            | Op::BatchNormalization
            | Op::InstanceNormalization
            | Op::LayerNormalization
            | Op::RmsNormalization
    )
}

/// The constant before a value that is not finite which explains it, as the error to report: the first, in graph order,
/// that holds NaN. `None` if there is none: then the sample is to blame.
pub(crate) fn to_blame(graph: &Graph, v: ValueId) -> Option<Error> {
    let uses = graph.uses();
    let mut before: BTreeSet<NodeId> = BTreeSet::new();
    let mut open: Vec<NodeId> = uses.producer(v).into_iter().collect();
    while let Some(id) = open.pop() {
        if before.insert(id) {
            open.extend(graph.node(id).reads().filter_map(|v| uses.producer(v)));
        }
    }
    graph.nodes().filter(|(id, _)| before.contains(id)).find_map(|(_, node)| {
        let constant = |v: &ValueId| graph.value(*v).constant.as_deref().is_some_and(|t| holds(t, f32::is_nan));
        node.reads().find(constant).map(|v| error(graph, v, node))
    })
}

fn error(graph: &Graph, v: ValueId, node: &Node) -> Error {
    Error::WeightsNotFinite {
        tensor: graph.value(v).name.escape_debug().to_string(),
        node: node.name.escape_debug().to_string(),
    }
}

fn holds(tensor: &Tensor, bad: impl Fn(f32) -> bool) -> bool {
    match tensor.get::<f32>() {
        Some(values) => values.iter().any(|&x| bad(x)),
        None if matches!(tensor.dtype(), DType::F16 | DType::BF16) => {
            tensor.to_f32_vec().is_some_and(|values| values.into_iter().any(bad))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::tests::Build;

    fn product(values: &[f32]) -> Build {
        let mut b = Build::new();
        let x = b.input("x", &[1, 2]);
        let w = b.constant_of("w", &[2, 2], values);
        b.node(Op::MatMul, &[x, w], quantal_ir::Attrs::new());
        b
    }

    #[test]
    fn a_weight_that_is_not_finite_is_named_with_its_node() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = check_weights(&product(&[1.0, bad, 2.0, 3.0]).graph).unwrap_err();
            assert_eq!(error.to_string(), "the weights `w` of `MatMul` hold NaN or an infinity");
        }
        check_weights(&product(&[1.0, f32::MAX, -2.0, 0.0]).graph).unwrap();
    }

    #[test]
    fn a_mask_of_infinities_is_no_fault_and_nan_before_a_value_is() {
        let mut b = Build::new();
        let x = b.input("x", &[1, 2]);
        let mask = b.constant_of("mask", &[2], &[0.0, f32::NEG_INFINITY]);
        let masked = b.binary(Op::Add, x, mask);
        check_weights(&b.graph).unwrap();
        assert!(to_blame(&b.graph, masked).is_none());
        let bad = b.constant_of("bad", &[2], &[0.0, f32::NAN]);
        let sum = b.binary(Op::Add, masked, bad);
        assert!(to_blame(&b.graph, masked).is_none(), "what comes later is not to blame");
        assert!(to_blame(&b.graph, sum).unwrap().to_string().contains("`bad` of `Add_1`"));
    }
}
