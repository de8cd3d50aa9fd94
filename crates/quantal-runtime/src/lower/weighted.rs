//! Convolutions and products by constant codes: integer accumulators, requantized for each channel.

mod stacked;

use super::codes::{self, Operand, Target, Weights};
use super::{Rule, Stop, attr, prepared};
use crate::compile::Lowering;
use crate::coverage::{Reason, Status};
use crate::layout::Layout;
use crate::ops::OpError;
use crate::steps::Step;
use crate::steps::codes::{CodesEnd, End, multipliers};
use crate::steps::conv::packing_geometry;
use crate::steps::qconv::{Packed, QConv};
use crate::steps::qproduct::{QMatMul, QProduct};
use quantal_ir::op::conv::{AutoPad, ConvAttrs, ConvTransposeAttrs, Window};
use quantal_ir::op::gemm::GemmAttrs;
use quantal_ir::{Node, NodeId, Op, ValueId};
use quantal_kernels::conv::PackedConv;
use quantal_kernels::dwconv::PackedDwConv;
use quantal_kernels::pack::{BView, MAX_K_SIGNED, MAX_K_UNSIGNED, PackedB};
use quantal_kernels::{ConvGeometry, KernelError};

/// Codes after the node, or floats if nothing quantizes its output.
enum Goal {
    Codes(Target),
    Floats(ValueId),
}

fn goal(l: &mut Lowering<'_>, y: ValueId) -> Rule<Goal> {
    match codes::target(l, y) {
        Ok(target) => Ok(Goal::Codes(target)),
        Err(Stop::Refused(_)) => Ok(Goal::Floats(y)),
        Err(stop) => Err(stop),
    }
}

impl Goal {
    fn end(&self, x: &Operand, w: &Weights) -> Rule<End> {
        let s_x = x.codes.affine.scale;
        match self {
            Self::Codes(t) => {
                let multiplier = multipliers(s_x, &w.scale, t.codes.affine.scale);
                if multiplier.iter().any(|m| !m.is_finite()) {
                    return Err(Reason::ScaleRange.into());
                }
                Ok(End::Codes(Box::new(CodesEnd { multiplier, sum: t.codes, add: None, table: None, columns: None })))
            }
            Self::Floats(_) => Ok(End::F32 { scale: w.scale.iter().map(|w| s_x * w).collect() }),
        }
    }

    /// Emits the step and says what became of the node and of what went into it.
    fn emit(
        &self,
        l: &mut Lowering<'_>,
        id: NodeId,
        kernel: &'static str,
        step: Step,
        input: (ValueId, Layout),
        rank: Option<usize>,
    ) -> Rule<()> {
        let from = l.slot(input.0, input.1)?;
        let to = match self {
            Self::Codes(target) => target.define(l, input.1, rank),
            Self::Floats(y) => l.define(*y, input.1, rank),
        };
        l.emit(id, step, vec![Some(from)], vec![Some(to)]);
        match self {
            Self::Codes(target) => target.done(l, id, kernel),
            Self::Floats(_) => l.set(id, Status::Integer { kernel }),
        }
        Ok(())
    }
}

fn kernel<T>(l: &Lowering<'_>, value: Result<T, KernelError>) -> Rule<T> {
    match value {
        Err(KernelError::TooDeep { k, .. }) => Err(Reason::ProductTooLong { k }.into()),
        Err(e @ KernelError::TooManyPhases { .. }) => Err(refused(&e.to_string())),
        other => prepared(l, other.map_err(crate::steps::codes::refused)),
    }
}

fn refused(text: &str) -> Stop {
    Reason::Attribute(text.to_owned()).into()
}

/// Zero points as kernels want them: none if all are 0.
fn zero_points(w: &Weights) -> Vec<i32> {
    if w.zero_point.iter().all(|&z| z == 0) { Vec::new() } else { w.zero_point.clone() }
}

fn scales_of_sums(x: &Operand, w: &Weights) -> Vec<f32> {
    w.scale.iter().map(|w| x.codes.affine.scale * w).collect()
}

