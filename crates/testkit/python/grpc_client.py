"""Calls the service of grpc_server.py: grpc_client.py HOST:PORT [PROXY-URL]

In the two-way call each message is sent only when the answer to the one before is there.
"""

import queue
import sys

import grpc
from google.protobuf.wrappers_pb2 import StringValue

target, proxy = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
options = [("grpc.enable_http_proxy", 1 if proxy else 0)]
if proxy:
    options.append(("grpc.http_proxy", proxy))
codec = dict(request_serializer=StringValue.SerializeToString, response_deserializer=StringValue.FromString)


def say(text):
    return StringValue(value=text)


def trailers(call):
    return dict(call.trailing_metadata())


with grpc.insecure_channel(target, options=options) as channel:
    unary = channel.unary_unary("/test.Talk/Unary", **codec)
    answer, call = unary.with_call(say("hello"), timeout=30, metadata=(("x-test", "1"),))
    assert answer.value == "re: hello", answer
    assert trailers(call)["seen"] == "5" and trailers(call)["blob-bin"] == b"\x00\xff\x01", trailers(call)

    try:
        unary(say("refuse"), timeout=30)
        raise SystemExit("a refused call succeeded")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "refused as asked" and trailers(error)["reason"] == "asked-to", error

    call = channel.unary_stream("/test.Talk/Count", **codec)(say("1000"), timeout=60)
    assert [m.value for m in call] == [str(i) for i in range(1000)]
    assert trailers(call)["last"] == "1000"

    big = "x" * 100_000
    answer = channel.stream_unary("/test.Talk/Gather", **codec)((say(big) for _ in range(20)), timeout=60)
    assert answer.value == "20 2000000", answer

    outbox = queue.Queue()
    call = channel.stream_stream("/test.Talk/Chat", **codec)(iter(outbox.get, None), timeout=60)
    for i in range(50):
        outbox.put(say(f"message {i}"))
        assert next(call).value == f"re: message {i}"
    outbox.put(None)
    assert list(call) == [] and trailers(call)["messages"] == "50", trailers(call)
    assert call.code() == grpc.StatusCode.OK
print("ok")
