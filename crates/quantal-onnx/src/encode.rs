//! From a tensor to a `TensorProto`.

use crate::error::Error;
use crate::message::Raw;
use crate::schema::TensorProto;
use quantal_tensor::{Bytes, Tensor};

/// `tensor` under `name`, its data raw: shared with the tensor, or packed if its elements are smaller than a byte.
pub fn tensor_proto(name: &str, tensor: &Tensor) -> Result<TensorProto, Error> {
    Ok(TensorProto {
        name: name.to_owned(),
        dims: tensor.shape().iter().map(|&d| d as i64).collect(),
        data_type: tensor.dtype().to_onnx(),
        raw_data: Some(Raw(pack(tensor)?)),
        ..TensorProto::default()
    })
}

fn pack(tensor: &Tensor) -> Result<Bytes, Error> {
    let bits = tensor.dtype().bits_in_file();
    if bits >= 8 {
        return Ok(tensor.clone().into_bytes());
    }
    let per_byte = 8 / bits;
    let mut packed = Bytes::zeroed(tensor.len().div_ceil(per_byte))?;
    let out = packed.make_mut()?;
    for (i, &value) in tensor.bytes().iter().enumerate() {
        out[i / per_byte] |= (value & ((1 << bits) - 1)) << (i % per_byte * bits);
    }
    Ok(packed)
}
