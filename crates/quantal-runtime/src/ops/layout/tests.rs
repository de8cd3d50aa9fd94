use super::*;
use quantal_ir::{Attr, Attrs, ValueId};
use quantal_kernels::{Isa, Threads};

fn run(op: Op, attrs: Attrs, outputs: usize, inputs: &[&Tensor]) -> Result<Vec<Tensor>, OpError> {
    let outputs = (0..outputs as u32).map(ValueId).collect();
    let node = Node::new(op, "n", Vec::new(), outputs, attrs);
    let inputs: Vec<Option<&Tensor>> = inputs.iter().copied().map(Some).collect();
    let context = Context { isa: Isa::detect().unwrap(), threads: &Threads::new(1) };
    Movement::prepare(&node, 18)?.run(&inputs, &context)
}

fn one(op: Op, attrs: Attrs, inputs: &[&Tensor]) -> Result<Tensor, OpError> {
    run(op, attrs, 1, inputs).map(|mut out| out.remove(0))
}

fn ints(values: &[i64]) -> Tensor {
    Tensor::from_slice(&[values.len()], values).unwrap()
}

fn counted(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor::from_slice(shape, &(0..n as i32).collect::<Vec<_>>()).unwrap()
}

fn mode(name: &str) -> Attrs {
    Attrs::new().with("mode", Attr::Str(name.as_bytes().into()))
}

#[test]
fn pads_fill_by_mode_and_crop_where_negative() {
    let x = Tensor::from_slice(&[4], &[1_u8, 2, 3, 4]).unwrap();
    let pad = |m, pads: &[i64]| one(Op::Pad, mode(m), &[&x, &ints(pads)]).unwrap().as_slice::<u8>().to_vec();
    assert_eq!(pad("constant", &[2, 1]), [0, 0, 1, 2, 3, 4, 0]);
    assert_eq!(pad("edge", &[2, 1]), [1, 1, 1, 2, 3, 4, 4]);
    assert_eq!(pad("reflect", &[3, 2]), [4, 3, 2, 1, 2, 3, 4, 3, 2]);
    assert_eq!(pad("wrap", &[2, 5]), [3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1]);
    assert_eq!(pad("constant", &[-1, 2]), [2, 3, 4, 0, 0]);
    assert_eq!(pad("constant", &[-2, -2]), [0_u8; 0]);
    assert!(one(Op::Pad, mode("constant"), &[&x, &ints(&[-3, -2])]).is_err());
    assert!(one(Op::Pad, mode("constant"), &[&x, &ints(&[i64::MAX, i64::MAX])]).is_err());
    assert!(
        one(Op::Pad, mode("edge"), &[&Tensor::zeros(quantal_tensor::DType::U8, &[0]).unwrap(), &ints(&[1, 1])])
            .is_err()
    );
}

#[test]
fn pads_of_named_axes_take_the_value() {
    let (x, value) = (counted(&[2, 2]), Tensor::scalar(9_i32).unwrap());
    let y = one(Op::Pad, mode("constant"), &[&x, &ints(&[1, 0]), &value, &ints(&[-2])]).unwrap();
    assert_eq!((y.shape(), y.as_slice::<i32>()), (&[3, 2][..], &[9, 9, 0, 1, 2, 3][..]));
    let y = one(Op::Pad, mode("constant"), &[&x, &ints(&[0, 1, 1, 0]), &value]).unwrap();
    assert_eq!((y.shape(), y.as_slice::<i32>()), (&[3, 3][..], &[9, 0, 1, 9, 2, 3, 9, 9, 9][..]));
}

#[test]
fn slices_walk_both_ways_and_clamp() {
    let x = counted(&[5]);
    let slice = |start, end, step| {
        let inputs = [&x, &ints(&[start]), &ints(&[end]), &ints(&[0]), &ints(&[step])];
        one(Op::Slice, Attrs::new(), &inputs).unwrap().as_slice::<i32>().to_vec()
    };
    assert_eq!(slice(1, 1000, 2), [1, 3]);
    assert_eq!(slice(-1, i64::MIN, -2), [4, 2, 0]);
    assert_eq!(slice(1000, -1, 1), [0_i32; 0]);
    assert_eq!(slice(3, 0, -1), [3, 2, 1]);
    assert_eq!(slice(0, 5, i64::MAX), [0]);
    assert_eq!(slice(4, i64::MIN, i64::MIN), [4]);
    let empty = Tensor::zeros(quantal_tensor::DType::I32, &[0]).unwrap();
    let back = [&empty, &ints(&[-1]), &ints(&[i64::MIN]), &ints(&[0]), &ints(&[-1])];
    assert!(one(Op::Slice, Attrs::new(), &back).unwrap().is_empty());
    assert!(one(Op::Slice, Attrs::new(), &[&x, &ints(&[0]), &ints(&[1]), &ints(&[0]), &ints(&[0])]).is_err());
    assert!(one(Op::Slice, Attrs::new(), &[&x, &ints(&[0, 0]), &ints(&[1, 1])]).is_err());
}

