"""A client of a realtime API: its URL, its key, and how many turns it takes."""

import json
import os
import sys

from websockets.sync.client import connect

url, key, turns = sys.argv[1], os.environ["API_KEY"], int(sys.argv[2])
headers = {"Authorization": f"Bearer {key}"}
with connect(url, additional_headers=headers, max_size=None, proxy=None) as socket:
    assert not socket.protocol.extensions, socket.protocol.extensions
    for size in (0, 1, 125, 126, 65_535, 65_536, 300_000):
        sent = bytes(i % 251 for i in range(size))
        socket.send(sent)
        assert socket.recv() == sent, size
    for _ in range(turns):
        socket.send("go")
        assert socket.recv() == "go"
        done = json.loads(socket.recv())
        assert done["type"] == "response.done", done
print("done")
