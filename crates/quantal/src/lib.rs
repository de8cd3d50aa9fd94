//! INT8 quantization of ONNX models that truly run in INT8.
