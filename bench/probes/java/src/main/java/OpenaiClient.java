import com.fasterxml.jackson.databind.JsonNode;
import com.openai.client.OpenAIClient;
import com.openai.client.okhttp.OpenAIOkHttpClient;
import com.openai.core.JsonValue;
import com.openai.core.MultipartField;
import com.openai.core.http.HttpResponse;
import com.openai.core.http.HttpResponseFor;
import com.openai.core.http.StreamResponse;
import com.openai.errors.BadRequestException;
import com.openai.errors.InternalServerException;
import com.openai.errors.NotFoundException;
import com.openai.errors.OpenAIServiceException;
import com.openai.errors.RateLimitException;
import com.openai.errors.UnauthorizedException;
import com.openai.helpers.ChatCompletionAccumulator;
import com.openai.helpers.ResponseAccumulator;
import com.openai.models.audio.speech.SpeechCreateParams;
import com.openai.models.audio.transcriptions.TranscriptionCreateParams;
import com.openai.models.batches.Batch;
import com.openai.models.batches.BatchCreateParams;
import com.openai.models.chat.completions.ChatCompletion;
import com.openai.models.chat.completions.ChatCompletionChunk;
import com.openai.models.chat.completions.ChatCompletionCreateParams;
import com.openai.models.chat.completions.ChatCompletionMessage;
import com.openai.models.chat.completions.ChatCompletionMessageFunctionToolCall;
import com.openai.models.chat.completions.ChatCompletionStreamOptions;
import com.openai.models.chat.completions.ChatCompletionToolMessageParam;
import com.openai.models.completions.Completion;
import com.openai.models.completions.CompletionCreateParams;
import com.openai.models.embeddings.EmbeddingCreateParams;
import com.openai.models.files.FileCreateParams;
import com.openai.models.files.FilePurpose;
import com.openai.models.images.ImageGenerateParams;
import com.openai.models.moderations.ModerationCreateParams;
import com.openai.models.responses.Response;
import com.openai.models.responses.ResponseCreateParams;
import com.openai.models.responses.ResponseOutputItem;
import com.openai.models.responses.ResponseStreamEvent;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;

/** The official openai client for Java, unmodified: {@code java … OpenaiClient PLAN.json}. */
final class OpenaiClient {
    private final OpenAIClient client;
    private final JsonNode script;

    private OpenaiClient(String url, String key, JsonNode script) {
        this.script = script;
        client = OpenAIOkHttpClient.builder()
                .baseUrl(url + "/v1")
                .apiKey(key)
                .maxRetries(0)
                .timeout(Duration.ofSeconds(30))
                .build();
    }

    public static void main(String[] arguments) throws Exception {
        String version = OpenAIClient.class.getPackage().getImplementationVersion();
        Running.main("openai", version, (url, key, script) -> new OpenaiClient(url, key, script).cases(), arguments[0]);
    }

    private Map<String, Running.Case> cases() {
        Map<String, Running.Case> cases = new HashMap<>();
        cases.put("whole", this::whole);
        cases.put("streamed", this::streamed);
        cases.put("tools", this::tools);
        cases.put("tools_streamed", this::toolsStreamed);
        cases.put("tools_parallel", this::toolsParallel);
        cases.put("structured", this::structured);
        cases.put("image", target -> text(pictured(target, "data:image/png;base64," + said("pixel"))));
        cases.put("image_url", target -> text(pictured(target, said("picture_url"))));
        cases.put("image_url_refused", target ->
                refused(BadRequestException.class, 400, client, pictured(target, said("picture_url"))));
        cases.put("completions", this::completions);
        cases.put("responses", this::responses);
        cases.put("embeddings", this::embeddings);
        cases.put("moderation", this::moderation);
        cases.put("picture", this::picture);
        cases.put("speech", this::speech);
        cases.put("transcription", this::transcription);
        cases.put("batch", this::batch);
        cases.put("models", this::models);
        cases.put("bad_request", target -> refused(BadRequestException.class, 400, client,
                ask(target.get("model")).messages(JsonValue.from(
                        List.of(Map.of("role", "nobody", "content", "x")))).build()));
        cases.put("unauthorized", target -> refused(UnauthorizedException.class, 401,
                client.withOptions(options -> options.apiKey("wrong")), ask(target.get("model")).build()));
        cases.put("not_found", this::notFound);
        cases.put("rate_limited", target -> Running.waits(refused(RateLimitException.class, 429, client,
                ask(target.get("limited")).build()).headers().values("retry-after")));
        cases.put("unavailable", target -> Running.waits(refused(InternalServerException.class, 503, client,
                ask(target.get("away")).build()).headers().values("retry-after")));
        cases.put("too_long", target -> Running.same(refused(BadRequestException.class, 400, client,
                ask(target.get("full")).build()).code().orElse(""), "context_length_exceeded"));
        return cases;
    }

