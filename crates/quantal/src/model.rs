//! A model: opened, asked for its inputs, compiled, saved.

use crate::engine::Engine;
use crate::error::{Error, shown};
use quantal_data::InputSpec;
use quantal_ir::Graph;
use quantal_runtime::{Mode, Program, Session};
use quantal_tensor::{Bytes, Tensor};
use std::path::Path;
use std::sync::Arc;

/// An ONNX model as a graph, and where it came from.
#[derive(Clone, Debug)]
pub struct Model {
    /// The graph, as it was imported.
    pub graph: Graph,
    /// The file's name, for messages and reports.
    pub name: String,
    /// Size of the file, external data included where it is known.
    pub bytes: u64,
}

impl Model {
    /// Opens a file. Everything but the data of large tensors is read and checked here.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let model = quantal_onnx::Model::open(path)?;
        let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
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

    /// Writes the model, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let proto = quantal_ir::export(&self.graph)?;
        Ok(quantal_onnx::save(proto, self.graph.source.as_deref(), path)?)
    }
}

/// Writes named tensors as an `.npz`, whole or not at all.
pub fn save_npz(path: &Path, tensors: &[(String, Tensor)]) -> Result<(), Error> {
    Ok(quantal_onnx::save_atomic(path, &quantal_data::npz::write_npz(tensors)?)?)
}

/// Writes a text file, whole or not at all.
pub fn save_text(path: &Path, text: &str) -> Result<(), Error> {
    Ok(quantal_onnx::save_atomic(path, text.as_bytes())?)
}
