// The official openai client for TypeScript, unmodified: `node openai_client.mjs PLAN.json`.

import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { VERSION } from "openai/version";
import { z } from "zod";

import { isPlace, main, refused, until } from "./running.mjs";

const Place = z.object({ city: z.string(), days: z.number().int() });

const tool = (fn) => ({ type: "function", function: fn });
const ask = (script, prompt = script.prompt) => [
  { role: "system", content: script.system },
  { role: "user", content: prompt },
];

async function pictured(client, target, script, url) {
  const content = [
    { type: "text", text: script.prompt },
    { type: "image_url", image_url: { url } },
  ];
  return await client.chat.completions.create({
    model: target.model,
    messages: [{ role: "user", content }],
    max_tokens: script.max_tokens,
  });
}

const cases = {
  async whole(client, target, script) {
    const { data, response } = await client.chat.completions
      .create({ model: target.model, messages: ask(script), max_tokens: script.max_tokens })
      .withResponse();
    const [choice] = data.choices;
    assert.equal(data.object, "chat.completion");
    assert.equal(choice.message.role, "assistant");
    assert(choice.message.content);
    assert(["stop", "length"].includes(choice.finish_reason));
    assert(data.usage.prompt_tokens > 0);
    assert(data.usage.completion_tokens > 0 && data.usage.completion_tokens <= script.max_tokens);
    assert.equal(data.usage.total_tokens, data.usage.prompt_tokens + data.usage.completion_tokens);
    assert.equal(response.headers.get("x-weir-model"), target.model);
    assert.equal(response.headers.get("x-weir-request-id"), data._request_id);
    assert(response.headers.get("x-weir-route"));
  },

  async streamed(client, target, script) {
    const asked = { model: target.model, messages: ask(script), max_tokens: script.max_tokens };
    let [text, finish, usage] = ["", null, null];
    for await (const chunk of await client.chat.completions.create({
      ...asked,
      stream: true,
      stream_options: { include_usage: true },
    })) {
      usage = chunk.usage ?? usage;
      for (const choice of chunk.choices) {
        text += choice.delta.content ?? "";
        finish = choice.finish_reason ?? finish;
      }
    }
    const answer = await client.chat.completions.create(asked);
    assert.equal(text, answer.choices[0].message.content, "the stream differs from the whole answer");
    assert.equal(finish, answer.choices[0].finish_reason);
    assert.equal(usage.completion_tokens, answer.usage.completion_tokens);
  },

  async tools(client, target, script) {
    const asked = { model: target.model, tools: [tool(script.weather)], max_tokens: script.tool_tokens };
    const answer = await client.chat.completions.create({
      ...asked,
      messages: ask(script),
      tool_choice: "required",
    });
    const [choice] = answer.choices;
    assert.equal(choice.finish_reason, "tool_calls");
    const [call] = choice.message.tool_calls;
    assert.equal(call.function.name, script.weather.name);
    isPlace(JSON.parse(call.function.arguments));
    const result = { role: "tool", tool_call_id: call.id, content: script.tool_result };
    const after = await client.chat.completions.create({
      ...asked,
      messages: [...ask(script), choice.message, result],
    });
    assert(after.choices[0].message.content);
  },

  async tools_streamed(client, target, script) {
    const final = await client.chat.completions
      .stream({
        model: target.model,
        messages: ask(script),
        tools: [tool(script.weather)],
        tool_choice: "required",
        max_tokens: script.tool_tokens,
      })
      .finalChatCompletion();
    assert.equal(final.choices[0].finish_reason, "tool_calls");
    const [call] = final.choices[0].message.tool_calls;
    assert.equal(call.function.name, script.weather.name);
    isPlace(JSON.parse(call.function.arguments));
  },

  async tools_parallel(client, target, script) {
    const asked = {
      model: target.model,
      tools: [tool(script.weather), tool(script.time)],
      max_tokens: script.tool_tokens,
    };
    let message, messages;
    for (let number = 0; number < script.parallel_prompts; number++) {
      messages = ask(script, `${script.prompt} ${number}`);
      message = (await client.chat.completions.create({ ...asked, messages })).choices[0].message;
      if (message.tool_calls?.length === 2) break;
    }
    const said = (calls) => calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);
    assert.equal(new Set(message.tool_calls.map((call) => call.id)).size, 2, "never two calls at once");
    const final = await client.chat.completions.stream({ ...asked, messages }).finalChatCompletion();
    assert.deepEqual(said(final.choices[0].message.tool_calls), said(message.tool_calls));
    const results = message.tool_calls.map((call) => ({
      role: "tool",
      tool_call_id: call.id,
      content: script.tool_result,
    }));
    const after = await client.chat.completions.create({
      ...asked,
      messages: [...messages, message, ...results],
    });
    assert(after.choices[0].message.content);
  },

  async structured(client, target, script) {
    const answer = await client.chat.completions.parse({
      model: target.model,
      messages: ask(script),
      max_tokens: script.tool_tokens,
      response_format: zodResponseFormat(Place, "place"),
    });
    isPlace(answer.choices[0].message.parsed);
  },

  async image(client, target, script) {
    const answer = await pictured(client, target, script, `data:image/png;base64,${script.pixel}`);
    assert(answer.choices[0].message.content);
  },

  async image_url(client, target, script) {
    const answer = await pictured(client, target, script, script.picture_url);
    assert(answer.choices[0].message.content);
  },

  async image_url_refused(client, target, script) {
    const asked = () => pictured(client, target, script, script.picture_url);
    assert((await refused(OpenAI.BadRequestError, 400, asked)).error.message);
  },

  async completions(client, target, script) {
    const asked = { model: target.completion, prompt: script.prompt, max_tokens: script.max_tokens };
    const answer = await client.completions.create(asked);
    let text = "";
    for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
      text += chunk.choices.map((choice) => choice.text).join("");
    }
    assert(answer.usage.completion_tokens > 0);
    assert.equal(text, answer.choices[0].text);
  },

  async responses(client, target, script) {
    const asked = {
      model: target.model,
      instructions: script.system,
      input: script.prompt,
      max_output_tokens: script.max_tokens,
    };
    const answer = await client.responses.create(asked);
    assert(answer.output_text);
    const stream = client.responses.stream(asked);
    let text = "";
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    const final = await stream.finalResponse();
    assert.equal(text, answer.output_text, "the stream differs from the whole answer");
    assert.equal(final.usage.output_tokens, answer.usage.output_tokens);
    const offered = {
      model: target.model,
      tools: [{ type: "function", strict: false, ...script.weather }],
      max_output_tokens: script.tool_tokens,
    };
    const turn = { role: "user", content: script.prompt };
    const called = await client.responses.create({ ...offered, input: [turn], tool_choice: "required" });
    const call = called.output.find((item) => item.type === "function_call");
    isPlace(JSON.parse(call.arguments));
    const result = { type: "function_call_output", call_id: call.call_id, output: script.tool_result };
    const input = [turn, ...called.output, result];
    assert((await client.responses.create({ ...offered, input })).output_text);
  },

  async embeddings(client, target, script) {
    const answer = await client.embeddings.create({ model: target.embedding, input: script.texts });
    assert.deepEqual(answer.data.map((entry) => entry.index), [0, 1]);
    assert(answer.data[0].embedding.length > 100);
    assert(answer.usage.prompt_tokens > 0);
  },

  async moderation(client, target, script) {
    const answer = await client.moderations.create({ model: target.moderation, input: script.texts });
    assert.deepEqual(answer.results.map((result) => result.flagged), [false, false]);
  },

  async picture(client, target, script) {
    const answer = await client.images.generate({ model: target.picture, prompt: script.prompt });
    assert(Buffer.from(answer.data[0].b64_json, "base64").length > 0);
  },

  async speech(client, target, script) {
    const answer = await client.audio.speech.create({
      model: target.speech,
      voice: "alloy",
      input: script.prompt,
      response_format: "wav",
    });
    const sound = Buffer.from(await answer.arrayBuffer());
    assert.equal(sound.subarray(0, 4).toString(), "RIFF");
  },

  async transcription(client, target, script) {
    const file = await toFile(Buffer.from(script.sound, "base64"), "a.wav");
    assert((await client.audio.transcriptions.create({ model: target.transcription, file })).text);
  },

  async batch(client, target, script) {
    const body = { model: target.model, messages: ask(script), max_tokens: script.max_tokens };
    const names = Array.from({ length: script.batch_lines }, (_, number) => `n${number}`);
    const lines = names.map((custom_id) =>
      JSON.stringify({ custom_id, method: "POST", url: "/v1/chat/completions", body }),
    );
    const content = await toFile(Buffer.from(lines.join("\n")), "lines.jsonl");
    const file = await client.files.create({ file: content, purpose: "batch" });
    const made = await client.batches.create({
      input_file_id: file.id,
      endpoint: "/v1/chat/completions",
      completion_window: "24h",
    });
    const done = await until(
      () => client.batches.retrieve(made.id),
      (found) => ["completed", "failed", "expired", "cancelled"].includes(found.status),
      script.patience_s,
    );
    assert.equal(done.status, "completed");
    assert.equal(done.request_counts.completed, names.length);
    const results = (await (await client.files.content(done.output_file_id)).text()).trim().split("\n");
    const rows = results.map((line) => JSON.parse(line));
    assert.deepEqual(rows.map((row) => row.custom_id).sort(), names);
    assert(rows[0].response.body.choices[0].message.content);
  },

  async models(client, target) {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    assert(listed.includes(target.model), `not among ${listed.length}`);
    assert.equal((await client.models.retrieve(target.model)).id, target.model);
  },

  async bad_request(client, target) {
    const messages = [{ role: "nobody", content: "x" }];
    const asked = () => client.chat.completions.create({ model: target.model, messages });
    assert((await refused(OpenAI.BadRequestError, 400, asked)).error.message);
  },

  async unauthorized(client, target, script) {
    const stranger = client.withOptions({ apiKey: "wrong" });
    const asked = () => stranger.chat.completions.create({ model: target.model, messages: ask(script) });
    assert((await refused(OpenAI.AuthenticationError, 401, asked)).error.message);
  },

  async not_found(client, target, script) {
    for (const model of [`${target.name}/no-such-model`, "no-such-vendor/no-such-model"]) {
      const asked = () => client.chat.completions.create({ model, messages: ask(script) });
      const error = await refused(OpenAI.NotFoundError, 404, asked);
      assert(error.code && error.error.message);
    }
  },

  async rate_limited(client, target, script) {
    const asked = () => client.chat.completions.create({ model: target.limited, messages: ask(script) });
    const error = await refused(OpenAI.RateLimitError, 429, asked);
    const wait = Number(error.headers.get("retry-after"));
    assert(wait > 0 && wait <= 60);
  },

  async unavailable(client, target, script) {
    const asked = () => client.chat.completions.create({ model: target.away, messages: ask(script) });
    const error = await refused(OpenAI.InternalServerError, 503, asked);
    assert(Number(error.headers.get("retry-after")) > 0);
    assert(error.error.message);
  },

  async too_long(client, target, script) {
    const asked = () => client.chat.completions.create({ model: target.full, messages: ask(script) });
    assert.equal((await refused(OpenAI.BadRequestError, 400, asked)).code, "context_length_exceeded");
  },
};

await main("openai", VERSION, cases, (url, apiKey) => {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0, timeout: 30_000 });
});
