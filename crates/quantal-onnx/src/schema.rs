//! The messages of ONNX, by the field numbers of `onnx-ml.proto`.
//!
//! Texts and numbers whose absence means the same as empty or zero are plain; `Option` where presence matters. What no
//! part of Quantal interprets (documentation of nodes, sharding, training) stays in `unknown`, or is kept as [`Raw`].

use crate::error::Error;
use crate::message::{Field, Message, Packed, Raw, messages};
use crate::wire::{FIXED32, FIXED64, Reader, VARINT};
use quantal_tensor::Bytes;
use std::io::{self, Write};

messages! {
    /// A model: a graph, the operator sets that give it meaning, and where it came from. It has no `origin` of its own:
    /// it is always written field by field, its parts verbatim.
    ModelProto = "model" {
        /// Version of the file format.
        1 ir_version: Option<i64>,
        /// The tool that wrote it.
        2 producer_name: Option<String>,
        /// The version of that tool.
        3 producer_version: Option<String>,
        /// Reverse-DNS name of its owner.
        4 domain: Option<String>,
        /// Version of the model itself.
        5 model_version: Option<i64>,
        /// Documentation.
        6 doc_string: Option<String>,
        /// The graph: always there in a model that [`crate::Model`] opened.
        7 graph: Option<Box<GraphProto>>,
        /// Versions of the operator sets in use.
        8 opset_import: Vec<OperatorSetIdProto>,
        /// Free key-value pairs.
        14 metadata_props: Vec<StringStringEntryProto>,
        /// Training information, not interpreted.
        20 training_info: Vec<Raw>,
        /// Functions that nodes of this model may call.
        25 functions: Vec<FunctionProto>,
    }

    /// Nodes in topological order, constants, and the values that go in and out.
    GraphProto = "graph" {
        /// The nodes.
        1 node: Vec<NodeProto>,
        /// Name of the graph.
        2 name: Option<String>,
        /// Constants, by name.
        5 initializer: Vec<TensorProto>,
        /// Documentation.
        10 doc_string: Option<String>,
        /// Inputs; constants may be listed too, as defaults.
        11 input: Vec<ValueInfoProto>,
        /// Outputs.
        12 output: Vec<ValueInfoProto>,
        /// Types of values between.
        13 value_info: Vec<ValueInfoProto>,
        /// Quantization parameters by value name, an old convention.
        14 quantization_annotation: Vec<TensorAnnotation>,
        /// Constants that are mostly zero, named by their `values`.
        15 sparse_initializer: Vec<SparseTensorProto>,
        /// Free key-value pairs.
        16 metadata_props: Vec<StringStringEntryProto>,
    }

    /// One call of an operator. `doc_string`, `metadata_props` and `device_configurations` are carried in `unknown`.
    NodeProto = "node" [origin] {
        /// Names of the values read; empty for an optional one left out.
        1 input: Vec<String>,
        /// Names of the values made; empty for one not wanted.
        2 output: Vec<String>,
        /// Name of the node, often empty.
        3 name: String,
        /// The operator.
        4 op_type: String,
        /// Attributes.
        5 attribute: Vec<AttributeProto>,
        /// Domain of the operator; empty for `ai.onnx`.
        7 domain: String,
        /// Which overload of a function.
        8 overload: String,
    }

    /// A named attribute of a node: one of the value fields is set, as `kind` says.
    AttributeProto = "attribute" [origin] {
        /// Its name.
        1 name: String,
        /// `FLOAT`.
        2 f: Option<f32>,
        /// `INT`.
        3 i: Option<i64>,
        /// `STRING`: UTF-8 by convention, any bytes in fact.
        4 s: Option<Vec<u8>>,
        /// `TENSOR`.
        5 t: Option<Box<TensorProto>>,
        /// `GRAPH`.
        6 g: Option<Box<GraphProto>>,
        /// `FLOATS`.
        7 floats: Vec<f32>,
        /// `INTS`.
        8 ints: Vec<i64>,
        /// `STRINGS`.
        9 strings: Vec<Vec<u8>>,
        /// `TENSORS`.
        10 tensors: Vec<TensorProto>,
        /// `GRAPHS`.
        11 graphs: Vec<GraphProto>,
        /// Documentation.
        13 doc_string: String,
        /// `TYPE_PROTO`.
        14 tp: Option<Box<TypeProto>>,
        /// `TYPE_PROTOS`.
        15 type_protos: Vec<TypeProto>,
        /// The `AttributeType` that says which value counts (see the constants of this type); 0 in old files.
        20 kind: i32,
        /// In a function: the attribute of the call that gives the value.
        21 ref_attr_name: String,
        /// `SPARSE_TENSOR`.
        22 sparse_tensor: Option<Box<SparseTensorProto>>,
        /// `SPARSE_TENSORS`.
        23 sparse_tensors: Vec<SparseTensorProto>,
    }

    /// A tensor: read it through [`crate::Model::tensor`].
    TensorProto = "tensor" [origin] {
        /// Dimensions, outermost first; unchecked.
        1 dims: Vec<i64>,
        /// `TensorProto.DataType`, see [`quantal_tensor::DType::from_onnx`].
        2 data_type: i32,
        /// The part of a tensor stored in pieces: never used, refused on reading.
        3 segment: Option<Raw>,
        /// `float32`, and `complex64` as pairs.
        4 float_data: Packed<FIXED32>,
        /// Integers of up to 32 bits, and the bits of the small float types.
        5 int32_data: Packed<VARINT>,
        /// Texts.
        6 string_data: Vec<Raw>,
        /// `int64`.
        7 int64_data: Packed<VARINT>,
        /// Its name.
        8 name: String,
        /// Little-endian elements of any type but text, sub-byte types packed.
        9 raw_data: Option<Raw>,
        /// `float64`, and `complex128` as pairs.
        10 double_data: Packed<FIXED64>,
        /// `uint32` and `uint64`.
        11 uint64_data: Packed<VARINT>,
        /// Documentation.
        12 doc_string: String,
        /// Where the data lie outside: `location`, `offset`, `length`, `checksum`.
        13 external_data: Vec<StringStringEntryProto>,
        /// 0: here. 1: as `external_data` says.
        14 data_location: Option<i32>,
        /// Free key-value pairs.
        16 metadata_props: Vec<StringStringEntryProto>,
    }

    /// A tensor of mostly zeros: read it through [`crate::Model::sparse_tensor`].
    SparseTensorProto = "sparse tensor" [origin] {
        /// The non-zero elements, `[nnz]`; its name is the name of the whole.
        1 values: Option<Box<TensorProto>>,
        /// Where they lie, ascending: `[nnz]` row-major or `[nnz, rank]`.
        2 indices: Option<Box<TensorProto>>,
        /// Dimensions of the whole.
        3 dims: Vec<i64>,
    }

    /// Name and type of a value.
    ValueInfoProto = "value" [origin] {
        /// Its name.
        1 name: String,
        /// Its type.
        2 ty: Option<Box<TypeProto>>,
        /// Documentation.
        3 doc_string: String,
        /// Free key-value pairs.
        4 metadata_props: Vec<StringStringEntryProto>,
    }

    /// A type: one of the fields is set.
    TypeProto = "type" {
        /// A dense tensor.
        1 tensor_type: Option<Box<TensorType>>,
        /// A sequence of one type.
        4 sequence_type: Option<Box<ElementType>>,
        /// A map.
        5 map_type: Option<Box<MapType>>,
        /// What the value stands for.
        6 denotation: String,
        /// A type of another domain, not interpreted.
        7 opaque_type: Option<Raw>,
        /// A sparse tensor.
        8 sparse_tensor_type: Option<Box<TensorType>>,
        /// Something or nothing.
        9 optional_type: Option<Box<ElementType>>,
    }

    /// Element type and shape of a tensor.
    TensorType = "tensor type" {
        /// `TensorProto.DataType`.
        1 elem_type: i32,
        /// Shape; absent if not even the rank is known.
        2 shape: Option<Box<TensorShapeProto>>,
    }

    /// The type inside a sequence or an optional.
    ElementType = "element type" {
        /// The type.
        1 elem_type: Option<Box<TypeProto>>,
    }

    /// Key and value types of a map.
    MapType = "map type" {
        /// `TensorProto.DataType` of the key.
        1 key_type: i32,
        /// Type of the value.
        2 value_type: Option<Box<TypeProto>>,
    }

    /// Dimensions, known or not.
    TensorShapeProto = "shape" {
        /// Outermost first.
        1 dim: Vec<Dimension>,
    }

    /// One dimension: a size, a name, or neither.
    Dimension = "dimension" {
        /// Its size.
        1 dim_value: Option<i64>,
        /// Its name.
        2 dim_param: Option<String>,
        /// What it stands for.
        3 denotation: String,
    }

    /// An operator set and its version.
    OperatorSetIdProto = "operator set" [origin] {
        /// Its domain; empty for `ai.onnx`.
        1 domain: String,
        /// Its version.
        2 version: i64,
    }

    /// A key-value pair.
    StringStringEntryProto = "key-value pair" [origin] {
        /// The key.
        1 key: String,
        /// The value.
        2 value: String,
    }

    /// Quantization parameters of one value.
    TensorAnnotation = "tensor annotation" [origin] {
        /// The value.
        1 tensor_name: String,
        /// Role (`SCALE_TENSOR`, `ZERO_POINT_TENSOR`) to name of the tensor that plays it.
        2 quant_parameter_tensor_names: Vec<StringStringEntryProto>,
    }

    /// An operator defined by a graph.
    FunctionProto = "function" [origin] {
        /// The operator that it defines.
        1 name: String,
        /// Names of its inputs.
        4 input: Vec<String>,
        /// Names of its outputs.
        5 output: Vec<String>,
        /// Attributes without default.
        6 attribute: Vec<String>,
        /// Its nodes.
        7 node: Vec<NodeProto>,
        /// Documentation.
        8 doc_string: String,
        /// Versions of the operator sets that its nodes use.
        9 opset_import: Vec<OperatorSetIdProto>,
        /// Its domain.
        10 domain: String,
        /// Attributes with default.
        11 attribute_proto: Vec<AttributeProto>,
        /// Types of values inside.
        12 value_info: Vec<ValueInfoProto>,
        /// Which overload it is.
        13 overload: String,
        /// Free key-value pairs.
        14 metadata_props: Vec<StringStringEntryProto>,
    }
}

/// `AttributeProto.AttributeType`.
#[allow(missing_docs)]
impl AttributeProto {
    pub const FLOAT: i32 = 1;
    pub const INT: i32 = 2;
    pub const STRING: i32 = 3;
    pub const TENSOR: i32 = 4;
    pub const GRAPH: i32 = 5;
    pub const FLOATS: i32 = 6;
    pub const INTS: i32 = 7;
    pub const STRINGS: i32 = 8;
    pub const TENSORS: i32 = 9;
    pub const GRAPHS: i32 = 10;
    pub const SPARSE_TENSOR: i32 = 11;
    pub const SPARSE_TENSORS: i32 = 12;
    pub const TYPE_PROTO: i32 = 13;
    pub const TYPE_PROTOS: i32 = 14;
}

impl TensorProto {
    /// Whether the data lie in another file.
    pub fn is_external(&self) -> bool {
        self.data_location == Some(1)
    }
}

impl StringStringEntryProto {
    /// A pair.
    pub fn new(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), value: value.to_owned(), ..Self::default() }
    }
}
