//! `quantal run`: named tensors in, named tensors out.

use crate::engine::Engine;
use crate::error::Error;
use crate::model::Model;
use quantal_runtime::Mode;
use quantal_tensor::Tensor;

/// Runs a model once on `feeds`, by input name; gives its outputs by name, in order.
pub fn run(model: &Model, feeds: &[(String, Tensor)], engine: Engine) -> Result<Vec<(String, Tensor)>, Error> {
    Ok(model.session(Mode::Integer, engine)?.run(feeds)?)
}
