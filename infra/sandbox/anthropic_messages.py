"""Anthropic's messages: the answer, whole and as a stream, and token counts."""

from typing import Any

import msgspec

from infra.sandbox import calls, generation
from infra.sandbox.anthropic_request import (
    CountRequest,
    MessagesRequest,
    ask_of,
    bill_of,
    check,
    check_history,
    prompt_of,
    signature,
)
from infra.sandbox.anthropic_wire import error_body, plain_headers, rate_headers
from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Bill, Frame
from infra.sandbox.errors import invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.generation import Answer, Block
from infra.sandbox.models import Model
from infra.sandbox.prompts import PromptCache
from infra.sandbox.tokens import pieces

_encode = msgspec.json.encode

_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool": "tool_use",
    "filter": "refusal",
    "stop_sequence": "stop_sequence",
}


async def serve(
    exchange: Exchange, request: MessagesRequest, model: Model, lane: Lane, cache: PromptCache
) -> None:
    """Serve one call.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        Disconnected: the client left.
    """
    row = exchange.row
    row.stream = bool(request.stream)
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=True):
        return
    check(request, model)
    prompt, bill = bill_of(request, model, f"{row.base}|{row.key}", cache)
    too_long = plan.fault is not None and plan.fault.kind == "context_too_long"
    if too_long or bill.input_tokens > model.context_tokens:
        raise invalid(
            f"prompt is too long: {bill.input_tokens} tokens > {model.context_tokens} maximum"
        )
    calls.admit(lane, bill.input_tokens)
    ask = ask_of(request, model, lane, prompt)
    ask.filtered = plan.fault is not None and plan.fault.kind == "content_filtered"
    answer = generation.compose(ask)
    row.finish_reason = _STOP[answer.finish]
    row.tool_calls = sum(block.kind == "tool" for block in answer.blocks)
    writer = Writer(exchange, request, model, bill, answer)
    if request.stream:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            *rate_headers(exchange, lane),
        ]
        frames = writer.frames(lane.behaviour.tokens_per_frame)
        broken = Frame(
            b"event: error\ndata: " + error_body("overloaded", "Overloaded", row.id) + b"\n\n"
        )
        await calls.serve_stream(exchange, plan, bill, frames, broken, headers)
    else:
        await calls.serve_whole(
            exchange, plan, bill, writer.tally(), writer.whole, lambda: rate_headers(exchange, lane)
        )


async def serve_count(exchange: Exchange, request: CountRequest) -> None:
    """Serve `count_tokens`, which is free.

    Raises:
        ApiError: the history cannot be.
    """
    check_history(request)
    prompt, extra, _ = prompt_of(request)
    await exchange.answer_json(
        {"input_tokens": len(pieces(prompt)) + extra}, plain_headers(exchange)
    )


