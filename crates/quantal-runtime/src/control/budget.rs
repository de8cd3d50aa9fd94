//! What the loops of one run may spend together, so that a loop without an end, or one that doubles what it carries,
//! ends in an error. Iterations, steps and the bytes that steps write are counted, never time: what is refused is
//! refused on every machine.

use crate::error::{Error, Result};
use quantal_tensor::Tensor;
use std::sync::Arc;

/// Turns of one loop.
const MAX_TURNS: u64 = 1_000_000;
/// Steps inside loops, over all loops of a run: some seconds of the smallest ones.
const MAX_STEPS: u64 = 8_000_000;
/// Bytes that steps inside loops may make, over all loops of a run: some seconds of plain copying.
const MAX_MADE_BYTES: u64 = 12 << 30;
/// Bytes by which carried values and scan outputs may grow, over all loops of a run. Memory taken anew costs many times
/// as much as memory that a session holds already.
const MAX_GROWN_BYTES: u64 = 3 << 30;
/// Slots of a body whose setting up takes as long as a step.
const SLOTS_PER_STEP: usize = 16;

/// What has been spent, by all loops of a run, one inside the other or one after the other.
#[derive(Debug, Default)]
pub(crate) struct Loops {
    /// Those that are running, the innermost last.
    running: Vec<Arc<str>>,
    steps: u64,
    made_bytes: u64,
    grown_bytes: u64,
}

impl Loops {
    /// A loop begins.
    pub(crate) fn enter(&mut self, name: &Arc<str>) {
        self.running.push(Arc::clone(name));
    }

    /// The innermost loop has ended.
    pub(crate) fn leave(&mut self) {
        self.running.pop();
    }

    /// The innermost loop begins a turn, before which it did `turns`, of a body with so many slots and captures.
    pub(crate) fn turn(&mut self, turns: u64, slots: usize) -> Result<()> {
        if turns >= MAX_TURNS {
            return Err(self.stop(MAX_TURNS, "turns"));
        }
        // A body without steps takes time as well.
        self.take_steps(1 + (slots / SLOTS_PER_STEP) as u64)
    }

    /// A step has made `results`.
    pub(crate) fn step(&mut self, results: &[Tensor]) -> Result<()> {
        if self.running.is_empty() {
            return Ok(());
        }
        self.take_steps(1)?;
        let bytes: u64 = results.iter().map(|t| t.bytes().len() as u64).sum();
        self.made_bytes = self.made_bytes.saturating_add(bytes);
        if self.made_bytes > MAX_MADE_BYTES {
            return Err(self.stop(MAX_MADE_BYTES, "bytes made by its steps"));
        }
        Ok(())
    }

    /// What the innermost loop hands to its next turn, or hands out at its end, has grown by so many bytes.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        self.grown_bytes = self.grown_bytes.saturating_add(bytes as u64);
        if self.grown_bytes > MAX_GROWN_BYTES {
            return Err(self.stop(MAX_GROWN_BYTES, "bytes by which its values grew"));
        }
        Ok(())
    }

    fn take_steps(&mut self, steps: u64) -> Result<()> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS {
            return Err(self.stop(MAX_STEPS, "steps"));
        }
        Ok(())
    }

    /// The error of the outermost loop, whose turns are what does not end.
    fn stop(&self, done: u64, what: &'static str) -> Error {
        let node = self.running.first().map_or_else(String::new, |name| name.escape_debug().to_string());
        Error::Budget { node, done, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quantal_tensor::DType;

    #[test]
    fn loops_in_each_other_and_after_each_other_share_one_budget() {
        let mut loops = Loops::default();
        let mut end = Ok(());
        let mut turns = 0;
        while end.is_ok() {
            loops.enter(&"outer".into());
            loops.enter(&"inner".into());
            end = (0..1000).try_for_each(|turn| loops.turn(turn, 0));
            loops.leave();
            loops.leave();
            turns += 1;
        }
        assert_eq!(turns, MAX_STEPS / 1000 + 1);
        assert!(matches!(end, Err(Error::Budget { what: "steps", .. })));
    }

    #[test]
    fn a_large_body_counts_for_more_and_steps_outside_of_loops_for_nothing() {
        let mut loops = Loops::default();
        let made = [Tensor::zeros(DType::U8, &[1 << 20]).unwrap()];
        for _ in 0..2 * (MAX_MADE_BYTES >> 20) {
            loops.step(&made).unwrap();
        }
        loops.enter(&"l".into());
        let error = loops.turn(0, SLOTS_PER_STEP * MAX_STEPS as usize).unwrap_err();
        assert_eq!(error.to_string(), "`l`: stopped after 8000000 steps, the most that one run may take");
        let mut loops = Loops::default();
        loops.enter(&"l".into());
        let steps = (0..MAX_STEPS).take_while(|_| loops.step(&made).is_ok()).count();
        assert_eq!(steps as u64, MAX_MADE_BYTES >> 20);
        assert!(loops.grow(MAX_GROWN_BYTES as usize).is_ok() && loops.grow(1).is_err());
    }
}
