//! Where the rows of A come from, and how a block of them is laid out for the tiles.

use std::cell::RefCell;
use std::ops::Range;

use super::epilogue::NO_ROW;
use crate::conv::image::Image;
use crate::kernel::{Form, GemmKernel};
use crate::pack::{PackedB, put_codes};

/// Where the rows of A come from.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A matrix.
    Rows(Rows<'a>),
    /// What lies under each output pixel of a convolution; the unit is a line of the output.
    Image(&'a Image<'a>),
}

/// Rows `stride` apart; checked to lie inside `a`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) a: &'a [u8],
    pub(crate) stride: usize,
    pub(crate) m: usize,
}

/// What a kernel asks of a block of rows.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) form: Form,
    /// Rows of a run, that lie at one stride.
    pub(crate) run: usize,
    /// What codes are xored with.
    pub(crate) flip: u8,
    /// Elements of a span.
    pub(crate) span: usize,
    /// Bytes of a span, padded to whole steps: what is read.
    pub(crate) span_bytes: usize,
}

impl Wanted {
    pub(crate) fn new(b: &PackedB, kernel: &GemmKernel, flip: u8) -> Self {
        let &GemmKernel { form, run, kr, .. } = kernel;
        // Panels may be padded further, for a kernel of longer steps: rows of a matrix, all one span, end before that,
        // and the panel is read no further.
        let span_bytes = b.span().next_multiple_of(kr) * form.element_bytes();
        Self { form, run, flip, span: b.span(), span_bytes }
    }
}

/// A block of rows as tiles read it. The lists keep their memory from block to block.
#[derive(Default)]
pub(crate) struct Laid {
    /// Where each run of rows starts; every byte that a tile reads from there lies in A or in the block's scratch.
    pub(crate) starts: Vec<*const u8>,
    /// Bytes from one row of a run to the next.
    pub(crate) stride: usize,
    /// The row of the output that each row is, or [`NO_ROW`].
    pub(crate) pixels: Vec<usize>,
    /// Bytes from a row's start to each span.
    pub(crate) offsets: Vec<usize>,
    /// For the epilogue, if rows have terms.
    pub(crate) terms: Vec<i32>,
}

thread_local! {
    static LAID: RefCell<Laid> = const {
        RefCell::new(Laid { starts: Vec::new(), stride: 0, pixels: Vec::new(), offsets: Vec::new(), terms: Vec::new() })
    };
}

/// Runs `work` with empty lists. A nested use gets lists of its own.
pub(crate) fn with_laid<R>(work: impl FnOnce(&mut Laid) -> R) -> R {
    LAID.with(|cell| match cell.try_borrow_mut() {
        Ok(mut laid) => {
            laid.starts.clear();
            laid.pixels.clear();
            laid.offsets.clear();
            laid.terms.clear();
            work(&mut laid)
        }
        Err(_) => work(&mut Laid::default()),
    })
}

impl Source<'_> {
    /// How many units a job can be cut into: rows of a matrix, lines of an image.
    pub(crate) fn units(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.m,
            Self::Image(image) => image.lines(),
        }
    }

    /// Rows of the output in a unit.
    pub(crate) fn unit_rows(&self) -> usize {
        match self {
            Self::Rows(_) => 1,
            Self::Image(image) => image.line_rows(),
        }
    }

    /// One more than the last row of the output that a unit goes to.
    pub(crate) fn output_end(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.m,
            Self::Image(image) => image.output_end(),
        }
    }

    /// Bytes of A that one more unit in a block adds to what it reads.
    pub(crate) fn unit_bytes(&self, wanted: &Wanted) -> usize {
        match self {
            Self::Rows(_) => wanted.span_bytes,
            Self::Image(image) => image.line_bytes(wanted),
        }
    }

    /// Bytes of scratch that a block of `units` needs.
    pub(crate) fn scratch_bytes(&self, units: &Range<usize>, wanted: &Wanted) -> usize {
        match self {
            Self::Rows(rows) => rows.scratch_bytes(units, wanted),
            Self::Image(image) => image.scratch_bytes(units, wanted),
        }
    }

    /// Lays out `units`, in place where they lie as `wanted`, else in `scratch`.
    pub(crate) fn lay(&self, units: Range<usize>, wanted: &Wanted, scratch: &mut [u8], laid: &mut Laid) {
        match self {
            Self::Rows(rows) => rows.lay(units, wanted, scratch, laid),
            Self::Image(image) => image.lay(units, wanted, scratch, laid),
        }
    }
}

