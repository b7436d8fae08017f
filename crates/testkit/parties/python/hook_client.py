"""Has webhooks sent to itself and verifies them: hook_client.py SERVICE IP PORT [PROXY]

The line "hook KIND" on standard input makes a hook whose content type is KIND, json or form.
"""

import hashlib
import hmac
import sys

from say import listen, orders, say, session

SECRET = "It's a Secret to Everybody"

service, ip, port, *proxy = sys.argv[1:]
posts = session(*proxy or [None])


def hook(_, kind):
    config = {"url": f"http://{ip}:{port}/hooks/{kind}?client=7", "content_type": kind, "secret": SECRET}
    asked = {"name": "web", "active": True, "events": ["push"], "config": config}
    made = posts.post(f"{service}/repos/acme/app/hooks", json=asked, timeout=30)
    say("hooked", kind=kind, status=made.status_code)


def arrived(handler, body):
    signature = handler.headers["X-Hub-Signature-256"]
    valid = hmac.compare_digest(signature, "sha256=" + hmac.new(SECRET.encode(), body, "sha256").hexdigest())
    say(
        "delivery",
        kind=handler.headers["X-GitHub-Event"],
        delivery=handler.headers["X-GitHub-Delivery"],
        valid="yes" if valid else "no",
        sha256=hashlib.sha256(body).hexdigest(),
        target=handler.path,
        host=handler.headers["Host"],
        content_type=handler.headers["Content-Type"],
    )
    handler.answer(200 if valid else 403)


listen(ip, port, arrived)
orders(hook)
