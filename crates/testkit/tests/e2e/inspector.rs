//! The inspector: recorded exchanges shown with their secrets masked, and sent again byte for byte.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use hawser_testkit::{
    Host, gate,
    hawser::try_run,
    wait,
    world::{Gateway, Service, Spec},
};
use serde_json::Value;

const PORT: u16 = 8080;
const IMPORT: u16 = 9001;
/// Longest wait for an exchange to be listed after its answer.
const LISTED: Duration = Duration::from_secs(20);
/// In the places where secrets are.
const SECRET: &str = "hunter2-of-eve";

/// A server that keeps every request as it came on the wire.
struct Tape {
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tape {
    fn start(host: &Host, at: SocketAddr) -> Self {
        let listener: TcpListener = host.listen(at).unwrap();
        listener.set_nonblocking(false).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = requests.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                take(stream, &kept);
            }
        });
        Self { requests }
    }

    fn all(&self) -> Vec<Vec<u8>> {
        self.requests.lock().unwrap().clone()
    }
}

/// Reads one request to its end and answers it.
fn take(mut stream: TcpStream, kept: &Mutex<Vec<Vec<u8>>>) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let (mut all, mut some) = (Vec::new(), [0; 65536]);
    loop {
        let n = stream.read(&mut some).ok()?;
        if n == 0 {
            return None;
        }
        all.extend_from_slice(&some[..n]);
        let Some(head) = all.windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&all[..head]).to_lowercase();
        let length = text
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "))
            .map_or(0, |l| l.parse().unwrap());
        let whole = match text.contains("transfer-encoding: chunked") {
            true => all.ends_with(b"0\r\n\r\n"),
            false => all.len() >= head + 4 + length,
        };
        if whole {
            break;
        }
    }
    let body = format!("{{\"access_token\": \"{SECRET}\", \"kind\": \"answer\"}}");
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a={SECRET}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // Whoever has the answer finds the request here.
    kept.lock().unwrap().push(all);
    stream.write_all(head.as_bytes()).ok()
}

/// What is listed of the gateway's recorded exchanges, once there are so many.
fn recorded(gateway: &Gateway, count: usize) -> Vec<Value> {
    let mut listed = Vec::new();
    wait::for_condition(LISTED, "the exchanges are recorded", || {
        let out = gateway
            .command(&["inspect", "--last", "200", "--json"], "")
            .unwrap();
        listed = serde_json::from_str::<Vec<Value>>(&out).unwrap();
        listed.retain(|e| e["side"] == "export");
        listed.len() >= count
    })
    .unwrap();
    listed
}

