"""The objects that OpenAI's responses are made of, as clients get them."""

from __future__ import annotations

import time

from gateway.dialects.neutral import FinishReason, Json, Thinking, Usage
from gateway.dialects.openai_responses_request import packed
from gateway.dialects.openai_responses_wire import VENDOR


def head_of(answer_id: str, model: str) -> Json:
    """Return a response that has just begun."""
    return {
        "id": answer_id if answer_id.startswith("resp_") else f"resp_{answer_id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def ended(head: Json, output: list[Json], finish: FinishReason, usage: Usage | None) -> Json:
    """Return a response that has come to its end."""
    why = {"length": "max_output_tokens", "filter": "content_filter"}.get(finish)
    return {
        **head,
        "status": "incomplete" if why else "completed",
        "incomplete_details": {"reason": why} if why else None,
        "output": output,
        "usage": None if usage is None else _usage(usage),
    }


def _usage(usage: Usage) -> Json:
    read, made = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens or 0,
            "cache_write_tokens": usage.cache_write_input_tokens or 0,
        },
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": read + made,
    }


def message_item(item_id: str, text: str, status: str = "completed") -> Json:
    """Return a message with one text."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    content = [part] if status == "completed" else []
    message = {"role": "assistant", "status": status, "content": content}
    return {"id": item_id, "type": "message", **message}


def call_item(
    item_id: str, call_id: str, name: str, arguments: str, status: str = "completed"
) -> Json:
    """Return a function call."""
    call = {"call_id": call_id, "name": name, "arguments": arguments, "status": status}
    return {"id": item_id, "type": "function_call", **call}


def reasoning_item(item_id: str, part: Thinking) -> Json:
    """Return thoughts: their text as a summary, their seal as encrypted content."""
    shown = part.text and not part.redacted
    own_id = part.signature.partition(":")[0] if part.vendor == VENDOR and part.signature else ""
    item: Json = {
        "id": own_id or item_id,
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": part.text}] if shown else [],
    }
    sealed = packed(part)
    return item if sealed is None else {**item, "encrypted_content": sealed}
