//! A domain with a device, for tests.

use std::sync::Arc;

use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle, Urgency,
        envelope::{Content, Mode},
        statement::{DeviceCertificate, Signed},
    },
};

use crate::{
    DeviceKeys, EpochKey, Opener, Post, PublicKey, Recipient, SealedContent, SenderKey, SigningKey, seal,
};

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);

pub(crate) struct World {
    pub(crate) sender: SenderKey,
    pub(crate) keys: Arc<DeviceKeys>,
    pub(crate) certificate: DeviceCertificate,
}

impl World {
    pub(crate) fn new() -> Self {
        let sender = SigningKey::generate().unwrap().into();
        Self::of(sender, DeviceKeys::generate().unwrap())
    }

    pub(crate) fn of(sender: SenderKey, keys: DeviceKeys) -> Self {
        let certificate = DeviceCertificate {
            domain: "acme".parse().unwrap(),
            user: "alice".parse().unwrap(),
            device: DeviceHandle([0xd1; 16]),
            name: "alice's telephone".into(),
            signing_key: keys.public().as_bytes().to_vec(),
            sealing_key: *keys.sealing_public(),
            epoch: 2,
            issued: NOW,
            expires: UnixTime(NOW.0 + 30 * 86_400),
            sender: sender.key_id(),
        };
        Self {
            sender,
            keys: Arc::new(keys),
            certificate,
        }
    }

    pub(crate) fn certified(&self) -> Signed<DeviceCertificate> {
        self.sender.sign(&self.certificate).unwrap()
    }

    pub(crate) fn epoch(&self) -> EpochKey {
        EpochKey::new(&self.sender, &self.certified(), NOW).unwrap()
    }

    pub(crate) fn me(&self) -> Recipient {
        Recipient::from(&self.certificate)
    }

    pub(crate) fn opener(&self) -> Opener {
        self.opener_as(self.me())
    }

    pub(crate) fn opener_as(&self, me: Recipient) -> Opener {
        let sender = PublicKey::from_bytes(self.sender.public().as_bytes()).unwrap();
        Opener::new(sender, self.keys.clone(), me)
    }

    pub(crate) fn envelope(&self, sequence: u64) -> Vec<u8> {
        let content = SealedContent::new(&content()).unwrap();
        seal(&self.sender, &self.epoch(), &content, &post(sequence)).unwrap()
    }
}

pub(crate) fn post(sequence: u64) -> Post {
    Post {
        sequence,
        expires: UnixTime(NOW.0 + 3600),
        urgency: Urgency::High,
        collapse: None,
    }
}

pub(crate) fn content() -> Content {
    Content {
        source: "https://pbx.acme.example/".into(),
        id: "call-42".into(),
        event_type: "example.call.missed".into(),
        subject: Some("Missed call from Béa".into()),
        created: NOW,
        mode: Mode::Inline,
        content_type: "text/plain; charset=utf-8".into(),
        variant: "text".into(),
        body: "Béa called at 09:00.".into(),
        item: None,
        size: None,
        padding: Vec::new(),
    }
}
