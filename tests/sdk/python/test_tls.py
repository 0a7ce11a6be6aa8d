"""The unmodified OpenAI SDK over TLS with a client certificate, over HTTP/2 and HTTP/1.1.

Beside what scenario.py names: CA_FILE trusts the proxy, CERT_FILE and KEY_FILE are the client's own.
"""

import asyncio
import os
import ssl
import sys

import httpx2
import openai
from scenario import API_KEY, BASE_URL, run

URL = BASE_URL + "/v1"
HELLO = [{"role": "user", "content": "hello there"}]
STREAMS = 20


def trusting():
    context = ssl.create_default_context(cafile=os.environ["CA_FILE"])
    context.load_cert_chain(os.environ["CERT_FILE"], os.environ["KEY_FILE"])
    return context


def asked(http2):
    http = httpx2.Client(verify=trusting(), http2=http2, trust_env=False)
    client = openai.OpenAI(base_url=URL, api_key=API_KEY, http_client=http)
    chat = client.chat.completions.with_raw_response
    raw = chat.create(model="gpt-4o", messages=HELLO, max_tokens=7)
    assert raw.parse().usage.completion_tokens == 7
    stream = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, max_tokens=6, stream=True
    )
    assert list(stream)[-1].choices[0].finish_reason == "length"
    return raw.http_response.http_version


def test_http2():
    assert asked(http2=True) == "HTTP/2"


def test_http1():
    assert asked(http2=False) == "HTTP/1.1"


def test_many_streams_at_once():
    async def stream(client, tokens):
        chunks = await client.chat.completions.create(
            model="gpt-4o",
            messages=HELLO,
            max_tokens=tokens,
            stream=True,
            stream_options={"include_usage": True},
        )
        usages = [chunk.usage async for chunk in chunks if chunk.usage]
        assert [usage.completion_tokens for usage in usages] == [tokens]

    async def streams():
        http = httpx2.AsyncClient(verify=trusting(), http2=True, trust_env=False)
        async with openai.AsyncOpenAI(base_url=URL, api_key=API_KEY, http_client=http) as client:
            await asyncio.gather(*(stream(client, n + 1) for n in range(STREAMS)))

    asyncio.run(streams())


def test_without_a_certificate_there_is_no_connection():
    context = ssl.create_default_context(cafile=os.environ["CA_FILE"])
    http = httpx2.Client(verify=context, http2=True, trust_env=False)
    client = openai.OpenAI(base_url=URL, api_key=API_KEY, http_client=http, max_retries=0)
    try:
        client.models.list()
    except openai.APIConnectionError:
        return
    raise AssertionError("it was let in")


run(sys.modules[__name__])
