//! Steps that become one after all nodes are lowered, when it is known who reads what.

use crate::layout::Layout;
use crate::program::{SlotId, StepRow};
use crate::steps::Step;
use crate::steps::edge::Edge;

/// Codes that are wanted channels-last alone are written so where they are made. `handed_out` are the slots that must be
/// there in the end.
pub(crate) fn quantize_moved(steps: &mut [Option<StepRow>], slots: usize, handed_out: &[SlotId]) {
    let (mut readers, mut writer) = (vec![0_usize; slots], vec![None; slots]);
    for slot in handed_out {
        readers[slot.0 as usize] += 1;
    }
    for (i, row) in steps.iter().enumerate() {
        let Some(row) = row else { continue };
        row.inputs.iter().flatten().for_each(|s| readers[s.0 as usize] += 1);
        row.outputs.iter().flatten().for_each(|s| writer[s.0 as usize] = Some(i));
    }
    for i in 0..steps.len() {
        let Some(StepRow { step: Step::Move(Layout::ChannelsLast), inputs, .. }) = &steps[i] else { continue };
        let Some(from) = inputs.first().copied().flatten().filter(|s| readers[s.0 as usize] == 1) else { continue };
        let Some(w) = writer[from.0 as usize] else { continue };
        let Some(StepRow { step: Step::Edge(Edge::Quantize(codes)), inputs, .. }) = &steps[w] else { continue };
        let (codes, inputs) = (*codes, inputs.clone());
        if let Some(row) = &mut steps[i] {
            (row.step, row.inputs) = (Step::Edge(Edge::QuantizeMoved(codes)), inputs);
            steps[w] = None;
        }
    }
}