    private String said(String name) {
        return script.get(name).asText();
    }

    private ChatCompletionCreateParams.Builder ask(String model) {
        return ask(model, said("prompt"));
    }

    @SuppressWarnings("deprecation")
    private ChatCompletionCreateParams.Builder ask(String model, String prompt) {
        return ChatCompletionCreateParams.builder()
                .model(model)
                .addSystemMessage(said("system"))
                .addUserMessage(prompt)
                .maxTokens(script.get("max_tokens").asLong());
    }

    @SuppressWarnings("deprecation")
    private ChatCompletionCreateParams.Builder offering(ChatCompletionCreateParams.Builder asked, String... tools) {
        List<Object> offered = new ArrayList<>();
        for (String tool : tools) {
            offered.add(Map.of("type", "function", "function", Running.plain(script.get(tool))));
        }
        return asked.maxTokens(script.get("tool_tokens").asLong())
                .putAdditionalBodyProperty("tools", JsonValue.from(offered));
    }

    private ChatCompletion.Choice answer(ChatCompletionCreateParams asked) {
        return client.chat().completions().create(asked).choices().get(0);
    }

    private void text(ChatCompletionCreateParams asked) {
        Running.is(!answer(asked).message().content().orElse("").isEmpty(), "a text");
    }

    private ChatCompletion stream(ChatCompletionCreateParams asked) {
        ChatCompletionAccumulator gathered = ChatCompletionAccumulator.create();
        try (StreamResponse<ChatCompletionChunk> stream = client.chat().completions().createStreaming(asked)) {
            stream.stream().forEach(gathered::accumulate);
        }
        return gathered.chatCompletion();
    }

    private void whole(Running.Target target) {
        HttpResponseFor<ChatCompletion> raw =
                client.chat().completions().withRawResponse().create(ask(target.get("model")).build());
        ChatCompletion answer = raw.parse();
        var usage = answer.usage().orElseThrow();
        Running.is(!answer.choices().get(0).message().content().orElse("").isEmpty(), "a text");
        Running.is(Set.of("stop", "length").contains(answer.choices().get(0).finishReason().asString()), "an end");
        Running.is(usage.promptTokens() > 0 && usage.completionTokens() > 0, "usage");
        Running.is(usage.completionTokens() <= script.get("max_tokens").asLong(), "the limit");
        Running.same(usage.totalTokens(), usage.promptTokens() + usage.completionTokens());
        Running.same(raw.headers().values("x-weir-model"), List.of(target.get("model")));
        Running.same(raw.headers().values("x-weir-request-id"), raw.headers().values("x-request-id"));
        Running.is(raw.headers().values("x-weir-route").size() == 1, "a route");
    }

    private void streamed(Running.Target target) {
        ChatCompletion streamed = stream(ask(target.get("model"))
                .streamOptions(ChatCompletionStreamOptions.builder().includeUsage(true).build())
                .build());
        ChatCompletion whole = client.chat().completions().create(ask(target.get("model")).build());
        Running.same(streamed.choices().get(0).message().content(), whole.choices().get(0).message().content());
        Running.same(streamed.choices().get(0).finishReason(), whole.choices().get(0).finishReason());
        Running.same(streamed.usage().orElseThrow().completionTokens(), whole.usage().orElseThrow().completionTokens());
    }

