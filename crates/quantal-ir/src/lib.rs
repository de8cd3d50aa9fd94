//! The graph: imports, infers, rewrites and exports ONNX models; never runs them.
