//! Operands in the layouts that tiles read: panels of B with their column sums, and rows of A.

mod placed;

use crate::Isa;
use crate::arena::Lines;
use crate::error::{KernelError, check_length};
use crate::gemm::tile::TileArgs;
use crate::kernel::{Form, GemmKernel, MAX_NR, Steps, select, select_placed};
use crate::simd::isa_fn;
use crate::transpose::interleave;
use placed::Plan;

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

    /// What codes are xored with to become s8.
    fn flip(&self) -> u8 {
        if self.signed { 0 } else { 0x80 }
    }

    /// The `s`th `span` rows.
    fn span(&self, s: usize, span: usize) -> Self {
        Self { bytes: &self.bytes[s * span * self.stride_k..], k: span, ..*self }
    }

    fn check(&self) -> Result<(), KernelError> {
        let most = if self.signed { MAX_K_SIGNED } else { MAX_K_UNSIGNED };
        if self.k > most {
            return Err(KernelError::TooDeep { k: self.k, most });
        }
        if self.stride_n == 0 && self.n > 1 && self.k > 0 {
            return Err(KernelError::Geometry("the columns of B lie on each other"));
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
/// row of A holds after a span does not matter. Where packing placed the steps (see [`Steps`]), a span has as many as it
/// needs. Codes are held as s8; u8 codes are shifted by 128, and their zero point with them.
pub struct PackedB {
    isa: Isa,
    kernel: &'static GemmKernel,
    /// Whether the kernel was a choice of one's own.
    pinned: bool,
    k: usize,
    n: usize,
    /// Rows in a span; divides `k`, and is 0 only if that is.
    span: usize,
    /// Pieces of K that may lie apart in A.
    spans: usize,
    /// Groups of 4 bytes in a span of A, padded to whole steps.
    span_groups: usize,
    /// If packing placed the steps: for each panel and span how many there are, and then, step by step, where in the
    /// span of A each register of columns reads.
    places: Vec<u32>,
    /// Where each panel begins in `panels` and in `places`, and last where they end; empty if steps are even.
    placed: Vec<[usize; 2]>,
    /// What was subtracted from each code to make it s8: 0 or 128.
    shift: i32,
    panels: Lines,
    /// Σ over K of the held codes, for each column, zero-padded to whole panels.
    column_sums: Vec<i32>,
}

impl PackedB {
    /// Packs `b` for the best kernel of `isa`. The choice depends on `isa`, on `n` and, where AVX2 is the best, on the
    /// weights: see [`Steps`].
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
    /// As [`PackedB::pack`], or if `isa` lacks what the kernel needs.
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
        let mut packed = Self { panels: Lines::Lasting(None), pinned: kernel.is_some(), ..Self::empty(isa) };
        if let Some(kernel) = kernel {
            if !isa.can_run(kernel.level) {
                return Err(KernelError::Geometry("the kernel is not for this CPU"));
            }
            packed.repack_for(kernel, b, span)?;
            return Ok(packed);
        }
        if let Some(kernel) = select_placed(isa.level(), b.n) {
            let plan = Plan::new(b, span, kernel.nr);
            if plan.pays() {
                packed.repack_placed(kernel, b, span, &plan)?;
                return Ok(packed);
            }
        }
        packed.repack_for(select(isa.level(), b.n), b, span)?;
        Ok(packed)
    }

    /// A B of no columns, to be filled by [`PackedB::repack`].
    pub fn empty(isa: Isa) -> Self {
        Self {
            isa,
            kernel: select(isa.level(), 0),
            pinned: false,
            k: 0,
            n: 0,
            span: 0,
            spans: 0,
            span_groups: 0,
            shift: 0,
            panels: Lines::default(),
            column_sums: Vec::new(),
            places: Vec::new(),
            placed: Vec::new(),
        }
    }

    /// Packs another `b` in the same memory: for a B that is computed in each run, and whose steps are not worth a plan.
    ///
    /// # Errors
    /// As [`PackedB::pack`].
    pub fn repack(&mut self, b: &BView) -> Result<(), KernelError> {
        self.repack_for(select(self.isa.level(), b.n), b, b.k)
    }

    /// Packs `b` in spans of `span` rows for `kernel`, which the caller knows to be runnable here.
    pub(crate) fn repack_for(
        &mut self,
        kernel: &'static GemmKernel,
        b: &BView,
        span: usize,
    ) -> Result<(), KernelError> {
        b.check()?;
        if kernel.steps == Steps::Placed {
            return self.repack_placed(kernel, b, span, &Plan::new(b, span, kernel.nr));
        }
        let span_groups = span.next_multiple_of(kernel.kr) / kernel.form.kr();
        let groups = b.k.checked_div(span).unwrap_or(0) * span_groups;
        let columns = b.n.div_ceil(kernel.nr) * kernel.nr;
        let bytes = groups.checked_mul(columns).and_then(|x| x.checked_mul(4)).unwrap_or(usize::MAX);
        self.reserve(kernel, b, span, bytes)?;
        let room = &mut self.panels.bytes_mut()[..bytes];
        let whole = b.n == columns && groups * kernel.form.kr() == b.k;
        if !whole {
            room.fill(0);
        }
        if bytes == 0 {
            return Ok(());
        }
        let (words, _) = room.as_chunks_mut::<4>();
        for s in 0..self.spans {
            let to = Panels { words, nr: kernel.nr, size: groups * kernel.nr, from: s * span_groups * kernel.nr };
            // SAFETY: an `Isa` is of this CPU.
            unsafe { pack_panels(self.isa, kernel.form, &b.span(s, span), to) };
        }
        self.add_up();
        Ok(())
    }

    /// Adds up the columns: what a row of ones gets.
    fn add_up(&mut self) {
        // Not the tile of AMX, which takes 16 rows and a configuration; nor that of `kernel_for(1)`, which is AMX's where
        // it was pinned.
        let kernel = self.kernel.few.map_or(self.kernel, |few| few.1);
        let (row, offsets) = (vec![kernel.form.ones(); self.span_groups], vec![0; self.spans]);
        let (start, init) = (row.as_ptr().cast(), [0; MAX_NR]);
        let mut column_sums = std::mem::take(&mut self.column_sums);
        for (p, sums) in column_sums.chunks_exact_mut(kernel.nr).enumerate() {
            let args = TileArgs {
                starts: &raw const start,
                stride: 0,
                offsets: offsets.as_ptr(),
                spans: self.spans,
                groups: self.span_groups,
                places: std::ptr::null(),
                panel: self.panel(p).as_ptr(),
                init: init.as_ptr(),
                sums: sums.as_mut_ptr(),
                cols: kernel.nr,
                ahead: std::ptr::null(),
                signed: false,
            };
            // SAFETY: the CPU has what the kernel needs, or nothing could be packed for it; every span reads the one row
            // of `span_groups` words, and the panel has as many steps for each; there is a sum for each column.
            unsafe { kernel.tiles[0](&args) };
        }
        self.column_sums = column_sums;
    }

    /// Packs `b` in the steps of `plan`.
    fn repack_placed(
        &mut self,
        kernel: &'static GemmKernel,
        b: &BView,
        span: usize,
        plan: &Plan,
    ) -> Result<(), KernelError> {
        let (nr, step_bytes) = (kernel.nr, 4 * kernel.nr);
        let bytes = plan.spans().map(placed::longest).sum::<usize>() * step_bytes;
        self.reserve(kernel, b, span, bytes)?;
        let room = &mut self.panels.bytes_mut()[..bytes];
        room.fill(0);
        let mut at = 0;
        for (i, registers) in plan.spans().enumerate() {
            if i.is_multiple_of(self.spans) {
                self.placed.push([at, self.places.len()]);
            }
            let steps = placed::longest(registers);
            self.places.push(steps as u32);
            let (first, sums) = (self.places.len(), &mut self.column_sums[i / self.spans * nr..][..nr]);
            self.places.resize(first + steps * registers.len(), 0);
            let (words, _) = room[at..at + steps * step_bytes].as_chunks_mut::<4>();
            for (r, register) in registers.iter().enumerate() {
                for (step, (&place, codes)) in register.places.iter().zip(&register.words).enumerate() {
                    self.places[first + step * registers.len() + r] = place;
                    words[step * nr + r * placed::COLUMNS..][..placed::COLUMNS].copy_from_slice(codes);
                    for (sum, codes) in sums[r * placed::COLUMNS..].iter_mut().zip(codes) {
                        *sum += codes.iter().map(|&code| i32::from(code as i8)).sum::<i32>();
                    }
                }
            }
            at += steps * step_bytes;
        }
        self.placed.push([at, self.places.len()]);
        Ok(())
    }

    /// Describes a packed `b`, and makes room for panels of so many bytes in all.
    fn reserve(
        &mut self,
        kernel: &'static GemmKernel,
        b: &BView,
        span: usize,
        bytes: usize,
    ) -> Result<(), KernelError> {
        let columns = b.n.div_ceil(kernel.nr) * kernel.nr;
        self.panels.reserve(bytes).ok_or(KernelError::OutOfMemory { bytes })?;
        self.column_sums.clear();
        self.column_sums.try_reserve_exact(columns).map_err(|_| KernelError::OutOfMemory { bytes: 4 * columns })?;
        self.column_sums.resize(columns, 0);
        self.places.clear();
        self.placed.clear();
        (self.kernel, self.k, self.n) = (kernel, b.k, b.n);
        (self.span, self.spans) = (span, b.k.checked_div(span).unwrap_or(0));
        self.span_groups = span.next_multiple_of(kernel.kr) / kernel.form.kr();
        self.shift = if b.signed { 0 } else { 128 };
        Ok(())
    }

    /// The kernel that reads it.
    pub fn kernel(&self) -> &'static GemmKernel {
        self.kernel
    }

    /// The kernel that multiplies `rows` rows by it: few may go to another one that reads the same panels, but where the
    /// kernel was one's own choice.
    pub fn kernel_for(&self, rows: usize) -> &'static GemmKernel {
        let few = self.kernel.few.filter(|few| rows <= few.0 && !self.pinned);
        few.map_or(self.kernel, |few| few.1)
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
        self.spans
    }

    /// Elements of a span.
    pub(crate) fn span(&self) -> usize {
        self.span
    }

    pub(crate) fn panel_count(&self) -> usize {
        self.n.div_ceil(self.kernel.nr)
    }

    pub(crate) fn panel(&self, p: usize) -> &[u8] {
        let bytes = self.spans * self.span_groups * self.kernel.nr * 4;
        let [from, to] = match self.placed.get(p..p + 2) {
            Some(&[[from, _], [to, _]]) => [from, to],
            _ => [p * bytes, (p + 1) * bytes],
        };
        &self.panels.bytes()[from..to]
    }

    /// How many steps panel `p` takes and where, if packing placed them.
    pub(crate) fn places(&self, p: usize) -> *const u32 {
        self.placed.get(p).map_or(std::ptr::null(), |&[_, first]| self.places[first..].as_ptr())
    }

    pub(crate) fn column_sums(&self, p: usize) -> &[i32] {
        &self.column_sums[p * self.kernel.nr..(p + 1) * self.kernel.nr]
    }

    pub(crate) fn shift(&self) -> i32 {
        self.shift
    }
}

