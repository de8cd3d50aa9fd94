//! Operands in the layouts that tiles read: panels of B with their column sums, and rows of A.

use crate::Isa;
use crate::arena::Lines;
use crate::error::{KernelError, check_length};
use crate::kernel::{Exact, Form, GemmKernel, KERNELS, select};

/// Most products of a u8 and an s8 whose sum surely fits an i32: ⌊(2³¹ − 1) / (255 · 128)⌋.
pub const MAX_K_SIGNED: usize = 65_793;
/// Most products of a u8 and a u8, ⌊(2³¹ − 1) / 255²⌋.
pub const MAX_K_UNSIGNED: usize = 33_025;

/// A view of B, `[k, n]` with any strides: element `(i, j)` is `bytes[i·stride_k + j·stride_n]`.
#[derive(Clone, Copy, Debug)]
pub struct BView<'a> {
    /// The codes, two's complement if `signed`.
    pub bytes: &'a [u8],
    /// Whether the codes are s8 rather than u8.
    pub signed: bool,
    /// Rows: the depth of the sum.
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Elements from one row to the next.
    pub stride_k: usize,
    /// Elements from one column to the next.
    pub stride_n: usize,
}

impl<'a> BView<'a> {
    /// A contiguous `[k, n]`.
    pub fn new(bytes: &'a [u8], signed: bool, k: usize, n: usize) -> Self {
        Self { bytes, signed, k, n, stride_k: n, stride_n: 1 }
    }

    /// The transpose of a contiguous `[n, k]`.
    pub fn transposed(bytes: &'a [u8], signed: bool, k: usize, n: usize) -> Self {
        Self { bytes, signed, k, n, stride_k: 1, stride_n: k }
    }

    fn check(&self) -> Result<(), KernelError> {
        let most = if self.signed { MAX_K_SIGNED } else { MAX_K_UNSIGNED };
        if self.k > most {
            return Err(KernelError::TooDeep { k: self.k, most });
        }
        let last = |count: usize, stride: usize| count.checked_sub(1)?.checked_mul(stride);
        match (last(self.k, self.stride_k), last(self.n, self.stride_n)) {
            (Some(rows), Some(columns)) => {
                check_length("B", self.bytes.len(), rows.saturating_add(columns).saturating_add(1))
            }
            _ if self.k == 0 || self.n == 0 => Ok(()),
            _ => Err(KernelError::Geometry("the strides of B overflow")),
        }
    }
}

/// B packed for one kernel: panels of `nr` columns, each a run of groups of `nr` times 4 bytes. K may consist of spans
/// that lie apart in A; each is zero-padded to whole steps of the kernel, and the columns to whole panels. So what a
/// row of A holds after a span does not matter. Codes are held as s8; u8 codes are shifted by 128, and their zero point
/// with them.
pub struct PackedB {
    isa: Isa,
    kernel: &'static GemmKernel,
    k: usize,
    n: usize,
    /// Rows in a span; divides `k`, and is 0 only if that is.
    span: usize,
    /// What was subtracted from each code to make it s8: 0 or 128.
    shift: i32,
    panels: Lines,
    /// Σ over K of the held codes, for each column, zero-padded to whole panels.
    column_sums: Vec<i32>,
}

impl PackedB {
    /// Packs `b` for the best kernel of `isa`. The choice depends on `isa`, on `n` and, where AVX2 is the best, on the
    /// weights: see [`Exact`].
    ///
    /// # Errors
    /// If `k` exceeds [`MAX_K_SIGNED`] or [`MAX_K_UNSIGNED`], if `bytes` is shorter than the strides say, or if memory
    /// runs out.
    pub fn pack(isa: Isa, b: &BView) -> Result<Self, KernelError> {
        Self::pack_spans(isa, None, b, b.k)
    }

    /// Packs `b` for a kernel of one's own choice: for benches.
    ///
    /// # Errors
    /// As [`PackedB::pack`], or if `isa` lacks what the kernel needs, or the kernel is not exact for `b`.
    pub fn pack_for(isa: Isa, kernel: &'static GemmKernel, b: &BView) -> Result<Self, KernelError> {
        Self::pack_spans(isa, Some(kernel), b, b.k)
    }

