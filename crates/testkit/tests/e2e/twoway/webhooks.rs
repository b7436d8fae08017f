//! Signed webhooks: the signature holds over the very bytes that were signed.

use hawser_testkit::parties::{Happening, Party, webhooks};

use super::Stage;

/// Both parties, which still run, and what was seen.
pub(crate) struct Webhooks {
    pub(crate) forge: Party,
    pub(crate) receiver: Party,
    /// The hooks at the sender, with `url`: first `json`, then `form`.
    pub(crate) hooks: Vec<Happening>,
}

/// Makes a hook of each content type, has each pinged and pushed to, and verifies.
pub(crate) fn webhooks(stage: &Stage) -> Webhooks {
    let mut forge = webhooks::forge(stage.server, stage.origin, stage.server_proxy, stage.dir).unwrap();
    let mut receiver = webhooks::receiver(
        stage.client,
        &stage.service,
        stage.listener,
        stage.client_proxy,
        stage.dir,
    )
    .unwrap();
    for kind in ["json", "form"] {
        receiver.tell(&format!("hook {kind}")).unwrap();
        let hooked = receiver.wait_for("hooked", |h| h.text("kind") == kind).unwrap();
        assert_eq!(hooked.text("status"), "201");
        delivery(stage, &mut forge, &mut receiver, kind, "ping");
    }
    forge.tell("push main").unwrap();
    for kind in ["json", "form"] {
        delivery(stage, &mut forge, &mut receiver, kind, "push");
    }
    let hooks = forge.happenings().into_iter().filter(|h| h.kind() == "hook");
    Webhooks {
        hooks: hooks.collect(),
        forge,
        receiver,
    }
}

fn delivery(stage: &Stage, forge: &mut Party, receiver: &mut Party, kind: &str, event: &str) {
    let target = webhooks::hooks_to(kind);
    let got = receiver
        .wait_for("delivery", |h| {
            h.text("target") == target && h.text("kind") == event
        })
        .unwrap();
    assert_eq!(got.text("valid"), "yes", "{got:?}");
    assert_eq!(got.text("host"), stage.listener.to_string());
    let sent = forge
        .wait_for("delivered", |h| h.text("delivery") == got.text("delivery"))
        .unwrap();
    assert_eq!(sent.text("sha256"), got.text("sha256"));
    assert_eq!(sent.text("status"), "200");
}
