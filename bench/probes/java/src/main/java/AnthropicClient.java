import com.anthropic.client.okhttp.AnthropicOkHttpClient;
import com.anthropic.core.JsonValue;
import com.anthropic.core.http.HttpResponseFor;
import com.anthropic.core.http.StreamResponse;
import com.anthropic.errors.AnthropicServiceException;
import com.anthropic.errors.BadRequestException;
import com.anthropic.errors.InternalServerException;
import com.anthropic.errors.NotFoundException;
import com.anthropic.errors.RateLimitException;
import com.anthropic.errors.UnauthorizedException;
import com.anthropic.helpers.MessageAccumulator;
import com.anthropic.models.messages.ContentBlock;
import com.anthropic.models.messages.ContentBlockParam;
import com.anthropic.models.messages.Message;
import com.anthropic.models.messages.MessageCountTokensParams;
import com.anthropic.models.messages.MessageCreateParams;
import com.anthropic.models.messages.RawMessageStreamEvent;
import com.anthropic.models.messages.StopReason;
import com.anthropic.models.messages.ToolResultBlockParam;
import com.anthropic.models.messages.ToolUseBlock;
import com.anthropic.models.messages.batches.BatchCreateParams;
import com.anthropic.models.messages.batches.MessageBatch;
import com.anthropic.models.messages.batches.MessageBatchIndividualResponse;
import com.fasterxml.jackson.databind.JsonNode;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

/** The official anthropic client for Java, unmodified: {@code java … AnthropicClient PLAN.json}. */
final class AnthropicClient {
    private final com.anthropic.client.AnthropicClient client;
    private final JsonNode script;

    private AnthropicClient(String url, String key, JsonNode script) {
        this.script = script;
        client = AnthropicOkHttpClient.builder()
                .baseUrl(url)
                .apiKey(key)
                .maxRetries(0)
                .timeout(Duration.ofSeconds(30))
                .build();
    }

    public static void main(String[] arguments) throws Exception {
        String version = com.anthropic.client.AnthropicClient.class.getPackage().getImplementationVersion();
        Running.main("anthropic", version,
                (url, key, script) -> new AnthropicClient(url, key, script).cases(), arguments[0]);
    }

    private Map<String, Running.Case> cases() {
        Map<String, Running.Case> cases = new HashMap<>();
        cases.put("whole", this::whole);
        cases.put("streamed", this::streamed);
        cases.put("tools", this::tools);
        cases.put("tools_streamed", this::toolsStreamed);
        cases.put("tools_parallel", this::toolsParallel);
        cases.put("structured", this::structured);
        cases.put("image", target -> text(pictured(target,
                Map.of("type", "base64", "media_type", "image/png", "data", said("pixel")))));
        cases.put("image_url", target -> text(pictured(target, Map.of("type", "url", "url", said("picture_url")))));
        cases.put("image_url_refused", target -> refused(BadRequestException.class, 400, "invalid_request_error",
                client, pictured(target, Map.of("type", "url", "url", said("picture_url")))));
        cases.put("count_tokens", this::countTokens);
        cases.put("batch", this::batch);
        cases.put("models", this::models);
        cases.put("bad_request", target -> refused(BadRequestException.class, 400, "invalid_request_error", client,
                ask(target.get("model")).messages(JsonValue.from(
                        List.of(Map.of("role", "nobody", "content", "x")))).build()));
        cases.put("unauthorized", target -> refused(UnauthorizedException.class, 401, "authentication_error",
                stranger(), ask(target.get("model")).build()));
        cases.put("not_found", this::notFound);
        cases.put("rate_limited", target -> Running.waits(refused(RateLimitException.class, 429,
                "rate_limit_error", client, ask(target.get("limited")).build()).headers().values("retry-after")));
        cases.put("unavailable", target -> Running.waits(refused(InternalServerException.class, 503, null, client,
                ask(target.get("away")).build()).headers().values("retry-after")));
        cases.put("too_long", target -> refused(BadRequestException.class, 400, "invalid_request_error", client,
                ask(target.get("full")).build()));
        return cases;
    }

    private com.anthropic.client.AnthropicClient stranger() {
        return client.withOptions(options -> options.putHeader("x-api-key", "wrong"));
    }

    private String said(String name) {
        return script.get(name).asText();
    }

    private MessageCreateParams.Builder ask(String model) {
        return ask(model, said("prompt"));
    }