    /// Packs a `b` whose rows meet spans of `span` neighbours in A, for `kernel` or for the best one; `span` divides `k`.
    pub(crate) fn pack_spans(
        isa: Isa,
        kernel: Option<&'static GemmKernel>,
        b: &BView,
        span: usize,
    ) -> Result<Self, KernelError> {
        b.check()?;
        let mut packed = Self::empty(isa);
        let kernel = match kernel {
            None => packed.choose(b),
            Some(kernel) => {
                let exact = match kernel.exact {
                    Exact::Always => true,
                    Exact::IfPairSumAtMost(most) => largest_pair_sum(b) <= most,
                };
                if !exact || !isa.can_run(kernel.level) {
                    let text = "the kernel is not exact for these weights, or not for this CPU";
                    return Err(KernelError::Geometry(text));
                }
                kernel
            }
        };
        packed.repack_for(kernel, b, span)?;
        Ok(packed)
    }

    /// A B of no columns, to be filled by [`PackedB::repack`].
    pub fn empty(isa: Isa) -> Self {
        let kernel = select(isa.level(), 0, 0);
        Self { isa, kernel, k: 0, n: 0, span: 0, shift: 0, panels: Lines::default(), column_sums: Vec::new() }
    }

    /// Packs another `b` in the same memory: for a B that is computed in each run.
    ///
    /// # Errors
    /// As [`PackedB::pack`].
    pub fn repack(&mut self, b: &BView) -> Result<(), KernelError> {
        b.check()?;
        self.repack_for(self.choose(b), b, b.k)
    }

    /// The best kernel for `b`, which was checked.
    fn choose(&self, b: &BView) -> &'static GemmKernel {
        let asks = KERNELS.iter().any(|k| k.level == self.isa.level() && k.exact != Exact::Always);
        let pair_sum = if asks { largest_pair_sum(b) } else { u32::MAX };
        select(self.isa.level(), b.n, pair_sum)
    }

    /// Packs `b` in spans of `span` rows for `kernel`, which the caller knows to be exact for it and runnable here.
    pub(crate) fn repack_for(
        &mut self,
        kernel: &'static GemmKernel,
        b: &BView,
        span: usize,
    ) -> Result<(), KernelError> {
        b.check()?;
        let span_groups = span.next_multiple_of(kernel.kr) / kernel.form.kr();
        let spans = b.k.checked_div(span).unwrap_or(0);
        let groups = spans * span_groups;
        let columns = b.n.div_ceil(kernel.nr) * kernel.nr;
        let bytes = groups.checked_mul(columns).and_then(|x| x.checked_mul(4)).unwrap_or(usize::MAX);
        let room = self.panels.reserve(bytes).ok_or(KernelError::OutOfMemory { bytes })?;
        room[..bytes].fill(0);
        self.column_sums.clear();
        self.column_sums.try_reserve_exact(columns).map_err(|_| KernelError::OutOfMemory { bytes: 4 * columns })?;
        self.column_sums.resize(columns, 0);
        (self.kernel, self.k, self.n, self.span) = (kernel, b.k, b.n, span);
        self.shift = if b.signed { 0 } else { 128 };
        if bytes == 0 {
            return Ok(());
        }
        let panel_bytes = groups * kernel.nr * 4;
        let flip = if b.signed { 0 } else { 0x80 };
        for (p, panel) in room[..bytes].chunks_exact_mut(panel_bytes).enumerate() {
            let first = p * kernel.nr;
            let n = kernel.nr.min(b.n - first);
            let sums = &mut self.column_sums[first..first + n];
            for (s, piece) in panel.chunks_exact_mut(span_groups * kernel.nr * 4).enumerate() {
                let bytes = &b.bytes[first * b.stride_n + s * span * b.stride_k..];
                let view = BView { bytes, k: span, n, ..*b };
                match kernel.form {
                    Form::Bytes => pack_panel(&view, flip, piece, kernel.nr, sums, |w| [w as u8]),
                    Form::Pairs => pack_panel(&view, flip, piece, kernel.nr, sums, |w| i16::from(w).to_le_bytes()),
                }
            }
        }
        Ok(())
    }

    /// The kernel that reads it.
    pub fn kernel(&self) -> &'static GemmKernel {
        self.kernel
    }

    /// Depth of the sum.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn n(&self) -> usize {
        self.n
    }

    /// The instruction set that it was packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Pieces of K that may lie apart in A.
    pub(crate) fn spans(&self) -> usize {
        self.k.checked_div(self.span).unwrap_or(0)
    }

    /// Elements of a span.
    pub(crate) fn span(&self) -> usize {
        self.span
    }

    /// Groups of 4 bytes in a span, padded to whole steps.
    pub(crate) fn span_groups(&self) -> usize {
        self.span.next_multiple_of(self.kernel.kr) / self.kernel.form.kr()
    }

    pub(crate) fn panel_count(&self) -> usize {
        self.n.div_ceil(self.kernel.nr)
    }

    pub(crate) fn panel(&self, p: usize) -> &[u8] {
        let bytes = self.spans() * self.span_groups() * self.kernel.nr * 4;
        &self.panels.bytes()[p * bytes..(p + 1) * bytes]
    }

    pub(crate) fn column_sums(&self, p: usize) -> &[i32] {
        &self.column_sums[p * self.kernel.nr..(p + 1) * self.kernel.nr]
    }

    pub(crate) fn shift(&self) -> i32 {
        self.shift
    }
}

