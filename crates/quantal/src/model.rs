//! A model: opened, asked for its inputs, compiled, saved.

use crate::engine::Engine;
use crate::error::{Error, shown};
use quantal_data::InputSpec;
use quantal_ir::Graph;
use quantal_runtime::{Mode, Program, Session};
use quantal_tensor::{Bytes, Tensor};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// An ONNX model as a graph, and where it came from.
#[derive(Clone, Debug)]
pub struct Model {
    /// The graph, as it was imported.
    pub graph: Graph,
    /// The file's name, for messages and reports.
    pub name: String,
    /// Size of the file and of its external data.
    pub bytes: u64,
}

impl Model {
    /// Opens a file. Everything but the data of large tensors is read and checked here.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let model = quantal_onnx::Model::open(path)?;
        let bytes = model.total_bytes();
        Self::import(model, shown(path), bytes)
    }

    /// Reads a model from memory; its tensors cannot lie in other files.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, Error> {
        let held = Bytes::copy_from(bytes).map_err(|e| Error::job(e.to_string(), ""))?;
        Self::import(quantal_onnx::Model::parse(held)?, name.to_owned(), bytes.len() as u64)
    }

    fn import(model: quantal_onnx::Model, name: String, bytes: u64) -> Result<Self, Error> {
        let graph = quantal_ir::import(&Arc::new(model));
        let graph = graph.map_err(|cause| Error::Import { path: name.clone(), cause })?;
        Ok(Self { graph, name, bytes })
    }

    /// What the model wants fed: one entry an input.
    pub fn inputs(&self) -> Result<Vec<InputSpec>, Error> {
        let spec = |&v| {
            let value = self.graph.value(v);
            let unknown = |what| {
                Error::job(
                    format!("{}: input `{}` has no {what}", self.name, value.name.escape_debug()),
                    "export the model with typed inputs",
                )
            };
            let dtype = value.dtype.ok_or_else(|| unknown("element type"))?;
            let shape = value.shape.as_ref().ok_or_else(|| unknown("declared rank"))?;
            let shape = shape.iter().map(quantal_ir::Dim::known).collect();
            Ok(InputSpec { name: value.name.to_string(), dtype, shape })
        };
        self.graph.inputs.iter().map(spec).collect()
    }

    /// Compiles the model: quantized nodes run on integers where they can.
    pub fn compile(&self, mode: Mode, engine: Engine) -> Result<Program, Error> {
        Ok(quantal_runtime::compile(&self.graph, mode, engine.isa)?)
    }

    /// A session that runs the compiled model.
    pub fn session(&self, mode: Mode, engine: Engine) -> Result<Session, Error> {
        Ok(Session::new(self.compile(mode, engine)?, engine.threads))
    }

    /// The graph with the shapes that these feeds give it, where the model leaves sizes free.
    pub(crate) fn with_input_shapes(&self, feeds: &[(String, Tensor)]) -> Graph {
        let mut graph = self.graph.clone();
        for (name, tensor) in feeds {
            if let Some(v) = graph.find(name) {
                let dims = tensor.shape().iter().map(|&d| quantal_ir::Dim::Known(d)).collect();
                graph.value_mut(v).shape = Some(dims);
            }
        }
        // What cannot be inferred stays unknown: the figures that want it then say so.
        let _ = quantal_ir::infer::run(&mut graph);
        graph
    }

    /// Writes the model, whole or not at all, and gives the bytes written, external data included. Before the file
    /// takes its name it is read again, its shapes are inferred and it is compiled, so no file is left that cannot be
    /// loaded.
    ///
    /// # Errors
    /// If the file cannot be written, or cannot be loaded again.
    pub fn save(&self, path: &Path) -> Result<u64, Error> {
        let proto = quantal_ir::export(&self.graph)?;
        let source = self.graph.source.as_deref();
        let mut bytes = 0;
        quantal_onnx::save_checked(proto, source, path, |written| {
            bytes = written.total_bytes();
            check_written(written, source).map_err(|why| {
                let message = format!("{}: the model that was made is no good and was not written: {why}", shown(path));
                // A lack of memory is no bug.
                let hint = why.hint().filter(|hint| hint.contains("memory"));
                let bug = "this is a bug in quantal: please report it with the model";
                Error::job(message, hint.as_deref().unwrap_or(bug))
            })
        })?;
        Ok(bytes)
    }
}

/// Loads and compiles a model as it was written. Its inputs and outputs must be those of `source`.
fn check_written(written: quantal_onnx::Model, source: Option<&quantal_onnx::Model>) -> Result<(), Error> {
    if let Some(source) = source {
        let (was, is) = (interface(source), interface(&written));
        if was != is {
            return Err(Error::job(format!("its inputs and outputs are {is}, not {was}"), ""));
        }
    }
    let bytes = written.total_bytes();
    let model = Model::import(written, "the written file".to_owned(), bytes)?;
    let engine = Engine { isa: quantal_kernels::Isa::PORTABLE, threads: 1 };
    model.compile(Mode::Integer, engine).map(drop)
}

/// Names and element types of what a model is fed and gives, in order. Constants that are inputs too may be either.
fn interface(model: &quantal_onnx::Model) -> String {
    let graph = model.graph();
    let constants: BTreeSet<&str> = graph.initializer.iter().map(|t| &*t.name).collect();
    let list = |values: &[quantal_onnx::ValueInfoProto], skip: &BTreeSet<&str>| {
        let one = |v: &quantal_onnx::ValueInfoProto| {
            let tensor = v.ty.as_ref().and_then(|t| t.tensor_type.as_ref());
            let dtype = tensor.and_then(|t| quantal_tensor::DType::from_onnx(t.elem_type));
            format!("`{}` {}", v.name.escape_debug(), dtype.map_or("?", |d| d.name()))
        };
        values.iter().filter(|v| !skip.contains(&*v.name)).map(one).collect::<Vec<_>>().join(", ")
    };
    format!("({}) -> ({})", list(&graph.input, &constants), list(&graph.output, &BTreeSet::new()))
}

/// Writes named tensors as an `.npz`, whole or not at all.
pub fn save_npz(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), Error> {
    Ok(quantal_onnx::save_atomic(path, &quantal_data::npz::write_npz(tensors)?)?)
}

/// Writes a text file, whole or not at all.
pub fn save_text(path: &Path, text: &str) -> Result<(), Error> {
    Ok(quantal_onnx::save_atomic(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use crate::quickstart::embedded;

    #[test]
    fn a_model_that_cannot_be_loaded_is_never_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        let (model, ..) = embedded().unwrap();
        let bytes = model.save(&path).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());

        // A node that reads what nothing makes.
        let mut broken = model.clone();
        let id = broken.graph.nodes().last().unwrap().0;
        let lost = broken.graph.add_value("lost", Some(quantal_tensor::DType::F32), None);
        broken.graph.node_mut(id).inputs[0] = Some(lost);
        let before = std::fs::read(&path).unwrap();
        let error = broken.save(&path).unwrap_err();
        assert!(error.to_string().contains("`lost`") && error.hint().unwrap().contains("bug"), "{error}");

        // An output of another name.
        let mut renamed = model.clone();
        let output = renamed.graph.outputs[0];
        renamed.graph.value_mut(output).name = "other".into();
        let error = renamed.save(&path).unwrap_err();
        assert!(error.to_string().contains("`other`"), "{error}");

        assert_eq!(std::fs::read(&path).unwrap(), before, "the file that was there stays");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "and nothing is beside it");
    }
}
