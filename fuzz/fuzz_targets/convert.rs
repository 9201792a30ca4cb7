#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bounded(16 << 20, || fuzz::convert::run(data)));
