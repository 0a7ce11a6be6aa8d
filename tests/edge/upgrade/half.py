"""One end of a take-over, as far as it goes: `half.py new|old SOCKET STEP ACT [BOOKS]`.

It goes up to STEP and acts then: `exit`, `hang`, `close` (its connection, and lives on), `fail` (says so,
and lives on), `nonsense`, `term:PID` (sends SIGTERM and goes on), `run:SHELL` (runs it and goes on).
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

side, path, until, act = sys.argv[1:5]
PROTOCOL = 2


def send(message):
    text = json.dumps(message).encode()
    peer.sendall(struct.pack(">I", len(text)) + text)


def exactly(count):
    data = b""
    while len(data) < count:
        more = peer.recv(count - len(data))
        if not more:
            print("the other end has gone", flush=True)
            sys.exit(0)
        data += more
    return data


def receive():
    message = json.loads(exactly(struct.unpack(">I", exactly(4))[0]))
    print(json.dumps(message), flush=True)
    return message


def step(name):
    if name != until:
        return
    if act == "exit":
        os.kill(os.getpid(), signal.SIGKILL)
    elif act == "hang":
        time.sleep(600)
    elif act == "close":
        peer.close()
        time.sleep(600)
    elif act == "fail":
        send({"Failed": "it has no wish to"})
        time.sleep(600)
    elif act == "nonsense":
        send({"Nonsense": 1})
        time.sleep(600)
    elif act.startswith("term:"):
        os.kill(int(act[5:]), signal.SIGTERM)
        time.sleep(0.2)
    elif act.startswith("run:"):
        subprocess.run(["sh", "-c", act[4:]], check=True)


peer = socket.socket(socket.AF_UNIX)
if side == "new":
    peer.connect(path)
    send({"Take": {"protocol": PROTOCOL, "release": "0"}})
    receive()
    peer.recvmsg(1, socket.CMSG_SPACE(253 * 4))
    step("asked")
    send("Books")
    step("books")
    receive()
    step("yours")
    send("Ready")
    step("ready")
    receive()
    step("go")
    send("Thanks")
    step("thanks")
else:
    listener = peer
    listener.bind(path)
    listener.listen()
    peer, _ = listener.accept()
    receive()
    step("asked")
    send({"Sockets": {"slots": [], "books": json.loads(sys.argv[5])}})
    peer.sendall(b"s")
    step("sockets")
    receive()
    step("books")
    send("Yours")
    step("yours")
    receive()
    step("ready")
    send("Go")
    step("go")
    receive()
    step("thanks")
