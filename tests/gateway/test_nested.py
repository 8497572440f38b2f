"""What stands deep in a request crosses over, or is named: parts of messages, tools, schemas."""

import json
from typing import Any

import pytest

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.bedrock import BEDROCK
from gateway.dialects.gemini_chat import GEMINI
from gateway.dialects.neutral import Chat, Dialect
from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.openai_responses import OPENAI_RESPONSES
from gateway.dialects.reading import read_object
from gateway.dialects.registry import dialect
from schemas.errors import InvalidRequest

PIXEL = "iVBORw0KGgo="
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
FILE = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
}
KEPT = {"type": "ephemeral"}
CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"


def read(front: Dialect, body: Any) -> Chat:
    chat: Chat = front.read_request(read_object(json.dumps({"model": "m", **body}).encode()))
    return chat


def written(back: Dialect, chat: Chat, model: str = "m") -> Any:
    return json.loads(back.write_request(chat, model, None))


def lost(back: Dialect, chat: Chat, model: str = "m") -> list[str]:
    params = [name for name in chat.params if name not in back.params]
    return [*chat.unread, *params, *back.unsaid(chat, model)]


def anthropic(*messages: Any, **more: Any) -> Chat:
    return read(ANTHROPIC, {"max_tokens": 50, "messages": messages, **more})


def screens() -> Chat:
    """An agent that looked at two screens at once, and at a file."""
    calls = [{"type": "tool_use", "id": c, "name": "look", "input": {}} for c in ("c1", "c2")]
    return anthropic(
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": calls},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [PICTURE]},
                {
                    "type": "tool_result",
                    "tool_use_id": "c2",
                    "content": [{"type": "text", "text": "seen"}, PICTURE, FILE],
                },
                {"type": "text", "text": "Well?"},
            ],
        },
    )


@pytest.mark.req("BEY-02")
def test_what_tools_showed_reaches_vendors_whose_results_are_texts() -> None:
    *_, first, second, user = written(OPENAI, screens())["messages"]
    assert (first["role"], first["tool_call_id"], first["content"]) == ("tool", "c1", "")
    assert (second["role"], second["tool_call_id"], second["content"]) == ("tool", "c2", "seen")
    kinds = [part["type"] for part in user["content"]]
    assert (user["role"], kinds) == ("user", ["image_url", "image_url", "file", "text"])
    cohere = dialect("cohere")
    assert cohere is not None
    with pytest.raises(InvalidRequest, match="document"):
        cohere.write_request(screens(), "m", None)


@pytest.mark.req("BEY-02")
def test_no_message_comes_between_calls_and_their_results() -> None:
    shot = [{"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}]
    call = {"type": "function_call", "name": "look", "arguments": "{}"}
    output = {"type": "function_call_output", "output": shot}
    items = [
        {"role": "user", "content": "Look."},
        {**call, "call_id": "c1"},
        {**call, "call_id": "c2"},
        {**output, "call_id": "c1"},
        {**output, "call_id": "c2"},
    ]
    chat = read(OPENAI_RESPONSES, {"input": items})
    roles = [message["role"] for message in written(OPENAI, chat)["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user"]
    chat = read(OPENAI_RESPONSES, {"input": [*items, {"role": "assistant", "content": "A wall."}]})
    roles = [message["role"] for message in written(OPENAI, chat)["messages"]]
    assert roles == ["user", "assistant", "tool", "tool", "user", "assistant"]


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("back", [ANTHROPIC, GEMINI, BEDROCK, OPENAI_RESPONSES])
def test_what_tools_showed_stays_where_results_hold_it(back: Dialect) -> None:
    sent = json.dumps(written(back, screens(), CLAUDE))
    assert sent.count(PIXEL) == 2
    assert sent.count("JVBERi0=") == 1


@pytest.mark.req("BEY-02")
def test_geminis_results_bring_their_pictures() -> None:
    inline = {"inlineData": {"mimeType": "image/png", "data": PIXEL}}
    result = {"name": "look", "response": {"result": "seen"}, "parts": [inline]}
    contents = [
        {"role": "model", "parts": [{"functionCall": {"name": "look", "args": {}}}]},
        {"role": "user", "parts": [{"functionResponse": result}]},
    ]
    sent = written(ANTHROPIC, read(GEMINI, {"contents": contents}))
    kinds = [block["type"] for block in sent["messages"][1]["content"][0]["content"]]
    assert kinds == ["text", "image"]


@pytest.mark.req("GEN-05")
def test_what_nobody_reads_has_a_name_however_deep() -> None:
    chat = read(
        OPENAI,
        {
            "messages": [
                {
                    "role": "user",
                    "name": "ada",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "https://x/y", "detail": "low"}},
                        {
                            "type": "image_url",
                            "image_url": {"url": "https://x/z", "detail": "auto"},
                        },
                    ],
                },
                # As the vendor's client writes an answer back.
                {
                    "role": "assistant",
                    "content": "Hm.",
                    "refusal": None,
                    "annotations": [],
                    "audio": None,
                    "function_call": None,
                    "tool_calls": None,
                },
            ],
            "service_tier": "auto",
        },
    )
    assert chat.params == {}
    assert chat.unread == ["messages.name", "messages.content.image_url.detail"]
    cited = {**FILE, "title": "t", "context": "c", "citations": {"enabled": True}}
    tool = {"name": "f", "input_schema": {"type": "object"}, "input_examples": [{}]}
    chat = anthropic({"role": "user", "content": [cited]}, tools=[tool])
    assert chat.unread == [
        "messages.content.context",
        "messages.content.citations",
        "tools.input_examples",
    ]


