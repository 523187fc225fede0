"""Charges what was ordered: a service in Python, with nothing but its standard library.

It follows `orders.placed` at the node beside it, and says in `payments.charged` what it did. Where it is, it keeps in a
file. After a crash it begins again with the orders of the last place, and publishes under the same ids as before: the node
knows them, and stores nothing twice.

    python3 charge.py SOCKET PLACE-FILE
"""

import http.client
import json
import pathlib
import socket
import sys
import time

SOCKET, PLACE = sys.argv[1], pathlib.Path(sys.argv[2])


class Node(http.client.HTTPConnection):
    """Speaks HTTP over the socket in the node's home."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(SOCKET)


def call(method, path, body=None, headers={}):
    node = Node("localhost")
    node.request(method, path, body, headers)
    answer = node.getresponse()
    if answer.status >= 300:
        raise OSError(answer.read().decode())
    return answer


def charge(order):
    total = sum(item["price"] * item["count"] for item in order["data"]["items"])
    headers = {
        "ce-specversion": "1.0",
        "ce-id": f"charge-{order['id']}",  # the same whenever this order is charged
        "ce-source": "/charge",
        "ce-type": "payment.charged",
        "ce-causationid": order["id"],
        "ce-correlationid": order["correlationid"],
        "content-type": "application/json",
    }
    body = json.dumps({"order": order["id"], "total": total})
    answer = json.load(call("POST", "/v1/topics/payments.charged/events", body, headers))
    repeat = " again" if answer["events"][0]["duplicate"] else ""
    print(f"charged {total} for {order['id']}{repeat}", flush=True)


def follow():
    place = PLACE.read_text() if PLACE.exists() else "0"
    for line in call("GET", f"/v1/events?topic=orders.placed&follow=true&from=arrival:{place}"):
        if line.strip():
            order = json.loads(line)
            charge(order)
            # Several events may have arrived together, so that the place is before them.
            PLACE.write_text(str(int(order["rdlarrival"]) - 1))


while True:
    try:
        follow()
    except (OSError, http.client.HTTPException) as error:
        print(f"the node does not answer: {error}", file=sys.stderr)
    time.sleep(0.5)
