//! Arithmetic on dimensions that may be symbolic, and the texts that messages show of them.

use super::InferError;
use crate::graph::Dim;
use std::fmt::Write;
use std::sync::Arc;

/// Fixed dimensions.
pub(super) fn fixed(sizes: &[usize]) -> Vec<Dim> {
    sizes.iter().map(|&n| Dim::Known(n)).collect()
}

/// All dimensions, if every one is fixed.
pub(super) fn all_known(dims: &[Dim]) -> Option<Vec<usize>> {
    dims.iter().map(Dim::known).collect()
}

/// `[2, N, ?]`.
pub(super) fn show(dims: &[Dim]) -> String {
    let mut text = String::from("[");
    for (i, d) in dims.iter().enumerate() {
        let _ = write!(text, "{}{d}", if i == 0 { "" } else { ", " });
    }
    text + "]"
}

/// The dimension that two broadcast to; `None` if they never can.
pub(super) fn broadcast_dim(a: &Dim, b: &Dim) -> Option<Dim> {
    Some(match (a, b) {
        (Dim::Known(1), d) | (d, Dim::Known(1)) => d.clone(),
        (Dim::Known(m), Dim::Known(n)) if m != n => return None,
        (Dim::Known(n), _) | (_, Dim::Known(n)) => Dim::Known(*n),
        (Dim::Symbol(a), Dim::Symbol(b)) if a == b => Dim::Symbol(Arc::clone(a)),
        _ => Dim::Unknown,
    })
}

/// The shape that two broadcast to (multidirectional).
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, InferError> {
    let rank = a.len().max(b.len());
    let at = |s: &[Dim], i: usize| (i + s.len()).checked_sub(rank).map_or(Dim::Known(1), |j| s[j].clone());
    (0..rank)
        .map(|i| broadcast_dim(&at(a, i), &at(b, i)))
        .collect::<Option<_>>()
        .ok_or_else(|| InferError::shape(format!("shapes {} and {} do not broadcast", show(a), show(b))))
}

/// The dimension that two which must be equal come to; `None` if they are fixed and differ.
pub(super) fn unify_dim(a: &Dim, b: &Dim) -> Option<Dim> {
    Some(match (a, b) {
        (Dim::Known(m), Dim::Known(n)) if m != n => return None,
        (Dim::Known(n), _) | (_, Dim::Known(n)) => Dim::Known(*n),
        (Dim::Symbol(s), _) | (_, Dim::Symbol(s)) => Dim::Symbol(Arc::clone(s)),
        (Dim::Unknown, Dim::Unknown) => Dim::Unknown,
    })
}

/// What is certain when it may be the one or the other: equal dimensions stay, others are unknown.
pub(super) fn either(a: Option<&[Dim]>, b: Option<&[Dim]>) -> Option<Vec<Dim>> {
    let (a, b) = (a?, b?);
    let same = |(x, y): (&Dim, &Dim)| if x == y { x.clone() } else { Dim::Unknown };
    (a.len() == b.len()).then(|| a.iter().zip(b).map(same).collect())
}

/// A product of dimensions: a fixed factor and the symbols that it is multiplied with, sorted. `None` if an unknown
/// dimension is among them, or on overflow.
pub(super) fn product(dims: &[Dim]) -> Option<(usize, Vec<Arc<str>>)> {
    if dims.contains(&Dim::Known(0)) {
        return Some((0, Vec::new()));
    }
    let (mut factor, mut symbols) = (1_usize, Vec::new());
    for d in dims {
        match d {
            Dim::Known(n) => factor = factor.checked_mul(*n)?,
            Dim::Symbol(s) => symbols.push(Arc::clone(s)),
            Dim::Unknown => return None,
        }
    }
    symbols.sort();
    // Files and the contents of shapes count in i64; nothing beyond it is a size.
    i64::try_from(factor).ok().map(|_| (factor, symbols))
}

/// The same as one dimension.
pub(super) fn product_dim(dims: &[Dim]) -> Dim {
    match product(dims) {
        Some((factor, symbols)) if symbols.is_empty() => Dim::Known(factor),
        Some((1, symbols)) if symbols.len() == 1 => Dim::Symbol(Arc::clone(&symbols[0])),
        _ => Dim::Unknown,
    }
}

/// What `total / part` is, where both are products.
pub(super) fn quotient(total: &(usize, Vec<Arc<str>>), part: &(usize, Vec<Arc<str>>)) -> Option<Dim> {
    let mut left = total.1.clone();
    for s in &part.1 {
        left.remove(left.iter().position(|l| l == s)?);
    }
    let exact = part.0 != 0 && total.0.is_multiple_of(part.0);
    match (exact.then(|| total.0 / part.0)?, left.as_slice()) {
        (n, []) => Some(Dim::Known(n)),
        (1, [one]) => Some(Dim::Symbol(Arc::clone(one))),
        _ => None,
    }
}

/// The sum of two dimensions; a symbol survives the addition of nothing.
pub(super) fn add(a: &Dim, b: &Dim) -> Dim {
    match (a, b) {
        (Dim::Known(0), d) | (d, Dim::Known(0)) => d.clone(),
        (Dim::Known(m), Dim::Known(n)) => {
            m.checked_add(*n).filter(|&n| i64::try_from(n).is_ok()).map_or(Dim::Unknown, Dim::Known)
        }
        _ => Dim::Unknown,
    }
}

/// The product of two dimensions; a symbol survives the factor 1.
pub(super) fn multiply(a: &Dim, b: &Dim) -> Dim {
    product_dim(&[a.clone(), b.clone()])
}
