//! What ONNX and those who load it ask of the names in a file.

use quantal_onnx::{GraphProto, NodeProto};
use std::collections::BTreeSet;

/// Checks that every value has one maker, that each name is made before it is read, that no name in a subgraph is one of a
/// graph around it, and that no two nodes of a graph have one name.
///
/// # Panics
/// If one of these is broken; the text says which name.
pub fn assert_names_are_valid(graph: &GraphProto) {
    check(graph, &BTreeSet::new());
}

fn check(graph: &GraphProto, around: &BTreeSet<String>) {
    let mut visible = around.clone();
    let mut own = BTreeSet::new();
    let mut make = |name: &str, visible: &mut BTreeSet<String>| {
        assert!(own.insert(name.to_owned()), "`{name}` is made twice");
        assert!(!around.contains(name), "`{name}` is made in a subgraph and around it");
        visible.insert(name.to_owned());
    };
    let inputs: BTreeSet<&str> = graph.input.iter().map(|i| &*i.name).collect();
    for name in inputs.iter().copied().chain(graph.initializer.iter().map(|t| &*t.name).filter(|n| !inputs.contains(n)))
    {
        make(name, &mut visible);
    }

    let mut node_names = BTreeSet::new();
    for node in &graph.node {
        assert!(node.name.is_empty() || node_names.insert(&node.name), "two nodes are named `{}`", node.name);
        for name in node.input.iter().filter(|n| !n.is_empty()) {
            assert!(visible.contains(name), "`{}` reads `{name}`, which nothing made before", node.name);
        }
        for body in bodies(node) {
            // What is made later is around the subgraph too.
            let later = graph.node.iter().flat_map(|n| &n.output).filter(|n| !n.is_empty() && !visible.contains(*n));
            let inner: BTreeSet<&String> = body.node.iter().flat_map(|n| &n.output).collect();
            if let Some(name) = later.into_iter().find(|n| inner.contains(n)) {
                panic!("`{name}` is made in a subgraph and later around it");
            }
            check(body, &visible);
        }
        for name in node.output.iter().filter(|n| !n.is_empty()) {
            make(name, &mut visible);
        }
    }
    for output in &graph.output {
        assert!(visible.contains(&output.name), "nothing makes the output `{}`", output.name);
    }
}

fn bodies(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().filter_map(|a| a.g.as_deref())
}
