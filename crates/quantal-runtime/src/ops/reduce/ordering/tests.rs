use super::*;
use quantal_ir::{Attr, Attrs};
use quantal_kernels::{Isa, Threads};

fn run(op: Op, attrs: &[(&str, i64)], inputs: &[&Tensor]) -> Result<Vec<Tensor>, OpError> {
    let attrs = attrs.iter().fold(Attrs::new(), |all, (name, v)| all.with(name, Attr::Int(*v)));
    let node = Node::new(op, "n", Vec::new(), Vec::new(), attrs);
    let inputs: Vec<Option<&Tensor>> = inputs.iter().copied().map(Some).collect();
    let context = Context { isa: Isa::detect().unwrap(), threads: &Threads::new(1) };
    Ordering::prepare(&node, 18)?.run(&inputs, &context)
}

fn one<T: Element>(v: T) -> Tensor {
    Tensor::scalar(v).unwrap()
}

#[test]
fn the_first_or_last_of_equal_extremes() {
    let x = Tensor::from_slice(&[2, 3], &[2_i32, 2, 1, 3, 9, 9]).unwrap();
    let place = |op, attrs: &[(&str, i64)]| run(op, attrs, &[&x]).unwrap()[0].as_slice::<i64>().to_vec();
    assert_eq!(place(Op::ArgMax, &[("axis", 1)]), [0, 1]);
    assert_eq!(place(Op::ArgMax, &[("axis", 1), ("select_last_index", 1)]), [1, 2]);
    assert_eq!(place(Op::ArgMin, &[("axis", 0), ("keepdims", 0)]), [0, 0, 0]);
    let empty = Tensor::zeros(DType::F32, &[2, 0]).unwrap();
    assert!(run(Op::ArgMax, &[("axis", 1)], &[&empty]).is_err());
    let nan = Tensor::from_slice(&[3], &[1.0, f32::NAN, 0.0]).unwrap();
    assert_eq!(run(Op::ArgMin, &[], &[&nan]).unwrap()[0].as_slice::<i64>(), [1]);
}

#[test]
fn the_top_is_sorted_and_the_first_of_equals_wins() {
    let x =
        Tensor::from_slice(&[3, 4], &[0.0_f32, 1.0, 2.0, 3.0, 4.0, 7.0, 7.0, 7.0, 11.0, f32::NAN, 9.0, 8.0]).unwrap();
    let out = run(Op::TopK, &[("axis", 1)], &[&x, &one(2_i64)]).unwrap();
    assert_eq!(out[1].as_slice::<i64>(), [3, 2, 1, 2, 1, 0]);
    assert_eq!(out[0].as_slice::<f32>()[..4], [3.0, 2.0, 7.0, 7.0]);
    let out = run(Op::TopK, &[("axis", 0), ("largest", 0)], &[&x, &one(1_i64)]).unwrap();
    assert_eq!((out[1].shape(), out[1].as_slice::<i64>()), (&[1, 4][..], &[0, 0, 0, 0][..]));
    for k in [-1, 5, i64::MAX] {
        assert!(run(Op::TopK, &[("axis", 1)], &[&x, &one(k)]).is_err());
    }
}

#[test]
fn running_sums_in_each_direction() {
    let x = Tensor::from_slice(&[4], &[1_i32, 2, 3, 4]).unwrap();
    let sums = |exclusive, reverse| {
        let attrs = [("exclusive", exclusive), ("reverse", reverse)];
        run(Op::CumSum, &attrs, &[&x, &one(-1_i32)]).unwrap()[0].as_slice::<i32>().to_vec()
    };
    assert_eq!(
        [sums(0, 0), sums(1, 0), sums(0, 1), sums(1, 1)],
        [[1, 3, 6, 10], [0, 1, 3, 6], [10, 9, 7, 4], [9, 7, 4, 0]]
    );
    assert!(run(Op::CumSum, &[], &[&x, &one(1_i64)]).is_err());
}
