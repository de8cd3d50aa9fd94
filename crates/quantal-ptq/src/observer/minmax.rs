//! The smallest and the largest value seen.

use super::Range;

/// Smallest and largest value so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MinMax(Option<Range>);

impl MinMax {
    /// Takes in the range of one tensor.
    pub fn add(&mut self, range: Range) {
        self.0 = Some(self.0.map_or(range, |r| r.union(range)));
    }

    /// Takes in all that `other` saw.
    pub fn merge(&mut self, other: &Self) {
        other.0.into_iter().for_each(|r| self.add(r));
    }

    /// The range so far; `None` before the first value.
    pub fn seen(&self) -> Option<Range> {
        self.0
    }
}