@pytest.mark.req("GEN-05")
def test_failed_tools_and_marks_are_named_where_there_is_no_word() -> None:
    failed = {"type": "tool_result", "tool_use_id": "c", "content": "no", "is_error": True}
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {}, "cache_control": KEPT}
    chat = anthropic(
        {"role": "assistant", "content": [call]}, {"role": "user", "content": [failed]}
    )
    cohere = dialect("cohere")
    assert cohere is not None
    for back in (OPENAI, OPENAI_RESPONSES, cohere):
        assert set(lost(back, chat)) == {"tool_result.is_error", "cache_control"}
    assert lost(GEMINI, chat, "gemini-2.5-pro") == ["cache_control"]
    assert lost(BEDROCK, chat, "meta.llama3-70b-instruct-v1:0") == ["cache_control"]
    assert lost(BEDROCK, chat, CLAUDE) == []


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize(
    "body",
    [
        {"functions": [{"name": "f"}]},
        {"function_call": {"name": "f"}},
        {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]},
        {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
    ],
)
def test_what_would_change_the_conversation_is_refused(body: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(OPENAI, {"messages": [{"role": "user", "content": "Hi"}], **body})
    assert "same vendor" in caught.value.advice


@pytest.mark.req("BEY-02")
def test_a_refusal_stays_in_the_history() -> None:
    said = {"role": "assistant", "content": None, "refusal": "I would rather not."}
    messages = [{"role": "user", "content": "Hi"}, said, {"role": "user", "content": "Please"}]
    sent = written(ANTHROPIC, read(OPENAI, {"messages": messages}))
    assert sent["messages"][1]["content"] == [{"type": "text", "text": "I would rather not."}]


MARKED = {
    "system": [{"type": "text", "text": "Rules.", "cache_control": {**KEPT, "ttl": "1h"}}],
    "tools": [{"name": "f", "input_schema": {"type": "object"}, "cache_control": KEPT}],
}


@pytest.mark.req("BEY-02")
def test_marks_of_prompts_to_be_kept_cross_over() -> None:
    block = {"type": "text", "text": "Long.", "cache_control": KEPT}
    chat = anthropic({"role": "user", "content": [block]}, **MARKED)
    there = written(BEDROCK, chat, CLAUDE)
    point = {"cachePoint": {"type": "default"}}
    assert there["system"] == [
        {"text": "Rules."},
        {"cachePoint": {"type": "default", "ttl": "1h"}},
    ]
    assert there["toolConfig"]["tools"][1] == point
    assert there["messages"][0]["content"] == [{"text": "Long."}, point]
    back = written(ANTHROPIC, read(BEDROCK, there), "claude-sonnet-4-5")
    assert back["system"] == MARKED["system"]
    assert back["messages"][0]["content"] == [block]
    assert back["tools"][0]["cache_control"] == KEPT
    assert "cachePoint" not in json.dumps(written(BEDROCK, chat, "meta.llama3-70b-instruct-v1:0"))


@pytest.mark.req("BEY-02")
def test_openais_clients_mark_prompts_as_anthropics_do() -> None:
    function = {"type": "function", "function": {"name": "f"}, "cache_control": KEPT}
    part = {"type": "text", "text": "Rules.", "cache_control": KEPT}
    sent = written(
        ANTHROPIC,
        read(
            OPENAI,
            {
                "messages": [
                    {"role": "system", "content": [part]},
                    {"role": "user", "content": "Hi", "cache_control": KEPT},
                ],
                "tools": [function],
            },
        ),
    )
    assert sent["system"] == [part]
    assert sent["messages"][0]["content"] == [{"type": "text", "text": "Hi", "cache_control": KEPT}]
    assert sent["tools"][0]["cache_control"] == KEPT


OPEN = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}
CLOSED = {**OPEN, "required": ["a", "b"], "additionalProperties": False}


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        (OPEN, False),
        ({**CLOSED, "required": ["a"]}, False),
        ({**CLOSED, "$defs": {"d": OPEN}}, False),
        ({**CLOSED, "properties": {"a": {"type": "array", "items": OPEN}, "b": CLOSED}}, False),
    ],
)
def test_openai_is_held_to_schemas_that_it_can_be_held_to(schema: Any, strict: bool) -> None:
    output = {"format": {"type": "json_schema", "schema": schema}}
    tool = {"name": "f", "input_schema": schema, "strict": True}
    chat = anthropic({"role": "user", "content": "Hi"}, output_config=output, tools=[tool])
    sent = written(OPENAI, chat)
    assert sent["response_format"]["json_schema"]["strict"] is strict
    assert sent["tools"][0]["function"]["strict"] is strict
    assert written(OPENAI_RESPONSES, chat)["text"]["format"]["strict"] is strict
    assert lost(OPENAI, chat) == ([] if strict else ["schema.strict", "tools.strict"])


@pytest.mark.req("BEY-02")
def test_a_schema_that_is_no_more_than_a_wish_stays_one() -> None:
    form = {"type": "json_schema", "name": "n", "schema": CLOSED, "strict": False}
    chat = read(OPENAI_RESPONSES, {"input": "Hi", "text": {"format": form}})
    assert written(OPENAI, chat)["response_format"]["json_schema"]["strict"] is False
    assert lost(OPENAI, chat) == []


@pytest.mark.req("BEY-02")
def test_anthropic_and_bedrock_get_schemas_whose_objects_are_closed() -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {**OPEN, "$defs": {"d": OPEN}}},
    }
    chat = read(OPENAI, {"messages": [{"role": "user", "content": "Hi"}], "response_format": form})
    schema = written(ANTHROPIC, chat)["output_config"]["format"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["d"]["additionalProperties"] is False
    form = written(BEDROCK, chat, CLAUDE)["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert json.loads(form["schema"]) == schema
    assert chat.schema is not None
    assert "additionalProperties" not in chat.schema
