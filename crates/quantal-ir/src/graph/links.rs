//! Who makes and who reads each value, kept true through every edit: a rewrite asks at each node, and may not walk over
//! all of them.

use super::{Graph, Node, NodeId, ValueId};
use std::ops::{Deref, DerefMut};

/// By value: its producer, how often it is read, and nodes among which its readers are.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    pub(super) producer: Vec<Option<NodeId>>,
    pub(super) read_count: Vec<usize>,
    /// Every reader, and nodes that read the value once: to take one out would be a search.
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
    /// Counts in what a node reads and makes.
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
            // Former readers are swept out when they are more than half, so that each costs one step in the end.
            if readers.len() > 2 * links.read_count[v.0 as usize] + 8 {
                let reads = |r: &NodeId| self.nodes[r.0 as usize].as_ref().is_some_and(|n| n.reads().any(|w| w == v));
                readers.sort_unstable();
                readers.dedup();
                readers.retain(reads);
            }
            readers.push(id);
        }
    }

    /// Counts out what a node reads and makes.
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

    /// The nodes that read a value, each once, to make them read another one.
    pub(super) fn take_readers(&mut self, v: ValueId) -> Vec<NodeId> {
        let mut readers = std::mem::take(&mut self.links.readers[v.0 as usize]);
        readers.sort_unstable();
        readers.dedup();
        readers.retain(|r| self.nodes[r.0 as usize].as_ref().is_some_and(|n| n.reads().any(|w| w == v)));
        readers
    }
}

/// A node of a graph that is being changed. When it goes, the graph counts what the node reads and makes by then.
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