#[test]
fn splits_are_even_named_or_leave_the_rest_to_the_last() {
    let x = counted(&[7]);
    let lens = |out: Vec<Tensor>| out.iter().map(Tensor::len).collect::<Vec<_>>();
    let uneven = Attrs::new().with("num_outputs", Attr::Int(3));
    assert_eq!(lens(run(Op::Split, uneven, 3, &[&x]).unwrap()), [3, 3, 1]);
    let parts = run(Op::Split, Attrs::new(), 2, &[&x, &ints(&[2, 5])]).unwrap();
    assert_eq!((parts[0].as_slice::<i32>(), parts[1].as_slice::<i32>()), (&[0, 1][..], &[2, 3, 4, 5, 6][..]));
    assert!(run(Op::Split, Attrs::new(), 2, &[&x]).is_err());
    assert!(run(Op::Split, Attrs::new(), 2, &[&x, &ints(&[2, 6])]).is_err());
    assert!(run(Op::Split, Attrs::new(), 2, &[&x, &ints(&[-1, 8])]).is_err());
    assert!(run(Op::Split, Attrs::new().with("num_outputs", Attr::Int(1 << 60)), 2, &[&x]).is_err());
    let x = counted(&[2, 4]);
    let parts = run(Op::Split, Attrs::new().with("axis", Attr::Int(-1)), 2, &[&x]).unwrap();
    assert_eq!((parts[0].as_slice::<i32>(), parts[1].as_slice::<i32>()), (&[0, 1, 4, 5][..], &[2, 3, 6, 7][..]));
    let back = one(Op::Concat, Attrs::new().with("axis", Attr::Int(1)), &[&parts[0], &parts[1]]).unwrap();
    assert_eq!(back.as_slice::<i32>(), x.as_slice::<i32>());
}

#[test]
fn depth_becomes_space_by_either_order() {
    // The example of the specification: 8 channels of 2 x 3, in steps of 9.
    let values: Vec<i32> = (0..8).flat_map(|c| (0..6).map(move |i| c * 9 + i)).collect();
    let x = Tensor::from_slice(&[1, 8, 2, 3], &values).unwrap();
    let attrs = |m: &str| mode(m).with("blocksize", Attr::Int(2));
    let y = one(Op::DepthToSpace, attrs("DCR"), &[&x]).unwrap();
    assert_eq!(y.shape(), [1, 2, 4, 6]);
    assert_eq!(&y.as_slice::<i32>()[..12], [0, 18, 1, 19, 2, 20, 36, 54, 37, 55, 38, 56]);
    let y = one(Op::DepthToSpace, attrs("CRD"), &[&x]).unwrap();
    assert_eq!(&y.as_slice::<i32>()[..12], [0, 9, 1, 10, 2, 11, 18, 27, 19, 28, 20, 29]);
    for order in ["DCR", "CRD"] {
        let y = one(Op::DepthToSpace, attrs(order), &[&x]).unwrap();
        let back = one(Op::SpaceToDepth, attrs(order), &[&y]).unwrap();
        assert_eq!(back.as_slice::<i32>(), x.as_slice::<i32>(), "{order}");
    }
    assert!(one(Op::DepthToSpace, Attrs::new().with("blocksize", Attr::Int(0)), &[&x]).is_err());
    assert!(one(Op::DepthToSpace, Attrs::new().with("blocksize", Attr::Int(i64::MAX)), &[&x]).is_err());
}

#[test]
fn copies_repeat_and_stretch() {
    let y = one(Op::Tile, Attrs::new(), &[&counted(&[2, 2]), &ints(&[2, 2])]).unwrap();
    assert_eq!(y.as_slice::<i32>(), [0, 1, 0, 1, 2, 3, 2, 3, 0, 1, 0, 1, 2, 3, 2, 3]);
    assert!(one(Op::Tile, Attrs::new(), &[&counted(&[2, 2]), &ints(&[i64::MAX, 2])]).is_err());
    let y = one(Op::Expand, Attrs::new(), &[&counted(&[2, 1]), &ints(&[2, 1, 3])]).unwrap();
    assert_eq!((y.shape(), y.as_slice::<i32>()), (&[2, 2, 3][..], &[0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1][..]));
    assert!(one(Op::Expand, Attrs::new(), &[&counted(&[1]), &ints(&[-1])]).is_err());
    assert!(one(Op::Expand, Attrs::new(), &[&counted(&[1]), &ints(&[1 << 40, 1 << 40])]).is_err());
}

#[test]
fn a_perm_must_name_each_axis_once() {
    let perm = |p: &[i64]| Attrs::new().with("perm", Attr::Ints(p.to_vec()));
    let x = counted(&[2, 3]);
    assert_eq!(one(Op::Transpose, perm(&[1, 0]), &[&x]).unwrap().as_slice::<i32>(), [0, 3, 1, 4, 2, 5]);
    for wrong in [&[0][..], &[0, 0], &[0, 2], &[0, 1, 1]] {
        assert!(one(Op::Transpose, perm(wrong), &[&x]).is_err(), "{wrong:?}");
    }
    assert_eq!(one(Op::Transpose, Attrs::new(), &[&counted(&[])]).unwrap().as_slice::<i32>(), [0]);
}

#[test]
fn triangles_start_at_any_diagonal() {
    let x = Tensor::from_slice(&[2, 3], &[1_i64, 2, 3, 4, 5, 6]).unwrap();
    let trilu = |upper, k: i64| {
        let attrs = Attrs::new().with("upper", Attr::Int(upper));
        one(Op::Trilu, attrs, &[&x, &Tensor::scalar(k).unwrap()]).unwrap().as_slice::<i64>().to_vec()
    };
    assert_eq!(trilu(1, 1), [0, 2, 3, 0, 0, 6]);
    assert_eq!(trilu(0, 0), [1, 0, 0, 4, 5, 0]);
    assert_eq!(trilu(0, -1), [0, 0, 0, 4, 0, 0]);
    assert_eq!(trilu(1, i64::MAX), [0; 6]);
    assert_eq!(trilu(0, i64::MAX), [1, 2, 3, 4, 5, 6]);
    assert_eq!(trilu(1, i64::MIN), [1, 2, 3, 4, 5, 6]);
}