/// The body of a request, chunks joined, and its head.
fn parted(request: &[u8]) -> (String, Vec<u8>) {
    let end = request.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8(request[..end].to_vec()).unwrap();
    let mut rest = &request[end..];
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return (head, rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|w| w == b"\r\n").unwrap();
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (head, body);
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

#[test]
fn a_replay_gives_the_origin_the_same_bytes_and_nothing_shows_a_secret() {
    if !gate::networks("the inspector") {
        return;
    }
    let service = Service::http("web", PORT)
        .imported(IMPORT)
        .more("inspect = { body_bytes = 100000, mask_fields = [\"pin\"] }");
    let world = Spec::new([service]).start().unwrap();
    let tape = Tape::start(&world.site(1).app, world.site(1).app.at(PORT));
    let way = &world.ways()[0];
    let gateway = &world.gateways[1][0];

    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let file = world.dir().join("bytes");
    std::fs::write(&file, &bytes).unwrap();
    let file = format!("@{}", file.display());
    let path = format!("/a;b/%7Ec/%2F?q=%00%ff+x&&token={SECRET}&pin={SECRET}&=");
    let call = |more: &[&str]| {
        way.curl_import(IMPORT, &path)
            .args(["--path-as-is", "--data-binary", &file])
            .args([
                "-H",
                "X-Twice: one",
                "-H",
                "X-Twice: two",
                "-H",
                "Content-Type: x/y",
            ])
            .header(&format!("Authorization: Bearer {SECRET}"))
            .header(&format!("Cookie: a={SECRET}"))
            .header(&format!("X-Api-Key: {SECRET}"))
            .args(more)
            .expect(200)
            .unwrap()
    };
    call(&["-X", "PUT"]);
    call(&["-X", "POST", "-H", "Transfer-Encoding: chunked"]);
    let form = format!("user=eve&password={SECRET}");
    way.curl_import(IMPORT, "/login").post(&form).expect(200).unwrap();

    let listed = recorded(gateway, 3);
    assert!(listed.iter().all(|e| e["recorded"] == true), "{listed:?}");
    let mut said = String::new();
    let first: Vec<&str> = listed.iter().map(|e| e["request"].as_str().unwrap()).collect();
    for id in &first {
        said += &gateway.command(&["inspect", "show", id], "").unwrap();
        said += &gateway
            .command(&["inspect", "show", &id[..8], "--json"], "")
            .unwrap();
    }
    assert!(
        said.contains("x-twice: one") && said.contains("x-twice: two"),
        "{said}"
    );
    assert!(said.contains("***") && said.contains("user=eve"), "{said}");
    assert!(
        said.contains("10 11 12 13 14 15"),
        "a binary body is shown as hex"
    );

    // POST is not sent again without being asked for.
    let unsure = try_run(
        &gateway.host,
        &gateway.config,
        &["inspect", "replay", first[1]],
        "",
    )
    .unwrap();
    assert!(!unsure.2 && unsure.1.contains("--yes"), "{unsure:?}");
    assert_eq!(tape.all().len(), 3);
    said += &gateway.command(&["inspect", "replay", first[0]], "").unwrap();
    said += &gateway
        .command(&["inspect", "replay", first[1], "--yes"], "")
        .unwrap();
    let all = tape.all();
    assert_eq!(all.len(), 5);
    for (original, again) in [(0, 3), (1, 4)] {
        let ((head, body), (head_again, body_again)) = (parted(&all[original]), parted(&all[again]));
        assert_eq!(head, head_again);
        assert!(head.contains(&path) && head.contains("x-twice: two"), "{head}");
        assert!(body == bytes && body_again == bytes, "the bodies differ");
    }
    assert!(parted(&all[4]).0.contains("chunked"));
    let listed = recorded(gateway, 5);
    assert_eq!(listed[3]["replays"], first[0]);
    assert_eq!(listed[4]["replays"], first[1]);

    let har = world.dir().join("out.har");
    let har_path = har.to_str().unwrap();
    gateway
        .command(&["inspect", "har", "--service", "web", "-o", har_path], "")
        .unwrap();
    let har = std::fs::read_to_string(&har).unwrap();
    let archive: Value = serde_json::from_str(&har).unwrap();
    assert_eq!(archive["log"]["version"], "1.2");
    assert_eq!(archive["log"]["entries"].as_array().unwrap().len(), 5);
    said += &har;
    said += &gateway.command(&["inspect"], "").unwrap();
    assert!(!said.contains(SECRET), "a secret is shown: {said}");
}

#[test]
fn what_is_kept_is_bounded_and_a_truncated_body_is_not_sent_again() {
    if !gate::networks("the inspector's bound") {
        return;
    }
    let service = Service::http("web", PORT)
        .imported(IMPORT)
        .more("inspect = { body_bytes = 50000 }");
    let spec = Spec::new([service]).gateway_tables("\n[gateway.inspect]\nmemory_bytes = 200000\n");
    let world = spec.start().unwrap();
    let tape = Tape::start(&world.site(1).app, world.site(1).app.at(PORT));
    let way = &world.ways()[0];
    let gateway = &world.gateways[1][0];
    let calls = 12;
    for n in 0..calls {
        let body = "x".repeat(if n == calls - 1 { 60_000 } else { 40_000 });
        let file = world.dir().join("body");
        std::fs::write(&file, &body).unwrap();
        way.curl_import(IMPORT, "/large")
            .args(["--data-binary", &format!("@{}", file.display())])
            .expect(200)
            .unwrap();
    }
    let listed = recorded(gateway, calls);
    let kept = listed.iter().filter(|e| e["recorded"] == true).count();
    assert!((3..=5).contains(&kept), "{kept} of 40000 bytes within 200000");
    assert_eq!(listed[0]["recorded"], Value::Null, "the oldest goes first");
    let replay = |e: &Value| {
        let id = e["request"].as_str().unwrap();
        try_run(
            &gateway.host,
            &gateway.config,
            &["inspect", "replay", id, "--yes"],
            "",
        )
        .unwrap()
    };
    let gone = replay(&listed[0]);
    assert!(!gone.2 && gone.1.contains("not recorded"), "{gone:?}");
    let cut = replay(listed.last().unwrap());
    assert!(!cut.2 && cut.1.contains("body_bytes"), "{cut:?}");
    let shown = gateway
        .command(
            &["inspect", "show", listed[calls - 1]["request"].as_str().unwrap()],
            "",
        )
        .unwrap();
    assert!(shown.contains("truncated: 50000 of 60000 bytes"), "{shown}");
    assert_eq!(tape.all().len(), calls, "nothing was sent again");
}
