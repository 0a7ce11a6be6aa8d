"""The unmodified Anthropic SDK, through the proxy."""

import asyncio
import os
import sys

import anthropic
from scenario import API_KEY, BASE_URL, LARGE, PIXEL, raised, run

client = anthropic.Anthropic(base_url=BASE_URL, api_key=API_KEY)
MODEL = "claude-sonnet-4-5"
HELLO = [{"role": "user", "content": "hello there"}]
WEATHER = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def words(text):
    return len(text.split())


def test_message():
    answer = client.messages.create(model=MODEL, max_tokens=7, messages=HELLO)
    assert words(answer.content[0].text) == 7
    assert answer.stop_reason == "max_tokens"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 7)
    assert answer._request_id


def test_stream():
    events = list(client.messages.create(model=MODEL, max_tokens=100, messages=HELLO, stream=True))
    kinds = [e.type for e in events]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert events[0].message.usage.input_tokens == 3
    assert kinds.count("content_block_delta") == 20
    assert next(e for e in events if e.type == "message_delta").usage.output_tokens == 20


def test_stream_helper():
    with client.messages.stream(model=MODEL, max_tokens=5, messages=HELLO) as stream:
        assert words("".join(stream.text_stream)) == 5
        assert stream.get_final_message().usage.output_tokens == 5


def test_system_and_cache():
    answer = client.messages.create(
        model=MODEL, max_tokens=5, messages=HELLO,
        system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        extra_headers={"x-fake": "cached=1000,cache-write=200"},
    )
    assert answer.usage.cache_read_input_tokens == 1000
    assert answer.usage.cache_creation_input_tokens == 200
    assert answer.usage.input_tokens == 5


def test_tools():
    answer = client.messages.create(model=MODEL, max_tokens=100, messages=HELLO, tools=[WEATHER])
    assert answer.stop_reason == "tool_use"
    call = answer.content[0]
    assert (call.name, call.input) == ("weather", {"city": "example"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    turns = HELLO + [
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(model=MODEL, max_tokens=100, messages=turns, tools=[WEATHER])
    assert answer.stop_reason == "end_turn"
    with client.messages.stream(
        model=MODEL, max_tokens=100, messages=HELLO, tools=[WEATHER]
    ) as stream:
        assert stream.get_final_message().content[0].input == {"city": "example"}


def test_images_in_the_prompt():
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what is this?"}]
    answer = client.messages.create(
        model=MODEL, max_tokens=100, messages=[{"role": "user", "content": content}]
    )
    assert answer.content[0].text.startswith("I see 1 images.")


def test_count_tokens():
    assert client.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens == 3


def test_direct_models():
    assert len(client.models.list().data) == 2


def test_async_client():
    async def several():
        async with anthropic.AsyncAnthropic(base_url=BASE_URL, api_key=API_KEY) as client:
            async def one(n):
                async with client.messages.stream(
                    model=MODEL, max_tokens=n, messages=HELLO
                ) as stream:
                    return words(await stream.get_final_text())

            return await asyncio.gather(*[one(n) for n in range(1, 21)])

    assert asyncio.run(several()) == list(range(1, 21))


def test_an_error_in_the_middle_of_a_stream():
    def read():
        list(client.messages.create(
            model="claude-fake-error-event", max_tokens=100, messages=HELLO, stream=True
        ))

    error, requests = raised(anthropic.APIStatusError, read)
    assert error.body["error"]["type"] == "overloaded_error"
    assert requests == 1


def create(key=API_KEY, model=MODEL, messages=HELLO, **more):
    client = anthropic.Anthropic(base_url=BASE_URL, api_key=key, **more)
    return client.messages.create(model=model, max_tokens=10, messages=messages)


def kind(error):
    assert error.body["type"] == "error"
    return error.body["error"]["type"]


def test_errors_of_the_provider():
    error, _ = raised(anthropic.BadRequestError, lambda: create(model="claude-fake-400"))
    assert kind(error) == "invalid_request_error"


def test_proxy_a_wrong_key():
    error, requests = raised(anthropic.AuthenticationError, lambda: create(key="sk-wrong"))
    assert (kind(error), requests) == ("authentication_error", 0)


def test_proxy_an_empty_quota_is_not_retried():
    # The test that runs this script sees that the proxy was asked once, and not three times.
    error, requests = raised(anthropic.RateLimitError, lambda: create(key=os.environ["EMPTY_KEY"]))
    assert (kind(error), requests) == ("rate_limit_error", 0)
    assert error.response.headers["x-should-retry"] == "false"


def test_proxy_what_a_key_may_not_do():
    for name in ["DISABLED_KEY", "NARROW_KEY"]:
        error, requests = raised(anthropic.PermissionDeniedError, lambda: create(key=os.environ[name]))
        assert (kind(error), requests) == ("permission_error", 0)


def test_proxy_refuses_what_it_cannot_serve():
    error, requests = raised(anthropic.NotFoundError, lambda: create(model="no-such-model"))
    assert (kind(error), requests) == ("not_found_error", 0)
    large = [{"role": "user", "content": LARGE}]
    error, requests = raised(anthropic.APIStatusError, lambda: create(messages=large))
    assert (error.status_code, kind(error), requests) == (413, "request_too_large", 0)


if __name__ == "__main__":
    run(sys.modules[__name__])
