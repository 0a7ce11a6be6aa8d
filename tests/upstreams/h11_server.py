"""An upstream over h11 that counts: says where it listens, then a line for each request read whole."""

import json
import re
import socket
import threading

import h11


def said(line):
    print(line, flush=True)


def next_event(connection, stream):
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        connection.receive_data(stream.recv(65536))


def answer(connection, stream, request):
    headers = dict(request.headers)
    wish = re.search(rb"tokens=(\d+)", headers.get(b"x-fake", b""))
    tokens = int(wish.group(1)) if wish else 1
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    body = {"object": "chat.completion", "model": "gpt-4o", "choices": [], "usage": usage}
    body = json.dumps(body).encode()
    head = [("content-type", "application/json"), ("content-length", str(len(body)))]
    stream.sendall(
        connection.send(h11.Response(status_code=200, headers=head))
        + connection.send(h11.Data(data=body))
        + connection.send(h11.EndOfMessage())
    )


def serve(stream):
    connection = h11.Connection(h11.SERVER)
    request = None
    try:
        while True:
            event = next_event(connection, stream)
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                said(f"200 {request.method.decode()} {request.target.decode()}")
                answer(connection, stream, request)
                if connection.our_state is h11.MUST_CLOSE:
                    return
                connection.start_next_cycle()
            elif isinstance(event, h11.ConnectionClosed):
                return
    except h11.RemoteProtocolError as fault:
        said(f"fault {fault}")
    except OSError:
        pass
    finally:
        stream.close()


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    said(f"listening {listener.getsockname()[1]}")
    while True:
        stream, _ = listener.accept()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(stream,), daemon=True).start()


main()
