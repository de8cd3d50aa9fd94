//! `quantal eval`: the outcome of each sample, for paired comparisons.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../quantal/assets/quickstart");

#[test]
fn hits_lie_in_the_order_of_the_samples() {
    // Every other digit is given a class that the network does not have.
    let mut labels = "file,label\n".to_owned();
    for i in 0..250 {
        writeln!(labels, "{i},{}", if i % 2 == 0 { 99 } else { 1 }).expect("text takes what is written");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("every_other.csv");
    std::fs::write(&path, labels).expect("the folder of tests can be written");
    let output = Command::new(env!("CARGO_BIN_EXE_quantal"))
        .args(["eval", &format!("{ASSETS}.onnx"), "--data", &format!("{ASSETS}-calibration-images.idx3-ubyte.gz")])
        .args(["--labels", path.to_str().expect("a path of text"), "--threads", "1", "--json"])
        .output()
        .expect("the command starts");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let hits = found["hits"].as_str().expect("text");
    assert_eq!(hits.len(), 250);
    assert!(hits.chars().step_by(2).all(|c| c == '0'), "{hits}");
    let right = hits.matches('1').count();
    // About a tenth of digits are ones.
    assert!((4..40).contains(&right), "{hits}");
    assert!((found["top1"].as_f64().expect("a number") - right as f64 / 250.0).abs() < 1e-12);
}
