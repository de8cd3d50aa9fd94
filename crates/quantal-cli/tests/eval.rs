//! `quantal eval`: the outcome of each sample, for paired comparisons.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../quantal/assets/quickstart");

/// The hits of 250 digits labelled by their place, and the share of them.
fn hits(name: &str, label: impl Fn(usize) -> u8) -> (String, f64) {
    let mut labels = "file,label\n".to_owned();
    for i in 0..250 {
        writeln!(labels, "{i},{}", label(i)).expect("text takes what is written");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, labels).expect("the folder of tests can be written");
    let output = Command::new(env!("CARGO_BIN_EXE_quantal"))
        .args(["eval", &format!("{ASSETS}.onnx"), "--data", &format!("{ASSETS}-calibration-images.idx3-ubyte.gz")])
        .args(["--labels", path.to_str().expect("a path of text"), "--threads", "1", "--json"])
        .output()
        .expect("the command starts");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    (found["hits"].as_str().expect("text").to_owned(), found["top1"].as_f64().expect("a number"))
}

#[test]
fn hits_lie_in_the_order_of_the_samples() {
    let (ones, share) = hits("ones.csv", |_| 1);
    let right = ones.matches('1').count();
    // About a tenth of digits are ones.
    assert!(ones.len() == 250 && (10..50).contains(&right), "{ones}");
    assert!((share - right as f64 / 250.0).abs() < 1e-12);
    // Every other digit is taken for a two: none is both.
    let (mixed, _) = hits("ones_and_twos.csv", |i| if i % 2 == 0 { 2 } else { 1 });
    for (i, (a, b)) in ones.chars().zip(mixed.chars()).enumerate() {
        assert!(if i % 2 == 0 { a == '0' || b == '0' } else { a == b }, "sample {i}: {ones} {mixed}");
    }
    assert_ne!(ones, mixed);
}
