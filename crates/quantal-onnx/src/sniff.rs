//! What a file is that turned out not to be ONNX.

/// What `head` begins, and what to do about it; `None` if it does not look like anything known.
pub(crate) fn sniff(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let starts = |magic: &[u8]| head.starts_with(magic);
    let text = head.trim_ascii_start();
    let at_4 = head.get(4..8).unwrap_or_default();
    Some(if head.is_empty() {
        ("empty", "the download or export may have failed; fetch it again")
    } else if starts(b"GGUF") {
        ("a GGUF file, not ONNX", "give the ONNX export of the model")
    } else if starts(b"version https://git-lfs") {
        ("a Git LFS pointer, not the model itself", "run `git lfs pull` to fetch the model")
    } else if starts(b"PK\x03\x04") {
        ("a zip archive, not ONNX", "unpack it, or export the PyTorch model with `torch.onnx.export`")
    } else if starts(b"\x1f\x8b") {
        ("a gzip archive, not ONNX", "unpack it first")
    } else if starts(b"\x89HDF") {
        ("an HDF5 file, not ONNX", "export the Keras model with `tf2onnx`")
    } else if starts(b"\x93NUMPY") {
        ("a NumPy array, not ONNX", "give the ONNX model")
    } else if starts(b"\xff\xd8\xff") || starts(b"\x89PNG") {
        ("a picture, not ONNX", "give the ONNX model first; `--data` takes pictures")
    } else if starts(b"\x80\x02") || starts(b"\x80\x04") {
        ("a Python pickle, not ONNX", "export the model with `torch.onnx.export`")
    } else if at_4 == b"TFL3" {
        ("a TensorFlow Lite model, not ONNX", "convert it with `tf2onnx --tflite`")
    } else if at_4 == b"ORTM" {
        ("an ONNX Runtime ORT-format model", "give the .onnx model that it was made from")
    } else if head.get(8) == Some(&b'{') && head.get(6..8) == Some(&[0, 0]) {
        ("a safetensors file, not ONNX", "give the ONNX export of the model")
    } else if text.starts_with(b"<") {
        ("an HTML or XML page, not ONNX", "the download went wrong; fetch the file itself")
    } else if text.starts_with(b"{") {
        ("a JSON text, not ONNX", "give the ONNX model")
    } else if is_text(head) {
        ("a text file, not ONNX", "give the ONNX model")
    } else {
        return None;
    })
}

/// Whether there is nothing but text. Asked only of what could not be read as a model.
fn is_text(head: &[u8]) -> bool {
    // The last character may be cut in two.
    let utf8 = str::from_utf8(head).map_or_else(|e| e.error_len().is_none(), |_| true);
    utf8 && head.iter().all(|&b| b >= b' ' || matches!(b, b'\t' | b'\n' | b'\r'))
}
