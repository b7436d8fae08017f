"""Edits documents that lie on a WebDAV server elsewhere: editor.py IP PORT FILES [PROXY]

FILES is the URL of a collection. / lists its documents; /edit?doc=NAME locks one and shows it in a form; /save takes the form, writes
the document back if it is still what was opened, and unlocks it. /raw is for documents that are no text: what GET gives, POST takes,
for the draft that the answer's header `Draft` names.
"""

import itertools
import sys
from html import escape
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.etree import ElementTree

from say import listen, orders, say, session

ip, port, files, *proxy = sys.argv[1:]
dav = session(*proxy or [None])
drafts = {}
ids = itertools.count(1)

LOCK = b"""<?xml version="1.0" encoding="utf-8"?>
<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype>
<D:owner>the editor</D:owner></D:lockinfo>"""


class Refused(Exception):
    """The file server, or something on the way to it, said no."""

    def __init__(self, answer):
        self.status = answer.status_code
        self.why = answer.reason
        if answer.headers.get("Content-Type", "").startswith("application/problem+json"):
            problem = answer.json()
            self.why = f"{problem['title']}: {problem['detail']}"
            say("problem", status=self.status, detail=problem["detail"], where=problem.get("where"))


def ask(method, name, body=None, **headers):
    url = f"{files}/{quote(name)}"
    headers = {key.replace("_", "-"): value for key, value in headers.items()}
    answer = dav.request(method, url, data=body, headers=headers, timeout=60)
    if not answer.ok:
        raise Refused(answer)
    return answer


def documents():
    listed = ElementTree.fromstring(ask("PROPFIND", "", Depth="1").content)
    paths = [unquote(urlsplit(href.text).path) for href in listed.iter("{DAV:}href")]
    return sorted(path.rsplit("/", 1)[1] for path in paths if not path.endswith("/"))


def opened(name):
    """Locks a document and reads it: the draft's number, and what the server said."""
    lock = ask("LOCK", name, LOCK, Timeout="Second-600", Content_Type="application/xml").headers["Lock-Token"]
    answer = ask("GET", name)
    draft = str(next(ids))
    drafts[draft] = (name, lock, answer.headers["ETag"])
    return draft, answer


def saved(draft, content):
    """Writes a draft back, unless somebody has changed the document meanwhile; gives the document's name."""
    name, lock, etag = drafts.pop(draft)
    try:
        ask("PUT", name, content, If=f"({lock})", If_Match=etag)
    finally:
        ask("UNLOCK", name, Lock_Token=lock)
    return name


def page(handler, status, title, body):
    text = f"<!DOCTYPE html><html><head><title>{escape(title)}</title></head><body><h1>{escape(title)}</h1>{body}</body></html>"
    handler.answer(status, text.encode(), "text/html; charset=utf-8")


def show(handler):
    url = urlsplit(handler.path)
    name = parse_qs(url.query).get("doc", [""])[0]
    if url.path == "/":
        links = (f'<li><a href="/edit?doc={quote(each)}">{escape(each)}</a></li>' for each in documents())
        page(handler, 200, "Documents", f"<ul>{''.join(links)}</ul>")
    elif url.path == "/edit":
        draft, answer = opened(name)
        text = escape(answer.content.decode())
        form = f'<input type="hidden" name="draft" value="{draft}"><textarea name="text">\n{text}</textarea><button>Save</button>'
        page(handler, 200, name, f'<form method="post" action="/save">{form}</form>')
    elif url.path == "/raw":
        draft, answer = opened(name)
        handler.answer(200, answer.content, "application/octet-stream", Draft=draft)
    else:
        page(handler, 404, "No such page", "")


def take(handler, body):
    url = urlsplit(handler.path)
    if url.path == "/save":
        form = parse_qs(body.decode(), keep_blank_values=True)
        name = saved(form["draft"][0], form["text"][0].replace("\r\n", "\n").encode())
    else:
        name = saved(parse_qs(url.query)["draft"][0], body)
    page(handler, 200, "Saved", f"<p>{escape(name)}</p>")


def answering(act):
    """With a page that says why, where something was refused."""

    def answered(handler, *body):
        try:
            act(handler, *body)
        except Refused as e:
            page(handler, e.status, "The file server said no", f"<p>{escape(e.why)}</p>")
        except KeyError:
            page(handler, 404, "No such draft", "")
        except OSError as e:
            page(handler, 502, "The file server cannot be reached", f"<p>{escape(repr(e))}</p>")

    return answered


listen(ip, port, answering(take), answering(show))
orders(lambda *_: None)
