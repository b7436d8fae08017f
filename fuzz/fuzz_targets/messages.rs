//! Any bytes as any message: refused, or understood and then written the same way again.
#![no_main]

use hawser_proto::{
    control::{ToGateway, ToHub},
    frame,
    hop::{FromHub, Go, Hello, JoinHello},
    session::{Issued, Open, Opened},
};
use libfuzzer_sys::fuzz_target;
use minicbor::{Decode, Encode};

fn check<T: for<'b> Decode<'b, ()> + Encode<()> + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let Ok(message) = frame::decode::<T>(body) else { return };
    // What was understood can be said, unless it is over the limit of a frame.
    let Ok(framed) = frame::encode(&message) else { return };
    let again: T = frame::decode(&framed[frame::HEADER..]).expect("what we write we can read");
    assert_eq!(message, again);
}

fuzz_target!(|data: &[u8]| {
    if let Some((header, _)) = data.split_first_chunk::<{ frame::HEADER }>() {
        let _ = frame::length(*header, frame::MAX_FRAME);
    }
    check::<ToHub>(data);
    check::<ToGateway>(data);
    check::<Hello>(data);
    check::<JoinHello>(data);
    check::<FromHub>(data);
    check::<Go>(data);
    check::<Open>(data);
    check::<Opened>(data);
    check::<Issued>(data);
});
