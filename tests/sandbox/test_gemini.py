"""Gemini and Vertex AI as the sandbox speaks them, read by the official client and held against it."""

import base64
import json
from typing import Any

import pytest
from google import genai
from google.auth.transport.requests import Request
from google.genai import errors, types
from google.oauth2 import service_account

from tests.gateway.strict import check
from tests.sandbox.served import Served

KEY = {"x-goog-api-key": "sk-sandbox-test"}
FLASH = "gemini-2.5-flash"
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}},
}
HELLO: Any = {"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]}
PIXEL = base64.b64decode("iVBORw0KGgo=")


@pytest.fixture(autouse=True)
def quick(sandbox: Served) -> None:
    for model in (FLASH, "gemini-3.8-flash"):
        sandbox.behave(model)


def generate(sandbox: Served, verb: str, body: Any, **options: Any) -> Any:
    model = options.pop("model", FLASH)
    path = f"{options.pop('base', '')}/v1beta/models/{model}:{verb}"
    return sandbox.post(path, body, KEY, **options)


def test_whole_and_streamed_are_what_the_client_knows(sandbox: Served) -> None:
    whole = generate(sandbox, "generateContent", HELLO).json()
    check(whole, types.GenerateContentResponse)
    text = whole["candidates"][0]["content"]["parts"][0]["text"]
    streamed = generate(sandbox, "streamGenerateContent?alt=sse", HELLO)
    frames = [json.loads(line[6:]) for line in streamed.body.split(b"\r\n\r\n") if line]
    for frame in frames:
        check(frame, types.GenerateContentResponse)
    parts = [part for f in frames for part in f["candidates"][0]["content"]["parts"]]
    assert "".join(part["text"] for part in parts) == text
    assert [f["candidates"][0].get("finishReason") for f in frames][-2:] == [None, "STOP"]
    assert frames[-1]["usageMetadata"] == whole["usageMetadata"]
    usage = whole["usageMetadata"]
    row = sandbox.rows()[-1]
    assert row["output_tokens"] == usage["candidatesTokenCount"] + usage["thoughtsTokenCount"]
    assert row["complete"]
    assert row["usage_sent"]


def test_without_sse_a_stream_is_an_array(sandbox: Served) -> None:
    answer = generate(sandbox, "streamGenerateContent", HELLO)
    steps = answer.json()
    assert steps[-1]["candidates"][0]["finishReason"] == "STOP"


def test_the_official_client(sandbox: Served) -> None:
    client = sandbox.gemini()
    answer = client.models.generate_content(model=FLASH, contents="Say hello.")
    assert answer.text
    pieces = list(client.models.generate_content_stream(model=FLASH, contents="Say hello."))
    assert "".join(piece.text or "" for piece in pieces) == answer.text
    assert client.models.count_tokens(model=FLASH, contents="Say hello.").total_tokens
    vectors = client.models.embed_content(
        model="gemini-embedding-001",
        contents=["a", "b"],
        config=types.EmbedContentConfig(output_dimensionality=8),
    )
    assert [len(entry.values or []) for entry in vectors.embeddings or []] == [8, 8]
    assert FLASH in [str(m.name).removeprefix("models/") for m in client.models.list()]


def test_tools_and_their_signatures(sandbox: Served) -> None:
    client = sandbox.gemini()
    tool = types.Tool(function_declarations=[types.FunctionDeclaration(**WEATHER)])
    config = types.GenerateContentConfig(tools=[tool])
    model = "gemini-3.8-flash"
    answer = client.models.generate_content(model=model, contents="Weather?", config=config)
    assert answer.candidates is not None
    spoken = answer.candidates[0].content
    assert spoken is not None
    called = (spoken.parts or [])[-1]
    assert called.function_call is not None
    assert called.function_call.id
    assert called.thought_signature
    result = types.Part.from_function_response(name="get_weather", response={"result": "18 °C"})
    asked = types.Content(role="user", parts=[types.Part(text="Weather?")])
    told = types.Content(role="user", parts=[result])
    final = client.models.generate_content(
        model=model, contents=[asked, spoken, told], config=config
    )
    assert final.text
    bare = types.Part(function_call=called.function_call)
    with pytest.raises(errors.ClientError, match="thought_signature"):
        client.models.generate_content(
            model=model,
            contents=[asked, types.Content(role="model", parts=[bare]), told],
            config=config,
        )


def test_structured_thoughts_images_and_several_candidates(sandbox: Served) -> None:
    client = sandbox.gemini()
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    config = types.GenerateContentConfig(
        response_mime_type="application/json",
        response_json_schema=schema,
        thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_budget=64),
    )
    image = types.Part.from_bytes(data=PIXEL, mime_type="image/png")
    answer = client.models.generate_content(
        model=FLASH, contents=["Where is this?", image], config=config
    )
    assert "city" in json.loads(answer.text or "")
    assert answer.candidates is not None
    content = answer.candidates[0].content
    assert content is not None
    assert (content.parts or [])[0].thought
    two = client.models.generate_content(
        model=FLASH, contents="Hi", config=types.GenerateContentConfig(candidate_count=2)
    )
    assert len(two.candidates or []) == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"parts": [{"text": "x"}]}], "temp": 1}, 'Unknown name "temp"'),
        ({"contents": [{"role": "system", "parts": [{"text": "x"}]}]}, "valid role"),
        ({"contents": [{"parts": []}]}, "must not be empty"),
        ({**HELLO, "generationConfig": {"temperature": 3}}, "temperature"),
        (
            {
                "contents": [
                    {"parts": [{"functionResponse": {"name": "f", "response": {}}}]},
                ]
            },
            "number of function response parts",
        ),
    ],
)
def test_what_the_vendor_refuses(sandbox: Served, body: Any, words: str) -> None:
    answer = generate(sandbox, "generateContent", body)
    assert answer.status == 400
    error = answer.json()["error"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    assert words in error["message"]


def test_unknown_models_and_missing_keys(sandbox: Served) -> None:
    assert generate(sandbox, "generateContent", HELLO, model="nobody").status == 404
    path = f"/v1beta/models/{FLASH}:generateContent"
    assert sandbox.post(path, HELLO, {}).status == 403
    assert sandbox.post(f"{path}?key=some-key", HELLO, {}).status == 200


@pytest.mark.parametrize(
    ("fault", "status", "name"),
    [
        ({"kind": "rate_limited", "retry_after_s": 7}, 429, "RESOURCE_EXHAUSTED"),
        ({"kind": "server_error"}, 500, "INTERNAL"),
        ({"kind": "unavailable"}, 503, "UNAVAILABLE"),
        ({"kind": "overloaded"}, 503, "UNAVAILABLE"),
        ({"kind": "context_too_long"}, 400, "INVALID_ARGUMENT"),
    ],
)
def test_faults_in_the_vendors_words(sandbox: Served, fault: Any, status: int, name: str) -> None:
    base = f"/g-{fault['kind']}"
    sandbox.behave(FLASH, base, faults=[fault])
    answer = generate(sandbox, "generateContent", HELLO, base=base)
    assert answer.status == status
    error = answer.json()["error"]
    assert error["status"] == name
    if status == 429:
        assert {"retryDelay": "7s"}.items() <= error["details"][1].items()


@pytest.mark.parametrize(
    ("kind", "whole", "complete"),
    [("cut", False, False), ("missing_end_marker", True, False), ("error_event", True, False)],
)
def test_broken_streams(sandbox: Served, kind: str, whole: bool, complete: bool) -> None:
    base = f"/gs-{kind}"
    sandbox.behave(FLASH, base, faults=[{"kind": kind}])
    answer = generate(sandbox, "streamGenerateContent?alt=sse", HELLO, base=base)
    assert answer.whole is whole
    assert b"finishReason" not in answer.body
    assert (b'"error"' in answer.body) == (kind == "error_event")
    assert sandbox.rows(base)[-1]["complete"] is complete


def test_filtered_answers_and_prompts(sandbox: Served) -> None:
    sandbox.behave(FLASH, "/gf", faults=[{"kind": "content_filtered"}])
    answer = generate(sandbox, "generateContent", HELLO, base="/gf").json()
    check(answer, types.GenerateContentResponse)
    assert answer["candidates"][0]["finishReason"] == "SAFETY"
    sandbox.behave(FLASH, "/gf", faults=[{"kind": "content_filtered", "after_tokens": 0}])
    answer = generate(sandbox, "generateContent", HELLO, base="/gf").json()
    check(answer, types.GenerateContentResponse)
    assert answer["promptFeedback"]["blockReason"] == "SAFETY"
    assert "candidates" not in answer


def test_vertex_takes_tokens_of_a_service_account(sandbox: Served) -> None:
    account = sandbox.control("GET", "/google/service-account")
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    credentials: Any = service_account.Credentials.from_service_account_info(account, scopes=scopes)
    credentials.refresh(Request())
    client = genai.Client(
        vertexai=True,
        project="p",
        location="europe-west4",
        credentials=credentials,
        http_options=types.HttpOptions(base_url=f"{sandbox.url}/vx", api_version="v1"),
    )
    place = f"/v1/projects/p/locations/europe-west4/publishers/google/models/{FLASH}"
    sandbox.behave(FLASH, "/vx")
    bearer = {"authorization": f"Bearer {credentials.token}"}
    answer = sandbox.post(f"/vx{place}:generateContent", HELLO, bearer)
    assert answer.status == 200, answer.body
    refused = sandbox.post(f"/vx{place}:generateContent", HELLO, {"authorization": "Bearer no"})
    assert refused.json()["error"]["status"] == "UNAUTHENTICATED"
    assert client.vertexai
