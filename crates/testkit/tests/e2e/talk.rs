//! What real clients say to real servers. Each is given the way in; it panics if anything is not as it should be.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use hawser_testkit::{
    Host,
    origin::{HttpOrigin, Python, git},
    pattern,
};

/// Longest silence on a plain TCP connection.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// A SOAP client with a served WSDL, a call and a fault.
pub(crate) fn soap(client: &Host, url: &str, proxy: Option<&str>) {
    python(client, "soap_client.py", url, proxy);
}

/// All four kinds of gRPC call, with trailers.
pub(crate) fn grpc(client: &Host, target: &str, proxy: Option<&str>) {
    python(client, "grpc_client.py", target, proxy);
}

/// Small and large messages, ping, close code.
pub(crate) fn websocket(client: &Host, url: &str, proxy: Option<&str>) {
    python(client, "websocket_client.py", url, proxy);
}

fn python(client: &Host, script: &str, target: &str, proxy: Option<&str>) {
    let args: Vec<_> = [Some(target), proxy].into_iter().flatten().collect();
    let said = Python::run(client, script, &args).unwrap();
    assert!(
        said.lines().last().unwrap_or_default().starts_with("ok"),
        "{said}"
    );
}

/// Clones an empty repository, pushes a few megabytes, clones again, compares.
pub(crate) fn git_clone_and_push(client: &Host, url: &str, proxy: Option<&str>, dir: &Path) {
    let setting = format!("http.proxy={}", proxy.unwrap_or_default());
    let git = |args: &[&str]| {
        let mut all = vec!["-c", setting.as_str()];
        all.extend(args);
        git::run_on(client, &all).unwrap()
    };
    let (first, second) = (dir.join("first"), dir.join("second"));
    let (first_text, second_text) = (first.to_str().unwrap(), second.to_str().unwrap());
    git(&["clone", "--quiet", url, first_text]);
    // Incompressible, so that the push is sent in chunks.
    let mut data = Vec::new();
    pattern::Reader::new(5_000_000).read_to_end(&mut data).unwrap();
    fs::write(first.join("data"), &data).unwrap();
    fs::write(first.join("readme"), "hello\n").unwrap();
    git(&["-C", first_text, "add", "."]);
    git(&["-C", first_text, "commit", "--quiet", "-m", "first"]);
    git(&["-C", first_text, "push", "--quiet", "origin", "HEAD:main"]);
    git(&["clone", "--quiet", "--branch", "main", url, second_text]);
    assert_eq!(fs::read(second.join("data")).unwrap(), data);
    assert_eq!(
        git(&["-C", second_text, "rev-parse", "HEAD"]),
        git(&["-C", first_text, "rev-parse", "HEAD"])
    );
}

/// A table, a bulk load by COPY and a large answer.
pub(crate) fn psql(client: &Host, at: SocketAddr) {
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let query = |sql: &str| {
        let args = [
            "-X",
            "-q",
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            &ip,
            "-p",
            &port,
            "-U",
            "postgres",
            "-c",
            sql,
        ];
        client.run("psql", &args).unwrap().trim().to_owned()
    };
    query("drop table if exists t; create table t (n int primary key, s text)");
    query("insert into t select g, md5(g::text) from generate_series(1, 20000) g");
    assert_eq!(query("select count(*), sum(n) from t"), "20000|200010000");
    let rows = query("select n, s from t order by n");
    assert_eq!(rows.lines().count(), 20000);
    assert!(rows.ends_with("20000|bf8229696f7a3bb4700cfddef19fa23f") || rows.lines().all(|l| l.len() > 33));
    query("\\copy (select * from t) to '/dev/null'");
}

/// Bytes up, half-close, answer down: over a server that hashes.
pub(crate) fn tcp_half_close(client: &Host, at: SocketAddr, len: u64) {
    let answer = client
        .enter(|| {
            let mut stream = connect(at);
            std::io::copy(&mut pattern::Reader::new(len), &mut stream).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
        .unwrap();
    assert_eq!(answer, format!("{len} {}\n", pattern::hash(len)));
}

/// A server that resets in mid-stream: the client must see an error, not an end. Returns how much came before it.
pub(crate) fn tcp_reset_is_seen(client: &Host, at: SocketAddr) -> usize {
    client
        .enter(|| {
            let mut stream = connect(at);
            stream.write_all(b"x").unwrap();
            let (mut buf, mut got) = (vec![0; 65536], 0);
            loop {
                match stream.read(&mut buf) {
                    Ok(0) => panic!("a clean end after {got} bytes, where the server had reset"),
                    Ok(n) => got += n,
                    Err(e) => {
                        assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{e}");
                        break got;
                    }
                }
            }
        })
        .unwrap()
}

/// A connection from the calling thread's host.
pub(crate) fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&at, SILENCE).unwrap();
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    stream.set_write_timeout(Some(SILENCE)).unwrap();
    stream
}

/// Server-sent events, each sent only when the one before was received: nothing in between may hold one back.
pub(crate) fn events(origin: &HttpOrigin, key: &str, out: &mut impl Read) {
    for i in 0..20 {
        let text = format!("event {i} of {key}");
        origin.event(key, &text);
        let wanted = format!("data: {text}\n\n");
        let mut got = vec![0; wanted.len()];
        // curl ends with an error if the event does not come, and so does this read.
        out.read_exact(&mut got)
            .unwrap_or_else(|e| panic!("event {i} did not come: {e}"));
        assert_eq!(String::from_utf8_lossy(&got), wanted);
    }
}

/// Whether a connection is ended by the other side without a byte, at once.
pub(crate) fn is_ended_at_once(at: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&at, SILENCE) else {
        return true;
    };
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = stream.write_all(b"hello");
    match stream.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(e) => !matches!(
            e.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
    }
}
