//! Who is refused what.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use hawser_testkit::{memory, office::Office, wait};
use serde_json::Value;

use super::{id, office};

/// Within which a live stream ends: a second, and slack for a busy machine.
const CUT: Duration = Duration::from_secs(15);

fn handles(office: &Office, user: &str) -> Vec<String> {
    let listed = office
        .admin(&["device", "list", "--user", user, "--json"], "")
        .unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let listed = listed.as_array().unwrap();
    listed
        .iter()
        .map(|d| d["device"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_revoked_device_is_cut_off_and_its_queue_is_gone() {
    let Some(mut office) = office("the revocation of devices") else {
        return;
    };
    office.user("alice").unwrap();
    let token = office.application("mail").unwrap();
    let lost = office.device("alice", "lost").unwrap();
    let [lost_handle] = &handles(&office, "alice")[..] else {
        panic!("one device")
    };
    let lost_handle = lost_handle.clone();
    let mut listening = lost.listen(&[]).unwrap();
    listening.event("\"connected\"").unwrap();

    // Live: the stream ends within a second.
    let begin = Instant::now();
    office.admin(&["device", "revoke", &lost_handle], "").unwrap();
    let asked = begin.elapsed();
    listening.process.wait_end(wait::SOON).unwrap();
    let lived = begin.elapsed().saturating_sub(asked);
    eprintln!("the command took {asked:?}, the stream lived for {lived:?} more");
    assert!(lived < CUT, "the stream of a revoked device lived for {lived:?}");
    let said = listening.process.log();
    assert!(said.contains("revoked"), "{said}");
    let (_, error, ok) = lost.try_run(&["listen", "--count", "1"], "").unwrap();
    assert!(!ok && error.contains("revoked"), "{error}");

    // With a queue: nothing of it is left in the mailbox's files, and what waited goes to the user's other device.
    let second = office.device("alice", "second").unwrap();
    let [second_handle] = &handles(&office, "alice")[..] else {
        panic!("one device")
    };
    let event = [
        ("id", "q-1"),
        ("source", "/mail"),
        ("type", "mail"),
        ("recipient", "user:alice"),
    ];
    let delivery = id(&office
        .publish(&token, &event, "text/plain", b"for her eyes")
        .unwrap());
    office.delivered(&token, &delivery, &["queued"]).unwrap();
    let piece = envelope(&office.path("hub"));
    let files = |office: &Office| -> usize {
        let all = fs::read_dir(office.path("hub")).unwrap().flatten();
        all.filter(|f| f.path().is_file())
            // One that was there for a moment may be gone.
            .map(|f| memory::count(&fs::read(f.path()).unwrap_or_default(), &piece))
            .sum()
    };
    let before = files(&office);
    assert!(before >= 1, "control: the envelope is in the mailbox's files");
    let third = office.device("alice", "third").unwrap();
    office.admin(&["device", "revoke", second_handle], "").unwrap();
    wait::for_condition(wait::SOON, "the envelope to be gone from the files", || {
        files(&office) == 0
    })
    .unwrap_or_else(|e| panic!("{e:#}: {} of {before}\n{}", files(&office), office.logs()));
    let mut listening = third.listen(&[]).unwrap();
    assert_eq!(listening.event("q-1").unwrap()["body"], "for her eyes");
    assert!(!second.try_run(&["listen", "--count", "1"], "").unwrap().2);
    let log = office.admin(&["audit", "--json"], "").unwrap();
    assert!(log.matches("device-revoked").count() == 2, "{log}");
    assert!(office.hub().unwrap().process.is_running());
}

/// 32 bytes from the middle of the only envelope that a mailbox keeps.
fn envelope(state: &std::path::Path) -> Vec<u8> {
    let out = sqlite(state, "print(envelopes()[0][2][100:132].hex())");
    let hex = out.trim();
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
        .collect()
}

#[test]
fn neither_a_copy_of_the_keys_nor_an_edited_envelope_helps() {
    let Some(mut office) = office("copied keys, edited envelopes, unknown publishers") else {
        return;
    };
    office.user("alice").unwrap();
    let token = office.application("mail").unwrap();
    let device = office.device("alice", "phone").unwrap();

    // The right files without the passphrase.
    let mut copy = device.clone();
    copy.home = office.path("copy");
    let status = std::process::Command::new("cp")
        .arg("-r")
        .arg(&device.home)
        .arg(&copy.home)
        .status();
    assert!(status.unwrap().success());
    copy.passphrase = office.path("guess");
    fs::write(&copy.passphrase, "a guess").unwrap();
    let (_, error, ok) = copy.try_run(&["listen", "--count", "1"], "").unwrap();
    assert!(!ok && error.contains("passphrase"), "{error}");

    // Publishers without a token, or with another's guess.
    let event = [
        ("id", "x-1"),
        ("source", "/mail"),
        ("type", "mail"),
        ("recipient", "user:alice"),
    ];
    for wrong in ["", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        assert_eq!(
            office
                .publish(wrong, &event, "text/plain", b"spam")
                .unwrap()
                .status,
            401
        );
    }
    let nobody = [
        ("id", "x-2"),
        ("source", "/mail"),
        ("type", "mail"),
        ("recipient", "user:nobody"),
    ];
    let refused = office.publish(&token, &nobody, "text/plain", b"?").unwrap();
    assert!(
        (400..500).contains(&refused.status),
        "{} {}",
        refused.head,
        refused.text()
    );
    assert!(refused.text().contains("nobody"), "{}", refused.text());

    // An envelope that was changed where it lay is not shown, and the publisher hears of it.
    let delivery = id(&office
        .publish(&token, &event, "text/plain", b"as it was")
        .unwrap());
    office.delivered(&token, &delivery, &["queued"]).unwrap();
    office.hub = None;
    edit(&office.path("hub"));
    office.start_hub().unwrap();
    let mut listening = device.listen(&[]).unwrap();
    let refused = listening.event("\"refused\"").unwrap();
    assert!(
        listening.events().iter().all(|e| e["event"] != "message"),
        "{refused}"
    );
}

#[test]
fn what_is_for_one_device_is_not_opened_by_another_of_the_same_user() {
    let Some(mut office) = office("envelopes for another device of the user") else {
        return;
    };
    office.user("alice").unwrap();
    let token = office.application("mail").unwrap();
    let phone = office.device("alice", "phone").unwrap();
    let event = [
        ("id", "d-1"),
        ("source", "/mail"),
        ("type", "mail"),
        ("recipient", "user:alice"),
        ("delivery", "fetch"),
    ];
    let delivery = id(&office
        .publish(&token, &event, "text/plain", b"for the phone")
        .unwrap());
    office.delivered(&token, &delivery, &["queued"]).unwrap();
    // Made when there was no other: the tablet has nothing of it. The mailbox gives it to the tablet.
    let tablet = office.device("alice", "tablet").unwrap();
    office.hub = None;
    sqlite(
        &office.path("hub"),
        "
one, = [id for id, in db.execute('select distinct device from queue')]
other, = [id for id, in db.execute('select id from devices where id != ?', (one,))]
copied = db.execute('insert into queue (position, device, first, last, kind, expires, tries, body) '
    'select position + 1000, ?, first, last, kind, expires, 0, body from queue where device = ?', (other, one)).rowcount
assert copied == 1, copied
db.commit()",
    );
    office.start_hub().unwrap();
    let mut listening = tablet.listen(&[]).unwrap();
    let refused = listening.event("\"refused\"").unwrap();
    let shown = listening.events();
    assert!(shown.iter().all(|e| e["event"] != "message"), "{refused}");
    listening.process.kill().unwrap();

    // Control: the phone opens it. What it may fetch, the tablet may not, though it is the same user's.
    let mut listening = phone.listen(&[]).unwrap();
    let notice = listening.event("d-1").unwrap();
    let item = notice["item"].as_str().unwrap();
    let (out, error, ok) = tablet.try_run(&["fetch", item], "").unwrap();
    assert!(
        !ok && !out.contains("phone") && error.contains("no such content"),
        "{error}{out}"
    );
    assert_eq!(
        phone.run(&["fetch", item], "").unwrap().trim_end(),
        "for the phone"
    );
}

#[test]
fn an_enrolment_counts_once_in_its_time_and_shows_its_number_on_both_sides() {
    let Some(office) = office("enrolments that are over") else {
        return;
    };
    office.user("alice").unwrap();
    let link = |life: &str| {
        let made = office.admin(&["enrol", "alice", "--no-qr", "--life", life], "");
        made.unwrap().trim().to_owned()
    };
    let late = link("1s");
    // The time that a link has is by the clock.
    thread::sleep(Duration::from_millis(2100));
    let device = office.new_device("phone");
    let enrol = ["enrol", "--name", "phone"];
    let (_, error, ok) = device.try_run(&enrol, &late).unwrap();
    assert!(!ok && error.contains("link"), "{error}");
    assert!(handles(&office, "alice").is_empty());

    // Control: the same in time.
    let good = link("10m");
    let (_, said, ok) = device.try_run(&enrol, &good).unwrap();
    assert!(ok, "{said}");
    let number = said.lines().find_map(|l| l.strip_prefix("Check number")).unwrap();
    let number = number.rsplit(' ').next().unwrap();
    assert_eq!(number.len(), 6, "{said}");
    let listed = office.admin(&["device", "list"], "").unwrap();
    assert!(listed.contains(number), "{number} is not in {listed}");
    let log = office.admin(&["audit"], "").unwrap();
    assert!(log.contains(&format!("check number {number}")), "{log}");
    let (_, error, ok) = office.new_device("second").try_run(&enrol, &good).unwrap();
    assert!(!ok && error.contains("link"), "{error}");
}

#[test]
fn an_envelope_that_comes_again_is_not_shown_again() {
    let Some(mut office) = office("replayed envelopes") else {
        return;
    };
    office.user("alice").unwrap();
    let token = office.application("mail").unwrap();
    let device = office.device("alice", "phone").unwrap();
    let publish = |office: &Office, n: &str| {
        let event = [
            ("id", n),
            ("source", "/mail"),
            ("type", "mail"),
            ("recipient", "user:alice"),
        ];
        id(&office
            .publish(&token, &event, "text/plain", n.as_bytes())
            .unwrap())
    };
    let first = publish(&office, "r-1");
    office.delivered(&token, &first, &["queued"]).unwrap();
    let row = sqlite(
        &office.path("hub"),
        "
row = db.execute('select device, kind, expires, body from queue').fetchone()
print(repr(row))",
    );
    let mut listening = device.listen(&[]).unwrap();
    listening.event("r-1").unwrap();
    office.delivered(&token, &first, &["acked"]).unwrap();
    listening.process.kill().unwrap();

    // The mailbox gives it out once more, as what it was and under another number.
    office.hub = None;
    let again = format!(
        "
device, kind, expires, body = {}
for place, number in ((1001, 1), (1002, 1000)):
    db.execute('insert into queue (position, device, first, last, kind, expires, tries, body) values (?, ?, ?, ?, ?, ?, 0, ?)',
               (place, device, number, number, kind, expires, body))
db.commit()",
        row.trim()
    );
    sqlite(&office.path("hub"), &again);
    office.start_hub().unwrap();
    let mut listening = device.listen(&[]).unwrap();
    let second = publish(&office, "r-2");
    listening.event("r-2").unwrap();
    office.delivered(&token, &second, &["acked"]).unwrap();
    let shown = listening.events();
    let messages: Vec<&Value> = shown.iter().filter(|e| e["event"] == "message").collect();
    assert_eq!(messages.len(), 1, "{shown:?}");
}

/// Flips a bit in the middle of the only envelope that a mailbox keeps.
fn edit(state: &std::path::Path) {
    sqlite(
        state,
        "
table, column, value = envelopes()[0]
middle = len(value) // 2
edited = value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1:]
changed = db.execute(f'update {table} set {column} = ? where {column} = ?', (edited, value)).rowcount
assert changed == 1, changed
db.commit()",
    );
}

/// Runs a script on a mailbox's database, `db`, in which `envelopes()` finds the one envelope, with its table and column.
fn sqlite(state: &std::path::Path, script: &str) -> String {
    let script = format!(
        "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
def envelopes():
    found = []
    for table, in db.execute(\"select name from sqlite_master where type = 'table'\").fetchall():
        for column in db.execute(f'pragma table_info({{table}})').fetchall():
            for value, in db.execute(f'select {{column[1]}} from {{table}}').fetchall():
                if isinstance(value, bytes) and len(value) > 300:
                    found.append((table, column[1], value))
    assert len(found) == 1, len(found)
    return found
{script}"
    );
    let out = std::process::Command::new("python3")
        .args(["-c", &script])
        .arg(state.join("mailbox.db"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
