"""Cohere: chat whole and streamed, embeddings, rerank.

Written from docs.cohere.com/reference/chat, …/docs/streaming, …/docs/tool-use-streaming,
…/reference/embed, …/reference/rerank.
"""

import re
from typing import Any

import msgspec

from infra.sandbox import calls, cohere_wire, generation
from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Bill, Frame
from infra.sandbox.cohere_request import PREAMBLE_TOKENS, ask_of, check, parse, prompt_of, tokens_of
from infra.sandbox.cohere_vectors import serve_embed, serve_rerank
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.generation import Answer, Block
from infra.sandbox.models import Dialect
from infra.sandbox.requests import BadBody
from infra.sandbox.wire import Desk

_encode = msgspec.json.encode
_PATH = re.compile(r"(?P<base>.*?)/(?:v2/(?:chat|embed|rerank)|v1/rerank)")
_FINISH = {
    "stop": "COMPLETE",
    "length": "MAX_TOKENS",
    "tool": "TOOL_CALL",
    "filter": "ERROR",
    "stop_sequence": "STOP_SEQUENCE",
}
_TOXIC = "the answer was blocked by a safety filter"


class CohereWire:
    """The vendor."""

    name: Dialect = "cohere"

    def find(self, path: str) -> str | None:
        """Base path."""
        found = _PATH.fullmatch(path)
        return None if found is None else found["base"]

    async def serve(self, exchange: Exchange, desk: Desk) -> None:
        """Serve one call."""
        cohere_wire.authenticate(exchange, desk)
        body = await exchange.body(desk.settings.body_bytes_max)
        if exchange.row.method != "POST":
            raise ApiError(404, "not_found", "page not found")
        if exchange.rest == "/v2/chat":
            await _chat(exchange, desk, body)
        elif exchange.rest == "/v2/embed":
            await serve_embed(exchange, desk, body)
        else:
            await serve_rerank(exchange, desk, body, first_version=exchange.rest == "/v1/rerank")

    def explain(self, bad: BadBody) -> ApiError:
        """A body's fault in the vendor's words."""
        return cohere_wire.explain(bad)

    async def refuse(self, exchange: Exchange, error: ApiError, lane: Lane | None) -> None:
        """Send an error in the vendor's body."""
        await cohere_wire.answer_error(exchange, error, lane)


async def _chat(exchange: Exchange, desk: Desk, body: bytes) -> None:
    request = parse(body)
    row = exchange.row
    row.model, row.stream = request.model, request.stream
    model = desk.catalogue.get(request.model, "cohere")
    if model is None:
        raise cohere_wire.no_model(request.model)
    lane = desk.behaviours.lane(row.base, model)
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return
    check(request, model)
    prompt, extra = prompt_of(request)
    tokens = tokens_of(prompt, extra)
    fault = plan.fault.kind if plan.fault is not None else ""
    if fault == "context_too_long" or tokens > model.context_tokens:
        raise invalid(
            f"too many tokens: total number of tokens in the prompt cannot exceed {model.context_tokens}"
            f" - received {tokens}. Try using a shorter prompt."
        )
    calls.admit(lane, tokens)
    ask = ask_of(request, model, lane, prompt)
    ask.filtered = fault == "content_filtered"
    answer = generation.compose(ask)
    row.finish_reason = _FINISH[answer.finish]
    row.tool_calls = sum(block.kind == "tool" for block in answer.blocks)
    bill = Bill(tokens)
    writer = Writer(cohere_wire.reply_id(exchange), bill, answer, documents=bool(request.documents))
    headers = cohere_wire.rate_headers(exchange, lane)
    if request.stream:
        lines = [(b"content-type", b"text/event-stream"), *headers]
        frames = writer.frames(lane.behaviour.tokens_per_frame)
        await calls.serve_stream(exchange, plan, bill, frames, writer.broken(), lines)
    else:
        tally = writer.tally()
        await calls.serve_whole(exchange, plan, bill, tally, writer.whole, lambda: headers)


