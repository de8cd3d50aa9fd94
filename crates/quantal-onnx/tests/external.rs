//! External data: what may be opened, and what an attacker may try.
#![cfg(unix)]

use quantal_onnx::{
    Error, GraphProto, Model, ModelProto, Raw, StringStringEntryProto, TensorProto, encode, save, save_atomic,
};
use quantal_tensor::Bytes;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn entries(pairs: &[(&str, &str)]) -> Vec<StringStringEntryProto> {
    pairs.iter().map(|(k, v)| StringStringEntryProto::new(k, v)).collect()
}

fn float4(pairs: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        name: "w".into(),
        dims: vec![4],
        data_type: 1,
        external_data: entries(pairs),
        data_location: Some(1),
        ..TensorProto::default()
    }
}

fn write_model(path: &Path, tensor: TensorProto) {
    let graph = GraphProto { initializer: vec![tensor], ..GraphProto::default() };
    let proto = ModelProto { ir_version: Some(8), graph: Some(Box::new(graph)), ..ModelProto::default() };
    save_atomic(path, &encode(&proto)).unwrap();
}

fn read(path: &Path) -> Result<Vec<f32>, String> {
    let model = Model::open(path).unwrap();
    model.tensor(&model.graph().initializer[0]).map(|t| t.as_slice::<f32>().to_vec()).map_err(|e| e.to_string())
}

const DATA: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

fn data() -> Vec<u8> {
    DATA.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn plain_names_folders_and_links_inside_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/w.bin"), [vec![9; 8], data()].concat()).unwrap();
    symlink("sub/w.bin", dir.path().join("link.bin")).unwrap();
    fs::hard_link(dir.path().join("sub/w.bin"), dir.path().join("hard.bin")).unwrap();
    for location in ["sub/w.bin", "./sub/w.bin", "link.bin", "hard.bin"] {
        write_model(&path, float4(&[("location", location), ("offset", "8"), ("length", "16"), ("odd", "-1")]));
        assert_eq!(read(&path).unwrap(), DATA, "{location}");
        write_model(&path, float4(&[("location", location), ("offset", "8")]));
        assert_eq!(read(&path).unwrap(), DATA, "{location} without a length");
    }
}

#[test]
fn a_model_that_is_a_link_may_use_the_folder_it_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshot"));
    fs::create_dir(&blobs).unwrap();
    fs::create_dir(&snapshot).unwrap();
    fs::write(blobs.join("0a1b"), data()).unwrap();
    write_model(&blobs.join("ffff"), float4(&[("location", "w.bin")]));
    symlink("../blobs/ffff", snapshot.join("m.onnx")).unwrap();
    symlink("../blobs/0a1b", snapshot.join("w.bin")).unwrap();
    assert_eq!(read(&snapshot.join("m.onnx")).unwrap(), DATA);
    fs::rename(blobs.join("0a1b"), blobs.join("w.bin")).unwrap();
    fs::remove_file(snapshot.join("w.bin")).unwrap();
    assert_eq!(read(&snapshot.join("m.onnx")).unwrap(), DATA);
}

#[test]
fn nothing_outside_the_folder_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret.bin");
    fs::write(&secret, data()).unwrap();
    let home = dir.path().join("home");
    fs::create_dir_all(home.join("sub")).unwrap();
    symlink("../secret.bin", home.join("link.bin")).unwrap();
    symlink("..", home.join("up")).unwrap();
    symlink("link.bin", home.join("link2.bin")).unwrap();
    let absolute = secret.to_str().unwrap();
    for (location, words) in [
        ("../secret.bin", "`..`"),
        ("sub/../../secret.bin", "`..`"),
        ("sub/..", "`..`"),
        (absolute, "absolute"),
        ("C:/secret.bin", "absolute"),
        ("link.bin", "leads out"),
        ("link2.bin", "leads out"),
        ("up/secret.bin", "leads out"),
        ("..\\secret.bin", "backslash"),
        ("", "empty"),
        (".", "regular file"),
        ("sub", "regular file"),
        ("w\0.bin", "NUL"),
        ("*/_ORT_MEM_ADDR_/*", "address"),
        ("gone.bin", "no such file"),
    ] {
        write_model(&home.join("m.onnx"), float4(&[("location", location)]));
        let message = read(&home.join("m.onnx")).unwrap_err();
        assert!(message.contains(words) && message.contains("`w`"), "{location:?}: {message}");
        assert!(!message.contains(char::is_control));
    }
    let fifo = home.join("pipe");
    if std::process::Command::new("mkfifo").arg(&fifo).status().is_ok_and(|s| s.success()) {
        write_model(&home.join("m.onnx"), float4(&[("location", "pipe")]));
        assert!(read(&home.join("m.onnx")).unwrap_err().contains("regular file"), "and does not wait for a writer");
        assert!(Model::open(&fifo).unwrap_err().to_string().contains("not a regular file"));
    }
}

