"""A gRPC service with all four kinds of call and with trailers, no generated code: grpc_server.py IP PORT"""

import sys
from concurrent import futures

import grpc
from google.protobuf.wrappers_pb2 import StringValue


def say(text):
    return StringValue(value=text)


def unary(request, context):
    if request.value == "refuse":
        context.set_trailing_metadata((("reason", "asked-to"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "refused as asked")
    context.set_trailing_metadata((("seen", str(len(request.value))), ("blob-bin", b"\x00\xff\x01")))
    return say("re: " + request.value)


def count(request, context):
    for i in range(int(request.value)):
        yield say(str(i))
    context.set_trailing_metadata((("last", request.value),))


def gather(requests, context):
    texts = [r.value for r in requests]
    return say(f"{len(texts)} {sum(map(len, texts))}")


def chat(requests, context):
    n = 0
    for request in requests:
        n += 1
        yield say("re: " + request.value)
    context.set_trailing_metadata((("messages", str(n)),))


def method(handler, function):
    return handler(
        function, request_deserializer=StringValue.FromString, response_serializer=StringValue.SerializeToString
    )


methods = {
    "Unary": method(grpc.unary_unary_rpc_method_handler, unary),
    "Count": method(grpc.unary_stream_rpc_method_handler, count),
    "Gather": method(grpc.stream_unary_rpc_method_handler, gather),
    "Chat": method(grpc.stream_stream_rpc_method_handler, chat),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Talk", methods),))
if server.add_insecure_port(f"{sys.argv[1]}:{sys.argv[2]}") == 0:
    raise SystemExit("cannot listen")
server.start()
print("ready", flush=True)
server.wait_for_termination()
