#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| quantal_fuzz::targets::tokenizer(data));
