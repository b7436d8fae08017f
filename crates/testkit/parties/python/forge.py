"""Sends signed webhooks as GitHub does: forge.py IP PORT [PROXY]

A hook is made by POST /repos/acme/app/hooks, and is pinged. The line "push BRANCH" on standard input is an event for every hook.
"""

import hashlib
import hmac
import itertools
import json
import sys
import threading
import uuid
from urllib.parse import urlencode

from say import listen, orders, say, session

ip, port, *proxy = sys.argv[1:]
posts = session(*proxy or [None])
hooks = {}
ids = itertools.count(1)


def deliver(hook, event, payload):
    config = hook["config"]
    # Not as compact as it could be, and not only ASCII: only these very bytes have this signature.
    text = json.dumps(payload, ensure_ascii=False, indent=1)
    form = config["content_type"] == "form"
    body = urlencode({"payload": text}).encode() if form else text.encode()
    secret = config["secret"].encode()
    headers = {
        "Content-Type": "application/x-www-form-urlencoded" if form else "application/json",
        "User-Agent": "GitHub-Hookshot/7a2e3f1",
        "Accept": "*/*",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-GitHub-Event": event,
        "X-GitHub-Hook-ID": str(hook["id"]),
        "X-Hub-Signature": "sha1=" + hmac.new(secret, body, "sha1").hexdigest(),
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, "sha256").hexdigest(),
    }
    try:
        status = posts.post(config["url"], body, headers=headers, timeout=30).status_code
        digest = hashlib.sha256(body).hexdigest()
        say("delivered", kind=event, delivery=headers["X-GitHub-Delivery"], status=status, sha256=digest)
    except OSError as e:
        say("failed", kind=event, why=repr(e))


def on_post(handler, body):
    if handler.path != "/repos/acme/app/hooks":
        return handler.answer(404)
    hook = json.loads(body) | {"id": next(ids)}
    hooks[hook["id"]] = hook
    say("hook", id=hook["id"], url=hook["config"]["url"])
    handler.answer(201, json.dumps(hook).encode())
    ping = {"zen": "Speak like a human.", "hook_id": hook["id"], "hook": hook}
    threading.Thread(target=deliver, args=(hook, "ping", ping), daemon=True).start()


def push(_, branch):
    commits = [{"id": f"{n:040x}", "message": f"Größe {n} <&> \u2028 \U0001f6a2"} for n in range(200)]
    for hook in list(hooks.values()):
        deliver(hook, "push", {"ref": f"refs/heads/{branch}", "commits": commits})


listen(ip, port, on_post)
orders(push)
