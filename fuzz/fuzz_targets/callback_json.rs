//! JSON or not, cut anywhere: outside of replaced values, the bytes that go out are those that came.
#![no_main]

mod callback;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| callback::check("application/json", "http://m4rk3r/", data));
