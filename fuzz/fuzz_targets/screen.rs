#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pgpool_operator::proxy::fuzzing::screen(bytes));
