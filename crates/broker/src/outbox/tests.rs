use hawser_proto::broker::{UserName, envelope::Urgency};

use super::*;
use crate::delivery::AckPolicy;

const NOW: UnixTime = UnixTime(1000);
const MARKER: &[u8] = b"only Alice may read this";

fn kept(n: u8) -> Kept {
    let name = |s: &str| -> UserName { s.parse().unwrap() };
    Kept {
        event: Event {
            delivery: DeliveryId([n; 16]),
            application: name("mail"),
            source: "/mail".into(),
            id: n.to_string(),
            event_type: "message".into(),
            accepted: NOW,
            expires: UnixTime(2000),
            urgency: Urgency::Normal,
            mode: None,
            ack: AckPolicy::Each,
            collapse: None,
            item: ItemId([n; 16]),
        },
        rows: vec![Row::new(name("alice"), Some(DeviceHandle([1; 16])), NOW)],
    }
}

fn content() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(MARKER.to_vec())
}

async fn change(outbox: &Outbox, changes: Changes) {
    let place = outbox.place().await.unwrap();
    outbox.write(place, changes).await.unwrap();
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_restart_and_unreadable_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path()).unwrap();
    assert_eq!(outbox.insert(&kept(1), content()).await.unwrap(), Inserted::New);
    let again = outbox.insert(&kept(1), content()).await.unwrap();
    assert_eq!(again, Inserted::Duplicate(DeliveryId([1; 16])));
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for needle in [MARKER, b"alice", b"/mail"] {
            assert!(!bytes.windows(needle.len()).any(|w| w == needle));
        }
    }
    // A copy of the files at this moment is what kill -9 leaves.
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let after = Outbox::open(copy.path()).unwrap();
    assert_eq!(after.restore().await.unwrap().live, [kept(1)]);
    assert_eq!(
        **after.content(DeliveryId([1; 16])).await.unwrap().unwrap(),
        *MARKER
    );
    assert_eq!(
        after.by_item(ItemId([1; 16])).await.unwrap(),
        Some(DeliveryId([1; 16]))
    );
}

#[tokio::test]
async fn another_key_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path()).unwrap();
    outbox.insert(&kept(1), content()).await.unwrap();
    drop(outbox);
    let key = dir.path().join("outbox.key");
    std::fs::write(&key, [9; 32]).unwrap();
    let outbox = Outbox::open(dir.path()).unwrap();
    assert!(matches!(outbox.restore().await, Err(OutboxError::Damaged(_))));
    std::fs::write(&key, [9; 31]).unwrap();
    assert!(matches!(
        Outbox::open(dir.path()),
        Err(OutboxError::Key { length: 31, .. })
    ));
}

#[tokio::test]
async fn changes_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path()).unwrap();
    outbox.insert(&kept(1), content()).await.unwrap();
    let device = DeviceHandle([1; 16]);
    let mut row = kept(1).rows.remove(0);
    row.sequence = 7;
    row.set(hawser_proto::broker::api::State::Sealed, NOW, None);
    let gap = Gap {
        device,
        from: 6,
        to: 6,
        reason: SkipReason::Expired,
    };
    let changes = Changes {
        rows: vec![(DeliveryId([1; 16]), 0, row.clone())],
        lanes: vec![(device, 8), (device, 3)],
        gaps: vec![gap],
        ..Changes::default()
    };
    change(&outbox, changes).await;
    let found = outbox.restore().await.unwrap();
    assert_eq!((found.lanes, found.gaps), (vec![(device, 8)], vec![gap]));
    assert_eq!(found.live[0].rows, [row]);
    assert_eq!(
        outbox.by_sequence(device, 7).await.unwrap(),
        Some((DeliveryId([1; 16]), 0))
    );
    let changes = Changes {
        filled: vec![(device, 6)],
        done: vec![(DeliveryId([1; 16]), true)],
        ..Changes::default()
    };
    change(&outbox, changes).await;
    let found = outbox.restore().await.unwrap();
    assert!(found.live.is_empty() && found.gaps.is_empty());
    assert_eq!(outbox.content(DeliveryId([1; 16])).await.unwrap(), None);
    assert!(outbox.kept(DeliveryId([1; 16])).await.unwrap().is_some());
    assert_eq!(outbox.usage().await.unwrap(), Usage::default());
}

#[tokio::test]
async fn time_wipes_contents_first_and_records_later() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Outbox::open(dir.path()).unwrap();
    let id = DeliveryId([1; 16]);
    outbox.insert(&kept(1), content()).await.unwrap();
    let changes = Changes {
        done: vec![(id, false)],
        ..Changes::default()
    };
    change(&outbox, changes).await;
    outbox.expire(UnixTime(1999)).await.unwrap();
    assert!(outbox.content(id).await.unwrap().is_some());
    outbox.expire(UnixTime(2000)).await.unwrap();
    assert!(outbox.content(id).await.unwrap().is_none());
    // The same source and id may come again once the time is over.
    let mut again = kept(2);
    again.event.id = "1".into();
    again.event.accepted = UnixTime(2000);
    assert_eq!(outbox.insert(&again, content()).await.unwrap(), Inserted::New);
    assert!(outbox.kept(id).await.unwrap().is_some());
    outbox.expire(UnixTime(2000).plus(RECORDS)).await.unwrap();
    assert!(outbox.kept(id).await.unwrap().is_none());
    assert!(
        outbox.kept(again.event.delivery).await.unwrap().is_some(),
        "it is not done"
    );
}
