//! Any bytes as any message: refused, or understood and then written the same way again.
#![no_main]

use hawser_proto::{
    broker::{
        Envelope,
        enrolment::{EnrolmentAnswer, EnrolmentRequest, Fragment},
        envelope::{Content, MAX_ANSWER, Wrapped},
        mailbox::{FromMailbox, ToMailbox},
        statement::{Acknowledgement, DeviceCertificate, FetchRequest, Signed, Skip},
    },
    control::{ToGateway, ToHub},
    frame,
    hop::{FromHub, Go, Hello, JoinHello},
    session::{Issued, Open, Opened},
};
use libfuzzer_sys::fuzz_target;
use minicbor::{Decode, Encode};

fn check<T: for<'b> Decode<'b, ()> + Encode<()> + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let Ok(message) = frame::decode::<T>(body) else {
        return;
    };
    // What was understood can be said, unless it is over the limit of a frame.
    let Ok(framed) = frame::encode(&message) else {
        return;
    };
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
    check::<ToMailbox>(data);
    check::<FromMailbox>(data);
    check::<Content>(data);
    check::<EnrolmentRequest>(data);
    check::<EnrolmentAnswer>(data);
    check::<Skip>(data);
    check::<Acknowledgement>(data);
    check::<FetchRequest>(data);
    check::<DeviceCertificate>(data);
    let _ = frame::decode::<Wrapped>(data);
    let _ = Signed::<Skip>::parse(data).map(|signed| signed.unverified());
    if let Ok((envelope, header)) = Envelope::parse(data, MAX_ANSWER) {
        let again = Envelope::parse(&envelope.to_bytes(), MAX_ANSWER).expect("what we write we can read");
        assert_eq!(again, (envelope, header));
    }
    if let Some(fragment) = std::str::from_utf8(data).ok().and_then(Fragment::parse) {
        assert!(Fragment::parse(&fragment.to_text()) == Some(fragment));
    }
});
