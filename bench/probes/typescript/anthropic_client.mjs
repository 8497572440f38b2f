// The official anthropic client for TypeScript, unmodified: `node anthropic_client.mjs PLAN.json`.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { VERSION } from "@anthropic-ai/sdk/version";
import { z } from "zod";

import { isPlace, main, refused, until } from "./running.mjs";

const Place = z.object({ city: z.string(), days: z.number().int() });

const tool = (fn) => ({ name: fn.name, description: fn.description, input_schema: fn.parameters });
const textOf = (message) => message.content.map((block) => block.text ?? "").join("");
const callsOf = (message) => message.content.filter((block) => block.type === "tool_use");
const said = (calls) => calls.map((call) => [call.name, call.input]);

function ask(target, script, changes = {}) {
  return {
    model: target.model,
    system: script.system,
    messages: [{ role: "user", content: script.prompt }],
    max_tokens: script.max_tokens,
    ...changes,
  };
}

/** The conversation after the tools of an answer have been run. */
function after(asked, answer, script) {
  const content = callsOf(answer).map((call) => ({
    type: "tool_result",
    tool_use_id: call.id,
    content: script.tool_result,
  }));
  const spoken = { role: "assistant", content: answer.content };
  return { ...asked, messages: [...asked.messages, spoken, { role: "user", content }] };
}

async function pictured(client, target, script, source) {
  const content = [
    { type: "image", source },
    { type: "text", text: script.prompt },
  ];
  return await client.messages.create(ask(target, script, { messages: [{ role: "user", content }] }));
}

async function errorOf(kind, status, name, call) {
  const error = await refused(kind, status, call);
  assert.equal(error.error.type, "error");
  assert.equal(error.error.error.type, name);
  assert(error.error.error.message);
  return error;
}