/// Conv over one to three spatial axes, ConvTranspose over one or two.
pub(super) fn convolution(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let x = codes::operand(l, node.input(0))?;
    let weight = node.input(1).ok_or_else(|| refused("has no weights"))?;
    let w = codes::weights(l, weight)?;
    let y = node.output(0).ok_or_else(|| refused("has no output"))?;
    let shape = w.tensor.shape().to_vec();
    let transposed = node.op == Op::ConvTranspose;
    let most = if transposed { 4 } else { 5 };
    if !(3..=most).contains(&shape.len()) || shape.contains(&0) {
        let text = if transposed {
            "only transposed convolutions over one or two axes have an integer form"
        } else {
            "only convolutions over one to three axes have an integer form"
        };
        return Err(refused(text));
    }
    let mut attrs = attr(l, ConvAttrs::of(&node.attrs, &shape))?;
    let (c_in, c_out) = if transposed {
        (shape[0], shape[1].saturating_mul(attrs.group))
    } else {
        (shape[1].saturating_mul(attrs.group), shape[0])
    };
    if w.axis.is_some_and(|a| a != usize::from(transposed)) || (transposed && w.axis.is_some() && attrs.group > 1) {
        return Err(Reason::Granularity { value: codes::name(l, weight) }.into());
    }
    let deconv = if transposed { Some(attr(l, ConvTransposeAttrs::of(&node.attrs, &shape))?) } else { None };
    resolve_padding(l, &node, &mut attrs, deconv.as_ref())?;
    let bias = match node.input(2) {
        Some(b) => Some(codes::bias(l, b, &scales_of_sums(&x, &w), c_out)?),
        None => None,
    };
    let goal = goal(l, y)?;
    let end = goal.end(&x, &w)?;
    let sizes = node.input(0).map_or_else(Vec::new, |x| l.spatial_sizes(x));
    let flat = flat_window(&attrs.window);
    let weights = pack(l, &attrs, &flat, deconv, &sizes, [c_in, c_out], &w)?;
    let w_zero_points = if matches!(weights, Packed::Depthwise(_)) { Vec::new() } else { zero_points(&w) };
    let conv = QConv { attrs, flat, c_in, c_out, x: x.codes, weights, w_zero_points, bias, end };
    let name = conv.kernel();
    goal.emit(l, id, name, Step::QConv(Box::new(conv)), (x.value, Layout::ChannelsLast), Some(shape.len()))
}

/// Makes padding explicit where it is the same for every image, since packed weights hold where their taps lie. That of
/// a convolution with strides and `auto_pad` follows from an image's size, and stays as it is where that is free.
fn resolve_padding(
    l: &Lowering<'_>,
    node: &Node,
    attrs: &mut ConvAttrs,
    deconv: Option<&ConvTransposeAttrs>,
) -> Rule<()> {
    let overflow = || refused("its padding overflows");
    let shape = node.input(0).and_then(|x| l.graph.value(x).shape.clone());
    let size = |i: usize| shape.as_ref().and_then(|s| s.get(i + 2)?.known());
    let window = &mut attrs.window;
    let same = matches!(window.auto_pad, AutoPad::SameUpper | AutoPad::SameLower);
    if deconv.is_none() && same && (0..window.kernel.len()).any(|i| window.strides[i] > 1 && size(i).is_none()) {
        return Ok(());
    }
    for i in 0..window.kernel.len() {
        let (before, after) = match (deconv, window.auto_pad) {
            (None, AutoPad::Explicit) => (window.pads_begin[i], window.pads_end[i]),
            (None, AutoPad::Valid) => (0, 0),
            (None, AutoPad::SameUpper | AutoPad::SameLower) => {
                // With stride 1 the padding is the same for every size.
                let any = window.extent(i).ok_or_else(overflow)?;
                window.padding(i, size(i).unwrap_or(any)).ok_or_else(overflow)?
            }
            (Some(d), _) => {
                // What `auto_pad` takes away is what the last window reaches beyond its stride, whatever the size.
                let free = d.output_shape.is_none();
                let size =
                    size(i).or(free.then_some(1)).ok_or_else(|| refused("an output size on an image of free size"))?;
                let (before, after, _) = d.axis(i, size).ok_or_else(overflow)?;
                let whole = |p: i64| usize::try_from(p).map_err(|_| refused("negative padding"));
                // What is added after the end needs no padding: the output's size says how far it goes.
                (whole(before)?, whole(after.max(0))?)
            }
        };
        window.pads_begin[i] = before;
        window.pads_end[i] = after;
    }
    window.auto_pad = AutoPad::Explicit;
    Ok(())
}

