//! A form, cut anywhere: outside of replaced values, the bytes that go out are those that came.
#![no_main]

mod callback;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| callback::check(
    "application/x-www-form-urlencoded",
    "http%3A%2F%2Fm4rk3r%2F",
    data
));
