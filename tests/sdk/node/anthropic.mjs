// The unmodified Anthropic SDK, through the proxy.

import Anthropic from "@anthropic-ai/sdk";
import { apiKey, baseUrl as baseURL, behindProxy, equal, large, run, thrown, words } from "./scenario.mjs";

const client = new Anthropic({ baseURL, apiKey });
const messages = [{ role: "user", content: "hello there" }];
const tools = [{ name: "weather", input_schema: { type: "object", properties: { city: { type: "string" } } } }];
const model = "claude-sonnet-4-5";
const create = (options, body) =>
  new Anthropic({ baseURL, apiKey, ...options }).messages.create({ model, max_tokens: 10, messages, ...body });

const scenarios = {
  async message() {
    const answer = await create({}, { max_tokens: 7 });
    equal(words(answer.content[0].text), 7);
    equal([answer.usage.input_tokens, answer.usage.output_tokens], [3, 7]);
  },
  async stream() {
    const final = await client.messages.stream({ model, max_tokens: 6, messages }).finalMessage();
    equal(words(final.content[0].text), 6);
    equal([final.stop_reason, final.usage.output_tokens], ["max_tokens", 6]);
  },
  async "tools, plain and streamed"() {
    equal((await create({}, { tools, max_tokens: 100 })).content[0].input, { city: "example" });
    const final = await client.messages.stream({ model, max_tokens: 100, messages, tools }).finalMessage();
    equal(final.content[0].input, { city: "example" });
  },
  async "count tokens"() {
    equal((await client.messages.countTokens({ model, messages })).input_tokens, 3);
  },
  async "an error in the middle of a stream"() {
    const body = { model: "claude-fake-error-event", max_tokens: 100, messages };
    await thrown(Anthropic.APIError, () => client.messages.stream(body).finalMessage());
  },
  async "an error of the provider"() {
    await thrown(Anthropic.BadRequestError, () => create({}, { model: "claude-fake-400" }));
  },
};

const kind = (error) => error.error.error.type;

const proxyScenarios = {
  async "a wrong key"() {
    const [error, requests] = await thrown(Anthropic.AuthenticationError, () => create({ apiKey: "sk-wrong" }));
    equal([kind(error), requests], ["authentication_error", 0]);
  },
  async "an empty quota is not retried"() {
    // The test that runs this script sees that the proxy was asked once, and not three times.
    const empty = { apiKey: process.env.EMPTY_KEY };
    const [error, requests] = await thrown(Anthropic.RateLimitError, () => create(empty));
    equal([kind(error), requests], ["rate_limit_error", 0]);
  },
  async "what a key may not do"() {
    for (const name of ["DISABLED_KEY", "NARROW_KEY"]) {
      const key = { apiKey: process.env[name] };
      const [error, requests] = await thrown(Anthropic.PermissionDeniedError, () => create(key));
      equal([kind(error), requests], ["permission_error", 0]);
    }
  },
  async "what the proxy refuses"() {
    let [error, requests] = await thrown(Anthropic.NotFoundError, () => create({}, { model: "no-such-model" }));
    equal([kind(error), requests], ["not_found_error", 0]);
    const body = { messages: [{ role: "user", content: large }] };
    [error, requests] = await thrown(Anthropic.APIError, () => create({}, body));
    equal([error.status, kind(error), requests], [413, "request_too_large", 0]);
  },
};

await run(behindProxy ? { ...scenarios, ...proxyScenarios } : scenarios);
