#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bounded(64 << 20, || fuzz::frames::run(data)));