    private MessageCreateParams.Builder ask(String model, String prompt) {
        return MessageCreateParams.builder()
                .model(model)
                .system(said("system"))
                .addUserMessage(prompt)
                .maxTokens(script.get("max_tokens").asLong());
    }

    private MessageCreateParams.Builder offering(MessageCreateParams.Builder asked, String... tools) {
        List<Object> offered = new ArrayList<>();
        for (String name : tools) {
            JsonNode tool = script.get(name);
            offered.add(Map.of("name", tool.get("name").asText(), "description", tool.get("description").asText(),
                    "input_schema", Running.plain(tool.get("parameters"))));
        }
        return asked.maxTokens(script.get("tool_tokens").asLong())
                .putAdditionalBodyProperty("tools", JsonValue.from(offered));
    }

    private static String textOf(Message message) {
        return message.content().stream()
                .filter(ContentBlock::isText)
                .map(block -> block.asText().text())
                .collect(Collectors.joining());
    }

    private static List<ToolUseBlock> calls(Message message) {
        return message.content().stream().flatMap(block -> block.toolUse().stream()).toList();
    }

    private void text(MessageCreateParams asked) {
        Running.is(!textOf(client.messages().create(asked)).isEmpty(), "a text");
    }

    private Message stream(MessageCreateParams asked) {
        MessageAccumulator gathered = MessageAccumulator.create();
        try (StreamResponse<RawMessageStreamEvent> stream = client.messages().createStreaming(asked)) {
            stream.stream().forEach(gathered::accumulate);
        }
        return gathered.message();
    }

    private void whole(Running.Target target) {
        HttpResponseFor<Message> raw =
                client.messages().withRawResponse().create(ask(target.get("model")).build());
        Message answer = raw.parse();
        Running.is(!textOf(answer).isEmpty(), "a text");
        Running.is(Set.of("end_turn", "max_tokens").contains(answer.stopReason().orElseThrow().asString()), "an end");
        Running.is(answer.usage().inputTokens() > 0 && answer.usage().outputTokens() > 0, "usage");
        Running.is(answer.usage().outputTokens() <= script.get("max_tokens").asLong(), "the limit");
        Running.same(raw.headers().values("x-weir-model"), List.of(target.get("model")));
        Running.same(raw.headers().values("x-weir-request-id"), raw.headers().values("request-id"));
        Running.is(raw.headers().values("x-weir-route").size() == 1, "a route");
    }

    private void streamed(Running.Target target) {
        Message streamed = stream(ask(target.get("model")).build());
        Message whole = client.messages().create(ask(target.get("model")).build());
        Running.same(textOf(streamed), textOf(whole));
        Running.same(streamed.stopReason(), whole.stopReason());
        Running.same(streamed.usage().outputTokens(), whole.usage().outputTokens());
    }

    private void called(Message answer) {
        Running.same(answer.stopReason().orElseThrow(), StopReason.TOOL_USE);
        ToolUseBlock call = calls(answer).get(0);
        Running.same(call.name(), script.get("weather").get("name").asText());
        Running.is(call._input().convert(Running.Place.class).city != null, "a place");
    }

    private void after(MessageCreateParams.Builder asked, Message answer) {
        List<ContentBlockParam> results = new ArrayList<>();
        for (ToolUseBlock call : calls(answer)) {
            results.add(ContentBlockParam.ofToolResult(ToolResultBlockParam.builder()
                    .toolUseId(call.id())
                    .content(said("tool_result"))
                    .build()));
        }
        text(asked.addMessage(answer).addUserMessageOfContentBlockParams(results).build());
    }

    private static MessageCreateParams.Builder forced(MessageCreateParams.Builder asked) {
        return asked.putAdditionalBodyProperty("tool_choice", JsonValue.from(Map.of("type", "any")));
    }

    private void tools(Running.Target target) {
        MessageCreateParams asked = offering(ask(target.get("model")), "weather").build();
        Message answer = client.messages().create(forced(asked.toBuilder()).build());
        called(answer);
        after(asked.toBuilder(), answer);
    }

    private void toolsStreamed(Running.Target target) {
        called(stream(forced(offering(ask(target.get("model")), "weather")).build()));
    }

