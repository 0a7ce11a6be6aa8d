// The unmodified OpenAI SDK, through the proxy.

import OpenAI from "openai";
import { apiKey, assert, baseUrl, behindProxy, equal, large, run, thrown, words } from "./scenario.mjs";

const baseURL = `${baseUrl}/v1`;
const client = new OpenAI({ baseURL, apiKey });
const messages = [{ role: "user", content: "hello there" }];
const tools = [
  {
    type: "function",
    function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
  },
];
const model = "gpt-4o";

async function chunksOf(body, options) {
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ model, messages, stream: true, ...body }, options)) {
    chunks.push(chunk);
  }
  return chunks;
}

const text = (chunks) => chunks.map((c) => c.choices[0]?.delta?.content ?? "").join("");
const create = (options, body) =>
  new OpenAI({ baseURL, apiKey, ...options }).chat.completions.create({ model, messages, ...body });

const scenarios = {
  async chat() {
    const answer = await client.chat.completions.create({ model, messages, max_tokens: 7, n: 2 });
    equal(words(answer.choices[1].message.content), 7);
    equal(answer.usage.completion_tokens, 14);
  },
  async "stream without usage has none"() {
    const chunks = await chunksOf({ max_tokens: 6 });
    equal(words(text(chunks)), 6);
    assert(chunks.every((c) => !c.usage && c.choices.length === 1));
  },
  async "stream with usage has it last"() {
    const chunks = await chunksOf({ max_tokens: 6, stream_options: { include_usage: true } });
    equal(chunks.at(-1).choices, []);
    equal(chunks.at(-1).usage.completion_tokens, 6);
  },
  async "tools, plain and streamed"() {
    const answer = await client.chat.completions.create({ model, messages, tools });
    equal(answer.choices[0].message.tool_calls[0].function.arguments, '{"city":"example"}');
    const final = await client.chat.completions.stream({ model, messages, tools }).finalChatCompletion();
    equal(final.choices[0].message.tool_calls[0].function.arguments, '{"city":"example"}');
  },
  async "responses, plain and streamed"() {
    const answer = await client.responses.create({ model, input: "hello", max_output_tokens: 5 });
    equal([words(answer.output_text), answer.usage.output_tokens], [5, 5]);
    const kinds = [];
    for await (const event of await client.responses.create({ model, input: "hello", stream: true })) {
      kinds.push(event.type);
    }
    equal(kinds.at(-1), "response.completed");
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"] });
    equal(answer.data.map((d) => d.embedding.length), [16, 16]);
  },
  async transcription() {
    const file = new File([new Uint8Array(100_000)], "a.wav");
    const answer = await client.audio.transcriptions.create({ model: "gpt-4o-transcribe", file });
    assert(answer.text.startsWith("the quick proxy"), answer);
  },
  async "many streams at once"() {
    const counts = Array.from({ length: 20 }, (_, n) => n + 1);
    const streams = counts.map((n) => chunksOf({ max_tokens: n }).then((chunks) => words(text(chunks))));
    equal(await Promise.all(streams), counts);
  },
  async "a stream that is left early"() {
    const options = { headers: { "x-fake": "tokens=10000,interval=5ms" } };
    for await (const _ of await client.chat.completions.create({ model, messages, stream: true }, options)) break;
  },
  async "an error in the middle of a stream"() {
    const [error] = await thrown(OpenAI.APIError, () => chunksOf({ model: "gpt-4o-fake-error-event" }));
    assert(error.message.includes("in the middle of this stream"), error.message);
  },
  async "an error of the provider"() {
    await thrown(OpenAI.BadRequestError, () => create({}, { model: "gpt-4o-fake-400" }));
  },
};

const proxyScenarios = {
  async "a wrong key"() {
    const [error, requests] = await thrown(OpenAI.AuthenticationError, () => create({ apiKey: "sk-wrong" }));
    equal([error.code, requests], ["invalid_api_key", 0]);
  },
  async "an empty quota is not retried"() {
    // The test that runs this script sees that the proxy was asked once, and not three times.
    const empty = { apiKey: process.env.EMPTY_KEY };
    const [error, requests] = await thrown(OpenAI.RateLimitError, () => create(empty));
    equal([error.code, requests], ["insufficient_quota", 0]);
  },
  async "what a key may not do"() {
    const disabled = { apiKey: process.env.DISABLED_KEY };
    let [error, requests] = await thrown(OpenAI.PermissionDeniedError, () => create(disabled));
    equal([error.code, requests], ["key_disabled", 0]);
    const narrow = { apiKey: process.env.NARROW_KEY };
    [error, requests] = await thrown(OpenAI.PermissionDeniedError, () => create(narrow));
    equal([error.code, requests], ["model_not_allowed", 0]);
  },
  async "what the proxy refuses"() {
    let [error, requests] = await thrown(OpenAI.NotFoundError, () => create({}, { model: "no-such-model" }));
    equal([error.code, requests], ["model_not_found", 0]);
    const body = { messages: [{ role: "user", content: large }] };
    [error, requests] = await thrown(OpenAI.APIError, () => create({}, body));
    equal([error.status, requests], [413, 0]);
  },
};

await run(behindProxy ? { ...scenarios, ...proxyScenarios } : scenarios);