#[test]
fn ranges_must_lie_in_the_file_and_fit_the_dims() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("w.bin"), data()).unwrap();
    fs::write(dir.path().join("empty.bin"), []).unwrap();
    let path = dir.path().join("m.onnx");
    for (location, key, value, words) in [
        ("w.bin", "offset", "1000000", "beyond"),
        ("w.bin", "offset", "1", "beyond"),
        ("w.bin", "offset", "18446744073709551608", "beyond"),
        ("w.bin", "offset", "18446744073709551616", "not a byte count"),
        ("w.bin", "offset", "-1", "not a byte count"),
        ("w.bin", "offset", "+0", "not a byte count"),
        ("w.bin", "offset", "", "not a byte count"),
        ("w.bin", "length", "1125899906842624", "need 16"),
        ("w.bin", "length", "0", "need 16"),
        ("w.bin", "length", "12", "need 16"),
        ("empty.bin", "offset", "0", "beyond"),
    ] {
        write_model(&path, float4(&[("location", location), (key, value)]));
        let message = read(&path).unwrap_err();
        assert!(message.contains(words), "{key} {value}: {message}");
    }
    let both =
        TensorProto { raw_data: Some(Raw(Bytes::copy_from(&data()).unwrap())), ..float4(&[("location", "w.bin")]) };
    write_model(&path, both);
    assert!(read(&path).unwrap_err().contains("both"));
}

#[test]
fn a_large_file_is_mapped_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = fs::File::create(dir.path().join("big.bin")).unwrap();
    file.set_len(8 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &data(), 7 << 30).unwrap();
    let path = dir.path().join("m.onnx");
    write_model(&path, float4(&[("location", "big.bin"), ("offset", &(7_u64 << 30).to_string())]));
    assert_eq!(read(&path).unwrap(), DATA);
}

#[test]
fn a_model_from_memory_opens_no_file() {
    let graph = GraphProto { initializer: vec![float4(&[("location", "w.bin")])], ..GraphProto::default() };
    let proto = ModelProto { graph: Some(Box::new(graph)), ..ModelProto::default() };
    let model = Model::parse(Bytes::copy_from(&encode(&proto)).unwrap()).unwrap();
    assert!(matches!(model.tensor(&model.graph().initializer[0]), Err(Error::External { .. })));
}

#[test]
fn saving_elsewhere_takes_the_external_data_along() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("w.bin"), data()).unwrap();
    let path = dir.path().join("m.onnx");
    write_model(&path, float4(&[("location", "w.bin")]));
    let model = Model::open(&path).unwrap();
    let other = tempfile::tempdir().unwrap();
    let copy = other.path().join("copy.onnx");
    save(model.proto.clone(), Some(&model), &copy).unwrap();
    assert_eq!(read(&copy).unwrap(), DATA);
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    assert!(save(model.proto.clone(), None, &copy).is_err(), "without the source there is no data to take");
}

#[test]
fn what_is_not_a_model_is_called_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.onnx");
    for (bytes, words) in [
        (&b""[..], "x.onnx` is empty"),
        (b"<!DOCTYPE html><html></html>\n", "HTML"),
        (b"GGUF\x03\0\0\0", "x.onnx` is a GGUF file, not ONNX"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"PK\x03\x04", "zip"),
        (b"{\"a\": 1}", "JSON"),
        ("# Nötes\n".as_bytes(), "x.onnx` is a text file, not ONNX"),
        (b"\x08\x08", "x.onnx`: the model has no graph"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = Model::open(&path).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().is_some());
    }
    assert!(Model::open(dir.path()).unwrap_err().to_string().contains("is a directory"));
    assert!(Model::open(Path::new("/dev/null")).unwrap_err().to_string().contains("not a regular file"));
    assert!(Model::open(&dir.path().join("gone.onnx")).unwrap_err().to_string().contains("no such file"));
}