/// The window that kernels see: the last two axes, or the only one, with the padding that packed weights hold.
fn flat_window(window: &Window) -> Window {
    let first = window.kernel.len().saturating_sub(2);
    let of = |list: &[usize]| list[first..].to_vec();
    let pads =
        |list: &[usize]| if window.auto_pad == AutoPad::Explicit { of(list) } else { vec![0; list.len() - first] };
    Window {
        kernel: of(&window.kernel),
        strides: of(&window.strides),
        dilations: of(&window.dilations),
        pads_begin: pads(&window.pads_begin),
        pads_end: pads(&window.pads_end),
        auto_pad: AutoPad::Explicit,
    }
}

/// Weights `[c_out, c, planes, h, w]` reordered to `[c_out, planes, c, h, w]`, those of an image whose channels are
/// planes side by side.
fn side_by_side(bytes: &[u8], shape: &[usize]) -> Vec<u8> {
    let [_, c, planes, rest @ ..] = shape else { return bytes.to_vec() };
    let taps: usize = rest.iter().product();
    let mut out = Vec::with_capacity(bytes.len());
    for of_output in bytes.chunks_exact(c * planes * taps) {
        for plane in 0..*planes {
            for channel in of_output.chunks_exact(planes * taps) {
                out.extend_from_slice(&channel[plane * taps..][..taps]);
            }
        }
    }
    out
}

fn pack(
    l: &Lowering<'_>,
    attrs: &ConvAttrs,
    flat: &Window,
    deconv: Option<ConvTransposeAttrs>,
    sizes: &[Option<usize>],
    [c_in, c_out]: [usize; 2],
    w: &Weights,
) -> Rule<Packed> {
    let overflow = || OpError::invalid("the window overflows");
    let (bytes, shape) = (w.tensor.bytes(), w.tensor.shape());
    if let Some(d) = deconv {
        let base = prepared(l, packing_geometry(flat, sizes, c_in, c_in, attrs.group).ok_or_else(overflow))?;
        let geometry = ConvGeometry { c_out, h: 1, w: 1, h_out: 1, w_out: 1, ..base };
        let pack = || PackedConv::pack_transposed(l.isa, &geometry, bytes, w.signed);
        let packed = kernel(l, l.packings.get(&w.tensor, &("transposed", geometry), pack))?;
        return Ok(Packed::Transposed(packed, d));
    }
    let deep = shape.len() == 5;
    let planes = if deep { shape[2] } else { 1 };
    let reordered;
    let bytes = if planes > 1 {
        reordered = side_by_side(bytes, shape);
        &reordered[..]
    } else {
        bytes
    };
    let sizes = if deep { sizes.get(1..).unwrap_or_default() } else { sizes };
    let c_in = prepared(l, c_in.checked_mul(planes).ok_or_else(overflow))?;
    let geometry = prepared(l, packing_geometry(flat, sizes, c_in, c_out, attrs.group).ok_or_else(overflow))?;
    if geometry.is_depthwise() && c_in == c_out {
        let zero_points = zero_points(w);
        let pack = || PackedDwConv::pack(l.isa, &geometry, bytes, w.signed, &zero_points);
        return Ok(Packed::Depthwise(kernel(l, l.packings.get(&w.tensor, &(geometry, &zero_points), pack))?));
    }
    let pack = || PackedConv::pack(l.isa, &geometry, bytes, w.signed);
    Ok(Packed::Dense(kernel(l, l.packings.get(&w.tensor, &geometry, pack))?))
}

