//! Holds float32 constants in 16 bits where they are floats of 16 bits exactly, as they were before [`widen_half`]: a
//! model of half floats must not grow by the weights that stay floats.
//!
//! [`widen_half`]: super::widen_half

use super::PassError;
use super::widen_half::{add_cast, is_half};
use crate::graph::{Graph, NodeId, ValueId};
use crate::op::Op;
use half::{bf16, f16};
use quantal_tensor::{DType, Tensor};

/// Fewest elements that are worth a node.
const LEAST_ELEMENTS: usize = 256;

/// The 16-bit float types that constants of a graph have, each once.
pub fn half_types(graph: &Graph) -> Vec<DType> {
    let held = |dtype| graph.values().any(|(_, v)| v.dtype == Some(dtype) && v.constant.is_some());
    [DType::F16, DType::BF16].into_iter().filter(|&dtype| held(dtype)).collect()
}

/// Writes each float32 constant whose elements are all numbers of one of `types` in that type, with a Cast behind it, or
/// behind the Gather nodes that alone read it: then a table stays small in memory, too. Scales and small constants stay.
pub fn narrow_constants(graph: &mut Graph, types: &[DType]) -> Result<(), PassError> {
    let uses = graph.uses();
    let large = |t: &Tensor| t.dtype() == DType::F32 && t.len() >= LEAST_ELEMENTS;
    let constants: Vec<ValueId> = graph
        .values()
        .filter(|(v, value)| value.constant.as_deref().is_some_and(large) && uses.producer(*v).is_none())
        .map(|(v, _)| v)
        .collect();
    for v in constants {
        let readers = uses.readers(v);
        let is_scale = readers.iter().any(|&r| {
            matches!(
                graph.node(r).op,
                Op::QuantizeLinear | Op::DequantizeLinear | Op::MsQuantizeLinear | Op::MsDequantizeLinear
            )
        });
        if readers.is_empty() || is_scale || graph.is_output(v) {
            continue;
        }
        let Some(tensor) = graph.constant(Some(v)).cloned() else { continue };
        let mut found = None;
        for &dtype in types.iter().filter(|d| is_half(Some(**d))) {
            found = match found {
                None => narrowed(&tensor, dtype)?,
                found => found,
            };
        }
        if let Some(half) = found {
            replace(graph, v, half, readers);
        }
    }
    graph.sort()?;
    Ok(())
}

fn replace(graph: &mut Graph, v: ValueId, half: Tensor, readers: &[NodeId]) {
    let dtype = half.dtype();
    let name = format!("{}_{dtype}", graph.value(v).name);
    let held = graph.add_constant(&name, half);
    let picks = |id: NodeId| {
        let node = graph.node(id);
        node.op == Op::Gather && node.input(0) == Some(v) && node.captures.is_empty()
    };
    if readers.iter().all(|&r| picks(r)) {
        for &id in readers {
            let Some(y) = graph.node(id).output(0) else { continue };
            let (name, shape) = (format!("{}_{dtype}", graph.value(y).name), graph.value(y).shape.clone());
            let picked = graph.add_value(&name, Some(dtype), shape);
            graph.node_mut(id).inputs[0] = Some(held);
            graph.node_mut(id).outputs[0] = Some(picked);
            add_cast(graph, picked, y);
        }
        return;
    }
    let value = graph.value_mut(v);
    value.constant = None;
    value.origin = None;
    add_cast(graph, held, v);
}

/// The tensor in a 16-bit type, if that changes no element.
fn narrowed(tensor: &Tensor, dtype: DType) -> Result<Option<Tensor>, PassError> {
    let values = tensor.as_slice::<f32>();
    let exact = |back: f32, v: f32| back.to_bits() == v.to_bits();
    Ok(if dtype == DType::F16 {
        let all = values.iter().all(|&v| exact(f16::from_f32(v).to_f32(), v));
        let half = || values.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>();
        all.then(|| Tensor::from_slice(tensor.shape(), &half())).transpose()?
    } else {
        let all = values.iter().all(|&v| exact(bf16::from_f32(v).to_f32(), v));
        let half = || values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>();
        all.then(|| Tensor::from_slice(tensor.shape(), &half())).transpose()?
    })
}
