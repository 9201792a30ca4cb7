#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bounded(96 << 20, || fuzz::data::archive(data)));
