//! Running a program: feeds in, outputs out, and any observable value on the way.

use crate::control::{self, Loops};
use crate::defaults::same;
use crate::error::{Error, Result};
use crate::layout::{Layout, moved};
use crate::ops::OpError;
use crate::pool::{KEPT_RATIO, Pool};
use crate::profile::{Seen, StepTime, work};
use crate::program::{Input, Program, SlotId};
use crate::steps::{Env, Step};
use crate::symbols;
use quantal_ir::{Dim, ValueId};
use quantal_kernels::Threads;
use quantal_tensor::{DType, Tensor};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// An observed value, as it lies in memory.
pub struct Watched<'a> {
    /// The value.
    pub value: ValueId,
    /// Its elements.
    pub tensor: &'a Tensor,
    /// The layout of the tensor.
    pub layout: Layout,
    /// Those of the session, free while a value is looked at.
    pub threads: &'a Threads,
}

impl Watched<'_> {
    /// The value as float32, in the layout in which it lies.
    pub fn floats(&self) -> Result<Cow<'_, Tensor>> {
        floats(Cow::Borrowed(self.tensor))
    }

    /// The value as float32, in the standard layout.
    pub fn standard(&self) -> Result<Cow<'_, Tensor>> {
        floats(match self.layout {
            Layout::Standard => Cow::Borrowed(self.tensor),
            Layout::ChannelsLast => {
                let moved = moved(self.tensor, Layout::Standard, &mut Pool::default(), self.threads);
                Cow::Owned(moved.map_err(tap_error)?)
            }
        })
    }
}

fn floats(tensor: Cow<'_, Tensor>) -> Result<Cow<'_, Tensor>> {
    if tensor.dtype() == DType::F32 {
        return Ok(tensor);
    }
    let list = tensor.to_f32_vec();
    let list = list.ok_or_else(|| tap_error(OpError::Unsupported(format!("taps of {}", tensor.dtype()))))?;
    Ok(Cow::Owned(Tensor::from_slice(tensor.shape(), &list)?))
}

/// Called with each observed value.
pub type Tap<'a> = dyn FnMut(&Watched<'_>) -> Result<()> + 'a;

/// A program with its threads and memory, run again and again.
pub struct Session {
    program: Arc<Program>,
    threads: Threads,
    pool: Pool,
    /// Programs without names of dimensions that fail, and for feeds in place of defaults: by both.
    variants: BTreeMap<(Vec<Arc<str>>, Vec<ValueId>), Arc<Program>>,
}

impl Session {
    /// A session with `threads` threads, the calling one included.
    pub fn new(program: impl Into<Arc<Program>>, threads: usize) -> Self {
        Self {
            program: program.into(),
            threads: Threads::new(threads),
            pool: Pool::default(),
            variants: BTreeMap::new(),
        }
    }

    /// The program that it runs.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// The most bytes that the tensors of a run took at once so far, without the constants of the program.
    pub fn peak_bytes(&self) -> usize {
        self.pool.peak_bytes()
    }

    /// A session holds at most this many times [`peak_bytes`](Self::peak_bytes), the buffers kept for the next run
    /// included.
    pub const HELD_RATIO: usize = 1 + KEPT_RATIO;

    /// Runs the program once: named tensors in, the outputs in the model's order out.
    pub fn run(&mut self, feeds: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
        self.observed(feeds, &[], None, None)
    }

    /// Runs the program once and calls `tap` with each of the values in `taps` as it is made: as float32, in the
    /// standard layout. They must be among those that the program was compiled to keep ([`crate::compile_observed`]).
    pub fn run_taps(
        &mut self,
        feeds: &[(String, Tensor)],
        taps: &[ValueId],
        tap: &mut dyn FnMut(ValueId, &Tensor),
    ) -> Result<Vec<(String, Tensor)>> {
        self.run_watched(feeds, taps, &mut |seen| {
            tap(seen.value, &*seen.standard()?);
            Ok(())
        })
    }

    /// The same, and `tap` sees the values as they lie; its error ends the run.
    pub fn run_watched(
        &mut self,
        feeds: &[(String, Tensor)],
        taps: &[ValueId],
        mut tap: &mut Tap<'_>,
    ) -> Result<Vec<(String, Tensor)>> {
        self.observed(feeds, taps, Some(&mut tap), None)
    }

    /// The same as [`Session::run`], with the time that each step took and what it did. Steps inside control flow count
    /// as part of the step around them.
    pub fn run_profiled(&mut self, feeds: &[(String, Tensor)]) -> Result<(Vec<(String, Tensor)>, Vec<StepTime>)> {
        let mut times = Vec::with_capacity(self.program.steps.len());
        let outputs = self.observed(feeds, &[], None, Some(&mut times))?;
        Ok((outputs, times))
    }

