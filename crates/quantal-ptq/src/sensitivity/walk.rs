//! A block of samples on its way through a graph: what lies behind has run, what lies ahead runs as often as asked.

use crate::error::{Error, Result};
use quantal_data::Sample;
use quantal_ir::section::{cut, section};
use quantal_ir::{Graph, NodeId, QuantPlan, insert_qdq};
use quantal_kernels::Isa;
use quantal_runtime::{Mode, Session, compile};
use quantal_tensor::Tensor;
use std::collections::BTreeSet;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

type Feeds = Vec<(String, Tensor)>;

/// Samples that are walked together.
pub(super) struct Block {
    names: Vec<String>,
    feeds: Vec<Feeds>,
    pub(super) labels: Vec<Option<u32>>,
}

impl Block {
    /// The next samples: as many as leave the values that wait at any one node within `bytes`, at least one. `None` if
    /// there is none left.
    pub(super) fn take(
        graph: &Graph,
        samples: &mut Peekable<impl Iterator<Item = Result<Sample, quantal_data::Error>>>,
        bytes: usize,
        isa: Isa,
        threads: usize,
    ) -> Result<Option<Self>> {
        let mut block = Self { names: Vec::new(), feeds: Vec::new(), labels: Vec::new() };
        let Some(first) = samples.next() else { return Ok(None) };
        block.push(first?);
        let room = bytes / widest(graph, &block, isa, threads)?.max(1);
        while block.len() < room
            && let Some(sample) = samples.next()
        {
            block.push(sample?);
        }
        Ok(Some(block))
    }

    fn push(&mut self, sample: Sample) {
        self.names.push(sample.name);
        self.labels.push(sample.label);
        self.feeds.push(sample.feeds);
    }

    /// Number of samples.
    pub(super) fn len(&self) -> usize {
        self.feeds.len()
    }
}

/// The most bytes of the first sample that wait at any node.
fn widest(graph: &Graph, block: &Block, isa: Isa, threads: usize) -> Result<usize> {
    let one = Block {
        names: block.names[..1].to_vec(),
        feeds: block.feeds[..1].to_vec(),
        labels: block.labels[..1].to_vec(),
    };
    let plan = QuantPlan::default();
    let mut walk = Walk::new(graph, &plan, &one, isa, threads);
    let mut most = walk.waiting();
    for position in 1..=graph.node_count() {
        walk.advance(position)?;
        most = most.max(walk.waiting());
    }
    Ok(most)
}

/// A block at a position of a graph.
pub(super) struct Walk<'a> {
    graph: &'a Graph,
    plan: &'a QuantPlan,
    isa: Isa,
    threads: usize,
    names: &'a [String],
    position: usize,
    /// What the rest of the graph reads, for each sample.
    waiting: Vec<Feeds>,
    /// Outputs of the graph that were made already, for each sample.
    made: Vec<Feeds>,
}

impl<'a> Walk<'a> {
    /// At the start of `graph`, whose sections run with `plan` written into them.
    pub(super) fn new(graph: &'a Graph, plan: &'a QuantPlan, block: &'a Block, isa: Isa, threads: usize) -> Self {
        let mut walk = Self {
            graph,
            plan,
            isa,
            threads,
            names: &block.names,
            position: 0,
            waiting: block.feeds.clone(),
            made: vec![Vec::new(); block.len()],
        };
        walk.forget();
        walk
    }

    /// Bytes of what waits here.
    fn waiting(&self) -> usize {
        self.waiting.iter().flatten().map(|(_, t)| t.bytes().len()).sum()
    }

    /// Drops what nothing ahead reads; keeps what the graph hands out.
    fn forget(&mut self) {
        let needed: BTreeSet<Arc<str>> =
            cut(self.graph, self.position).into_iter().map(|v| Arc::clone(&self.graph.value(v).name)).collect();
        let handed: BTreeSet<&str> = self.graph.outputs.iter().map(|&v| &*self.graph.value(v).name).collect();
        for (waiting, made) in self.waiting.iter_mut().zip(&mut self.made) {
            let done = waiting.iter().filter(|(n, _)| handed.contains(n.as_str()) && made.iter().all(|m| m.0 != *n));
            let done: Feeds = done.cloned().collect();
            made.extend(done);
            waiting.retain(|(n, _)| needed.contains(n.as_str()));
        }
    }

    /// Runs what lies between here and a node.
    pub(super) fn advance_to(&mut self, node: NodeId) -> Result<()> {
        let to = self.graph.nodes().position(|(id, _)| id == node).expect("the node is one of the graph");
        self.advance(to)
    }

    fn advance(&mut self, to: usize) -> Result<()> {
        if to == self.position {
            return Ok(());
        }
        let made = self.run(self.graph, self.plan, self.position..to)?;
        for (waiting, made) in self.waiting.iter_mut().zip(made) {
            waiting.extend(made);
        }
        self.position = to;
        self.forget();
        Ok(())
    }

    /// Runs the rest of `graph`, which differs from this one in constants only, with `plan` written into it. Gives the
    /// outputs of each sample in their order.
    pub(super) fn outputs(&self, graph: &Graph, plan: &QuantPlan) -> Result<Vec<Vec<Tensor>>> {
        let made = self.run(graph, plan, self.position..graph.node_count())?;
        let names: Vec<&str> = graph.outputs.iter().map(|&v| &*graph.value(v).name).collect();
        let of_sample = |(late, early): (Feeds, &Feeds)| {
            let find = |name: &&str| late.iter().chain(early).find(|(n, _)| n == name).map(|(_, t)| t.clone());
            names.iter().filter_map(find).collect()
        };
        Ok(made.into_iter().zip(&self.made).map(of_sample).collect())
    }

    fn run(&self, graph: &Graph, plan: &QuantPlan, positions: Range<usize>) -> Result<Vec<Feeds>> {
        let part = section(graph, positions);
        let qdq = insert_qdq(&part, &within(&part, plan))?;
        let program = compile(&qdq, Mode::Integer, self.isa).map_err(|e| Error::Compile(Box::new(e)))?;
        let mut session = Session::new(program, self.threads);
        let mut all = Vec::with_capacity(self.waiting.len());
        let read: BTreeSet<&str> = part.inputs.iter().map(|&v| &*part.value(v).name).collect();
        for (waiting, name) in self.waiting.iter().zip(self.names) {
            let feeds: Feeds = waiting.iter().filter(|(n, _)| read.contains(n.as_str())).cloned().collect();
            let failed = |cause| Error::Run { sample: name.escape_debug().to_string(), cause: Box::new(cause) };
            all.push(session.run(&feeds).map_err(failed)?);
        }
        Ok(all)
    }
}

/// What a plan says of the values and nodes of a section.
fn within(part: &Graph, plan: &QuantPlan) -> QuantPlan {
    let uses = part.uses();
    let here = |v| uses.producer(v).is_some() || !uses.readers(v).is_empty();
    QuantPlan {
        encodings: plan.encodings.iter().filter(|(v, _)| here(**v)).map(|(v, e)| (*v, e.clone())).collect(),
        fallback: plan.fallback.iter().filter(|(n, _)| part.contains(**n)).map(|(n, r)| (*n, r.clone())).collect(),
        float_outputs: plan.float_outputs.clone(),
        dynamic: plan.dynamic.iter().copied().filter(|n| part.contains(*n)).collect(),
    }
}