class Writer:
    """Writes an answer in Anthropic's format."""

    def __init__(
        self, exchange: Exchange, request: MessagesRequest, model: Model, bill: Bill, answer: Answer
    ) -> None:
        self._bill = bill
        self._answer = answer
        self._model = model.reported
        self._id = f"msg_{exchange.row.id.removeprefix('req_')}"
        self._omitted = request.thinking is not None and request.thinking.display == "omitted"

    def _usage(self, output: int) -> dict[str, Any]:
        bill = self._bill
        return {
            "input_tokens": bill.input_tokens - bill.cached - bill.cache_write,
            "cache_creation_input_tokens": bill.cache_write,
            "cache_read_input_tokens": bill.cached,
            "output_tokens": output,
        }

    def _message(self, content: list[dict[str, Any]], *, done: bool) -> dict[str, Any]:
        output = self._answer.tokens if done else 1
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": _STOP[self._answer.finish] if done else None,
            "stop_sequence": self._answer.stop_sequence if done else None,
            "stop_details": self._stop_details() if done else None,
            "usage": {
                **self._usage(output),
                "cache_creation": {
                    "ephemeral_5m_input_tokens": self._bill.cache_write,
                    "ephemeral_1h_input_tokens": 0,
                },
                "service_tier": "standard",
                "inference_geo": "not_available",
            },
        }

    def _stop_details(self) -> dict[str, Any] | None:
        if self._answer.finish != "filter":
            return None
        return {"type": "refusal", "category": "general_harms", "explanation": None}

    def _thinking(self, block: Block) -> str:
        return "" if self._omitted else "".join(block.pieces)

    def tally(self) -> list[Frame]:
        """Tokens and text without the bytes of a stream: what a whole answer is billed by."""
        return [
            Frame(
                b"",
                len(block.pieces),
                "".join(block.pieces) if block.kind == "text" else "",
                reasoning=len(block.pieces) if block.kind == "thinking" else 0,
            )
            for block in self._answer.blocks
        ]

    def whole(self) -> bytes:
        """The answer in one piece."""
        content = [
            self._content(block)
            for block in self._answer.blocks
            if block.pieces or block.kind != "text"
        ]
        return _encode(self._message(content, done=True))

    def _content(self, block: Block) -> dict[str, Any]:
        text = "".join(block.pieces)
        if block.kind == "text":
            return {"type": "text", "text": text, "citations": None}
        if block.kind == "thinking":
            thinking = self._thinking(block)
            return {"type": "thinking", "thinking": thinking, "signature": signature(thinking)}
        cut_short = self._answer.finish == "length" and block is self._answer.blocks[-1]
        value = {} if cut_short else msgspec.json.decode(text)
        return {"type": "tool_use", "id": f"toolu_{block.id}", "name": block.name, "input": value}

    def frames(self, tokens_per_frame: int) -> list[Frame]:
        """The answer as the events of a stream."""
        message = self._message([], done=False)
        frames = [_event("message_start", {"message": message})]
        index = 0
        for block in self._answer.blocks:
            if block.pieces or block.kind != "text":
                self._stream_block(frames, index, block, tokens_per_frame)
                index += 1
        delta = {
            "stop_reason": _STOP[self._answer.finish],
            "stop_sequence": self._answer.stop_sequence,
            "stop_details": self._stop_details(),
        }
        usage = self._usage(self._answer.tokens)
        frames.append(_event("message_delta", {"delta": delta, "usage": usage}, kind="usage"))
        frames.append(_event("message_stop", {}, kind="end"))
        return frames

    def _stream_block(self, frames: list[Frame], index: int, block: Block, step: int) -> None:
        start: dict[str, Any]
        if block.kind == "text":
            start, name, field = {"type": "text", "text": ""}, b"text_delta", b"text"
        elif block.kind == "thinking":
            start, name, field = (
                {"type": "thinking", "thinking": "", "signature": ""},
                b"thinking_delta",
                b"thinking",
            )
        else:
            start = {"type": "tool_use", "id": f"toolu_{block.id}", "name": block.name, "input": {}}
            name, field = b"input_json_delta", b"partial_json"
        frames.append(_event("content_block_start", {"index": index, "content_block": start}))
        if index == 0:
            frames.append(Frame(b'event: ping\ndata: {"type":"ping"}\n\n'))
        head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
            % (
                index,
                name,
                field,
            )
        )
        if block.kind == "tool":
            frames.append(Frame(head + b'""}}\n\n'))
        thinking = block.kind == "thinking"
        for at in range(0, len(block.pieces), step):
            part = block.pieces[at : at + step]
            text = part[0] if step == 1 else "".join(part)
            data = b"" if thinking and self._omitted else head + _encode(text) + b"}}\n\n"
            shown = text if block.kind == "text" else ""
            frames.append(Frame(data, len(part), shown, reasoning=len(part) if thinking else 0))
        if thinking:
            signed = {"type": "signature_delta", "signature": signature(self._thinking(block))}
            frames.append(_event("content_block_delta", {"index": index, "delta": signed}))
        frames.append(_event("content_block_stop", {"index": index}))


def _event(name: str, fields: dict[str, Any], *, kind: str = "") -> Frame:
    data = _encode({"type": name, **fields})
    return Frame(b"event: %b\ndata: %b\n\n" % (name.encode(), data), kind=kind)
