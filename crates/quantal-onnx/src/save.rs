//! Writing a model: to memory, to a stream, to a file with external data beside it where it must be.

use crate::atomic::save_atomic_with;
use crate::error::Error;
use crate::file::Model;
use crate::message::{Message, Raw};
use crate::schema::TensorProto;
use crate::schema::{AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, StringStringEntryProto};
use quantal_tensor::Bytes;
use std::io::{self, Write};
use std::path::Path;

/// Protobuf ends at 2 GiB; above this, large initializers move to a file of their own.
const MAX_MODEL_BYTES: usize = 1_900_000_000;

/// Initializers below this stay in the model, so that shapes and scalars can be read without the other file.
const MIN_EXTERNAL_BYTES: usize = 1024;

/// External tensors begin at multiples of this, so that they can be mapped.
const EXTERNAL_ALIGN: u64 = 4096;

/// The model as bytes. Messages whose `origin` is intact are the bytes that they were read from.
pub fn encode(model: &ModelProto) -> Vec<u8> {
    let mut out = Vec::with_capacity(model.size());
    write_to(model, &mut out).expect("a Vec takes all");
    out
}

/// The same bytes to a stream, without a second copy in memory.
pub fn write_to(model: &ModelProto, out: &mut dyn Write) -> io::Result<()> {
    model.write(out)
}

/// Writes `proto` to `path`, whole or not at all. `source` is the model that its tensors come from: those with external
/// data are copied in. If that makes more than 1.9 GB, the large initializers go to `<name of path>.data` beside it.
pub fn save(proto: ModelProto, source: Option<&Model>, path: &Path) -> Result<(), Error> {
    save_within(proto, source, path, MAX_MODEL_BYTES)
}

fn save_within(mut proto: ModelProto, source: Option<&Model>, path: &Path, limit: usize) -> Result<(), Error> {
    let mut inline = |t: &mut TensorProto| inline(t, source);
    if let Some(graph) = &mut proto.graph {
        in_graph(graph, &mut inline)?;
    }
    for function in &mut proto.functions {
        let mut changed = in_nodes(&mut function.node, &mut inline)?;
        for attribute in &mut function.attribute_proto {
            changed |= in_attribute(attribute, &mut inline)?;
        }
        if changed {
            function.origin = None;
        }
    }
    if proto.size() > limit {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let data = path.with_file_name(format!("{name}.data"));
        externalize(&mut proto, &data)?;
    }
    if proto.size() > limit {
        return Err(Error::write(path, &io::Error::other("the model is over 2 GB even without its initializers")));
    }
    save_atomic_with(path, |out| write_to(&proto, out))
}

/// Takes external data in. Says whether the tensor changed.
fn inline(t: &mut TensorProto, source: Option<&Model>) -> Result<bool, Error> {
    if !t.is_external() {
        return Ok(false);
    }
    let source = source.ok_or_else(|| Error::tensor(&t.name, "has external data, but no model that it comes from"))?;
    t.raw_data = Some(Raw(source.external_bytes(t)?));
    t.external_data.clear();
    t.data_location = None;
    t.origin = None;
    Ok(true)
}

type Visit<'a> = dyn FnMut(&mut TensorProto) -> Result<bool, Error> + 'a;

// Each walk says whether something below changed, so that the messages around give up their original bytes.

fn in_graph(graph: &mut GraphProto, visit: &mut Visit<'_>) -> Result<bool, Error> {
    let mut changed = false;
    for t in &mut graph.initializer {
        changed |= visit(t)?;
    }
    for t in &mut graph.sparse_initializer {
        changed |= in_sparse(t, visit)?;
    }
    Ok(changed | in_nodes(&mut graph.node, visit)?)
}

fn in_nodes(nodes: &mut [NodeProto], visit: &mut Visit<'_>) -> Result<bool, Error> {
    let mut any = false;
    for node in nodes {
        let mut changed = false;
        for attribute in &mut node.attribute {
            changed |= in_attribute(attribute, visit)?;
        }
        if changed {
            node.origin = None;
            any = true;
        }
    }
    Ok(any)
}

fn in_attribute(attribute: &mut AttributeProto, visit: &mut Visit<'_>) -> Result<bool, Error> {
    let mut changed = false;
    for t in attribute.t.as_deref_mut().into_iter().chain(&mut attribute.tensors) {
        changed |= visit(t)?;
    }
    for t in attribute.sparse_tensor.as_deref_mut().into_iter().chain(&mut attribute.sparse_tensors) {
        changed |= in_sparse(t, visit)?;
    }
    for g in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
        changed |= in_graph(g, visit)?;
    }
    if changed {
        attribute.origin = None;
    }
    Ok(changed)
}

fn in_sparse(sparse: &mut SparseTensorProto, visit: &mut Visit<'_>) -> Result<bool, Error> {
    let mut changed = false;
    for t in sparse.values.as_deref_mut().into_iter().chain(sparse.indices.as_deref_mut()) {
        changed |= visit(t)?;
    }
    if changed {
        sparse.origin = None;
    }
    Ok(changed)
}

/// Moves the large raw initializers of the main graph to a file at `path`.
fn externalize(proto: &mut ModelProto, path: &Path) -> Result<(), Error> {
    let location = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut moved: Vec<(u64, Bytes)> = Vec::new();
    let mut end = 0_u64;
    for t in proto.graph.iter_mut().flat_map(|g| &mut g.initializer) {
        let Some(Raw(data)) = t.raw_data.take_if(|raw| raw.len() >= MIN_EXTERNAL_BYTES) else { continue };
        let offset = end.next_multiple_of(EXTERNAL_ALIGN);
        end = offset + data.len() as u64;
        t.external_data = vec![
            StringStringEntryProto::new("location", &location),
            StringStringEntryProto::new("offset", &offset.to_string()),
            StringStringEntryProto::new("length", &data.len().to_string()),
        ];
        t.data_location = Some(1);
        t.origin = None;
        moved.push((offset, data));
    }
    save_atomic_with(path, |out| {
        let mut at = 0;
        for (offset, data) in &moved {
            io::copy(&mut io::Read::take(io::repeat(0), offset - at), out)?;
            out.write_all(data)?;
            at = offset + data.len() as u64;
        }
        Ok(())
    })
}