/// The largest `|b[2i, j]| + |b[2i+1, j]|` of the codes as held.
fn largest_pair_sum(b: &BView) -> u32 {
    let flip = if b.signed { 0 } else { 0x80 };
    let at = |i: usize, j: usize| u32::from(((b.bytes[i * b.stride_k + j * b.stride_n] ^ flip) as i8).unsigned_abs());
    let mut most = 0;
    for i in (0..b.k).step_by(2) {
        for j in 0..b.n {
            most = most.max(at(i, j) + if i + 1 < b.k { at(i + 1, j) } else { 0 });
        }
    }
    most
}

/// Packs up to `nr` columns into zeroed steps of `nr` times 4 bytes, each element of K as the bytes that `encode` gives,
/// and adds up each column.
fn pack_panel<const BYTES: usize>(
    b: &BView,
    flip: u8,
    panel: &mut [u8],
    nr: usize,
    sums: &mut [i32],
    encode: impl Fn(i8) -> [u8; BYTES],
) {
    let kr = 4 / BYTES;
    if b.stride_k == 1 && b.stride_n != 1 {
        for (j, sum) in sums.iter_mut().enumerate() {
            let column = &b.bytes[j * b.stride_n..][..b.k];
            for (codes, step) in column.chunks(kr).zip(panel.chunks_exact_mut(4 * nr)) {
                for (&code, to) in codes.iter().zip(step[4 * j..4 * j + 4].chunks_exact_mut(BYTES)) {
                    let w = (code ^ flip) as i8;
                    to.copy_from_slice(&encode(w));
                    *sum += i32::from(w);
                }
            }
        }
        return;
    }
    for i in 0..b.k {
        let step = &mut panel[i / kr * 4 * nr..][..4 * nr];
        let row = b.bytes[i * b.stride_k..].iter().step_by(b.stride_n.max(1));
        for ((&code, to), sum) in row.zip(step.chunks_exact_mut(4)).zip(sums.iter_mut()) {
            let w = (code ^ flip) as i8;
            to[i % kr * BYTES..][..BYTES].copy_from_slice(&encode(w));
            *sum += i32::from(w);
        }
    }
}

/// Writes the first `count` of `codes`, turned to u8 by `flip`, at element `at` of a row of A in `form`. What lies after
/// them in the row may be overwritten: rows are written from left to right.
#[inline]
pub(crate) fn put_codes(row: &mut [u8], form: Form, at: usize, codes: &[u8], count: usize, flip: u8) {
    // A copy of a known length needs no call.
    const SHORT: usize = 32;
    let at = at * 4 / form.kr();
    let (to, size) = (&mut row[at..], 4 / form.kr());
    if count <= SHORT && codes.len() >= SHORT && to.len() >= SHORT * size {
        put(&mut to[..SHORT * size], form, &codes[..SHORT], flip);
    } else {
        put(&mut to[..count * size], form, &codes[..count], flip);
    }
}

#[inline]
fn put(to: &mut [u8], form: Form, codes: &[u8], flip: u8) {
    match form {
        Form::Bytes if flip == 0 => to.copy_from_slice(codes),
        Form::Bytes => to.iter_mut().zip(codes).for_each(|(to, &code)| *to = code ^ flip),
        Form::Pairs => {
            let to = to.chunks_exact_mut(2);
            to.zip(codes).for_each(|(to, &code)| to.copy_from_slice(&u16::from(code ^ flip).to_le_bytes()));
        }
    }
}

/// Writes `count` times the u8 `code` at element `at` of a row of A in `form`.
#[inline]
pub(crate) fn put_fill(row: &mut [u8], form: Form, at: usize, count: usize, code: u8) {
    match form {
        Form::Bytes => row[at..at + count].fill(code),
        Form::Pairs => {
            let to = row[2 * at..2 * (at + count)].chunks_exact_mut(2);
            to.for_each(|to| to.copy_from_slice(&u16::from(code).to_le_bytes()));
        }
    }
}
