use super::super::super::testing::{assert_near, f32s};
use super::*;
use quantal_ir::{Attr, Attrs};

fn attrs(heads: i64, kv_heads: i64) -> Attrs {
    Attrs::new().with("num_heads", Attr::Int(heads)).with("kv_num_heads", Attr::Int(kv_heads))
}

fn ints(values: &[i32]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).unwrap()
}

/// The fourth output is not wanted, unlike in the helper that other tests use.
fn group_query(attrs: Attrs, inputs: &Inputs<'_>) -> Result<Vec<Tensor>, OpError> {
    let outputs = (0..3).map(quantal_ir::ValueId).collect();
    let given = inputs.iter().map(|i| i.map(|_| quantal_ir::ValueId(0))).collect();
    let node = Node::new(OP, "n", given, outputs, attrs);
    let threads = quantal_kernels::Threads::new(1);
    let context = Context { isa: quantal_kernels::Isa::PORTABLE, threads: &threads };
    GroupQuery::of(&node)?.run(inputs, &context)
}

#[test]
fn two_query_heads_share_a_key_head_and_see_no_later_key() {
    // Two words, two query heads of size 1, one key head. Scores of head 0 are 0, of head 1 ln 2 for the second key.
    let l = 2f32.ln();
    let q = f32s(&[1, 2, 2], &[0.0, l, 0.0, l]);
    let (k, v) = (f32s(&[1, 2, 1], &[0.0, 1.0]), f32s(&[1, 2, 1], &[3.0, 6.0]));
    let (last, total) = (ints(&[1]), ints(&[2]));
    let inputs = [Some(&q), Some(&k), Some(&v), None, None, Some(&last), Some(&total)];
    let y = group_query(attrs(2, 1), &inputs).unwrap();
    // The first word sees itself; the second weighs by (1/2, 1/2) and (1/3, 2/3).
    assert_eq!(y[0].shape(), [1, 2, 2]);
    assert_near(y[0].as_slice::<f32>(), &[3.0, 3.0, 4.5, 5.0]);
    assert_eq!((y[1].shape(), y[1].as_slice::<f32>()), (&[1, 1, 2, 1][..], &[0.0, 1.0][..]));
    // The same in one tensor: queries, keys, values.
    let packed = f32s(&[1, 2, 4], &[0.0, l, 0.0, 3.0, 0.0, l, 1.0, 6.0]);
    let inputs = [Some(&packed), None, None, None, None, Some(&last), Some(&total)];
    assert_near(group_query(attrs(2, 1), &inputs).unwrap()[0].as_slice::<f32>(), &[3.0, 3.0, 4.5, 5.0]);
}

#[test]
fn a_cache_is_written_behind_what_each_text_holds() {
    // A buffer of three entries; the first text holds two keys before this one, the second one.
    let past_k = f32s(&[2, 1, 3, 1], &[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]);
    let past_v = f32s(&[2, 1, 3, 1], &[3.0, 6.0, 9.0, 1.0, 9.0, 9.0]);
    let (q, k) = (f32s(&[2, 1, 1], &[0.0, 0.0]), f32s(&[2, 1, 1], &[5.0, 5.0]));
    let v = f32s(&[2, 1, 1], &[0.0, 3.0]);
    let (last, total) = (ints(&[2, 1]), ints(&[3]));
    let inputs = [Some(&q), Some(&k), Some(&v), Some(&past_k), Some(&past_v), Some(&last), Some(&total)];
    let y = group_query(attrs(1, 1), &inputs).unwrap();
    // All keys weigh the same: (3 + 6 + 0) / 3 and (1 + 3) / 2.
    assert_near(y[0].as_slice::<f32>(), &[3.0, 2.0]);
    assert_eq!(y[1].as_slice::<f32>(), [0.0, 0.0, 5.0, 0.0, 5.0, 0.0]);
    // A window of two keys leaves (6 + 0) / 2 of the first.
    let y = group_query(attrs(1, 1).with("local_window_size", Attr::Int(2)), &inputs).unwrap();
    assert_near(y[0].as_slice::<f32>(), &[3.0, 2.0]);
}

#[test]
fn positions_turn_queries_and_keys() {
    // Position 1 turns by a quarter: (1, 0) becomes (0, 1), so the second query meets only its own key.
    let q = f32s(&[1, 2, 2], &[1.0, 0.0, 1.0, 0.0]);
    let v = f32s(&[1, 2, 2], &[1.0, 0.0, 5.0, 0.0]);
    let (cos, sin) = (f32s(&[2, 1], &[1.0, 0.0]), f32s(&[2, 1], &[0.0, 1.0]));
    let (last, total) = (ints(&[1]), ints(&[2]));
    let inputs = [Some(&q), Some(&q), Some(&v), None, None, Some(&last), Some(&total), Some(&cos), Some(&sin)];
    let attrs = attrs(1, 1).with("do_rotary", Attr::Int(1)).with("scale", Attr::Float(3f32.ln()));
    let y = group_query(attrs, &inputs).unwrap();
    // Scores 0 and ln 3: weights 1/4 and 3/4.
    assert_near(y[0].as_slice::<f32>(), &[1.0, 0.0, 4.0, 0.0]);
    assert_eq!(y[1].as_slice::<f32>(), [1.0, 0.0, 0.0, 1.0]);
}

#[test]
fn a_sink_takes_its_share_of_the_weights() {
    // Two keys with scores 0, and a sink: of 0 for a smooth softmax, else of ln 2.
    let (q, v) = (f32s(&[1, 1, 1], &[0.0]), f32s(&[1, 1, 1], &[6.0]));
    let past = f32s(&[1, 1, 1, 1], &[6.0]);
    let (last, total, sink) = (ints(&[1]), ints(&[2]), f32s(&[1], &[2f32.ln()]));
    let mut inputs = vec![None; 12];
    for (i, t) in [&q, &q, &v, &past, &past, &last, &total].into_iter().enumerate() {
        inputs[i] = Some(t);
    }
    let smooth = attrs(1, 1).with("smooth_softmax", Attr::Int(1));
    assert_near(group_query(smooth, &inputs).unwrap()[0].as_slice::<f32>(), &[4.0]);
    inputs[11] = Some(&sink);
    assert_near(group_query(attrs(1, 1), &inputs).unwrap()[0].as_slice::<f32>(), &[3.0]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let q = f32s(&[1, 2, 2], &[0.0; 4]);
    let kv = f32s(&[1, 2, 2], &[0.0; 4]);
    let run = |last: i32, total: i32| {
        let (last, total) = (ints(&[last]), ints(&[total]));
        group_query(attrs(1, 1), &[Some(&q), Some(&kv), Some(&kv), None, None, Some(&last), Some(&total)])
    };
    assert!(run(1, 2).is_ok());
    // More keys than there are, fewer than are new, and a negative number of them.
    assert!(run(2, 3).is_err() && run(0, 3).is_err() && run(-5, 2).is_err() && run(i32::MAX, i32::MAX).is_err());
    assert!(group_query(attrs(3, 2), &[]).is_err());
    let later = attrs(1, 1).with("causal", Attr::Int(0));
    assert!(matches!(group_query(later, &[Some(&q)]), Err(OpError::Unsupported(_))));
}