const cases = {
  async whole(client, target, script) {
    const { data, response } = await client.messages.create(ask(target, script)).withResponse();
    assert.deepEqual([data.type, data.role], ["message", "assistant"]);
    assert(textOf(data));
    assert(["end_turn", "max_tokens"].includes(data.stop_reason));
    assert(data.usage.input_tokens > 0);
    assert(data.usage.output_tokens > 0 && data.usage.output_tokens <= script.max_tokens);
    assert.equal(response.headers.get("x-weir-model"), target.model);
    assert.equal(response.headers.get("x-weir-request-id"), data._request_id);
    assert(response.headers.get("x-weir-route"));
  },

  async streamed(client, target, script) {
    const stream = client.messages.stream(ask(target, script));
    const events = [];
    for await (const event of stream) events.push(event.type);
    const final = await stream.finalMessage();
    assert.equal(events.at(0), "message_start");
    assert.equal(events.at(-1), "message_stop");
    const answer = await client.messages.create(ask(target, script));
    assert.equal(textOf(final), textOf(answer), "the stream differs from the whole answer");
    assert.equal(final.stop_reason, answer.stop_reason);
    assert.equal(final.usage.output_tokens, answer.usage.output_tokens);
  },

  async tools(client, target, script) {
    const asked = ask(target, script, { tools: [tool(script.weather)], max_tokens: script.tool_tokens });
    const answer = await client.messages.create({ ...asked, tool_choice: { type: "any" } });
    assert.equal(answer.stop_reason, "tool_use");
    const [call] = callsOf(answer);
    assert.equal(call.name, script.weather.name);
    isPlace(call.input);
    assert(textOf(await client.messages.create(after(asked, answer, script))));
  },

  async tools_streamed(client, target, script) {
    const asked = ask(target, script, { tools: [tool(script.weather)], max_tokens: script.tool_tokens });
    const final = await client.messages.stream({ ...asked, tool_choice: { type: "any" } }).finalMessage();
    assert.equal(final.stop_reason, "tool_use");
    const [call] = callsOf(final);
    assert.equal(call.name, script.weather.name);
    isPlace(call.input);
  },

  async tools_parallel(client, target, script) {
    const tools = [tool(script.weather), tool(script.time)];
    let asked, answer;
    for (let number = 0; number < script.parallel_prompts; number++) {
      const messages = [{ role: "user", content: `${script.prompt} ${number}` }];
      asked = ask(target, script, { tools, messages, max_tokens: script.tool_tokens });
      answer = await client.messages.create(asked);
      if (callsOf(answer).length === 2) break;
    }
    assert.equal(new Set(callsOf(answer).map((call) => call.id)).size, 2, "never two calls at once");
    const final = await client.messages.stream(asked).finalMessage();
    assert.deepEqual(said(callsOf(final)), said(callsOf(answer)));
    assert(textOf(await client.messages.create(after(asked, answer, script))));
  },

  async structured(client, target, script) {
    const output_config = { format: zodOutputFormat(Place) };
    const asked = ask(target, script, { output_config, max_tokens: script.tool_tokens });
    isPlace((await client.messages.parse(asked)).parsed_output);
  },

  async image(client, target, script) {
    const source = { type: "base64", media_type: "image/png", data: script.pixel };
    assert(textOf(await pictured(client, target, script, source)));
  },

  async image_url(client, target, script) {
    const source = { type: "url", url: script.picture_url };
    assert(textOf(await pictured(client, target, script, source)));
  },

  async image_url_refused(client, target, script) {
    const source = { type: "url", url: script.picture_url };
    const asked = () => pictured(client, target, script, source);
    await errorOf(Anthropic.BadRequestError, 400, "invalid_request_error", asked);
  },

  async count_tokens(client, target, script) {
    const { max_tokens: _, ...asked } = ask(target, script);
    assert((await client.messages.countTokens(asked)).input_tokens > 0);
  },

  async batch(client, target, script) {
    const names = Array.from({ length: script.batch_lines }, (_, number) => `n${number}`);
    const requests = names.map((custom_id) => ({ custom_id, params: ask(target, script) }));
    const made = await client.messages.batches.create({ requests });
    const done = await until(
      () => client.messages.batches.retrieve(made.id),
      (found) => found.processing_status === "ended",
      script.patience_s,
    );
    assert.equal(done.request_counts.succeeded, names.length);
    const rows = [];
    for await (const row of await client.messages.batches.results(made.id)) rows.push(row);
    assert.deepEqual(rows.map((row) => row.custom_id).sort(), names);
    assert(rows.every((row) => textOf(row.result.message)));
  },

  async models(client, target) {
    const listed = [];
    for await (const model of client.models.list({ limit: 100 })) listed.push(model.id);
    assert(listed.includes(target.model), `not among ${listed.length}`);
    assert.equal((await client.models.retrieve(target.model)).id, target.model);
  },

  async bad_request(client, target, script) {
    const messages = [{ role: "nobody", content: "x" }];
    const asked = () => client.messages.create(ask(target, script, { messages }));
    await errorOf(Anthropic.BadRequestError, 400, "invalid_request_error", asked);
  },

  async unauthorized(client, target, script) {
    const stranger = client.withOptions({ apiKey: "wrong" });
    const asked = () => stranger.messages.create(ask(target, script));
    await errorOf(Anthropic.AuthenticationError, 401, "authentication_error", asked);
  },

  async not_found(client, target, script) {
    for (const model of [`${target.name}/no-such-model`, "no-such-vendor/no-such-model"]) {
      const asked = () => client.messages.create(ask(target, script, { model }));
      await errorOf(Anthropic.NotFoundError, 404, "not_found_error", asked);
    }
  },

  async rate_limited(client, target, script) {
    const asked = () => client.messages.create(ask(target, script, { model: target.limited }));
    const error = await errorOf(Anthropic.RateLimitError, 429, "rate_limit_error", asked);
    const wait = Number(error.headers.get("retry-after"));
    assert(wait > 0 && wait <= 60);
  },

  async unavailable(client, target, script) {
    const asked = () => client.messages.create(ask(target, script, { model: target.away }));
    const error = await refused(Anthropic.InternalServerError, 503, asked);
    assert(Number(error.headers.get("retry-after")) > 0);
    assert(error.error.error.message);
  },

  async too_long(client, target, script) {
    const asked = () => client.messages.create(ask(target, script, { model: target.full }));
    await errorOf(Anthropic.BadRequestError, 400, "invalid_request_error", asked);
  },
};

await main("anthropic", VERSION, cases, (baseURL, apiKey) => {
  return new Anthropic({ baseURL, apiKey, maxRetries: 0, timeout: 30_000 });
});
