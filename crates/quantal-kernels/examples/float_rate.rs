//! GFLOP/s of the float kernels on ResNet-50 shapes, and the share of the peak of a register-only loop.
//!
//! ```text
//! cargo run --release -p quantal-kernels --example float_rate [threads]
//! ```
//! Times are minima over short runs, so that a busy machine disturbs them little.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use quantal_kernels::float::{AView, BView, Epilogue, PackedB, PackedConv, conv, fma_loop, gemm};
use quantal_kernels::{ConvGeometry, Isa, Level, Threads};

/// The shortest of many runs, in seconds.
fn fastest(mut run: impl FnMut()) -> f64 {
    run();
    let (begin, mut best, mut times) = (Instant::now(), f64::INFINITY, 0);
    while times < 5 || (begin.elapsed() < Duration::from_millis(400) && times < 500) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
        times += 1;
    }
    best
}

fn main() {
    let threads = Threads::new(std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1));
    for isa in Isa::available() {
        if isa.level() == Level::Portable {
            continue;
        }
        let mut flops = 0;
        let peak = fastest(|| flops = fma_loop(isa, 1 << 14));
        let peak = flops as f64 / peak * 1e-9;
        println!("{isa}: peak {peak:.1} GFLOP/s on one thread");
        let report = |name: &str, flops: f64, seconds: f64| {
            let rate = flops / seconds * 1e-9;
            let share = rate / peak / threads.count() as f64 * 100.0;
            println!("  {name:<34} {rate:7.1} GFLOP/s  {share:5.1} %  {:8.1} us", seconds * 1e6);
        };

        for (m, n, k) in
            [(3136, 64, 64), (3136, 256, 64), (784, 128, 512), (196, 1024, 256), (49, 512, 2048), (1, 1000, 2048)]
        {
            let (a, b, mut out) = (vec![0.5; m * k], vec![0.25; k * n], vec![0.0; m * n]);
            let b = PackedB::pack(BView { data: &b, k, n, stride_k: n, stride_n: 1 });
            let a = AView { data: &a, m, row_stride: k, col_stride: 1 };
            let time = fastest(|| gemm(isa, a, &b, &Epilogue::NONE, &mut out, n, &threads));
            report(&format!("gemm {m}x{n}x{k}"), 2.0 * (m * n * k) as f64, time);
        }
        let convs = [
            ([1, 224, 224, 3], 64, 7, 2, 3),
            ([1, 56, 56, 64], 64, 3, 1, 1),
            ([1, 28, 28, 128], 128, 3, 1, 1),
            ([1, 14, 14, 256], 256, 3, 1, 1),
            ([1, 7, 7, 512], 512, 3, 1, 1),
            ([1, 56, 56, 256], 512, 1, 2, 0),
        ];
        for (input, c_out, kernel, stride, pad) in convs {
            let g =
                ConvGeometry::new(input, c_out, [kernel; 2], [stride; 2], [1; 2], [pad; 4], 1).expect("a valid shape");
            let x = vec![0.5; input.iter().product()];
            let weight = PackedConv::pack(&g, &vec![0.25; c_out * g.k()]);
            let mut out = vec![0.0; g.pixels_out() * c_out];
            let bias = vec![0.1; c_out];
            let e = Epilogue { bias: Some(&bias), clamp: (0.0, f32::INFINITY), ..Epilogue::NONE };
            let time = fastest(|| conv(isa, &g, &x, &weight, &e, &mut out, &threads));
            let name = format!("conv {}x{}x{} {kernel}x{kernel}/{stride} -> {c_out}", input[1], input[2], input[3]);
            report(&name, 2.0 * (g.pixels_out() * c_out * g.k()) as f64, time);
        }
    }
}
