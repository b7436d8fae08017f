use hawser_proto::broker::{api::Profile, enrolment::LINK_LIFE};

use super::*;

fn directory() -> (tempfile::TempDir, Directory) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    (dir, Directory::new(&store))
}

fn name(text: &str) -> UserName {
    text.parse().unwrap()
}

fn new_device(user: &str) -> NewDevice {
    NewDevice {
        user: name(user),
        name: "phone".into(),
        signing_key: vec![4; 65],
        sealing_key: [5; 32],
        thumbprint: [6; 32],
        profile: Profile::default(),
        enrolment: "link".into(),
        check: "012345".into(),
    }
}

#[tokio::test]
async fn groups_hold_users_who_exist() {
    let (_dir, d) = directory();
    d.add_user(&name("alice")).await.unwrap();
    d.add_user(&name("bob")).await.unwrap();
    assert!(matches!(
        d.add_user(&name("bob")).await,
        Err(DirectoryError::Exists { .. })
    ));
    d.add_group(&name("staff")).await.unwrap();
    d.join_group(&name("staff"), &name("bob")).await.unwrap();
    d.join_group(&name("staff"), &name("alice")).await.unwrap();
    d.join_group(&name("staff"), &name("alice")).await.unwrap();
    let nobody = d.join_group(&name("staff"), &name("mallory")).await;
    assert!(matches!(
        nobody,
        Err(DirectoryError::Unknown { what: "user", .. })
    ));
    let nowhere = d.join_group(&name("nowhere"), &name("alice")).await;
    assert!(matches!(
        nowhere,
        Err(DirectoryError::Unknown { what: "group", .. })
    ));

    let members = d.snapshot().await.unwrap().members(&name("staff")).unwrap();
    assert_eq!(
        members.into_iter().collect::<Vec<_>>(),
        [name("alice"), name("bob")]
    );
    d.remove_user(&name("bob")).await.unwrap();
    d.leave_group(&name("staff"), &name("alice")).await.unwrap();
    assert!(d.groups().await.unwrap()[0].members.is_empty());
    d.audit().verify().await.unwrap();
}

#[tokio::test]
async fn a_link_is_for_one_device() {
    let (_dir, d) = directory();
    d.add_user(&name("alice")).await.unwrap();
    let link = d.make_link(&name("alice"), LINK_LIFE).await.unwrap();
    let now = UnixTime::now();
    assert_eq!(*d.link_secret(&link.enrolment, now).await.unwrap(), *link.secret);
    let spent = d.spend_link(&link.enrolment, [1; 32], now).await.unwrap();
    let again = d.spend_link(&link.enrolment, [1; 32], now).await.unwrap();
    assert_eq!(spent, again, "its answer may have been lost");
    let other = d.spend_link(&link.enrolment, [2; 32], now).await;
    assert!(matches!(other, Err(DirectoryError::Link("used up"))));
    let late = d.spend_link(&link.enrolment, [1; 32], link.expires).await;
    assert!(matches!(late, Err(DirectoryError::Link("over"))));
    assert!(matches!(
        d.link_secret(&[9; 16], now).await,
        Err(DirectoryError::Link(_))
    ));
}

#[tokio::test]
async fn a_link_of_a_removed_user_opens_nothing() {
    let (_dir, d) = directory();
    d.add_user(&name("alice")).await.unwrap();
    let link = d.make_link(&name("alice"), LINK_LIFE).await.unwrap();
    d.remove_user(&name("alice")).await.unwrap();
    let spent = d.spend_link(&link.enrolment, [1; 32], UnixTime::now()).await;
    assert!(matches!(
        spent,
        Err(DirectoryError::Link("for a user who was removed"))
    ));
}

#[tokio::test]
async fn revoked_is_revoked_and_raises_the_epoch() {
    let (_dir, d) = directory();
    d.add_user(&name("alice")).await.unwrap();
    let handle = DeviceHandle([1; 16]);
    let device = d.enrol(handle, &new_device("alice")).await.unwrap();
    assert_eq!(d.enrol(handle, &new_device("alice")).await.unwrap(), device);
    assert!(d.snapshot().await.unwrap().good(&handle).is_some());
    assert!(d.revoke(&handle, ADMINISTRATOR, "lost").await.unwrap());
    assert!(!d.revoke(&handle, ADMINISTRATOR, "lost").await.unwrap());
    let snapshot = d.snapshot().await.unwrap();
    assert!(snapshot.good(&handle).is_none());
    assert_eq!(snapshot.devices_of(&name("alice")).count(), 0);
    assert_eq!(snapshot.device(&handle).unwrap().epoch, 2);
    let (entries, _) = d.audit().verify().await.unwrap();
    assert_eq!(entries.last().unwrap().action, "device-revoked");
}

#[tokio::test]
async fn a_users_devices_are_counted_and_go_with_the_user() {
    let (_dir, d) = directory();
    d.add_user(&name("alice")).await.unwrap();
    for i in 0..MAX_DEVICES {
        d.enrol(DeviceHandle([i as u8; 16]), &new_device("alice"))
            .await
            .unwrap();
    }
    let more = d.enrol(DeviceHandle([0xff; 16]), &new_device("alice")).await;
    assert!(matches!(more, Err(DirectoryError::Full { .. })));
    assert_eq!(d.remove_user(&name("alice")).await.unwrap().len(), MAX_DEVICES);
    assert!(d.devices().await.unwrap().iter().all(|d| d.revoked.is_some()));
}

#[tokio::test]
async fn an_application_is_known_by_its_token_or_certificate() {
    let (_dir, d) = directory();
    let token = d.add_application(&name("mail"), Some([7; 32])).await.unwrap();
    let snapshot = d.snapshot().await.unwrap();
    assert_eq!(
        snapshot.application_by_token(&sha256(token.as_bytes())),
        Some(&name("mail"))
    );
    assert_eq!(snapshot.application_by_certificate(&[7; 32]), Some(&name("mail")));
    assert_eq!(snapshot.application_by_token(&sha256(b"guess")), None);
    d.remove_application(&name("mail")).await.unwrap();
    assert!(d.applications().await.unwrap().is_empty());
}

#[tokio::test]
async fn contacts_keep_the_last_one() {
    let (_dir, d) = directory();
    let (a, b) = (DeviceHandle([1; 16]), DeviceHandle([2; 16]));
    d.note_contacts(&[(a, UnixTime(5), true), (b, UnixTime(6), true)])
        .await
        .unwrap();
    d.note_contacts(&[(a, UnixTime(9), false)]).await.unwrap();
    assert_eq!(
        d.contacts().await.unwrap(),
        [(a, UnixTime(9), false), (b, UnixTime(6), true)]
    );
}
