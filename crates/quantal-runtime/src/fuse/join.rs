//! Concats without copies: convolutions write what only a Concat reads into its result.

use super::Readers;
use crate::program::{SlotId, StepRow};
use crate::steps::Step;
use crate::steps::codes::{Codes, CodesEnd, End};
use crate::steps::join::{Columns, Join};
use crate::steps::qconv::Packed;

/// A Concat of codes along the last axis, as they lie.
pub(crate) struct Joined {
    /// The slot of its result.
    pub(crate) slot: SlotId,
    /// Its codes, and those of all inputs.
    pub(crate) codes: Codes,
    /// The columns of each input.
    pub(crate) widths: Vec<usize>,
}

/// Strings the convolutions that make inputs of a Concat together: the first makes the whole, each later one gets it from
/// the one before. What is left of the Concat copies the other inputs.
pub(crate) fn join(steps: &mut [Option<StepRow>], readers: &Readers, joined: &[Joined]) {
    for Joined { slot, codes, widths } in joined {
        let Some(of) = widths.iter().try_fold(0_usize, |sum, w| sum.checked_add(*w)) else { continue };
        let Some(at) = readers.writer(*slot) else { continue };
        let Some(mut concat) = steps[at].take() else { continue };
        let (mut makers, mut rest, mut first) = (Vec::new(), Vec::new(), 0);
        for (&input, &width) in concat.inputs.iter().zip(widths) {
            let maker = input.filter(|s| readers.count(*s) == 1).and_then(|s| readers.writer(s));
            match maker.filter(|m| end_of_columns(&mut steps[*m], *codes, width).is_some()) {
                Some(maker) => makers.push((maker, first, width)),
                None => rest.push((input, first..first + width)),
            }
            first += width;
        }
        makers.sort_unstable();
        let mut whole = None;
        for &(maker, first, width) in &makers {
            if let Some(end) = end_of_columns(&mut steps[maker], *codes, width) {
                end.columns = Some(Columns { first, of, begun: whole.is_some() });
            }
            if let Some(row) = &mut steps[maker] {
                row.inputs.splice(..0, whole.map(Some));
                whole = row.outputs.first().copied().flatten();
            }
        }
        if rest.is_empty()
            && let Some(row) = makers.last().and_then(|last| steps[last.0].as_mut())
        {
            row.outputs = concat.outputs;
            continue;
        }
        if whole.is_some() {
            let (parts, columns): (Vec<_>, Vec<_>) = rest.into_iter().unzip();
            concat.step = Step::Join(Box::new(Join { codes: *codes, columns }));
            concat.inputs = std::iter::once(whole).chain(parts).collect();
        }
        steps[at] = Some(concat);
    }
}

/// The end of a convolution that makes `width` columns of such codes and may write them into a wider tensor.
fn end_of_columns(row: &mut Option<StepRow>, codes: Codes, width: usize) -> Option<&mut CodesEnd> {
    let Some(StepRow { step: Step::QConv(conv), .. }) = row else { return None };
    let apart = match &conv.weights {
        Packed::Dense(_) | Packed::Transposed(..) => true,
        Packed::Depthwise(weights) => weights.writes_rows_apart(),
    };
    match &mut conv.end {
        End::Codes(end) if apart && conv.c_out == width && end.codes().signed == codes.signed => Some(end),
        End::Codes(_) | End::F32 { .. } => None,
    }
}
