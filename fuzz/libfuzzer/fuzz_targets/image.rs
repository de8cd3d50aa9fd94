#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| quantal_fuzz::targets::image(data));
