//! LSTM and GRU.

use super::dims::show;
use super::{Context, Fact, InferError};
use crate::attrs::AttrError;
use crate::graph::Dim;

/// All steps, the last hidden state and, for LSTM, the last cell state; `gates` is the number of gates.
pub(super) fn recurrent(cx: &Context<'_>, gates: usize) -> Result<Vec<Fact>, InferError> {
    let directions = match cx.attrs().str_or("direction", "forward")? {
        "forward" | "reverse" => 1,
        "bidirectional" => 2,
        other => {
            let problem = format!("is unknown: {}", other.escape_debug());
            return Err(AttrError::Invalid { name: "direction", problem }.into());
        }
    };
    let batch_first = cx.attrs().flag("layout", false)?;
    let hidden = match (cx.attrs().int("hidden_size")?, cx.shape(2)) {
        (Some(n), _) => Dim::Known(usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| AttrError::Invalid {
            name: "hidden_size",
            problem: format!("is {n}, must be at least 1"),
        })?),
        (None, Some([_, _, hidden])) => hidden.clone(),
        (None, _) => Dim::Unknown,
    };
    let (steps, batch, features) = match cx.shape(0) {
        None => (Dim::Unknown, Dim::Unknown, Dim::Unknown),
        Some([a, b, features]) if batch_first => (b.clone(), a.clone(), features.clone()),
        Some([a, b, features]) => (a.clone(), b.clone(), features.clone()),
        Some(s) => return Err(InferError::shape(format!("the input has {} dimensions, must have 3", s.len()))),
    };
    let rows = |times: usize| match hidden {
        Dim::Known(h) => h.checked_mul(times).map_or(Dim::Unknown, Dim::Known),
        Dim::Symbol(_) | Dim::Unknown => Dim::Unknown,
    };
    let directions = Dim::Known(directions);
    must_be(cx, 1, "W", &[directions.clone(), rows(gates), features])?;
    must_be(cx, 2, "R", &[directions.clone(), rows(gates), hidden.clone()])?;
    must_be(cx, 3, "B", &[directions.clone(), rows(2 * gates)])?;
    let (all, last) = if batch_first {
        (vec![batch.clone(), steps, directions.clone(), hidden.clone()], vec![batch, directions, hidden])
    } else {
        (vec![steps, directions.clone(), batch.clone(), hidden.clone()], vec![directions, batch, hidden])
    };
    let last = Fact::new(cx.dtype(0), Some(last));
    let mut facts = vec![Fact::new(cx.dtype(0), Some(all)), last.clone()];
    if gates == 4 {
        facts.push(last);
    }
    Ok(facts)
}

fn must_be(cx: &Context<'_>, i: usize, name: &str, wanted: &[Dim]) -> Result<(), InferError> {
    let Some(found) = cx.shape(i) else { return Ok(()) };
    let differs = |(a, b): (&Dim, &Dim)| matches!((a, b), (Dim::Known(m), Dim::Known(n)) if m != n);
    if found.len() != wanted.len() || found.iter().zip(wanted).any(differs) {
        let (found, wanted) = (show(found), show(wanted));
        return Err(InferError::shape(format!("{name} has shape {found}, must have {wanted}")));
    }
    Ok(())
}
