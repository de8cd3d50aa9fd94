use quantal_tensor::arith;

use super::{Divisor, avg_pool, max_pool, mean, sum};
use crate::eltwise::OutCodes;
use crate::testing::{DRAWS, Seeded, code, odd_window, on_every_width};
use crate::{ConvGeometry, Threads};

fn cases() -> Vec<ConvGeometry> {
    let window = |c, kernel, stride, [top, left]: [usize; 2], [batch, h, w, h_out, w_out]: [usize; 5]| {
        let (pads, dilation) = ([top, left, 1, 0], [1, 1]);
        ConvGeometry { batch, h, w, c_in: c, c_out: c, kernel, stride, dilation, pads, groups: c, h_out, w_out }
    };
    let listed = vec![
        window(64, [3, 3], [2, 2], [1, 1], [2, 12, 12, 6, 6]),
        window(5, [2, 2], [2, 2], [0, 0], [1, 7, 7, 4, 4]),
        ConvGeometry { dilation: [2, 1], ..window(100, [3, 3], [2, 1], [2, 1], [2, 7, 5, 4, 5]) },
        window(64, [2, 2], [3, 3], [1, 1], [1, 5, 5, 2, 2]),
        ConvGeometry { dilation: [2, 3], ..window(17, [3, 2], [1, 1], [2, 1], [1, 9, 8, 9, 7]) },
        window(1, [1, 1], [1, 1], [0, 0], [3, 2, 2, 2, 2]),
        window(33, [7, 5], [3, 2], [3, 4], [1, 10, 10, 4, 7]),
    ];
    let drawn = (0..DRAWS).map(|seed| {
        let mut random = Seeded::new(seed);
        let c = random.pick(&[1, 1, 3, 16, 64, 70]);
        odd_window(&mut random, [c, c, c])
    });
    listed.into_iter().chain(drawn).collect()
}

/// Input positions of the taps over `at`, those outside the image as well.
fn positions(g: &ConvGeometry, axis: usize, at: usize) -> impl Iterator<Item = isize> + Clone {
    let (d, origin) = (g.dilation[axis], (at * g.stride[axis]) as isize - g.pads[axis] as isize);
    (0..g.kernel[axis]).map(move |k| origin + (k * d) as isize)
}

#[test]
fn pools_equal_their_definition() {
    let y = OutCodes { zero_point: 100, qmin: 0, qmax: 255 };
    for g in cases() {
        let x = Seeded::new(g.c_in as u64).bytes(g.batch * g.h * g.w * g.c_in);
        for signed in [false, true] {
            for divisor in [Divisor::Inside, Divisor::Padded] {
                let (mut largest, mut means) = (Vec::new(), Vec::new());
                for i in 0..g.batch * g.h_out * g.w_out * g.c_in {
                    let (pixel, c) = (i / g.c_in, i % g.c_in);
                    let (image, py, px) = (pixel / (g.h_out * g.w_out), pixel / g.w_out % g.h_out, pixel % g.w_out);
                    let (mut most, mut sum, mut inside, mut padded) = (if signed { -128 } else { 0 }, 0, 0, 0);
                    for ty in positions(&g, 0, py) {
                        for tx in positions(&g, 1, px) {
                            let within = ty < (g.h + g.pads[2]) as isize && tx < (g.w + g.pads[3]) as isize;
                            padded += usize::from(within);
                            if ty >= 0 && tx >= 0 && ty < g.h as isize && tx < g.w as isize {
                                let at = ((image * g.h + ty as usize) * g.w + tx as usize) * g.c_in + c;
                                most = most.max(code(x[at], signed));
                                sum += code(x[at], signed) - 7;
                                inside += 1;
                            }
                        }
                    }
                    largest.push(most as u8);
                    let count = if divisor == Divisor::Inside { inside } else { padded };
                    // Of nothing the mean is real 0.
                    let multiplier = arith::mean_multiplier(0.3, 0.21, count.max(1));
                    means.push(arith::requantize(sum, multiplier, 100, 0, 255) as u8);
                }
                on_every_width(|isa| {
                    let threads = &Threads::new(2);
                    let mut out = vec![0; largest.len()];
                    max_pool(isa, &x, signed, &g, &mut out, threads).unwrap();
                    assert_eq!(out, largest, "{isa}: {g:?}");
                    avg_pool(isa, &x, signed, 7, [0.3, 0.21], &g, divisor, y, &mut out, threads).unwrap();
                    assert_eq!(out, means, "{isa}: {g:?} {divisor:?}");
                });
            }
        }
    }
}

#[test]
fn means_and_sums_equal_their_definition() {
    for [outer, reduced, inner] in [[1, 49, 2048], [3, 10, 1], [2, 7, 5], [1, 100, 300], [1, 3, 521], [2, 5, 0]] {
        let x = Seeded::new(inner as u64).bytes(outer * reduced * inner);
        for signed in [false, true] {
            let z = if signed { -11 } else { 130 };
            let sums: Vec<i32> = (0..outer * inner)
                .map(|i| {
                    let at = |r: usize| (i / inner * reduced + r) * inner + i % inner;
                    (0..reduced).map(|r| code(x[at(r)], signed) - z).sum()
                })
                .collect();
            let m = arith::mean_multiplier(0.1, 0.07, reduced);
            let codes: Vec<u8> = sums.iter().map(|&s| arith::requantize(s, m, 3, -128, 127) as u8).collect();
            on_every_width(|isa| {
                let (threads, dims) = (&Threads::new(2), [outer, reduced, inner]);
                let mut out = vec![0; sums.len()];
                sum(isa, &x, signed, z, dims, &mut out, threads).unwrap();
                assert_eq!(out, sums, "{isa}: {dims:?}");
                let y = OutCodes { zero_point: 3, qmin: -128, qmax: 127 };
                let mut out = vec![0; codes.len()];
                mean(isa, &x, signed, z, dims, [0.1, 0.07], y, &mut out, threads).unwrap();
                assert_eq!(out, codes, "{isa}: {dims:?}");
            });
        }
    }
}

#[test]
fn sums_of_many_rows_do_not_carry_into_their_neighbours() {
    for inner in [8, 32, 64, 65, 96, 144, 320] {
        for reduced in [1, 2, 64, 257, 1000] {
            for byte in [255, 128, 3] {
                let mut x = Seeded::new(inner as u64).bytes(2 * reduced * inner);
                // Every third column is of one code, the extremes among them.
                for (i, x) in x.iter_mut().enumerate() {
                    *x = if i % inner % 3 == 0 { byte } else { *x };
                }
                for signed in [false, true] {
                    let mut want = vec![0; 2 * inner];
                    for (i, &x) in x.iter().enumerate() {
                        want[i / (reduced * inner) * inner + i % inner] += code(x, signed) - 5;
                    }
                    on_every_width(|isa| {
                        let mut out = vec![0; 2 * inner];
                        sum(isa, &x, signed, 5, [2, reduced, inner], &mut out, &Threads::new(2)).unwrap();
                        assert_eq!(out, want, "{isa}: {reduced} rows of {inner}");
                    });
                }
            }
        }
    }
}