    fn observed<'w>(
        &mut self,
        feeds: &[(String, Tensor)],
        taps: &[ValueId],
        tap: Option<&'w mut Tap<'w>>,
        times: Option<&'w mut Vec<StepTime>>,
    ) -> Result<Vec<(String, Tensor)>> {
        let (program, feeds) = self.choose(feeds)?;
        let mut wanted: BTreeMap<SlotId, Vec<(ValueId, Layout)>> = BTreeMap::new();
        let known = if taps.is_empty() { BTreeMap::new() } else { program.taps.iter().map(|t| (t.0, t)).collect() };
        for v in taps {
            let (v, slot, layout) = known.get(v).ok_or_else(|| Error::NotObservable { value: format!("#{}", v.0) })?;
            wanted.entry(*slot).or_default().push((*v, *layout));
        }
        let given = bind(&program.inputs, &feeds)?;
        let env = Env { isa: program.isa, threads: &self.threads, pool: &mut self.pool };
        let mut run = Run { env, loops: Loops::default() };
        let results = run.program(&program, given, Watch { wanted, tap, times })?;
        Ok(program.outputs.iter().map(|o| o.name.to_string()).zip(results).collect())
    }

    /// The program for these feeds, and the feeds without those that repeat a default.
    fn choose<'f>(&mut self, feeds: &'f [(String, Tensor)]) -> Result<(Arc<Program>, Vec<&'f (String, Tensor)>)> {
        let (failing, base) = self.believing(feeds)?;
        let Some(defaults) = &base.defaults else {
            return Ok((base, feeds.iter().collect()));
        };
        let (mut kept, mut given) = (Vec::with_capacity(feeds.len()), BTreeSet::new());
        for feed in feeds {
            match defaults.find(&feed.0) {
                Some((_, default)) if same(default, &feed.1) => continue,
                Some((v, _)) => _ = given.insert(v),
                None => {}
            }
            kept.push(feed);
        }
        if given.is_empty() {
            return Ok((base, kept));
        }
        let key = (failing, given.into_iter().collect::<Vec<ValueId>>());
        if let Some(program) = self.variants.get(&key) {
            return Ok((Arc::clone(program), kept));
        }
        let program = Arc::new(defaults.program(&key.1, self.program.isa)?);
        self.variants.insert(key, Arc::clone(&program));
        Ok((program, kept))
    }

    /// The program that believes those names of dimensions that hold for these feeds, and those that do not.
    fn believing(&mut self, feeds: &[(String, Tensor)]) -> Result<(Vec<Arc<str>>, Arc<Program>)> {
        let Some(symbols) = &self.program.symbols else { return Ok((Vec::new(), Arc::clone(&self.program))) };
        let failing = symbols::failing(&self.program.inputs, feeds);
        if failing.is_empty() {
            return Ok((failing, Arc::clone(&self.program)));
        }
        let key = (failing, Vec::new());
        if let Some(program) = self.variants.get(&key) {
            return Ok((key.0, Arc::clone(program)));
        }
        let program = Arc::new(symbols.program(&key.0, self.program.isa)?);
        self.variants.insert(key.clone(), Arc::clone(&program));
        Ok((key.0, program))
    }
}

/// What is looked at during a run of the outermost program.
#[derive(Default)]
pub(crate) struct Watch<'a> {
    wanted: BTreeMap<SlotId, Vec<(ValueId, Layout)>>,
    tap: Option<&'a mut Tap<'a>>,
    times: Option<&'a mut Vec<StepTime>>,
}

impl Watch<'_> {
    fn show(&mut self, slot: SlotId, tensor: &Tensor, env: &Env<'_>) -> Result<()> {
        let (Some(values), Some(tap)) = (self.wanted.get(&slot), self.tap.as_mut()) else { return Ok(()) };
        for &(value, layout) in values {
            tap(&Watched { value, tensor, layout, threads: env.threads })?;
        }
        Ok(())
    }
}

fn tap_error(cause: OpError) -> Error {
    Error::Node { node: "tap".to_owned(), op: "observer".to_owned(), cause }
}

/// One run, through all subprograms.
pub(crate) struct Run<'a> {
    pub(crate) env: Env<'a>,
    /// What its loops have spent so far.
    pub(crate) loops: Loops,
}

