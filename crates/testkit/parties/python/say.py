"""One JSON object a line on standard output for each thing that happens, orders on standard input, an end by SIGTERM."""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_lock = threading.Lock()


def say(event, **more):
    """What happened, with texts by name; what is None is left out."""
    line = json.dumps({"event": event, **{k: str(v) for k, v in more.items() if v is not None}})
    with _lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def stop(*_):
    os.write(1, b'{"event":"stopped"}\n')
    os._exit(0)


def orders(carry_out):
    """Says that it is ready, and carries out one line of standard input after the other, for ever."""
    signal.signal(signal.SIGTERM, stop)
    say("ready")
    for line in sys.stdin:
        try:
            carry_out(*line.rstrip("\n").split(" "))
        except Exception as e:
            say("failed", why=repr(e))
    threading.Event().wait()


def listen(ip, port, on_post, on_get=None):
    """Gives each POST, as handler and body, to `on_post` in a thread of its own, and each GET to `on_get`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            on_post(self, self.body())

        def do_DELETE(self):
            on_post(self, b"")

        def do_GET(self):
            on_get(self)

        def body(self):
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)

        def answer(self, status, body=b"", kind="application/json", **headers):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer((ip, int(port)), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()


def session(proxy):
    """An HTTP client that knows of no proxy but the one given."""
    import requests

    made = requests.Session()
    made.trust_env = False
    if proxy:
        made.proxies = {"http": f"http://{proxy}", "https": f"http://{proxy}"}
    return made
