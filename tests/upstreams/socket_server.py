"""A realtime API by hand: says where it listens, echoes what it is sent, and ends a turn on "go"."""

import asyncio
import json

from websockets.asyncio.server import serve


async def session(socket):
    names = ", ".join(sorted({name.lower() for name in socket.request.headers}))
    print(f"opened {socket.request.path} with {names}", flush=True)
    async for message in socket:
        await socket.send(message)
        if message == "go":
            usage = {
                "input_tokens": 100,
                "output_tokens": 20,
                "total_tokens": 120,
                "input_token_details": {"cached_tokens": 40},
            }
            done = {"type": "response.done", "response": {"usage": usage}}
            await socket.send(json.dumps(done))


async def main():
    async with serve(session, "127.0.0.1", 0, max_size=None) as server:
        print(f"listening {server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


asyncio.run(main())