/// Where one span of B goes.
struct Panels<'a> {
    /// All panels.
    words: &'a mut [[u8; 4]],
    /// Columns of a panel.
    nr: usize,
    /// Words of a panel.
    size: usize,
    /// The first word of the span in each panel.
    from: usize,
}

isa_fn! {
    /// Packs `b` in steps of `nr` words for a kernel of this form, each some elements of one column, zeros after the last
    /// element. What lies beyond the columns and after the steps is left as it is.
    ///
    /// # Safety
    /// None but what an [`Isa`] vouches for.
    unsafe fn pack_panels(form: Form, b: &BView, to: Panels<'_>) = pack_panels_body
}

/// # Safety
/// None: plain loops, which the compiler turns into those of the instruction set.
#[inline(always)]
#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set is all that matters")]
unsafe fn pack_panels_body<S>(form: Form, b: &BView, to: Panels<'_>) {
    let columns_lie = b.stride_k == 1 && b.stride_n != 1;
    match (form, columns_lie) {
        (Form::Bytes, true) => pack_columns::<4>(b, to),
        (Form::Bytes, false) => pack_rows::<4, 1>(b, to),
        (Form::Pairs, true) => pack_columns::<2>(b, to),
        (Form::Pairs, false) => pack_rows::<2, 2>(b, to),
    }
}

/// Packs any other `b`, one step of all panels after the other: a panel after the other would jump from row to row. A
/// step has `KR` elements of `E` bytes.
#[inline(always)]
fn pack_rows<const KR: usize, const E: usize>(b: &BView, to: Panels<'_>) {
    let Panels { words, nr, size, from } = to;
    let flip = b.flip();
    for i in 0..b.k.div_ceil(KR) {
        for p in 0..b.n.div_ceil(nr) {
            let (first, count) = (p * nr, nr.min(b.n - p * nr));
            let mut rows = [[[0; E]; MAX_NR]; KR];
            for (r, row) in rows.iter_mut().enumerate().take(b.k - i * KR) {
                let codes = &b.bytes[(i * KR + r) * b.stride_k + first * b.stride_n..];
                if b.stride_n == 1 {
                    row[..count].iter_mut().zip(&codes[..count]).for_each(|(to, code)| *to = element(code ^ flip));
                } else {
                    let codes = codes.iter().step_by(b.stride_n);
                    row[..count].iter_mut().zip(codes).for_each(|(to, code)| *to = element(code ^ flip));
                }
            }
            let to = words[p * size + from + i * nr..][..count].as_flattened_mut();
            interleave(&rows.each_ref().map(|row| &row[..count]), to.as_chunks_mut().0);
        }
    }
}

/// Elements of K that are packed of each column before the next ones: what is written meanwhile stays in cache.
const K_BLOCK: usize = 512;

/// Packs a `b` whose columns lie in one piece.
#[inline(always)]
fn pack_columns<const KR: usize>(b: &BView, to: Panels<'_>) {
    /// Columns whose steps are turned into rows together.
    const SQUARE: usize = 4;
    let Panels { words, nr, size, from } = to;
    let (flip, steps) = (b.flip(), b.k.div_ceil(KR));
    for (p, panel) in words.chunks_exact_mut(size).enumerate() {
        let count = nr.min(b.n - p * nr);
        for (block, words) in panel[from..from + steps * nr].chunks_mut(K_BLOCK / KR * nr).enumerate() {
            let first = block * K_BLOCK;
            let column = |j: usize| {
                let codes = &b.bytes[(p * nr + j) * b.stride_n + first..][..K_BLOCK.min(b.k - first)];
                codes.as_chunks::<KR>()
            };
            let squares = count - count % SQUARE;
            for j in (0..squares).step_by(SQUARE) {
                let [c0, c1, c2, c3] = [j, j + 1, j + 2, j + 3].map(|j| column(j).0);
                for ((((c0, c1), c2), c3), words) in c0.iter().zip(c1).zip(c2).zip(c3).zip(words.chunks_exact_mut(nr)) {
                    words[j..][..SQUARE].copy_from_slice(&[c0, c1, c2, c3].map(|codes| step::<KR>(*codes, flip)));
                }
            }
            for j in squares..count {
                for (codes, words) in column(j).0.iter().zip(words.chunks_exact_mut(nr)) {
                    words[j] = step::<KR>(*codes, flip);
                }
            }
            if (b.k - first) / KR < words.len() / nr {
                let last = words.len() - nr;
                for (j, word) in words[last..][..count].iter_mut().enumerate() {
                    let (mut codes, rest) = ([flip; KR], column(j).1);
                    codes[..rest.len()].copy_from_slice(rest);
                    *word = step::<KR>(codes, flip);
                }
            }
        }
    }
}

/// The 4 bytes of one column in one step: `KR` codes, each flipped. What flips to 0 stands for those after the last.
#[inline(always)]
fn step<const KR: usize>(codes: [u8; KR], flip: u8) -> [u8; 4] {
    if let Some(bytes) = codes.first_chunk::<4>() {
        return (u32::from_le_bytes(*bytes) ^ u32::from_le_bytes([flip; 4])).to_le_bytes();
    }
    let [[a, b], [c, d]] = [codes[0], codes[1]].map(|code| element::<2>(code ^ flip));
    [a, b, c, d]
}

/// An s8 code in `E` bytes.
#[inline(always)]
fn element<const E: usize>(code: u8) -> [u8; E] {
    let wide = i16::from(code as i8).to_le_bytes();
    std::array::from_fn(|i| wide[i])
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
            // Pairs of known length: a slice of two bytes would be copied by a call.
            let pairs = to.as_chunks_mut::<2>().0;
            pairs.iter_mut().zip(codes).for_each(|(to, &code)| *to = u16::from(code ^ flip).to_le_bytes());
        }
    }
}

/// Writes `count` times the u8 `code` at element `at` of a row of A in `form`.
#[inline]
pub(crate) fn put_fill(row: &mut [u8], form: Form, at: usize, count: usize, code: u8) {
    match form {
        Form::Bytes => row[at..at + count].fill(code),
        Form::Pairs => {
            row[2 * at..2 * (at + count)].as_chunks_mut::<2>().0.fill(u16::from(code).to_le_bytes());
        }
    }
}
