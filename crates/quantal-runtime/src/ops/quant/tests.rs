use super::super::testing::{f32s, ints, run};
use super::*;
use quantal_ir::Attr;

fn u8s(shape: &[usize], values: &[u8]) -> Tensor {
    Tensor::from_slice(shape, values).unwrap()
}

fn s(v: f32) -> Tensor {
    Tensor::scalar(v).unwrap()
}

#[test]
fn quantize_by_channel_by_block_and_to_four_bits() {
    let x = f32s(&[2, 2], &[1., 2., 3., 40.]);
    let scale = f32s(&[2], &[1., 2.]);
    let y = run(Op::QuantizeLinear, Attrs::new(), 21, &[Some(&x), Some(&scale)]).unwrap();
    assert_eq!(y[0].as_slice::<u8>(), [1, 1, 3, 20]);
    let attrs = Attrs::new().with("axis", Attr::Int(0)).with("output_dtype", Attr::Int(22));
    let y = run(Op::QuantizeLinear, attrs, 21, &[Some(&x), Some(&scale)]).unwrap();
    assert_eq!((y[0].dtype(), y[0].as_slice::<i8>()), (DType::I4, &[1, 2, 2, 7][..]));
    let attrs = Attrs::new().with("axis", Attr::Int(0)).with("block_size", Attr::Int(2));
    let y = run(Op::QuantizeLinear, attrs, 21, &[Some(&x), Some(&f32s(&[1, 2], &[1., 10.]))]).unwrap();
    // 2 / 10 and 40 / 10.
    assert_eq!(y[0].as_slice::<u8>(), [1, 0, 3, 4]);
}

#[test]
fn dequantize_undoes_it_in_the_type_of_the_scale() {
    let q = u8s(&[1, 2], &[130, 126]);
    let z = u8s(&[2], &[128, 128]);
    let y = run(Op::DequantizeLinear, Attrs::new(), 21, &[Some(&q), Some(&f32s(&[2], &[0.5, 2.])), Some(&z)]).unwrap();
    assert_eq!(y[0].as_slice::<f32>(), [1., -4.]);
}

#[test]
fn precision_is_the_type_of_the_division() {
    // Halves from 2048 on are even, those of bfloat16 multiples of 16, and of 8 from 1024 on. 1000 / 0.75 is 1333.3.
    let (x, scale) = (f32s(&[3], &[2049., 1029., 1000.]), f32s(&[3], &[1., 1., 0.75]));
    let codes = |precision: i64| {
        let attrs = Attrs::new().with("precision", Attr::Int(precision)).with("output_dtype", Attr::Int(5));
        let attrs = attrs.with("axis", Attr::Int(0));
        run(Op::QuantizeLinear, attrs, 23, &[Some(&x), Some(&scale)]).map(|y| y[0].as_slice::<i16>().to_vec())
    };
    let wanted = [[2049, 1029, 1333], [2049, 1029, 1333], [2048, 1029, 1333], [2048, 1032, 1336]];
    assert_eq!([0, 1, 10, 16].map(|p| codes(p).unwrap()), wanted);
    assert!(codes(7).is_err());
}

#[test]
fn parameters_that_do_not_fit_are_refused_and_odd_scales_are_not_fatal() {
    let x = f32s(&[2, 2], &[1., -2., f32::NAN, f32::INFINITY]);
    assert!(run(Op::QuantizeLinear, Attrs::new(), 21, &[Some(&x), Some(&f32s(&[3], &[1.; 3]))]).is_err());
    let attrs = Attrs::new().with("axis", Attr::Int(7));
    assert!(run(Op::QuantizeLinear, attrs, 21, &[Some(&x), Some(&f32s(&[2], &[1.; 2]))]).is_err());
    let attrs = Attrs::new().with("block_size", Attr::Int(i64::MAX));
    assert!(run(Op::QuantizeLinear, attrs, 21, &[Some(&x), Some(&f32s(&[2], &[1.; 2]))]).is_err());
    for scale in [0.0, f32::NAN, f32::INFINITY, -1.0] {
        run(Op::QuantizeLinear, Attrs::new(), 21, &[Some(&x), Some(&s(scale))]).unwrap();
    }
}