    private static List<ChatCompletionMessageFunctionToolCall> calls(ChatCompletionMessage message) {
        return message.toolCalls().orElse(List.of()).stream().map(call -> call.asFunction()).toList();
    }

    private void called(ChatCompletion.Choice choice) {
        Running.same(choice.finishReason(), ChatCompletion.Choice.FinishReason.TOOL_CALLS);
        var call = calls(choice.message()).get(0).function();
        Running.same(call.name(), script.get("weather").get("name").asText());
        Running.is(call.arguments(Running.Place.class).city != null, "a place");
    }

    private void after(ChatCompletionCreateParams.Builder asked, ChatCompletionMessage message) {
        asked.addMessage(message);
        for (var call : calls(message)) {
            asked.addMessage(ChatCompletionToolMessageParam.builder()
                    .toolCallId(call.id())
                    .content(said("tool_result"))
                    .build());
        }
        text(asked.build());
    }

    private void tools(Running.Target target) {
        ChatCompletionCreateParams asked = offering(ask(target.get("model")), "weather").build();
        ChatCompletion.Choice choice = answer(asked.toBuilder()
                .putAdditionalBodyProperty("tool_choice", JsonValue.from("required"))
                .build());
        called(choice);
        after(asked.toBuilder(), choice.message());
    }

    private void toolsStreamed(Running.Target target) {
        called(stream(offering(ask(target.get("model")), "weather")
                        .putAdditionalBodyProperty("tool_choice", JsonValue.from("required"))
                        .build())
                .choices()
                .get(0));
    }

    private void toolsParallel(Running.Target target) throws Exception {
        ChatCompletionCreateParams asked = null;
        ChatCompletionMessage message = null;
        for (int number = 0; number < script.get("parallel_prompts").asInt(); number++) {
            String prompt = said("prompt") + " " + number;
            asked = offering(ask(target.get("model"), prompt), "weather", "time").build();
            message = answer(asked).message();
            if (calls(message).size() == 2) {
                break;
            }
        }
        Running.same(calls(message).size(), 2);
        var streamed = calls(stream(asked).choices().get(0).message());
        for (int number = 0; number < 2; number++) {
            var one = calls(message).get(number).function();
            Running.same(streamed.get(number).function().name(), one.name());
            Running.same(Running.JSON.readTree(streamed.get(number).function().arguments()),
                    Running.JSON.readTree(one.arguments()));
        }
        after(asked.toBuilder(), message);
    }

    @SuppressWarnings("deprecation")
    private void structured(Running.Target target) {
        var asked = ask(target.get("model"))
                .maxTokens(script.get("tool_tokens").asLong())
                .responseFormat(Running.Place.class)
                .build();
        Running.Place place =
                client.chat().completions().create(asked).choices().get(0).message().content().orElseThrow();
        Running.is(place.city != null, "a place");
    }

    private ChatCompletionCreateParams pictured(Running.Target target, String url) {
        List<Object> parts = List.of(
                Map.of("type", "text", "text", said("prompt")),
                Map.of("type", "image_url", "image_url", Map.of("url", url)));
        return ask(target.get("model"))
                .messages(JsonValue.from(List.of(Map.of("role", "user", "content", parts))))
                .build();
    }

    private void completions(Running.Target target) {
        CompletionCreateParams asked = CompletionCreateParams.builder()
                .model(target.get("completion"))
                .prompt(said("prompt"))
                .maxTokens(script.get("max_tokens").asLong())
                .build();
        Completion whole = client.completions().create(asked);
        try (StreamResponse<Completion> stream = client.completions().createStreaming(asked)) {
            String text = stream.stream()
                    .flatMap(chunk -> chunk.choices().stream())
                    .map(choice -> choice.text())
                    .collect(Collectors.joining());
            Running.same(text, whole.choices().get(0).text());
        }
        Running.is(whole.usage().orElseThrow().completionTokens() > 0, "usage");
    }

