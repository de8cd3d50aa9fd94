//! Writes a Gemm as data times constant weights plus a vector, the form that has an integer kernel: factors go into the
//! weights and the bias, transposes out of it, `A · X` with constant A becomes `(Xᵀ · Aᵀ)ᵀ`, and a bias that is no vector
//! along the columns is added by a node of its own.

use super::PassError;
use crate::attrs::{Attr, Attrs};
use crate::graph::{Graph, Node, NodeId, ValueId};
use crate::op::Op;
use crate::op::gemm::GemmAttrs;
use quantal_tensor::{DType, Tensor};

pub(super) fn rewrite(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id).clone();
    let (Op::Gemm, Some(a), Some(b), Some(y)) = (node.op, node.input(0), node.input(1), node.output(0)) else {
        return Ok(false);
    };
    let Ok(attrs) = GemmAttrs::of(&node.attrs) else { return Ok(false) };
    let name = node.name.to_string();
    if graph.value(y).dtype.is_some_and(|t| t != DType::F32) {
        return Ok(false);
    }

    let (data, trans_data, weights, trans_weights, swapped) = match (matrix(graph, a), matrix(graph, b)) {
        (None, Some(w)) => (a, attrs.trans_a, w, attrs.trans_b, false),
        // Yᵀ = B'ᵀ · A'ᵀ: B is the data, transposed unless it was already, and A' is read transposed.
        (Some(w), None) => (b, !attrs.trans_b, w, !attrs.trans_a, true),
        _ => return Ok(false),
    };
    let columns = weights.shape()[usize::from(!trans_weights)];
    let c = node.input(2);
    let vector = c.and_then(|c| bias_vector(graph, c, columns, swapped, attrs.beta));
    let plain = attrs.alpha == 1.0 && attrs.beta == 1.0;
    let same_bias = match (c, &vector) {
        (None, _) => true,
        (Some(c), Some(_)) => graph.constant(Some(c)).is_some_and(|t| t.shape() == [columns]),
        (Some(_), None) => false,
    };
    if plain && !trans_data && !swapped && same_bias {
        return Ok(false);
    }

    // The constant may have other readers: the factor goes into one of its own.
    let weight = if attrs.alpha == 1.0 {
        if swapped { a } else { b }
    } else {
        let scaled: Vec<f32> = weights.as_slice::<f32>().iter().map(|w| w * attrs.alpha).collect();
        graph.add_constant(&format!("{name}_weight_scaled"), Tensor::from_slice(weights.shape(), &scaled)?)
    };
    let bias = match (&vector, c) {
        (Some(values), Some(c)) if !same_bias || attrs.beta != 1.0 => {
            let base = graph.value(c).name.to_string();
            Some(graph.add_constant(&format!("{base}_vector"), Tensor::from_slice(&[columns], values)?))
        }
        (Some(_), c) => c,
        (None, _) => None,
    };
    let data = if trans_data { transposed(graph, data, &format!("{name}_data")) } else { data };

    // From the last node back: what is left of C is added to the product, which may have to be transposed first.
    let added = c.filter(|_| vector.is_none());
    let product = if let Some(c) = added {
        let sum = graph.add_value(&format!("{name}_product"), Some(DType::F32), graph.value(y).shape.clone());
        let c = scaled(graph, c, attrs.beta, &name)?;
        add_node(graph, Op::Add, &format!("{name}_bias"), vec![sum, c], y, Attrs::new());
        sum
    } else {
        y
    };
    let product = if swapped {
        let shape = graph.value(product).shape.clone().map(|mut s| {
            s.reverse();
            s
        });
        let turned = graph.add_value(&format!("{name}_turned"), Some(DType::F32), shape);
        let perm = Attrs::new().with("perm", Attr::Ints(vec![1, 0]));
        add_node(graph, Op::Transpose, &format!("{name}_turn"), vec![turned], product, perm);
        turned
    } else {
        product
    };

    let mut node = graph.node_mut(id);
    node.inputs = vec![Some(data), Some(weight)];
    node.inputs.extend(bias.map(Some));
    node.outputs = vec![Some(product)];
    node.attrs = Attrs::new();
    if trans_weights {
        node.attrs.set("transB", Attr::Int(1));
    }
    node.origin = None;
    drop(node);
    graph.sort()?;
    Ok(true)
}

/// The float matrix that a value holds.
fn matrix(graph: &Graph, v: ValueId) -> Option<Tensor> {
    let tensor = graph.constant(Some(v)).filter(|t| t.dtype() == DType::F32 && t.rank() == 2 && !t.is_empty())?;
    Some(Tensor::clone(tensor))
}

/// `beta · C` as a vector along the columns of the weights, if C is a constant that does not differ along the rows of the
/// data. Of a swapped product these are the rows of the result.
fn bias_vector(graph: &Graph, c: ValueId, columns: usize, swapped: bool, beta: f32) -> Option<Vec<f32>> {
    let tensor = graph.constant(Some(c)).filter(|t| t.dtype() == DType::F32 && t.rank() <= 2)?;
    let values = tensor.as_slice::<f32>();
    let fits = match *tensor.shape() {
        _ if values.len() == 1 => true,
        [n] | [1, n] => !swapped && n == columns,
        [n, 1] => swapped && n == columns,
        _ => false,
    };
    fits.then(|| (0..columns).map(|i| values[i % values.len()] * beta).collect())
}

/// `beta · C`, computed while running unless C is a constant.
fn scaled(graph: &mut Graph, c: ValueId, beta: f32, name: &str) -> Result<ValueId, PassError> {
    if beta == 1.0 {
        return Ok(c);
    }
    if let Some(tensor) = graph.constant(Some(c)).cloned().filter(|t| t.dtype() == DType::F32) {
        let values: Vec<f32> = tensor.as_slice::<f32>().iter().map(|c| c * beta).collect();
        return Ok(graph.add_constant(&format!("{name}_bias_scaled"), Tensor::from_slice(tensor.shape(), &values)?));
    }
    let factor = graph.add_constant(&format!("{name}_beta"), Tensor::scalar(beta)?);
    let (dtype, shape) = (graph.value(c).dtype, graph.value(c).shape.clone());
    let out = graph.add_value(&format!("{name}_bias_scaled"), dtype, shape);
    add_node(graph, Op::Mul, &format!("{name}_scale_bias"), vec![c, factor], out, Attrs::new());
    Ok(out)
}

/// The transpose of a matrix.
fn transposed(graph: &mut Graph, x: ValueId, name: &str) -> ValueId {
    let shape = graph.value(x).shape.clone().map(|mut s| {
        s.reverse();
        s
    });
    let dtype = graph.value(x).dtype;
    let out = graph.add_value(&format!("{name}_transposed"), dtype, shape);
    let perm = Attrs::new().with("perm", Attr::Ints(vec![1, 0]));
    add_node(graph, Op::Transpose, &format!("{name}_transpose"), vec![x], out, perm);
    out
}

fn add_node(graph: &mut Graph, op: Op, name: &str, inputs: Vec<ValueId>, out: ValueId, attrs: Attrs) {
    graph.add_node(Node::new(op, name, inputs.into_iter().map(Some).collect(), vec![out], attrs));
}
