use super::*;
use quantal_ir::{Attr, Attrs};
use quantal_kernels::{Isa, Threads};

fn run(op: Op, attrs: Attrs, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
    let node = Node::new(op, "n", Vec::new(), Vec::new(), attrs);
    let inputs: Vec<Option<&Tensor>> = inputs.iter().copied().map(Some).collect();
    let context = Context { isa: Isa::detect().unwrap(), threads: &Threads::new(1) };
    Selection::prepare(&node, 18)?.run(&inputs, &context).map(|mut out| out.remove(0))
}

fn ints(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

fn axis(a: i64) -> Attrs {
    Attrs::new().with("axis", Attr::Int(a))
}

#[test]
fn gather_takes_the_shape_of_the_indices() {
    // The second example of the specification.
    let x = floats(&[3, 3], &[1.0, 1.2, 1.9, 2.3, 3.4, 3.9, 4.5, 5.7, 5.9]);
    let y = run(Op::Gather, axis(1), &[&x, &ints(&[1, 2], &[0, -1])]).unwrap();
    assert_eq!((y.shape(), y.as_slice::<f32>()), (&[3, 1, 2][..], &[1.0, 1.9, 2.3, 3.9, 4.5, 5.9][..]));
    let y = run(Op::Gather, axis(0), &[&x, &ints(&[], &[1])]).unwrap();
    assert_eq!((y.shape(), y.as_slice::<f32>()), (&[3][..], &[2.3, 3.4, 3.9][..]));
    let error = run(Op::Gather, axis(0), &[&x, &ints(&[1], &[3])]).unwrap_err().to_string();
    assert!(error.contains("index 3") && error.contains("size 3"), "{error}");
}

#[test]
fn elements_are_picked_and_put_along_an_axis() {
    let x = ints(&[3, 3], &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let y = run(Op::GatherElements, axis(0), &[&x, &ints(&[2, 3], &[1, 2, 0, 2, 0, 0])]).unwrap();
    assert_eq!(y.as_slice::<i64>(), [4, 8, 3, 7, 2, 3]);
    let y = run(Op::GatherElements, axis(1), &[&x, &ints(&[2, 2], &[0, 0, -1, 0])]).unwrap();
    assert_eq!(y.as_slice::<i64>(), [1, 1, 6, 4]);
    assert!(run(Op::GatherElements, axis(1), &[&x, &ints(&[4, 1], &[0; 4])]).is_err());

    let (x, at) = (floats(&[1, 5], &[1.0, 2.0, 3.0, 4.0, 5.0]), ints(&[1, 2], &[1, 1]));
    let scatter = |reduction: &str| {
        let attrs = axis(1).with("reduction", Attr::Str(reduction.as_bytes().into()));
        run(Op::ScatterElements, attrs, &[&x, &at, &floats(&[1, 2], &[1.5, 2.5])]).unwrap().as_slice::<f32>()[1]
    };
    assert_eq!(["none", "add", "mul", "max", "min"].map(scatter), [2.5, 6.0, 7.5, 2.5, 1.5]);
}

#[test]
fn tuples_pick_with_and_without_batches() {
    // The examples of the specification.
    let x = ints(&[2, 2], &[0, 1, 2, 3]);
    let y = run(Op::GatherND, Attrs::new(), &[&x, &ints(&[2, 2], &[0, 0, 1, 1])]).unwrap();
    assert_eq!(y.as_slice::<i64>(), [0, 3]);
    let x = ints(&[2, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7]);
    let y = run(Op::GatherND, Attrs::new(), &[&x, &ints(&[2, 1, 2], &[0, 1, 1, 0])]).unwrap();
    assert_eq!((y.shape(), y.as_slice::<i64>()), (&[2, 1, 2][..], &[2, 3, 4, 5][..]));
    let batched = Attrs::new().with("batch_dims", Attr::Int(1));
    let y = run(Op::GatherND, batched.clone(), &[&x, &ints(&[2, 1], &[1, 0])]).unwrap();
    assert_eq!((y.shape(), y.as_slice::<i64>()), (&[2, 2][..], &[2, 3, 4, 5][..]));
    assert!(run(Op::GatherND, batched, &[&x, &ints(&[3, 1], &[1, 0, 0])]).is_err());
    assert!(run(Op::GatherND, Attrs::new(), &[&x, &ints(&[1, 4], &[0; 4])]).is_err());
}

#[test]
fn tuples_put_in_order() {
    let x = ints(&[8], &[1, 2, 3, 4, 5, 6, 7, 8]);
    let y = run(Op::ScatterND, Attrs::new(), &[&x, &ints(&[4, 1], &[4, 3, 1, 7]), &ints(&[4], &[9, 10, 11, 12])]);
    assert_eq!(y.unwrap().as_slice::<i64>(), [1, 11, 3, 10, 9, 6, 7, 12]);
    assert_eq!(x.as_slice::<i64>()[1], 2, "the input stays as it is");
    let y = run(Op::ScatterND, Attrs::new(), &[&x, &ints(&[1, 1], &[8]), &ints(&[1], &[9])]);
    assert!(y.unwrap_err().to_string().contains("index 8"));
}

#[test]
fn one_hot_counts_negative_indices_from_the_end_and_ignores_the_rest() {
    let values = floats(&[2], &[1.0, 3.0]);
    let y = run(Op::OneHot, axis(1), &[&ints(&[3], &[1, -1, 7]), &ints(&[], &[3]), &values]).unwrap();
    assert_eq!((y.shape(), y.as_slice::<f32>()), (&[3, 3][..], &[1.0, 3.0, 1.0, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0][..]));
    let y = run(Op::OneHot, axis(0), &[&ints(&[2], &[i64::MIN, 0]), &ints(&[], &[2]), &values]).unwrap();
    assert_eq!(y.as_slice::<f32>(), [1.0, 3.0, 1.0, 1.0]);
}

#[test]
fn places_of_what_is_not_zero() {
    let y = run(Op::NonZero, Attrs::new(), &[&ints(&[2, 2], &[1, 0, 1, 1])]).unwrap();
    assert_eq!((y.shape(), y.as_slice::<i64>()), (&[2, 3][..], &[0, 1, 1, 0, 0, 1][..]));
    assert_eq!(run(Op::NonZero, Attrs::new(), &[&ints(&[], &[5])]).unwrap().shape(), [0, 1]);
}
