//! GFLOP/s of the float kernels on ResNet-50 shapes, and the share of the peak of a register-only loop.
//!
//! ```text
//! cargo run --release -p quantal-kernels --example float_rate [threads]
//! ```
//! On one thread of Linux the times are minima of the CPU's time, which a busy machine disturbs little; else of the
//! clock's.
#![allow(clippy::print_stdout)]
#![allow(unsafe_code, reason = "asks the system for the time of a thread")]

use std::time::Duration;

use quantal_kernels::float::{AView, BView, Epilogue, PackedB, PackedConv, PackedDw, conv, dwconv, fma_loop, gemm};
use quantal_kernels::{ConvGeometry, Isa, Level, Threads};

/// The time that this thread had a CPU.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn cpu_time() -> Duration {
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    const THREAD: i32 = 3;
    let mut time = [0; 2];
    // SAFETY: a timespec is two i64 here, as the condition on this function says.
    unsafe { clock_gettime(THREAD, &raw mut time) };
    Duration::new(time[0].unsigned_abs(), time[1] as u32)
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn cpu_time() -> Duration {
    wall_time()
}

fn wall_time() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// The shortest of many runs by a clock, in seconds.
fn fastest(clock: fn() -> Duration, mut run: impl FnMut()) -> f64 {
    run();
    let (begin, mut best, mut times) = (clock(), f64::INFINITY, 0);
    while times < 5 || (clock().saturating_sub(begin) < Duration::from_millis(200) && times < 500) {
        let start = clock();
        run();
        best = best.min(clock().saturating_sub(start).as_secs_f64());
        times += 1;
    }
    best
}

fn main() {
    let threads = Threads::new(std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1));
    let clock = if threads.count() == 1 { cpu_time } else { wall_time };
    for isa in Isa::available() {
        if isa.level() == Level::Portable {
            continue;
        }
        let mut flops = 0;
        let peak = fastest(cpu_time, || flops = fma_loop(isa, 1 << 14));
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
            let b = PackedB::pack(BView { data: &b, k, n, stride_k: n, stride_n: 1 }).expect("memory for B");
            let a = AView { data: &a, m, row_stride: k, col_stride: 1 };
            let time = fastest(clock, || gemm(isa, a, &b, &Epilogue::NONE, &mut out, n, &threads));
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
            let weight = PackedConv::pack(&g, &vec![0.25; c_out * g.k()]).expect("memory for weights");
            let mut out = vec![0.0; g.pixels_out() * c_out];
            let bias = vec![0.1; c_out];
            let e = Epilogue { bias: Some(&bias), clamp: (0.0, f32::INFINITY), ..Epilogue::NONE };
            let time = fastest(clock, || conv(isa, &g, &x, &weight, &e, &mut out, &threads));
            let name = format!("conv {}x{}x{} {kernel}x{kernel}/{stride} -> {c_out}", input[1], input[2], input[3]);
            report(&name, 2.0 * (g.pixels_out() * c_out * g.k()) as f64, time);
        }
        for (input, kernel, stride) in
            [([1, 112, 112, 32], 3, 1), ([1, 56, 56, 144], 3, 2), ([1, 14, 14, 576], 3, 1), ([1, 14, 14, 672], 5, 1)]
        {
            let c = input[3];
            let g = ConvGeometry::new(input, c, [kernel; 2], [stride; 2], [1; 2], [kernel / 2; 4], c)
                .expect("a valid shape");
            let x = vec![0.5; input.iter().product()];
            let weight = PackedDw::pack(&g, &vec![0.25; c * g.k()]).expect("memory for weights");
            let mut out = vec![0.0; g.pixels_out() * c];
            let e = Epilogue { clamp: (0.0, 6.0), ..Epilogue::NONE };
            let time = fastest(clock, || dwconv(isa, &g, &x, &weight, &e, &mut out, &threads));
            report(
                &format!("dwconv {}x{}x{c} {kernel}x{kernel}/{stride}", input[1], input[2]),
                2.0 * (g.pixels_out() * c * g.k()) as f64,
                time,
            );
        }
    }
}
