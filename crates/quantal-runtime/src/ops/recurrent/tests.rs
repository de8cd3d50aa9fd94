use super::super::testing::{assert_near, f32s, ints, run, text};
use super::*;
use quantal_ir::{Attr, Attrs};

fn names(attrs: Attrs, list: &[&str]) -> Attrs {
    attrs.with("activations", Attr::Strs(list.iter().map(|s| s.as_bytes().into()).collect()))
}

/// An LSTM of one cell whose gates are the identity, so that every number can be written down.
#[test]
fn a_linear_lstm_by_hand_with_peepholes_and_lengths() {
    let x = f32s(&[2, 2, 1], &[1., 1., 2., 2.]);
    // Gates i, o, f, c.
    let w = f32s(&[1, 4, 1], &[1., 1., 0., 2.]);
    let r = f32s(&[1, 4, 1], &[0., 0., 0., 1.]);
    let b = f32s(&[1, 8], &[0., 0., 1., 0., 0., 0., 0., 0.]);
    let p = f32s(&[1, 3], &[0., 1., 0.]);
    let lengths = Tensor::from_slice(&[2], &[2_i32, 1]).unwrap();
    let attrs = names(Attrs::new(), &["Affine", "Affine", "Affine"]);
    let inputs = [Some(&x), Some(&w), Some(&r), Some(&b), Some(&lengths), None, None, Some(&p)];
    let y = run(Op::Lstm, attrs, 14, &inputs).unwrap();
    // t0: i = 1, f = 1, g = 2, c = 2, o = 1 + c = 3, h = 6. t1: i = 2, g = 4 + 6, c = 2 + 20, o = 2 + 22, h = 528.
    assert_near(y[0].as_slice::<f32>(), &[6., 6., 528., 0.]);
    assert_near(y[1].as_slice::<f32>(), &[528., 6.]);
    assert_near(y[2].as_slice::<f32>(), &[22., 2.]);
}

#[test]
fn a_gru_resets_before_or_after_its_product() {
    let x = f32s(&[1, 1, 1], &[1.]);
    // Gates z, r, h.
    let w = f32s(&[1, 3, 1], &[0.5, 2., 1.]);
    let r = f32s(&[1, 3, 1], &[0., 0., 1.]);
    let b = f32s(&[1, 6], &[0., 0., 0., 0., 0., 10.]);
    let h = f32s(&[1, 1, 1], &[4.]);
    let inputs = [Some(&x), Some(&w), Some(&r), Some(&b), None, Some(&h)];
    let attrs = names(Attrs::new(), &["Affine", "Affine"]);
    // z = 0.5, r = 2: h' = 1 + 2·4 + 10 = 19, or 1 + 2·(4 + 10) = 29; h = 0.5·h' + 0.5·4.
    let y = run(Op::Gru, attrs.clone(), 14, &inputs).unwrap();
    assert_near(y[0].as_slice::<f32>(), &[11.5]);
    let y = run(Op::Gru, attrs.with("linear_before_reset", Attr::Int(1)), 14, &inputs).unwrap();
    assert_near(y[0].as_slice::<f32>(), &[16.5]);
}

#[test]
fn reverse_reads_from_the_end_and_layout_puts_the_batch_first() {
    let x = f32s(&[1, 3, 1], &[1., 2., 3.]);
    let (w, r) = (f32s(&[1, 3, 1], &[0., 0., 1.]), f32s(&[1, 3, 1], &[0., 0., 0.]));
    let attrs = text(names(Attrs::new(), &["Affine", "Affine"]), "direction", "reverse");
    let attrs = attrs.with("layout", Attr::Int(1));
    let y = run(Op::Gru, attrs, 14, &[Some(&x), Some(&w), Some(&r)]).unwrap();
    assert_eq!((y[0].shape(), y[1].shape()), (&[1, 3, 1, 1][..], &[1, 1, 1][..]));
    assert_near(y[0].as_slice::<f32>(), &[1., 2., 3.]);
    assert_near(y[1].as_slice::<f32>(), &[1.]);
}

#[test]
fn wrong_shapes_and_unknown_names_are_errors() {
    let x = f32s(&[1, 1, 2], &[0.; 2]);
    let (w, r) = (f32s(&[1, 3, 1], &[0.; 3]), f32s(&[1, 3, 1], &[0.; 3]));
    assert!(run(Op::Gru, Attrs::new(), 14, &[Some(&x), Some(&w), Some(&r)]).is_err());
    assert!(run(Op::Gru, names(Attrs::new(), &["Nope", "Tanh"]), 14, &[Some(&x), Some(&w), Some(&r)]).is_err());
    let attrs = ints(Attrs::new(), &[]).with("hidden_size", Attr::Int(7));
    assert!(run(Op::Gru, attrs, 14, &[Some(&x), Some(&w), Some(&r)]).is_err());
}
