"""Messages as a vendor's turns: how a conversation is cut up, which several dialects do alike."""

from __future__ import annotations

from collections.abc import Callable

from gateway.dialects.neutral import Json, Message, Part, Text, ToolCall, ToolResult


def split_turns(
    messages: list[Message],
    result: Callable[[ToolResult], Json],
    assistant: Callable[[list[Part]], Json],
    content: Callable[[list[Part]], str | list[Json]],
) -> list[Json]:
    """Return a message per turn, where each result of a tool is a message of its own, made by `result`.

    Results are texts in these dialects. What else a tool gave back, as a picture of the screen, the
    user shows after the last result: no other message may come between calls and their results.
    """
    wires: list[Json] = []
    shown: list[Part] = []
    for message in messages:
        results = [part for part in message.parts if isinstance(part, ToolResult)]
        wires += [result(part) for part in results]
        shown += [item for each in results for item in each.parts if not isinstance(item, Text)]
        parts: list[Part] = [part for part in message.parts if not isinstance(part, ToolResult)]
        if shown and (parts or message.role == "assistant"):
            if message.role == "user":
                parts = [*shown, *parts]
            else:
                wires.append({"role": "user", "content": content(shown)})
            shown = []
        if message.role == "assistant":
            wires.append(assistant(parts))
        elif parts:
            wires.append({"role": message.role, "content": content(parts)})
    return [*wires, {"role": "user", "content": content(shown)}] if shown else wires


def alternating_turns(messages: list[Message], blocks: Callable[[Part], list[Json]]) -> list[Json]:
    """Return turns that alternate: neighbours of one role become one, and so share the results of
    several tool calls. Instructions stand elsewhere in these dialects; `blocks` of a part may be none.
    """
    wires: list[Json] = []
    for message in messages:
        if message.role == "system":
            continue
        content = [block for part in message.parts for block in blocks(part)]
        if not content:
            continue
        if wires and wires[-1]["role"] == message.role:
            wires[-1]["content"] += content
        else:
            wires.append({"role": message.role, "content": content})
    return wires


def function_call(call: ToolCall) -> Json:
    """Return a call of a tool in the form that OpenAI and Cohere share."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
