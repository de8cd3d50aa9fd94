//! Einsum: its equation, taken apart.

use crate::attrs::{AttrError, Attrs};
use std::collections::BTreeMap;

/// One axis of a term.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Label {
    /// Axis `i`, counted from the end, of what the ellipsis stands for: broadcast like batch dimensions.
    Ellipsis(usize),
    /// A letter.
    Letter(u8),
}

/// The labels of the axes of each input and of the output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Equation {
    /// One list for each input, as long as its rank.
    pub inputs: Vec<Vec<Label>>,
    /// Those of the output.
    pub output: Vec<Label>,
}

/// The letters before and after the ellipsis; `None` after it if there is no ellipsis.
type Term = (Vec<u8>, Option<Vec<u8>>);

impl Equation {
    /// Reads `equation` for inputs of the given ranks.
    pub fn of(attrs: &Attrs, ranks: &[usize]) -> Result<Self, AttrError> {
        let text = attrs.str("equation")?.ok_or(AttrError::Missing("equation"))?;
        let invalid = |problem: String| AttrError::Invalid { name: "equation", problem };
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        // 52 letters and the ellipsis: a longer output names one twice, and is not worth a search.
        if right.is_some_and(|r| r.len() > 52 + 3) {
            return Err(invalid("has more axes in the output than there are letters".to_owned()));
        }
        let terms = left.split(',').map(|t| term(t).map_err(invalid)).collect::<Result<Vec<_>, _>>()?;
        if terms.len() != ranks.len() {
            return Err(invalid(format!("has {} terms, there are {} inputs", terms.len(), ranks.len())));
        }
        let mut inputs = Vec::new();
        let mut widest = 0;
        for (i, (term, &rank)) in terms.iter().zip(ranks).enumerate() {
            let letters = term.0.len() + term.1.as_ref().map_or(0, Vec::len);
            if letters > rank || term.1.is_none() && letters != rank {
                return Err(invalid(format!("names {letters} axes of input {i}, which has {rank}")));
            }
            widest = widest.max(rank - letters);
            inputs.push(labels(term, rank - letters));
        }
        let output = match right {
            Some(right) => labels(&term(right).map_err(invalid)?, widest),
            None => implied(&terms, widest),
        };
        let known: Vec<Label> = inputs.iter().flatten().copied().collect();
        if let Some(Label::Letter(c)) = output.iter().find(|l| matches!(l, Label::Letter(_)) && !known.contains(l)) {
            return Err(invalid(format!("has `{}` in the output alone", *c as char)));
        }
        if let Some(i) = (1..output.len()).find(|&i| output[..i].contains(&output[i])) {
            return Err(invalid(format!("has axis {i} of the output twice")));
        }
        Ok(Self { inputs, output })
    }
}

fn term(text: &str) -> Result<Term, String> {
    let letters = |part: &str| match part.chars().find(|c| !c.is_ascii_alphabetic()) {
        Some(c) => Err(format!("has `{}`, must have letters and `...`", c.escape_debug())),
        None => Ok(part.as_bytes().to_vec()),
    };
    match text.split_once("...") {
        Some((before, after)) => Ok((letters(before)?, Some(letters(after)?))),
        None => Ok((letters(text)?, None)),
    }
}

fn labels((before, after): &Term, ellipsis: usize) -> Vec<Label> {
    let ellipsis = if after.is_some() { ellipsis } else { 0 };
    let after = after.as_deref().unwrap_or_default();
    let letters = |part: &[u8]| part.iter().map(|&c| Label::Letter(c)).collect::<Vec<_>>();
    [letters(before), (0..ellipsis).rev().map(Label::Ellipsis).collect(), letters(after)].concat()
}

/// Without `->` the output has the ellipsis, then every letter that stands once, in order.
fn implied(terms: &[Term], ellipsis: usize) -> Vec<Label> {
    let mut counts = BTreeMap::new();
    for (before, after) in terms {
        for &c in before.iter().chain(after.iter().flatten()) {
            *counts.entry(c).or_insert(0) += 1;
        }
    }
    let once = counts.into_iter().filter(|&(_, n)| n == 1).map(|(c, _)| Label::Letter(c));
    (0..ellipsis).rev().map(Label::Ellipsis).chain(once).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;

    fn of(text: &str, ranks: &[usize]) -> Result<Equation, AttrError> {
        Equation::of(&Attrs::new().with("equation", Attr::Str(text.as_bytes().into())), ranks)
    }

    #[test]
    fn equations_are_read_as_numpy_reads_them() {
        use Label::{Ellipsis as E, Letter as L};
        let e = of("...ij, ...jk -> ...ik", &[4, 3]).unwrap();
        assert_eq!(e.inputs, [vec![E(1), E(0), L(b'i'), L(b'j')], vec![E(0), L(b'j'), L(b'k')]]);
        assert_eq!(e.output, [E(1), E(0), L(b'i'), L(b'k')]);
        assert_eq!(of("ba", &[2]).unwrap().output, [L(b'a'), L(b'b')]);
        assert_eq!(of("ij->", &[2]).unwrap().output, []);
        assert!(of("ij,jk->ik", &[2]).is_err());
        assert!(of("ij->k", &[2]).is_err());
        assert!(of("ij", &[3]).unwrap_err().to_string().contains("names 2 axes of input 0, which has 3"));
    }
}
