//! Steps that become one after all nodes are lowered, when it is known who reads what.

mod join;

pub(crate) use join::{Joined, join};

use crate::layout::Layout;
use crate::program::{SlotId, StepRow};
use crate::steps::Step;
use crate::steps::edge::Edge;

/// Who writes and who reads each slot.
pub(crate) struct Readers {
    counts: Vec<usize>,
    writers: Vec<Option<usize>>,
}

impl Readers {
    /// `kept` are the slots that must be there by themselves: they have one reader more.
    pub(crate) fn of(steps: &[Option<StepRow>], slots: usize, kept: &[SlotId]) -> Self {
        let (mut counts, mut writers) = (vec![0; slots], vec![None; slots]);
        for slot in kept {
            counts[slot.0 as usize] += 1;
        }
        for (i, row) in steps.iter().enumerate() {
            let Some(row) = row else { continue };
            row.inputs.iter().flatten().for_each(|s| counts[s.0 as usize] += 1);
            row.outputs.iter().flatten().for_each(|s| writers[s.0 as usize] = Some(i));
        }
        Self { counts, writers }
    }

    fn count(&self, slot: SlotId) -> usize {
        self.counts[slot.0 as usize]
    }

    /// The index of the step that writes a slot.
    fn writer(&self, slot: SlotId) -> Option<usize> {
        self.writers[slot.0 as usize]
    }
}

/// Codes that are wanted channels-last alone are written so where they are made.
pub(crate) fn quantize_moved(steps: &mut [Option<StepRow>], readers: &Readers) {
    for i in 0..steps.len() {
        let Some(StepRow { step: Step::Move(Layout::ChannelsLast), inputs, .. }) = &steps[i] else { continue };
        let Some(from) = inputs.first().copied().flatten().filter(|s| readers.count(*s) == 1) else { continue };
        let Some(w) = readers.writer(from) else { continue };
        let Some(StepRow { step: Step::Edge(Edge::Quantize(codes)), inputs, .. }) = &steps[w] else { continue };
        let (codes, inputs) = (*codes, inputs.clone());
        if let Some(row) = &mut steps[i] {
            (row.step, row.inputs) = (Step::Edge(Edge::QuantizeMoved(codes)), inputs);
            steps[w] = None;
        }
    }
}
