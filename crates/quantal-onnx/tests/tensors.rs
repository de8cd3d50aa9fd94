//! Every element type from every place where ONNX lets its data be.

use half::{bf16, f16};
use quantal_onnx::{Error, Model, Raw, SparseTensorProto, TensorProto, tensor_proto};
use quantal_tensor::{Bytes, DType, Tensor};

fn model() -> Model {
    Model::parse(Bytes::copy_from(&[0x3a, 0]).unwrap()).unwrap()
}

fn raw(dtype: DType, dims: &[i64], data: &[u8]) -> TensorProto {
    TensorProto {
        name: "w".into(),
        dims: dims.to_vec(),
        data_type: dtype.to_onnx(),
        raw_data: Some(Raw(Bytes::copy_from(data).unwrap())),
        ..TensorProto::default()
    }
}

/// A tensor `[count]` with one typed field, given as wire bytes, read through a real parse.
fn typed(code: u8, count: u8, field: u8, payload: &[u8]) -> Result<Tensor, Error> {
    let tensor = [&[8, count, 16, code, field << 3 | 2, payload.len() as u8][..], payload].concat();
    let graph = [&[42, tensor.len() as u8][..], &tensor].concat();
    let model = [&[0x3a, graph.len() as u8][..], &graph].concat();
    let model = Model::parse(Bytes::copy_from(&model).unwrap()).unwrap();
    model.tensor(&model.graph().initializer[0])
}

/// -1 as protobuf writes an int32.
const MINUS_ONE: [u8; 10] = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];

#[test]
fn typed_fields() {
    assert_eq!(typed(1, 1, 4, &1.5_f32.to_le_bytes()).unwrap().as_slice::<f32>(), [1.5]);
    assert_eq!(typed(11, 1, 10, &(-2.5_f64).to_le_bytes()).unwrap().as_slice::<f64>(), [-2.5]);
    assert_eq!(typed(7, 2, 7, &[&MINUS_ONE[..], &[5]].concat()).unwrap().as_slice::<i64>(), [-1, 5]);
    assert_eq!(typed(13, 1, 11, &MINUS_ONE).unwrap().as_slice::<u64>(), [u64::MAX]);
    assert_eq!(typed(12, 1, 11, &[255, 255, 255, 255, 15]).unwrap().as_slice::<u32>(), [u32::MAX]);
    assert_eq!(typed(6, 2, 5, &[&MINUS_ONE[..], &[5]].concat()).unwrap().as_slice::<i32>(), [-1, 5]);
    assert_eq!(typed(5, 1, 5, &MINUS_ONE).unwrap().as_slice::<i16>(), [-1]);
    assert_eq!(typed(4, 1, 5, &[255, 255, 3]).unwrap().as_slice::<u16>(), [65535]);
    assert_eq!(typed(3, 1, 5, &MINUS_ONE).unwrap().as_slice::<i8>(), [-1]);
    assert_eq!(typed(2, 1, 5, &[255, 1]).unwrap().as_slice::<u8>(), [255]);
    assert_eq!(typed(9, 2, 5, &[0, 7]).unwrap().as_slice::<u8>(), [0, 1]);
    // 1.0 is 0x3c00 = 15360 in half precision, 0x3f80 = 16256 in bfloat16.
    assert_eq!(typed(10, 1, 5, &[0x80, 0x78]).unwrap().as_slice::<f16>(), [f16::ONE]);
    assert_eq!(typed(16, 1, 5, &[0x80, 0x7f]).unwrap().as_slice::<bf16>(), [bf16::ONE]);
    // Sub-byte types: one packed byte a number, 0xf1 and 0x07.
    assert_eq!(typed(22, 3, 5, &[0xf1, 1, 7]).unwrap().as_slice::<i8>(), [1, -1, 7]);
    assert_eq!(typed(21, 3, 5, &[0xf1, 1, 7]).unwrap().as_slice::<u8>(), [1, 15, 7]);
    // 0xe4 = 11 10 01 00.
    assert_eq!(typed(25, 4, 5, &[0xe4, 1]).unwrap().as_slice::<u8>(), [0, 1, 2, 3]);
    assert_eq!(typed(26, 4, 5, &[0xe4, 1]).unwrap().as_slice::<i8>(), [0, 1, -2, -1]);

    assert!(typed(2, 1, 5, &[128, 2]).unwrap_err().to_string().contains("256 does not fit"));
    assert!(typed(3, 1, 5, &[128, 1]).unwrap_err().to_string().contains("128 does not fit"));
    assert!(typed(7, 3, 7, &[1, 2]).unwrap_err().to_string().contains("need 3 numbers of data, found 2"));
    assert!(typed(7, 1, 7, &[1, 2]).is_err(), "too many");
    assert!(typed(1, 1, 5, &[1]).unwrap_err().to_string().contains("need 4 bytes of data, found 0"), "wrong field");
    assert!(typed(7, 1, 7, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]).is_err(), "an 11-byte number");
}