    private void toolsParallel(Running.Target target) {
        MessageCreateParams asked = null;
        Message answer = null;
        for (int number = 0; number < script.get("parallel_prompts").asInt(); number++) {
            asked = offering(ask(target.get("model"), said("prompt") + " " + number), "weather", "time").build();
            answer = client.messages().create(asked);
            if (calls(answer).size() == 2) {
                break;
            }
        }
        Running.same(calls(answer).size(), 2);
        List<ToolUseBlock> streamed = calls(stream(asked));
        for (int number = 0; number < 2; number++) {
            ToolUseBlock one = calls(answer).get(number);
            Running.same(streamed.get(number).name(), one.name());
            Running.same(streamed.get(number)._input(), one._input());
        }
        after(asked.toBuilder(), answer);
    }

    private void structured(Running.Target target) {
        var asked = ask(target.get("model"))
                .maxTokens(script.get("tool_tokens").asLong())
                .outputConfig(Running.Place.class)
                .build();
        Running.Place place = client.messages().create(asked).content().stream()
                .flatMap(block -> block.text().stream())
                .findFirst()
                .orElseThrow()
                .text();
        Running.is(place.city != null, "a place");
    }

    private MessageCreateParams pictured(Running.Target target, Map<String, String> source) {
        List<Object> parts = List.of(
                Map.of("type", "image", "source", source), Map.of("type", "text", "text", said("prompt")));
        return ask(target.get("model"))
                .messages(JsonValue.from(List.of(Map.of("role", "user", "content", parts))))
                .build();
    }

    private void countTokens(Running.Target target) {
        var counted = client.messages().countTokens(MessageCountTokensParams.builder()
                .model(target.get("model"))
                .addUserMessage(said("prompt"))
                .build());
        Running.is(counted.inputTokens() > 0, "tokens");
    }

    private void batch(Running.Target target) throws Exception {
        Set<String> names = new HashSet<>();
        BatchCreateParams.Builder requests = BatchCreateParams.builder();
        for (int number = 0; number < script.get("batch_lines").asInt(); number++) {
            names.add("n" + number);
            requests.addRequest(BatchCreateParams.Request.builder()
                    .customId("n" + number)
                    .params(BatchCreateParams.Request.Params.builder()
                            .model(target.get("model"))
                            .maxTokens(script.get("max_tokens").asLong())
                            .addUserMessage(said("prompt"))
                            .build())
                    .build());
        }
        String id = client.messages().batches().create(requests.build()).id();
        Running.until(script.get("patience_s").asDouble(), () -> client.messages().batches().retrieve(id)
                .processingStatus().equals(MessageBatch.ProcessingStatus.ENDED));
        MessageBatch done = client.messages().batches().retrieve(id);
        Running.same(done.requestCounts().succeeded(), (long) names.size());
        Set<String> seen = new HashSet<>();
        try (StreamResponse<MessageBatchIndividualResponse> results =
                client.messages().batches().resultsStreaming(id)) {
            results.stream().forEach(row -> {
                seen.add(row.customId());
                Running.is(!textOf(row.result().asSucceeded().message()).isEmpty(), "an answer");
            });
        }
        Running.same(seen, names);
    }

    private void models(Running.Target target) {
        boolean listed = client.models().list().autoPager().stream()
                .anyMatch(model -> model.id().equals(target.get("model")));
        Running.is(listed, "listed");
        Running.same(client.models().retrieve(target.get("model")).id(), target.get("model"));
    }

    private void notFound(Running.Target target) {
        for (String model : List.of(target.get("name") + "/no-such-model", "no-such-vendor/no-such-model")) {
            refused(NotFoundException.class, 404, "not_found_error", client, ask(model).build());
        }
    }

    private static <T extends AnthropicServiceException> T refused(Class<T> kind, int status, String name,
            com.anthropic.client.AnthropicClient by, MessageCreateParams asked) {
        try {
            by.messages().create(asked);
        } catch (AnthropicServiceException error) {
            Running.is(kind.isInstance(error), error + " is a " + kind.getSimpleName());
            Running.same(error.statusCode(), status);
            Running.is(!error.headers().values("x-weir-request-id").isEmpty(), "an id of the call");
            Running.is(error.apiMessage().isPresent(), "a message");
            Running.is(name == null || error.type().orElseThrow().asString().equals(name), "it is " + error.type());
            return kind.cast(error);
        }
        throw new AssertionError("no " + kind.getSimpleName() + " came");
    }
}