impl Run<'_> {
    /// Runs a program on the tensors of its input and capture slots; gives its outputs.
    pub(crate) fn program(
        &mut self,
        program: &Program,
        given: Vec<(SlotId, Tensor)>,
        mut watch: Watch<'_>,
    ) -> Result<Vec<Tensor>> {
        let mut values: Vec<Option<Tensor>> = Vec::new();
        values.resize_with(program.slots.len(), || None);
        let watching = watch.tap.is_some();
        if watching {
            for (i, slot) in program.slots.iter().enumerate() {
                if let Some(tensor) = &slot.constant {
                    watch.show(SlotId(i as u32), tensor, &self.env)?;
                }
            }
        }
        for (slot, tensor) in given {
            self.env.pool.count(&tensor);
            if watching {
                watch.show(slot, &tensor, &self.env)?;
            }
            values[slot.0 as usize] = Some(tensor);
        }
        let begin = Instant::now();
        for row in &program.steps {
            let seen: Option<Vec<Option<Seen>>> = watch.times.is_some().then(|| {
                let of = |slot: &Option<SlotId>| slot.and_then(|s| tensor_of(program, &values, s)).map(Seen::of);
                row.inputs.iter().map(of).collect()
            });
            let start = watch.times.is_some().then(Instant::now);
            let owned = row.overwrites.and_then(|under| row.inputs[under]);
            let owned = owned.and_then(|slot| values[slot.0 as usize].take());
            let results = {
                let inputs: Vec<Option<&Tensor>> =
                    row.inputs.iter().map(|s| s.and_then(|s| tensor_of(program, &values, s))).collect();
                match (&row.step, owned) {
                    (step, Some(x)) => {
                        self.env.pool.forget(&x);
                        let result = step.run_in_place(x, &inputs, &mut self.env);
                        vec![result.map_err(|cause| Error::in_step(row, cause))?]
                    }
                    (Step::If(branches), None) => control::run_if(branches, &inputs, self, row)?,
                    (Step::Loop(turns), None) => control::run_loop(turns, &inputs, self, row)?,
                    (Step::Scan(scan), None) => control::run_scan(scan, &inputs, self, row)?,
                    (step, None) => step.run(&inputs, &mut self.env).map_err(|cause| Error::in_step(row, cause))?,
                }
            };
            if let (Some(times), Some(start), Some(seen)) = (watch.times.as_mut(), start, seen) {
                let end = Instant::now();
                let since = |from: Instant, to: Instant| u64::try_from((to - from).as_nanos()).unwrap_or(u64::MAX);
                times.push(StepTime {
                    node: row.node,
                    name: Arc::clone(&row.name),
                    op: Arc::clone(&row.op),
                    step: row.step.name(),
                    start_nanoseconds: since(begin, start),
                    nanoseconds: since(start, end),
                    work: work(program, row, &seen, &results),
                });
            }
            self.loops.step(&results)?;
            for (slot, tensor) in row.outputs.iter().zip(results) {
                self.env.pool.count(&tensor);
                match slot {
                    Some(slot) => {
                        if watching {
                            watch.show(*slot, &tensor, &self.env)?;
                        }
                        values[slot.0 as usize] = Some(tensor);
                    }
                    None => self.env.pool.give_back(tensor),
                }
            }
            for slot in &row.frees {
                if let Some(tensor) = values[slot.0 as usize].take() {
                    self.env.pool.give_back(tensor);
                }
            }
        }
        let mut outputs = Vec::with_capacity(program.outputs.len());
        for output in &program.outputs {
            let tensor = tensor_of(program, &values, output.slot);
            outputs.push(tensor.cloned().ok_or_else(|| Error::NoProducer {
                reader: "the outputs".to_owned(),
                value: output.name.escape_debug().to_string(),
            })?);
        }
        for tensor in values.iter().flatten() {
            self.env.pool.forget(tensor);
        }
        Ok(outputs)
    }
}

fn tensor_of<'a>(program: &'a Program, values: &'a [Option<Tensor>], slot: SlotId) -> Option<&'a Tensor> {
    values[slot.0 as usize].as_ref().or(program.slots[slot.0 as usize].constant.as_deref())
}

/// Checks the feeds against the inputs and puts each into its slot.
fn bind(inputs: &[Input], feeds: &[&(String, Tensor)]) -> Result<Vec<(SlotId, Tensor)>> {
    let names = || inputs.iter().map(|i| i.name.escape_debug().to_string()).collect::<Vec<_>>();
    let known: BTreeMap<&str, &Input> = inputs.iter().map(|i| (&*i.name, i)).collect();
    let mut seen = BTreeSet::new();
    let mut bound = Vec::with_capacity(inputs.len());
    for (name, tensor) in feeds {
        let printed = || name.escape_debug().to_string();
        let Some(input) = known.get(name.as_str()) else {
            return Err(Error::UnknownInput { input: printed(), inputs: names() });
        };
        if !seen.insert(name.as_str()) {
            return Err(Error::RepeatedInput { input: printed() });
        }
        if let Some(wanted) = input.dtype.filter(|&d| d != tensor.dtype()) {
            return Err(Error::InputType { input: printed(), wanted, found: tensor.dtype() });
        }
        bound.push((input.slot, tensor.clone()));
    }
    for input in inputs {
        let Some((_, tensor)) = feeds.iter().find(|f| *f.0 == *input.name) else {
            return Err(Error::MissingInput { input: input.name.escape_debug().to_string(), inputs: names() });
        };
        check_shape(input, tensor)?;
    }
    Ok(bound)
}

fn check_shape(input: &Input, tensor: &Tensor) -> Result<()> {
    let Some(shape) = &input.shape else { return Ok(()) };
    let printed = || input.name.escape_debug().to_string();
    let fits = shape.len() == tensor.rank()
        && shape.iter().zip(tensor.shape()).all(|(d, n)| d.known().is_none_or(|known| known == *n));
    if !fits {
        let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
        let wanted = format!("[{}]", dims.join(", "));
        return Err(Error::InputShape { input: printed(), wanted, found: tensor.shape().to_vec() });
    }
    Ok(())
}
