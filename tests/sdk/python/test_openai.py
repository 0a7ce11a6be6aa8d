"""The unmodified OpenAI SDK, through the proxy."""

import asyncio
import io
import os
import sys

import openai
from scenario import API_KEY, BASE_URL, LARGE, PIXEL, raised, run

URL = BASE_URL + "/v1"
client = openai.OpenAI(base_url=URL, api_key=API_KEY)
HELLO = [{"role": "user", "content": "hello there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def words(text):
    return len(text.split())


def test_chat():
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=7)
    assert words(answer.choices[0].message.content) == 7
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7
    assert answer.usage.prompt_tokens == 3
    assert answer._request_id


def test_chat_with_several_choices():
    answer = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, max_completion_tokens=4, n=3
    )
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 12


def test_stream_without_usage_has_none():
    stream = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, max_tokens=6, stream=True
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert words(text) == 6, text
    assert all(c.usage is None for c in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_stream_that_opts_out_has_none_either():
    stream = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, max_tokens=6, stream=True,
        stream_options={"include_usage": False},
    )
    chunks = list(stream)
    assert all(c.usage is None and c.choices for c in chunks)


def test_stream_with_usage_has_it_last():
    stream = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, max_tokens=6, stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 6
    assert all(c.usage is None for c in chunks[:-1])


def test_stream_helper():
    with client.chat.completions.stream(model="gpt-4o", messages=HELLO) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert words(final.choices[0].message.content) == 20


def test_tools_and_their_results():
    answer = client.chat.completions.create(model="gpt-4o", messages=HELLO, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "tool_calls"
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    assert call.function.arguments == '{"city":"example","days":1}'
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns = HELLO + [answer.choices[0].message, result]
    answer = client.chat.completions.create(model="gpt-4o", messages=turns, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "stop"


def test_streamed_tools():
    stream = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, tools=[WEATHER], stream=True
    )
    arguments = ""
    for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or []:
            arguments += call.function.arguments
    assert arguments == '{"city":"example","days":1}'


def test_images_in_the_prompt():
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    content = [{"type": "text", "text": "what is this?"}, image, image]
    answer = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": content}]
    )
    assert answer.choices[0].message.content.startswith("I see 2 images.")


def test_a_large_prompt_arrives_whole():
    text = "y" * (1 << 20)
    answer = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": text}]
    )
    assert answer.usage.prompt_tokens == (1 << 20) // 4


def test_old_completions():
    answer = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="hello", max_tokens=5)
    assert words(answer.choices[0].text) == 5
    stream = client.completions.create(
        model="gpt-3.5-turbo-instruct", prompt="hello", max_tokens=5, stream=True
    )
    assert words("".join(c.choices[0].text for c in stream)) == 5


def test_embeddings():
    answer = client.embeddings.create(
        model="text-embedding-3-small", input=["one", "two"], dimensions=8
    )
    assert [len(d.embedding) for d in answer.data] == [8, 8]
    assert answer.usage.total_tokens == 2


def test_responses():
    answer = client.responses.create(model="gpt-4o", input="hello", max_output_tokens=5)
    assert answer.status == "incomplete"
    assert words(answer.output_text) == 5
    assert answer.usage.output_tokens == 5


def test_streamed_responses():
    events = list(client.responses.create(model="gpt-4o", input="hello", stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert words(text) == 20
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage.output_tokens == 20
    with client.responses.stream(model="gpt-4o", input="hello") as stream:
        for _ in stream:
            pass
        assert words(stream.get_final_response().output_text) == 20


def test_tools_of_responses():
    tool = {"type": "function", **WEATHER["function"], "strict": False}
    answer = client.responses.create(model="gpt-4o", input="hello", tools=[tool])
    assert answer.output[0].type == "function_call"
    assert answer.output[0].arguments == '{"city":"example","days":1}'


def test_images_and_audio():
    made = client.images.generate(model="gpt-image-1", prompt="a cat", n=2)
    assert len(made.data) == 2 and made.usage.output_tokens == 544
    sound = client.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="hello")
    assert len(sound.read()) == 510
    upload = ("a.wav", io.BytesIO(b"x" * 100_000))
    text = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=upload)
    assert text.text.startswith("the quick proxy")


def test_models():
    ids = [model.id for model in client.models.list()]
    assert "gpt-4o" in ids, ids


def test_async_client():
    async def several():
        async with openai.AsyncOpenAI(base_url=URL, api_key=API_KEY) as client:
            async def one(n):
                stream = await client.chat.completions.create(
                    model="gpt-4o", messages=HELLO, max_tokens=n, stream=True
                )
                return words("".join([c.choices[0].delta.content or "" async for c in stream]))

            return await asyncio.gather(*[one(n) for n in range(1, 21)])

    assert asyncio.run(several()) == list(range(1, 21))


def test_a_stream_that_is_left_early():
    stream = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, stream=True,
        extra_headers={"x-fake": "tokens=10000,interval=5ms"},
    )
    next(iter(stream))
    stream.close()


def test_an_error_in_the_middle_of_a_stream():
    def read():
        list(client.chat.completions.create(
            model="gpt-4o-fake-error-event", messages=HELLO, stream=True
        ))

    error, requests = raised(openai.APIError, read)
    assert "in the middle of this stream" in error.message
    assert requests == 1


def create(key=API_KEY, model="gpt-4o", messages=HELLO, **more):
    client = openai.OpenAI(base_url=URL, api_key=key, **more)
    return client.chat.completions.create(model=model, messages=messages)


def test_errors_of_the_provider():
    error, _ = raised(openai.BadRequestError, lambda: create(model="gpt-4o-fake-400"))
    assert error.status_code == 400
    error, requests = raised(openai.RateLimitError, lambda: create(model="gpt-4o-fake-429", max_retries=0))
    assert error.code == "rate_limit_exceeded"
    assert requests >= 1


def test_proxy_a_wrong_key():
    error, requests = raised(openai.AuthenticationError, lambda: create(key="sk-wrong"))
    assert (error.code, requests) == ("invalid_api_key", 0), error


def test_proxy_an_empty_quota_is_not_retried():
    # The test that runs this script sees that the proxy was asked once, and not three times.
    error, requests = raised(openai.RateLimitError, lambda: create(key=os.environ["EMPTY_KEY"]))
    assert (error.code, error.type, requests) == ("insufficient_quota", "insufficient_quota", 0)
    assert error.response.headers["x-should-retry"] == "false"
    assert "API_KEY_QUOTA_EXHAUSTED" in error.message


def test_proxy_what_a_key_may_not_do():
    error, requests = raised(openai.PermissionDeniedError, lambda: create(key=os.environ["DISABLED_KEY"]))
    assert (error.code, requests) == ("key_disabled", 0)
    error, requests = raised(openai.PermissionDeniedError, lambda: create(key=os.environ["NARROW_KEY"]))
    assert (error.code, requests) == ("model_not_allowed", 0)


def test_proxy_refuses_what_it_cannot_serve():
    error, requests = raised(openai.NotFoundError, lambda: create(model="no-such-model"))
    assert (error.code, requests) == ("model_not_found", 0)
    error, requests = raised(openai.BadRequestError, lambda: create(model=7))
    assert (error.type, requests) == ("invalid_request_error", 0)
    large = [{"role": "user", "content": LARGE}]
    error, requests = raised(openai.APIStatusError, lambda: create(messages=large))
    assert (error.status_code, requests) == (413, 0)


if __name__ == "__main__":
    run(sys.modules[__name__])