#[test]
fn raw_data_and_back() {
    let model = model();
    for (dtype, dims, data) in [
        (DType::F32, &[2, 1][..], &[0, 0, 128, 63, 0, 0, 0, 192][..]),
        (DType::I8, &[3], &[1, 255, 128]),
        (DType::C64, &[1], &[0, 0, 128, 63, 0, 0, 0, 192]),
        (DType::F8E4M3FN, &[2], &[1, 2]),
        (DType::I4, &[5], &[0x21, 0xf8, 0x07]),
        (DType::U4, &[2, 2], &[0x21, 0xf8]),
        (DType::F4E2M1, &[1], &[0x0f]),
        (DType::U2, &[5], &[0xe4, 0x02]),
        (DType::I2, &[3], &[0x27]),
        (DType::I64, &[0, 7], &[]),
        (DType::F16, &[], &[0, 0x3c]),
    ] {
        let proto = raw(dtype, dims, data);
        let tensor = model.tensor(&proto).unwrap();
        assert_eq!(tensor.dtype(), dtype);
        let back = tensor_proto("w", &tensor).unwrap();
        assert_eq!((&back.dims[..], &back.raw_data.unwrap()[..]), (dims, data), "{dtype}");
    }
    assert_eq!(model.tensor(&raw(DType::I4, &[5], &[0x21, 0xf8, 0x07])).unwrap().as_slice::<i8>(), [1, 2, -8, -1, 7]);
    assert_eq!(model.tensor(&raw(DType::Bool, &[3], &[0, 1, 2])).unwrap().as_slice::<u8>(), [0, 1, 1]);
    // A scalar that starts in the middle of a word of the file.
    let window = Bytes::copy_from(&[9, 0, 0, 128, 63]).unwrap().slice(1..5).unwrap();
    let proto = TensorProto { raw_data: Some(Raw(window)), ..raw(DType::F32, &[], &[]) };
    assert_eq!(model.tensor(&proto).unwrap().as_slice::<f32>(), [1.0]);
}

#[test]
fn sizes_that_lie_are_refused_before_anything_is_allocated() {
    let model = model();
    for (dims, data) in [
        (&[4][..], &[0; 12][..]),
        (&[4], &[0; 17]),
        (&[4], &[]),
        (&[-1, 4], &[0; 16]),
        (&[1 << 32, 1 << 32], &[]),
        (&[1 << 62, 4], &[0; 16]),
        (&[i64::MAX], &[0; 4]),
        (&[1 << 40], &[0; 4]),
        (&[0], &[0; 4]),
    ] {
        let error = model.tensor(&raw(DType::F32, dims, data)).unwrap_err();
        assert!(matches!(error, Error::Tensor { .. }) && error.to_string().contains("`w`"), "{dims:?}: {error}");
    }
    assert!(model.tensor(&raw(DType::I4, &[3], &[0])).is_err());
    assert!(model.tensor(&TensorProto { data_type: 99, ..raw(DType::F32, &[1], &[0; 4]) }).is_err());
    assert!(matches!(model.tensor(&raw(DType::String, &[1], b"")), Err(Error::Unsupported { .. })));
}

#[test]
fn sparse_tensors_are_made_dense_and_their_indices_checked() {
    let model = model();
    let indices = |dims: &[i64], values: &[i64]| {
        raw(DType::I64, dims, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    };
    let dense = |dims: &[i64], indices: TensorProto| {
        let values = raw(DType::U8, &[2], &[7, 9]);
        let sparse = SparseTensorProto {
            values: Some(Box::new(values)),
            indices: Some(Box::new(indices)),
            dims: dims.to_vec(),
            ..SparseTensorProto::default()
        };
        model.sparse_tensor(&sparse).map(|t| t.as_slice::<u8>().to_vec()).map_err(|e| e.to_string())
    };
    assert_eq!(dense(&[2, 3], indices(&[2], &[1, 5])).unwrap(), [0, 7, 0, 0, 0, 9]);
    assert_eq!(dense(&[2, 3], indices(&[2, 2], &[0, 1, 1, 2])).unwrap(), [0, 7, 0, 0, 0, 9]);
    assert!(dense(&[2, 3], indices(&[2], &[1, 6])).unwrap_err().contains("outside"));
    assert!(dense(&[2, 3], indices(&[2, 2], &[0, 1, 0, 3])).unwrap_err().contains("outside"), "in one dimension");
    assert!(dense(&[2, 3], indices(&[2], &[-1, 1])).unwrap_err().contains("outside"));
    assert!(dense(&[2, 3], indices(&[2], &[1, 1])).unwrap_err().contains("ascending"));
    assert!(dense(&[2, 3], indices(&[3], &[1, 2, 3])).unwrap_err().contains("do not fit"));
    assert!(dense(&[0], indices(&[2], &[0, 1])).unwrap_err().contains("outside"));
    assert!(dense(&[], indices(&[2, 0], &[])).is_err());
    assert!(dense(&[1 << 40, 1 << 40], indices(&[2], &[0, 1])).is_err());
}
