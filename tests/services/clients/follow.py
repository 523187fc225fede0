"""Follows a node with sseclient-py, coming again whenever the connection ends, until the last event is there."""

import http.client
import sys
import time
from urllib.parse import urlsplit

import sseclient

url, token, last = sys.argv[1:]
cursor = None


class Body:
    """An answer as sseclient-py wants it: an iterator of bytes that can be closed."""

    def __init__(self, response):
        self.response = response

    def __iter__(self):
        while chunk := self.response.read1():
            yield chunk

    def close(self):
        self.response.close()


while True:
    try:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        headers = {"accept": "text/event-stream", "authorization": f"Bearer {token}"}
        if cursor:
            headers["last-event-id"] = cursor
        connection.request("GET", "/v1/events?topic=a&from=start", headers=headers)
        for event in sseclient.SSEClient(Body(connection.getresponse())).events():
            cursor = event.id
            print(event.event, event.data, flush=True)
            if event.event == "event" and f'"id":"{last}"' in event.data:
                sys.exit()
    except (OSError, http.client.HTTPException):
        pass
    time.sleep(0.2)