class Writer:
    """Writes an answer in Cohere's format."""

    def __init__(self, reply_id: str, bill: Bill, answer: Answer, *, documents: bool) -> None:
        self._id = reply_id
        self._bill = bill
        self._answer = answer
        self._documents = documents

    def _usage(self) -> dict[str, Any]:
        billed, output = self._bill.input_tokens, self._answer.tokens
        return {
            "billed_units": {"input_tokens": billed, "output_tokens": output},
            "tokens": {"input_tokens": billed + PREAMBLE_TOKENS, "output_tokens": output},
            "cached_tokens": 0,
        }

    @property
    def _calls(self) -> bool:
        return any(block.kind == "tool" for block in self._answer.blocks)

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
        message: dict[str, Any] = {"role": "assistant"}
        for block in self._answer.blocks:
            text = "".join(block.pieces)
            if block.kind == "tool":
                message.setdefault("tool_calls", []).append(_call(block, text))
            elif block.kind == "text" and self._calls:
                message["tool_plan"] = text
            else:
                content = {"type": block.kind, block.kind: text}
                message.setdefault("content", []).append(content)
        if self._documents and not self._calls:
            message["citations"] = [self._citation()]
        return _encode(
            {
                "id": self._id,
                "message": message,
                "finish_reason": _FINISH[self._answer.finish],
                "usage": self._usage(),
            }
        )

    def _citation(self) -> dict[str, Any]:
        text = "".join(self._answer.blocks[-1].pieces)[:8]
        source = {"type": "document", "id": "doc:0", "document": {"id": "doc:0"}}
        return {
            "start": 0,
            "end": len(text),
            "text": text,
            "sources": [source],
            "type": "TEXT_CONTENT",
        }

    def frames(self, step: int) -> list[Frame]:
        """The answer as the events of a stream."""
        message = {
            "role": "assistant",
            "content": [],
            "tool_plan": "",
            "tool_calls": [],
            "citations": [],
        }
        frames = [_event("message-start", {"id": self._id, "delta": {"message": message}})]
        index = 0
        for block in self._answer.blocks:
            if block.kind == "text" and self._calls:
                frames += _pieces(
                    block, step, "tool-plan-delta", lambda text: {"tool_plan": text}, None
                )
                continue
            if block.kind == "tool":
                frames += _streamed_call(block, step, index)
            else:
                frames += _streamed_content(block, step, index)
            index += 1
        if self._documents and not self._calls:
            cited = {"index": 0, "delta": {"message": {"citations": self._citation()}}}
            frames += [_event("citation-start", cited), _event("citation-end", {"index": 0})]
        frames.append(self._last(_FINISH[self._answer.finish]))
        return [*frames, Frame(b"data: [DONE]\n\n")]

    def _last(self, reason: str) -> Frame:
        delta: dict[str, Any] = {"finish_reason": reason, "usage": self._usage()}
        if reason == "ERROR":
            delta["error"] = _TOXIC
        return _event("message-end", {"delta": delta}, kind="usage+end")

    def broken(self) -> Frame:
        """The end of a stream that failed."""
        delta = {"finish_reason": "ERROR", "error": "internal server error"}
        return _event("message-end", {"delta": delta})


def _call(block: Block, arguments: str) -> dict[str, Any]:
    function = {"name": block.name, "arguments": arguments}
    return {"id": f"{block.name}_{block.id[:12]}", "type": "function", "function": function}


def _streamed_content(block: Block, step: int, index: int) -> list[Frame]:
    start = {"content": {"type": block.kind, block.kind: ""}}
    return [
        _event("content-start", {"index": index, "delta": {"message": start}}),
        *_pieces(block, step, "content-delta", lambda text: {"content": {block.kind: text}}, index),
        _event("content-end", {"index": index}),
    ]


def _streamed_call(block: Block, step: int, index: int) -> list[Frame]:
    start = {"tool_calls": _call(block, "")}
    return [
        _event("tool-call-start", {"index": index, "delta": {"message": start}}),
        *_pieces(
            block,
            step,
            "tool-call-delta",
            lambda text: {"tool_calls": {"function": {"arguments": text}}},
            index,
        ),
        _event("tool-call-end", {"index": index}),
    ]


def _pieces(block: Block, step: int, name: str, message: Any, index: int | None) -> list[Frame]:
    frames = []
    for at in range(0, len(block.pieces), step):
        part = block.pieces[at : at + step]
        text = "".join(part)
        place: dict[str, Any] = {} if index is None else {"index": index}
        event = _event(name, {**place, "delta": {"message": message(text)}})
        shown = text if block.kind == "text" else ""
        thought = len(part) if block.kind == "thinking" else 0
        frames.append(event._replace(tokens=len(part), text=shown, reasoning=thought))
    return frames


def _event(name: str, fields: dict[str, Any], *, kind: str = "") -> Frame:
    data = _encode({"type": name, **fields})
    return Frame(b"event: %b\ndata: %b\n\n" % (name.encode(), data), kind=kind)
