//! Steps at places of their own, for a kernel that adds two products in an i16: `vpmaddubsw`.
//!
//! `255 · 128` is the most that fits, so weights of one sign that stand side by side in a step may sum to 128 at most,
//! and few real weights do not: 1 to 3 pairs in 100. But a step has such a pair in one of its columns often enough, and
//! then it is moved, to part the two, at the price of an element of K that it reads in vain; or what of a weight is too
//! much waits for the next step, which begins with that very element. Either way the sum is the same, and a few steps
//! more are far fewer than those of a kernel that widens all it multiplies.

use super::BView;

/// Columns that have places of their own: those of a register of AVX2.
pub(crate) const COLUMNS: usize = 8;
/// Most that two weights of one sign may sum to.
const MOST: i16 = 128;

/// Weights of some columns at one element of K.
type Row = [i16; COLUMNS];

/// The steps of [`COLUMNS`] columns over one span.
#[derive(Default)]
pub(super) struct Steps {
    /// Where in the span each reads 4 bytes of A.
    pub(super) places: Vec<u32>,
    /// What each multiplies them by.
    pub(super) words: Vec<[[u8; 4]; COLUMNS]>,
}

/// The steps of a whole B.
pub(super) struct Plan {
    /// For each panel, span and register of columns.
    registers: Vec<Steps>,
    /// Registers of a panel.
    panel: usize,
    /// Even steps of a span.
    even: usize,
}

impl Plan {
    /// Plans `b` in spans of `span` rows and panels of `nr` columns, whole registers.
    pub(super) fn new(b: &BView, span: usize, nr: usize) -> Self {
        let spans = b.k.checked_div(span).unwrap_or(0);
        let columns = |p: usize| (p * nr..(p + 1) * nr).step_by(COLUMNS);
        let panel = |p: usize| (0..spans).flat_map(move |s| columns(p).map(move |j| plan(&b.span(s, span), j)));
        let registers = (0..b.n.div_ceil(nr)).flat_map(panel).collect();
        Self { registers, panel: nr / COLUMNS, even: span.div_ceil(4) }
    }

    /// The registers of each panel and span.
    pub(super) fn spans(&self) -> impl Iterator<Item = &[Steps]> {
        self.registers.chunks(self.panel)
    }

    /// Whether the steps are so few that the kernel beats one with even steps of i16, which takes 1.3 times as long for
    /// as much of K.
    pub(super) fn pays(&self) -> bool {
        let (steps, even) = self.spans().fold((0, 0), |(steps, even), span| (steps + longest(span), even + self.even));
        10 * steps <= 13 * even
    }
}

/// Steps that all registers of a panel take in a span.
pub(super) fn longest(registers: &[Steps]) -> usize {
    registers.iter().map(|r| r.places.len()).max().unwrap_or(0)
}

/// Plans columns `from..from + COLUMNS` of `b`, whose rows are one span.
fn plan(b: &BView, from: usize) -> Steps {
    let flip = b.flip();
    let mut left = vec![[0; COLUMNS]; b.k.next_multiple_of(4)];
    for j in 0..COLUMNS.min(b.n.saturating_sub(from)) {
        for (i, row) in left[..b.k].iter_mut().enumerate() {
            row[j] = i16::from((b.bytes[(from + j) * b.stride_n + i * b.stride_k] ^ flip) as i8);
        }
    }
    let mut steps = Steps::default();
    let mut next = 0;
    while let Some(skip) = left[next..].iter().position(|row| *row != [0; COLUMNS]) {
        next += skip;
        let whole = left.get(next + 1).is_none_or(|&row| beside(&left[next], &row) == row);
        let place = if whole { next } else { next.saturating_sub(1) }.min(left.len() - 4);
        let step = &mut left[place..place + 4];
        let mut words = [[0; 4]; COLUMNS];
        for (i, pair) in step.chunks_exact_mut(2).enumerate() {
            let (first, second) = (pair[0], beside(&pair[0], &pair[1]));
            for (j, word) in words.iter_mut().enumerate() {
                word[2 * i] = first[j] as u8;
                word[2 * i + 1] = second[j] as u8;
                pair[1][j] -= second[j];
            }
            pair[0] = [0; COLUMNS];
        }
        steps.places.push(place as u32);
        steps.words.push(words);
    }
    steps
}

/// As much of `second` as may stand beside `first`.
fn beside(first: &Row, second: &Row) -> Row {
    std::array::from_fn(|j| second[j].max(-MOST - first[j].min(0)).min(MOST - first[j].max(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Seeded, code};

    #[test]
    fn steps_add_up_to_the_weights_and_no_pair_is_too_large() {
        let mut seeded = Seeded::new(3);
        for k in (1..=17).chain([64, 147]) {
            for (signed, n, extreme) in [(true, 8, None), (false, 5, None), (true, 8, Some(127)), (true, 3, Some(0x80))]
            {
                let bytes = extreme.map_or_else(|| seeded.bytes(k * n), |w| vec![w; k * n]);
                let steps = plan(&BView::new(&bytes, signed, k, n), 0);
                let mut sums = vec![[0; COLUMNS]; k.next_multiple_of(4)];
                for (&place, words) in steps.places.iter().zip(&steps.words) {
                    for (j, word) in words.iter().enumerate() {
                        let [a, b, c, d] = word.map(|w| i32::from(w as i8));
                        for (a, b) in [(a, b), (c, d)] {
                            assert!(a.max(0) + b.max(0) <= 128 && a.min(0) + b.min(0) >= -128, "{a} beside {b}");
                        }
                        for (r, w) in [a, b, c, d].into_iter().enumerate() {
                            sums[place as usize + r][j] += w;
                        }
                    }
                }
                let shift = if signed { 0 } else { 128 };
                let weight = |i: usize, j: usize| code(bytes[i * n + j], signed) - shift;
                let want = |i, j| if i < k && j < n { weight(i, j) } else { 0 };
                assert!((0..sums.len()).all(|i| (0..COLUMNS).all(|j| sums[i][j] == want(i, j))), "{k} of {n}");
            }
        }
    }
}