#[cfg(debug_assertions)]
impl Source<'_> {
    /// Asserts that all that tiles read of `laid` lies in A or in the scratch that it was laid out in.
    pub(crate) fn assert_readable(&self, laid: &Laid, wanted: &Wanted, scratch: Range<*const u8>) {
        let Some(&offset) = laid.offsets.iter().max() else { return };
        let reach = (wanted.run - 1) * laid.stride + offset + wanted.span_bytes;
        let a = match self {
            Self::Rows(rows) => rows.a.as_ptr_range(),
            Self::Image(_) => scratch.clone(),
        };
        let lies_in = |start: *const u8, whole: &Range<*const u8>| {
            start >= whole.start && start.addr() + reach <= whole.end.addr()
        };
        let mut starts = laid.starts.iter().filter(|_| wanted.span_bytes > 0);
        assert!(starts.all(|&start| lies_in(start, &a) || lies_in(start, &scratch)), "tiles read A or scratch");
    }
}

impl Rows<'_> {
    /// Whether rows are read where they are. (Rows without elements are not read, but must start somewhere.)
    fn in_place(wanted: &Wanted) -> bool {
        wanted.form == Form::Bytes && wanted.flip == 0 && wanted.span > 0
    }

    /// Bytes from one filled row to the next: never whole pages, or rows would share L1 sets; whole cache lines where
    /// more than 4 bytes are read at once.
    fn filled_stride(wanted: &Wanted) -> usize {
        let bytes = if wanted.run > 1 { wanted.span_bytes.next_multiple_of(64) } else { wanted.span_bytes };
        if bytes.is_multiple_of(1024) { bytes + 64 } else { bytes }
    }

    /// Whether row `r` can be read to the end of its last step without leaving A.
    fn readable(&self, r: usize, wanted: &Wanted) -> bool {
        r * self.stride + wanted.span_bytes <= self.a.len()
    }

    /// The first row of the run that computes row `r` and those after it: a run that would pass the end starts earlier.
    fn run_start(&self, r: usize, wanted: &Wanted) -> usize {
        r.min(self.m.saturating_sub(wanted.run))
    }

    /// Whether the run that starts at row `start` lies in A with all that is read of it.
    fn run_readable(&self, start: usize, wanted: &Wanted) -> bool {
        start + wanted.run <= self.m && self.readable(start + wanted.run - 1, wanted)
    }

    /// Bytes of a run that is copied at the stride of A.
    fn run_bytes(&self, wanted: &Wanted) -> usize {
        (wanted.run - 1) * self.stride + wanted.span_bytes
    }

    fn scratch_bytes(&self, rows: &Range<usize>, wanted: &Wanted) -> usize {
        if !Self::in_place(wanted) {
            return rows.len().next_multiple_of(wanted.run) * Self::filled_stride(wanted);
        }
        // Readable runs come first, so count from the end.
        let starts = rows.clone().step_by(wanted.run).rev();
        let copied = starts.take_while(|&r| !self.run_readable(self.run_start(r, wanted), wanted)).count();
        copied * self.run_bytes(wanted)
    }

    fn lay(&self, rows: Range<usize>, wanted: &Wanted, scratch: &mut [u8], laid: &mut Laid) {
        laid.offsets.push(0);
        if !Self::in_place(wanted) {
            self.fill(rows, wanted, scratch, laid);
            return;
        }
        laid.stride = self.stride;
        let mut copies = scratch.chunks_exact_mut(self.run_bytes(wanted));
        for r in rows.clone().step_by(wanted.run) {
            let start = self.run_start(r, wanted);
            if self.run_readable(start, wanted) {
                laid.starts.push(self.a[start * self.stride..].as_ptr());
            } else {
                let copy = copies.next().expect("scratch holds every run that is not readable");
                for i in 0..wanted.run.min(self.m - start) {
                    copy[i * self.stride..][..wanted.span]
                        .copy_from_slice(&self.a[(start + i) * self.stride..][..wanted.span]);
                }
                laid.starts.push(copy.as_ptr());
            }
            let mine = r..rows.end.min(start + wanted.run);
            laid.pixels.extend((start..start + wanted.run).map(|p| if mine.contains(&p) { p } else { NO_ROW }));
        }
    }

    /// Puts rows in the wanted form.
    fn fill(&self, rows: Range<usize>, wanted: &Wanted, scratch: &mut [u8], laid: &mut Laid) {
        laid.stride = Self::filled_stride(wanted);
        let span = wanted.span;
        // Rows without gaps, both in A and as filled, are one long row.
        if self.stride == span && laid.stride == span * wanted.form.element_bytes() {
            put_codes(scratch, wanted.form, 0, &self.a[rows.start * span..], rows.len() * span, wanted.flip);
        } else {
            for (i, r) in rows.clone().enumerate().filter(|_| span > 0) {
                let to = &mut scratch[i * laid.stride..];
                put_codes(to, wanted.form, 0, &self.a[r * self.stride..], span, wanted.flip);
            }
        }
        let starts = (0..rows.len()).step_by(wanted.run);
        laid.starts.extend(starts.map(|r| scratch.as_ptr().wrapping_add(r * laid.stride)));
        laid.pixels.extend(rows.clone());
        laid.pixels.resize(rows.len().next_multiple_of(wanted.run), NO_ROW);
    }
}