    private static String textOf(Response response) {
        return response.output().stream()
                .filter(ResponseOutputItem::isMessage)
                .flatMap(item -> item.asMessage().content().stream())
                .map(content -> content.asOutputText().text())
                .collect(Collectors.joining());
    }

    private void responses(Running.Target target) {
        ResponseCreateParams asked = ResponseCreateParams.builder()
                .model(target.get("model"))
                .instructions(said("system"))
                .input(said("prompt"))
                .maxOutputTokens(script.get("max_tokens").asLong())
                .build();
        Response whole = client.responses().create(asked);
        ResponseAccumulator gathered = ResponseAccumulator.create();
        try (StreamResponse<ResponseStreamEvent> stream = client.responses().createStreaming(asked)) {
            stream.stream().forEach(event -> gathered.accumulate(event));
        }
        Running.is(!textOf(whole).isEmpty(), "a text");
        Running.same(textOf(gathered.response()), textOf(whole));
        Running.same(gathered.response().usage().orElseThrow().outputTokens(),
                whole.usage().orElseThrow().outputTokens());
        responsesTool(target);
    }

    private void responsesTool(Running.Target target) {
        Map<String, Object> tool = new HashMap<>(Map.of("type", "function", "strict", false));
        script.get("weather").fields().forEachRemaining(
                field -> tool.put(field.getKey(), Running.plain(field.getValue())));
        List<Object> input = new ArrayList<>(List.of(Map.of("role", "user", "content", said("prompt"))));
        ResponseCreateParams.Builder asked = ResponseCreateParams.builder()
                .model(target.get("model"))
                .maxOutputTokens(script.get("tool_tokens").asLong())
                .putAdditionalBodyProperty("tools", JsonValue.from(List.of(tool)));
        Response called = client.responses().create(asked.build().toBuilder()
                .input(JsonValue.from(input))
                .putAdditionalBodyProperty("tool_choice", JsonValue.from("required"))
                .build());
        for (ResponseOutputItem item : called.output()) {
            input.add(item);
            if (item.isFunctionCall()) {
                var call = item.asFunctionCall();
                Running.is(call.arguments(Running.Place.class).city != null, "a place");
                input.add(Map.of("type", "function_call_output", "call_id", call.callId(),
                        "output", said("tool_result")));
            }
        }
        Running.is(input.size() > 2, "a call");
        Response after = client.responses().create(asked.input(JsonValue.from(input)).build());
        Running.is(!textOf(after).isEmpty(), "an answer");
    }

    private List<String> texts() {
        List<String> found = new ArrayList<>();
        script.get("texts").forEach(text -> found.add(text.asText()));
        return found;
    }

    private void embeddings(Running.Target target) {
        var answer = client.embeddings().create(EmbeddingCreateParams.builder()
                .model(target.get("embedding"))
                .inputOfArrayOfStrings(texts())
                .build());
        Running.same(answer.data().size(), texts().size());
        Running.same(answer.data().get(1).index(), 1L);
        Running.is(answer.data().get(0).embedding().size() > 100, "many dimensions");
        Running.is(answer.usage().promptTokens() > 0, "usage");
    }

    private void moderation(Running.Target target) {
        var answer = client.moderations().create(ModerationCreateParams.builder()
                .model(target.get("moderation"))
                .inputOfStrings(texts())
                .build());
        Running.same(answer.results().stream().map(result -> result.flagged()).toList(), List.of(false, false));
    }

    private void picture(Running.Target target) {
        var answer = client.images().generate(ImageGenerateParams.builder()
                .model(target.get("picture"))
                .prompt(said("prompt"))
                .build());
        String data = answer.data().orElseThrow().get(0).b64Json().orElseThrow();
        Running.is(Base64.getDecoder().decode(data).length > 0, "a picture");
    }

