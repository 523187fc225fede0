"""Publishes with the CloudEvents SDK in every mode it has, and reads the same events back with it.

Usage: exchange.py SOCKET
"""

import http.client
import json
import socket
import sys
from datetime import datetime, timezone

from cloudevents.core.bindings import http as binding
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import CloudEvent as OldCloudEvent
from cloudevents.v1.http import to_binary, to_structured


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self.path)


def call(method, url, body=None, headers={}):
    connection = UnixConnection(sys.argv[1])
    connection.request(method, url, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def publish(headers, body):
    status, answer = call("POST", "/v1/topics/sdk.python/events", body, headers)
    assert status == 201, (status, answer)
    return json.loads(answer)["events"]


def event(id, data, content_type="application/json"):
    return CloudEvent(
        attributes={
            "id": id,
            "source": "/sdk/python?a=b",
            "type": "com.example.sdk",
            "subject": 'Euro € 😀 "quoted" 100%',
            "time": datetime(2026, 1, 31, 9, 0, 0, 123456, tzinfo=timezone.utc),
            "datacontenttype": content_type,
            "partitionkey": "k",
        },
        data=data,
    )


sent = []
for data, content_type in [
    ({"n": [1.5, None, "ä"]}, "application/json"),
    ([], "application/json"),
    ("größe", "text/plain"),
    (bytes([0, 137, 255]), "image/png"),
]:
    for mode in [binding.to_structured_event, binding.to_binary_event]:
        this = event(f"{mode.__name__}-{len(sent)}", data, content_type)
        message = mode(this)
        [first] = publish(message.headers, message.body)
        [again] = publish(message.headers, message.body)
        assert (first["id"], first["duplicate"]) == (this.get_id(), False), first
        assert (again["cursor"], again["duplicate"]) == (first["cursor"], True), again
        sent.append(this)

batch = [event(f"batch-{n}", {"n": n}) for n in range(3)]
body = b"[" + b",".join(binding.to_structured_event(this).body for this in batch) + b"]"
places = publish({"content-type": "application/cloudevents-batch+json"}, body)
assert [place["id"] for place in places] == ["batch-0", "batch-1", "batch-2"], places
sent += batch

# The older interface of the SDK encodes nothing in headers.
old = OldCloudEvent({"type": "old", "source": "/sdk/old", "id": "old", "subject": "100% plain"}, {"n": 1})
publish(*to_binary(old))
old["id"] = "old-structured"
publish(*to_structured(old))

status, lines = call("GET", "/v1/events?topic=sdk.python&from=start")
assert status == 200, status
read = [binding.from_structured_event(binding.HTTPMessage({}, line)) for line in lines.splitlines() if line]
assert len(read) == len(sent) + 2, (len(read), len(sent))
for ours, theirs in zip(sent, read):
    expected, found = ours.get_attributes(), theirs.get_attributes()
    for name, value in expected.items():
        assert found[name] == value, (name, value, found)
    assert theirs.get_data() == ours.get_data(), (ours.get_data(), theirs.get_data())
assert read[-1].get_attributes()["subject"] == "100% plain"

status, answer = call("POST", "/v1/topics/sdk.python/events", b"{}", {"content-type": "application/cloudevents+json"})
assert (status, json.loads(answer)["code"]) == (400, "bad_event"), answer
print("well")
