//! The producer and the readers of each value, updated with every edit: a rewrite asks for them at each node, and may
//! not walk over the whole graph for the answer.

use super::{Graph, Node, NodeId, ValueId};
use std::ops::{Deref, DerefMut};

/// By value: its producer, how often it is read, and nodes among which its readers are.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    pub(super) producer: Vec<Option<NodeId>>,
    pub(super) read_count: Vec<usize>,
    /// Every reader, and nodes that no longer read the value: taking one out would need a search.
    readers: Vec<Vec<NodeId>>,
    /// Number of nodes that are there.
    pub(super) nodes: usize,
}

impl Links {
    pub(super) fn add_value(&mut self) {
        self.producer.push(None);
        self.read_count.push(0);
        self.readers.push(Vec::new());
    }
}

impl Graph {
    /// Records a node as producer of its outputs and reader of its inputs and captures.
    pub(super) fn link(&mut self, id: NodeId) {
        let Some(node) = &self.nodes[id.0 as usize] else { return };
        let links = &mut self.links;
        links.nodes += 1;
        for v in node.outputs.iter().flatten() {
            links.producer[v.0 as usize] = Some(id);
        }
        for v in node.reads() {
            links.read_count[v.0 as usize] += 1;
            let readers = &mut links.readers[v.0 as usize];
            if readers.last() == Some(&id) {
                continue;
            }
            // Former readers are removed once they are more than half of the list: amortized, one step each.
            if readers.len() > 2 * links.read_count[v.0 as usize] + 8 {
                let reads = |r: &NodeId| self.nodes[r.0 as usize].as_ref().is_some_and(|n| n.reads().any(|w| w == v));
                readers.sort_unstable();
                readers.dedup();
                readers.retain(reads);
            }
            readers.push(id);
        }
    }

    /// Takes back what [`Graph::link`] recorded of a node, except its place in the lists of readers.
    pub(super) fn unlink(&mut self, id: NodeId) {
        let Some(node) = &self.nodes[id.0 as usize] else { return };
        let links = &mut self.links;
        links.nodes -= 1;
        for v in node.outputs.iter().flatten() {
            // Another node may make it by now.
            if links.producer[v.0 as usize] == Some(id) {
                links.producer[v.0 as usize] = None;
            }
        }
        for v in node.reads() {
            links.read_count[v.0 as usize] -= 1;
        }
    }

    /// The nodes that read a value, each once. Their list is emptied: each must be made to read another value.
    pub(super) fn take_readers(&mut self, v: ValueId) -> Vec<NodeId> {
        let mut readers = std::mem::take(&mut self.links.readers[v.0 as usize]);
        readers.sort_unstable();
        readers.dedup();
        readers.retain(|r| self.nodes[r.0 as usize].as_ref().is_some_and(|n| n.reads().any(|w| w == v)));
        readers
    }
}

/// A node of a graph that is being changed. When the guard is dropped, producers and readers are updated.
pub struct NodeMut<'g> {
    graph: &'g mut Graph,
    id: NodeId,
}

impl<'g> NodeMut<'g> {
    /// # Panics
    /// If the node was removed.
    pub(super) fn of(graph: &'g mut Graph, id: NodeId) -> Self {
        assert!(graph.contains(id), "the node was removed");
        graph.unlink(id);
        Self { graph, id }
    }
}

impl Deref for NodeMut<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.graph.node(self.id)
    }
}

impl DerefMut for NodeMut<'_> {
    fn deref_mut(&mut self) -> &mut Node {
        self.graph.nodes[self.id.0 as usize].as_mut().expect("a guard holds a node that is there")
    }
}

impl Drop for NodeMut<'_> {
    fn drop(&mut self) {
        self.graph.link(self.id);
    }
}