    private void speech(Running.Target target) throws Exception {
        try (HttpResponse answer = client.audio().speech().create(SpeechCreateParams.builder()
                .model(target.get("speech"))
                .voice("alloy")
                .input(said("prompt"))
                .responseFormat(SpeechCreateParams.ResponseFormat.WAV)
                .build())) {
            byte[] sound = answer.body().readAllBytes();
            Running.same(new String(sound, 0, 4, StandardCharsets.US_ASCII), "RIFF");
        }
    }

    private static MultipartField<InputStream> file(String name, byte[] content) {
        return MultipartField.<InputStream>builder()
                .value(new ByteArrayInputStream(content))
                .filename(name)
                .build();
    }

    private void transcription(Running.Target target) {
        var answer = client.audio().transcriptions().create(TranscriptionCreateParams.builder()
                .model(target.get("transcription"))
                .file(file("a.wav", Base64.getDecoder().decode(said("sound"))))
                .build());
        Running.is(!answer.asTranscription().text().isEmpty(), "a text");
    }

    private void batch(Running.Target target) throws Exception {
        Set<String> names = new HashSet<>();
        StringBuilder lines = new StringBuilder();
        List<Object> messages = List.of(
                Map.of("role", "system", "content", said("system")),
                Map.of("role", "user", "content", said("prompt")));
        for (int number = 0; number < script.get("batch_lines").asInt(); number++) {
            names.add("n" + number);
            lines.append(Running.JSON.writeValueAsString(Map.of(
                    "custom_id", "n" + number, "method", "POST", "url", "/v1/chat/completions",
                    "body", Map.of("model", target.get("model"), "messages", messages,
                            "max_tokens", script.get("max_tokens").asLong())))).append('\n');
        }
        var input = client.files().create(FileCreateParams.builder()
                .file(file("lines.jsonl", lines.toString().getBytes(StandardCharsets.UTF_8)))
                .purpose(FilePurpose.BATCH)
                .build());
        String id = client.batches().create(BatchCreateParams.builder()
                .inputFileId(input.id())
                .endpoint(BatchCreateParams.Endpoint.V1_CHAT_COMPLETIONS)
                .completionWindow(BatchCreateParams.CompletionWindow._24H)
                .build()).id();
        Set<String> ends = Set.of("completed", "failed", "expired", "cancelled");
        Running.until(script.get("patience_s").asDouble(),
                () -> ends.contains(client.batches().retrieve(id).status().asString()));
        Batch done = client.batches().retrieve(id);
        Running.same(done.status(), Batch.Status.COMPLETED);
        Running.same(done.requestCounts().orElseThrow().completed(), (long) names.size());
        Set<String> seen = new HashSet<>();
        try (HttpResponse content = client.files().content(done.outputFileId().orElseThrow())) {
            String results = new String(content.body().readAllBytes(), StandardCharsets.UTF_8);
            for (String line : results.strip().split("\n")) {
                JsonNode row = Running.JSON.readTree(line);
                seen.add(row.get("custom_id").asText());
                Running.is(!row.at("/response/body/choices/0/message/content").asText().isEmpty(), "an answer");
            }
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
            var error = refused(NotFoundException.class, 404, client, ask(model).build());
            Running.is(error.code().isPresent(), "a code");
        }
    }

    private static <T extends OpenAIServiceException> T refused(
            Class<T> kind, int status, OpenAIClient by, ChatCompletionCreateParams asked) {
        try {
            by.chat().completions().create(asked);
        } catch (OpenAIServiceException error) {
            Running.is(kind.isInstance(error), error + " is a " + kind.getSimpleName());
            Running.same(error.statusCode(), status);
            Running.is(!error.headers().values("x-weir-request-id").isEmpty(), "an id of the call");
            Running.is(!error.getMessage().isEmpty(), "a message");
            return kind.cast(error);
        }
        throw new AssertionError("no " + kind.getSimpleName() + " came");
    }
}
