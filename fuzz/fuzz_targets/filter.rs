#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bounded(8 << 20, || fuzz::filter::run(data)));