/// Gemm and MatMul.
pub(super) fn product(l: &mut Lowering<'_>, id: NodeId) -> Rule<()> {
    let node = l.graph.node(id).clone();
    let x = codes::operand(l, node.input(0))?;
    let weight = node.input(1).ok_or_else(|| refused("has no weights"))?;
    let w = match codes::weights(l, weight) {
        Ok(w) => w,
        Err(Stop::Refused(Reason::WeightNotConstant { .. })) if node.op == Op::MatMul => {
            return matmul(l, id, &node, x);
        }
        Err(stop) => return Err(stop),
    };
    if node.op == Op::MatMul && w.tensor.rank() > 2 {
        return stacked::lower(l, id, &node, x, &w);
    }
    let y = node.output(0).ok_or_else(|| refused("has no output"))?;
    let &[rows, columns] = w.tensor.shape() else { return Err(refused("weights of other than two dimensions")) };
    let transposed = if node.op == Op::Gemm {
        let g = attr(l, GemmAttrs::of(&node.attrs))?;
        if g.trans_a || g.alpha != 1.0 || (g.beta != 1.0 && node.input(2).is_some()) {
            return Err(refused("transA, alpha or beta"));
        }
        g.trans_b
    } else {
        false
    };
    let (k, n) = if transposed { (columns, rows) } else { (rows, columns) };
    if w.axis.is_some_and(|a| a != usize::from(!transposed)) {
        return Err(Reason::Granularity { value: codes::name(l, weight) }.into());
    }
    if l.rank(x.value).is_none_or(|r| r < 2) {
        return Err(refused("the rank of its input is not known or below 2"));
    }
    let scales = scales_of_sums(&x, &w);
    let mut bias = match node.input(2) {
        Some(b) => Some(codes::bias(l, b, &scales, n)?),
        None => None,
    };
    // A vector added to the product of a MatMul is its bias.
    let mut out = y;
    let mut added = None;
    if bias.is_none()
        && let Some((add, vector, sum)) = bias_after(l, y, n, l.rank(x.value))?
        && let Ok(b) = codes::bias(l, vector, &scales, n)
    {
        (bias, out, added) = (Some(b), sum, Some(add));
    }
    let goal = goal(l, out)?;
    let end = goal.end(&x, &w)?;
    let view = if transposed {
        BView::transposed(w.tensor.bytes(), w.signed, k, n)
    } else {
        BView::new(w.tensor.bytes(), w.signed, k, n)
    };
    let b = kernel(l, l.packings.get(&w.tensor, &transposed, || PackedB::pack(l.isa, &view)))?;
    let name = b.kernel().name;
    let rank = l.rank(x.value);
    let product = QProduct { x: x.codes, b, b_zero_points: zero_points(&w), bias, end };
    goal.emit(l, id, name, Step::QProduct(Box::new(product)), (x.value, Layout::Standard), rank)?;
    if let Some(add) = added {
        l.set(add, Status::Fused { into: id });
    }
    Ok(())
}

/// An Add of a constant vector along the `n` columns, or of one number, that alone reads `y` of `rank` dimensions: the
/// node, the vector and the sum.
fn bias_after(
    l: &mut Lowering<'_>,
    y: ValueId,
    n: usize,
    rank: Option<usize>,
) -> Rule<Option<(NodeId, ValueId, ValueId)>> {
    let Some(reader) = l.sole_reader(y) else { return Ok(None) };
    let node = l.graph.node(reader).clone();
    if node.op != Op::Add {
        return Ok(None);
    }
    let (Some(a), Some(b), Some(sum)) = (node.input(0), node.input(1), node.output(0)) else { return Ok(None) };
    let vector = if a == y { b } else { a };
    let fits = l.constant(vector)?.is_some_and(|t| {
        let vector = t.len() == n && t.shape().last() == Some(&n);
        (vector || t.len() == 1) && rank.is_some_and(|r| t.rank() <= r)
    });
    Ok(fits.then_some((reader, vector, sum)))
}

