"""Messages as a vendor's turns: how a conversation is cut up, which several dialects do alike."""

from __future__ import annotations

from collections.abc import Callable

from gateway.dialects.neutral import Json, Message, Part, ToolCall, ToolResult


def split_turns(
    messages: list[Message],
    result: Callable[[ToolResult], Json],
    assistant: Callable[[list[Part]], Json],
    content: Callable[[list[Part]], str | list[Json]],
) -> list[Json]:
    """Return a message per turn, where each result of a tool is a message of its own."""
    wires: list[Json] = []
    for message in messages:
        results = [part for part in message.parts if isinstance(part, ToolResult)]
        wires += [result(part) for part in results]
        parts: list[Part] = [part for part in message.parts if not isinstance(part, ToolResult)]
        if message.role == "assistant":
            wires.append(assistant(parts))
        elif parts:
            wires.append({"role": message.role, "content": content(parts)})
    return wires


def alternating_turns(
    messages: list[Message], is_blank: Callable[[Part], bool], block: Callable[[Part], Json]
) -> list[Json]:
    """Return turns that alternate: neighbours of one role become one, and so share the results of
    several tool calls. Instructions stand elsewhere in these dialects.
    """
    wires: list[Json] = []
    for message in messages:
        if message.role == "system":
            continue
        blocks = [block(part) for part in message.parts if not is_blank(part)]
        if not blocks:
            continue
        if wires and wires[-1]["role"] == message.role:
            wires[-1]["content"] += blocks
        else:
            wires.append({"role": message.role, "content": blocks})
    return wires


def function_call(call: ToolCall) -> Json:
    """Return a call of a tool in the form that OpenAI and Cohere share."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