#[test]
fn dynamic_quantization_follows_the_formula_of_the_standard() {
    // The official example: scale 5 / 255, zero point 3 / scale = 153.
    let x = f32s(&[6], &[0., 2., -3., -2.5, 1.34, 0.5]);
    let y = run(Op::DynamicQuantizeLinear, Attrs::new(), 11, &[Some(&x)]).unwrap();
    assert_eq!(y[0].as_slice::<u8>(), [153, 255, 0, 26, 221, 179]);
    assert_eq!((y[1].as_slice::<f32>(), y[2].as_slice::<u8>()), (&[0.019_607_844][..], &[153][..]));
}

#[test]
fn sums_and_products_of_codes_are_the_equations() {
    let (a, b) = (u8s(&[2, 1], &[10, 200]), u8s(&[2], &[3, 250]));
    let (sa, za, sb, zb, sy, zy) = (s(0.03), u8s(&[], &[120]), s(0.05), u8s(&[], &[3]), s(0.07), u8s(&[], &[77]));
    let inputs = [&a, &sa, &za, &b, &sb, &zb, &sy, &zy].map(Some);
    let y = run(Op::QLinearAdd, Attrs::new(), 1, &inputs).unwrap();
    let z = run(Op::QLinearMul, Attrs::new(), 1, &inputs).unwrap();
    let mut i = 0;
    for qa in [10, 200] {
        for qb in [3, 250] {
            let (ca, cb) = (qa - 120, qb - 3);
            assert_eq!(i32::from(y[0].as_slice::<u8>()[i]), arith::add(ca, 0.03 / 0.07, cb, 0.05 / 0.07, 77, 0, 255));
            let m = arith::multiplier(0.03, 0.05, 0.07);
            assert_eq!(i32::from(z[0].as_slice::<u8>()[i]), arith::requantize(ca * cb, m, 77, 0, 255));
            i += 1;
        }
    }
}

#[test]
fn pools_of_codes_are_means_in_either_layout() {
    let x = u8s(&[1, 2, 1, 2], &[10, 14, 20, 40]);
    let (sx, zx) = (s(0.5), u8s(&[], &[10]));
    let inputs = [&x, &sx, &zx, &sx, &zx].map(Some);
    let y = run(Op::QLinearGlobalAveragePool, Attrs::new(), 1, &inputs).unwrap();
    assert_eq!((y[0].shape(), y[0].as_slice::<u8>()), (&[1, 2, 1, 1][..], &[12, 30][..]));
    // Channels last: [1, 2, 1, 2] is two rows of one pixel of two channels.
    let last = Attrs::new().with("channels_last", Attr::Int(1));
    let y = run(Op::QLinearGlobalAveragePool, last, 1, &inputs).unwrap();
    assert_eq!((y[0].shape(), y[0].as_slice::<u8>()), (&[1, 1, 1, 2][..], &[15, 27][..]));
    // Padding counts as real 0, the code 10: means of (0, 0), (0, 4), (4, 0) and (0, 10), (10, 30), (30, 0) above it.
    let attrs = ints(Attrs::new(), &[("kernel_shape", &[1, 2]), ("pads", &[0, 1, 0, 1])]);
    let attrs = attrs.with("count_include_pad", Attr::Int(1));
    let y = run(Op::QLinearAveragePool, attrs, 1, &inputs).unwrap();
    assert_eq!(y[0].as_slice::<u8>(), [10, 12, 12, 15, 30, 25]);
}

#[test]
fn joining_requantizes_each_part() {
    let (sy, zy) = (s(0.5), u8s(&[], &[0]));
    let (a, sa, za) = (u8s(&[1, 1], &[7]), s(0.5), u8s(&[], &[0]));
    let (b, sb, zb) = (u8s(&[1, 2], &[13, 9]), s(1.0), u8s(&[], &[10]));
    let inputs = [&sy, &zy, &a, &sa, &za, &b, &sb, &zb].map(Some);
    let y = run(Op::QLinearConcat, Attrs::new().with("axis", Attr::Int(1)), 1, &inputs).unwrap();
    assert_eq!(y[0].as_slice::<u8>(), [7, 6, 0]);
    assert!(run(Op::QLinearConcat, Attrs::new().with("axis", Attr::Int(1)), 1, &inputs[..7]).is_err());
}
