//! The ONNX file format: reads and writes, understands no operator.
