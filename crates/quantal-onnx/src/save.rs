//! Writing a model: to memory, to a stream, to a file with external data beside it where it must be.

use crate::atomic::Pending;
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
    save_checked(proto, source, path, |_| Ok(()))
}

/// The same, and `check` looks at the file as it was written, read again, before it takes its name: after an error of it
/// there is no file, or the old one.
///
/// # Errors
/// Those of writing and reading, and whatever `check` says.
pub fn save_checked<E: From<Error>>(
    proto: ModelProto,
    source: Option<&Model>,
    path: &Path,
    check: impl FnOnce(Model) -> Result<(), E>,
) -> Result<(), E> {
    save_within(proto, source, path, MAX_MODEL_BYTES, check)
}

fn save_within<E: From<Error>>(
    mut proto: ModelProto,
    source: Option<&Model>,
    path: &Path,
    limit: usize,
    check: impl FnOnce(Model) -> Result<(), E>,
) -> Result<(), E> {
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
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let data_path = path.with_file_name(format!("{name}.data"));
    // Both files are whole before either takes its name, the data first.
    let data = if proto.size() > limit { Some(externalize(&mut proto, &data_path)?) } else { None };
    if proto.size() > limit {
        let problem = io::Error::other("the model is over 2 GB even without its initializers");
        return Err(Error::write(path, &problem).into());
    }
    let model = Pending::write(path, |out| write_to(&proto, out))?;
    check(Model::open_as(model.path(), path, data.as_ref().map(|data| (&*data_path, data.path())))?)?;
    data.map_or(Ok(()), Pending::commit)?;
    Ok(model.commit()?)
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

/// Moves the large raw initializers of the main graph to a file that will be at `path`.
fn externalize<'a>(proto: &mut ModelProto, path: &'a Path) -> Result<Pending<'a>, Error> {
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
    Pending::write(path, |out| {
        let mut at = 0;
        for (offset, data) in &moved {
            io::copy(&mut io::Read::take(io::repeat(0), offset - at), out)?;
            out.write_all(data)?;
            at = offset + data.len() as u64;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::tensor_proto;
    use quantal_tensor::Tensor;

    #[test]
    fn a_model_over_the_limit_gets_a_data_file_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let large: Vec<f32> = (0..300).map(|i| i as f32).collect();
        let tensors =
            [&large[..], &large[..3], &large].map(|v| Tensor::from_slice(&[v.len()], v).expect("a few bytes"));
        let initializer = tensors.iter().map(|t| tensor_proto("w", t).unwrap()).collect();
        let graph = GraphProto { initializer, ..GraphProto::default() };
        let proto = ModelProto { graph: Some(Box::new(graph)), ..ModelProto::default() };
        // Before either file has its name, the model and its data are there to be read.
        let held = |model: Model| {
            assert_eq!(model.path.as_deref(), Some(&*path));
            for (t, expected) in model.graph().initializer.iter().zip([300, 3, 300]) {
                assert_eq!(model.tensor(t)?.len(), expected);
            }
            Ok::<(), Error>(())
        };
        save_within(proto.clone(), None, &path, 1000, held).unwrap();

        let model = Model::open(&path).unwrap();
        let found = &model.graph().initializer;
        assert_eq!(found.iter().map(TensorProto::is_external).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(found[2].external_data[1].value, "4096");
        for (t, expected) in found.iter().zip(&tensors) {
            assert_eq!(model.tensor(t).unwrap().as_slice::<f32>(), expected.as_slice::<f32>());
        }
        // Onto itself, with its own data mapped: taken in again, and moved out again.
        save_within(model.proto.clone(), Some(&model), &path, 1000, held).unwrap();
        let again = Model::open(&path).unwrap();
        assert_eq!(again.tensor(&again.graph().initializer[2]).unwrap().as_slice::<f32>(), large);

        let other = folder.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let unlikely = |_| Ok::<(), Error>(());
        assert!(save_within(proto.clone(), None, &other.join("m.onnx"), 10, unlikely).is_err());
        // A model that is found to be no good leaves no trace.
        let refused = |_| Err(Error::NoGraph);
        assert!(matches!(save_within(proto, None, &other.join("m.onnx"), 1000, refused), Err(Error::NoGraph)));
        assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0, "not even the data file");
    }

    #[test]
    fn external_data_deep_inside_is_found_and_its_surroundings_rewritten() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("w.bin"), [5, 6]).unwrap();
        let t = TensorProto {
            dims: vec![2],
            data_type: 2,
            data_location: Some(1),
            external_data: vec![StringStringEntryProto::new("location", "w.bin")],
            ..TensorProto::default()
        };
        let constant = AttributeProto { t: Some(Box::new(t)), ..AttributeProto::default() };
        let inner = NodeProto { attribute: vec![constant], ..NodeProto::default() };
        let body = GraphProto { node: vec![inner], ..GraphProto::default() };
        let body = AttributeProto { g: Some(Box::new(body)), ..AttributeProto::default() };
        let outer = NodeProto { attribute: vec![body], ..NodeProto::default() };
        let graph = GraphProto { node: vec![outer], ..GraphProto::default() };
        let proto = ModelProto { graph: Some(Box::new(graph)), ..ModelProto::default() };
        let (a, b) = (folder.path().join("a.onnx"), folder.path().join("b.onnx"));
        crate::save_atomic(&a, &encode(&proto)).unwrap();

        let source = Model::open(&a).unwrap();
        save(source.proto.clone(), Some(&source), &b).unwrap();
        std::fs::remove_file(folder.path().join("w.bin")).unwrap();
        let saved = Model::open(&b).unwrap();
        let body = saved.graph().node[0].attribute[0].g.as_ref().unwrap();
        let t = body.node[0].attribute[0].t.as_ref().unwrap();
        assert_eq!(saved.tensor(t).unwrap().as_slice::<u8>(), [5, 6]);
    }
}