/// A product of two run-time tensors of codes, with the Transposes before it and the factor after it.
fn matmul(l: &mut Lowering<'_>, id: NodeId, node: &Node, a: Operand) -> Rule<()> {
    let b = codes::operand(l, node.input(1))?;
    let mut y = node.output(0).ok_or_else(|| refused("has no output"))?;
    let ranks = [a, b].map(|o| l.rank(o.value).unwrap_or(0));
    let most = if b.codes.signed { MAX_K_SIGNED } else { MAX_K_UNSIGNED };
    let known = node.input(0).and_then(|a| l.graph.value(a).shape.as_ref()?.last()?.known());
    if let Some(k) = known.filter(|&k| k > most) {
        return Err(Reason::ProductTooLong { k }.into());
    }
    if ranks.iter().any(|&r| r < 2) {
        return Err(refused("the rank of an input is not known or below 2"));
    }
    let mut scale = a.codes.affine.scale * b.codes.affine.scale;
    let factor = factor_after(l, y)?;
    if let Some((_, c, product)) = factor {
        (scale, y) = (scale * c, product);
    }
    if !scale.is_normal() {
        return Err(Reason::ScaleRange.into());
    }
    let goal = goal(l, y)?;
    let codes = match &goal {
        Goal::Codes(t) => {
            let multiplier = scale / t.codes.affine.scale;
            if !multiplier.is_finite() {
                return Err(Reason::ScaleRange.into());
            }
            Some((t.codes, multiplier))
        }
        Goal::Floats(_) => None,
    };
    let (a_from, a_perm) = untransposed(l, id, a, true);
    let (b_from, b_perm) = untransposed(l, id, b, false);
    let inputs = vec![Some(l.slot(a_from, Layout::Standard)?), Some(l.slot(b_from, Layout::Standard)?)];
    let rank = ranks.iter().max().copied();
    let to = match &goal {
        Goal::Codes(t) => t.define(l, Layout::Standard, rank),
        Goal::Floats(y) => l.define(*y, Layout::Standard, rank),
    };
    let step = QMatMul { a: a.codes, b: b.codes, a_perm, b_perm, y_perm: None, y: codes, scale };
    l.emit(id, Step::QMatMul(Box::new(step)), inputs, vec![Some(to)]);
    let name = PackedB::empty(l.isa).kernel().name;
    match &goal {
        Goal::Codes(t) => t.done(l, id, name),
        Goal::Floats(_) => l.set(id, Status::Integer { kernel: name }),
    }
    if let Some((node, _, _)) = factor {
        l.set(node, Status::Fused { into: id });
    }
    Ok(())
}

/// The Mul or Div by one constant that alone reads `y`: the node, the factor and the product.
fn factor_after(l: &mut Lowering<'_>, y: ValueId) -> Rule<Option<(NodeId, f32, ValueId)>> {
    let Some(reader) = l.sole_reader(y) else { return Ok(None) };
    let node = l.graph.node(reader).clone();
    let (Some(a), Some(b), Some(product)) = (node.input(0), node.input(1), node.output(0)) else { return Ok(None) };
    let constant = match node.op {
        Op::Mul | Op::Div if a == y => b,
        Op::Mul => a,
        _ => return Ok(None),
    };
    let Some(c) = super::elementwise::scalar(l, constant)? else { return Ok(None) };
    let factor = (if node.op == Op::Div { 1.0 / c } else { c }) as f32;
    Ok((factor.is_normal() && factor > 0.0).then_some((reader, factor, product)))
}

/// What a product reads instead of an operand that is other codes transposed, and how. Elements of a row of A must lie
/// next to each other.
fn untransposed(l: &mut Lowering<'_>, id: NodeId, x: Operand, rows: bool) -> (ValueId, Option<Vec<usize>>) {
    let Some(t) = l.transposed.get(&x.value) else { return (x.value, None) };
    let (node, from, perm) = (t.node, t.from, t.perm.clone());
    if rows && perm.last() != Some(&(perm.len() - 1)) {
        return (x.value, None);
    }
    if codes::readers_of_codes(l, x.value).is_some_and(|r| r == [id]) {
        l.set(node, Status::Fused { into: id });
    }
    (from, Some(perm))
}
