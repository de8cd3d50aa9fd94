//! Prints GOP/s (2 · multiply-adds per ns) of every GEMM kernel of this CPU, and of whole convolutions, on shapes of
//! ResNet-50: the least CPU time of many runs, one thread.
//!
//! `cargo run --release -p quantal-kernels --example gemm_rate [substring of a kernel's name]`
#![allow(clippy::print_stdout)]

use quantal_kernels::conv::{ConvCall, PackedConv, conv};
use quantal_kernels::dwconv::{DwConvCall, PackedDwConv, dwconv};
use quantal_kernels::gemm::{Epilogue, GemmCall, gemm};
use quantal_kernels::kernel::KERNELS;
use quantal_kernels::pack::{BView, PackedB};
use quantal_kernels::{ConvGeometry, Isa, Threads};

/// CPU time of this thread in ns, from the scheduler; the wall clock where there is none.
fn cpu_ns() -> u64 {
    let scheduler = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = scheduler.and_then(|s| s.split(' ').next()?.parse().ok());
    spent.unwrap_or_else(|| {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        wall.map_or(0, |d| d.as_nanos() as u64)
    })
}

/// The least time of a run, in ns, over a quarter of a second of runs.
fn least_ns(mut run: impl FnMut()) -> f64 {
    let (start, mut least) = (cpu_ns(), f64::INFINITY);
    while cpu_ns() - start < 250_000_000 {
        let before = cpu_ns();
        let mut runs = 0_u32;
        while cpu_ns() - before < 2_000_000 {
            run();
            runs += 1;
        }
        least = least.min((cpu_ns() - before) as f64 / f64::from(runs));
    }
    least
}

fn codes(n: usize, from: usize, to: usize) -> Vec<u8> {
    (0..n).map(|i| (from + i * 7919 % (to - from)) as u8).collect()
}

fn epilogue<'a>(multiplier: &'a [f32], bias: &'a [i32], out: &'a mut [u8]) -> Epilogue<'a> {
    let ldc = bias.len();
    let (zero_point, qmin, qmax) = (3, 3, 255);
    Epilogue::Codes { bias: Some(bias), multiplier, zero_point, qmin, qmax, add: None, table: None, out, ldc }
}

fn main() -> Result<(), quantal_kernels::KernelError> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let threads = Threads::new(1);
    let isas = Isa::available();
    println!("products [m, k, n], GOP/s");
    for kernel in KERNELS {
        let Some(&isa) = isas.iter().find(|isa| isa.level() == kernel.level) else { continue };
        if !kernel.name.contains(&wanted) {
            continue;
        }
        print!("{:44}", kernel.name);
        for (m, k, n) in
            [(3136, 64, 256), (784, 512, 128), (196, 1024, 256), (196, 2304, 256), (49, 2048, 512), (1, 2048, 1000)]
        {
            // Weights of at most 64 suit every kernel.
            let (a, b) = (codes(m * k, 0, 256), codes(k * n, 192, 321));
            let b = PackedB::pack_for(isa, kernel, &BView::new(&b, true, k, n))?;
            let (multiplier, bias, mut out) = (vec![1e-4; n], vec![5; n], vec![0; m * n]);
            let ns = least_ns(|| {
                let call = GemmCall {
                    a: &a,
                    a_signed: false,
                    a_zero_point: 3,
                    m,
                    row_stride: k,
                    b: &b,
                    b_zero_points: &[],
                    epilogue: epilogue(&multiplier, &bias, &mut out),
                };
                gemm(call, &threads).expect("the slices fit the shapes");
            });
            print!(" {:>16}", format!("{m}x{k}x{n} {:.0}", 2.0 * (m * k * n) as f64 / ns));
        }
        println!();
    }
    println!("convolutions, GOP/s");
    for isa in isas {
        if !isa.to_string().contains(&wanted) {
            continue;
        }
        print!("{:12}", isa.to_string());
        for (h, c_in, c_out, kernel, stride, depthwise) in [
            (224, 3, 64, 7, 2, false),
            (56, 64, 64, 3, 1, false),
            (28, 128, 128, 3, 1, false),
            (14, 256, 256, 3, 1, false),
            (7, 512, 512, 3, 1, false),
            (56, 144, 144, 3, 1, true),
            (14, 576, 576, 3, 1, true),
        ] {
            let (pad, groups) = (kernel / 2, if depthwise { c_in } else { 1 });
            let [kernel, stride] = [[kernel; 2], [stride; 2]];
            let g = ConvGeometry::new([1, h, h, c_in], c_out, kernel, stride, [1, 1], [pad; 4], groups);
            let g = g.expect("a sound geometry");
            let x = codes(h * h * c_in, 0, 256);
            let w = codes(g.k() * c_out, 192, 321);
            let (multiplier, bias) = (vec![1e-4; c_out], vec![5; c_out]);
            let mut out = vec![0; g.pixels_out() * c_out];
            let (x_signed, x_zero_point) = (false, 3);
            let ns = if depthwise {
                let weights = PackedDwConv::pack(isa, &g, &w, true, &[])?;
                least_ns(|| {
                    let epilogue = epilogue(&multiplier, &bias, &mut out);
                    let call = DwConvCall { x: &x, x_signed, x_zero_point, geometry: &g, weights: &weights, epilogue };
                    dwconv(call, &threads).expect("the slices fit the shapes");
                })
            } else {
                let weights = PackedConv::pack(isa, &g, &w, true)?;
                least_ns(|| {
                    let epilogue = epilogue(&multiplier, &bias, &mut out);
                    let (geometry, weights, w_zero_points) = (&g, &weights, &[][..]);
                    let call = ConvCall { x: &x, x_signed, x_zero_point, geometry, weights, w_zero_points, epilogue };
                    conv(call, &threads).expect("the slices fit the shapes");
                })
            };
            let products = (g.pixels_out() * g.k() * c_out) as f64;
            let kind = if depthwise { "dw" } else { "c" };
            print!(" {:>20}", format!("{kind}{h}x{c_in}x{c_out}k{} {:.0}", g.kernel[0], 2.0 * products / ns));
        }
        println!();
    }
    Ok(())
}
