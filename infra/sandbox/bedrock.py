"""Bedrock's Converse and ConverseStream, the answer whole and as a stream; InvokeModel for embeddings."""

import base64
import hashlib
import re
from typing import Any

import msgspec

from infra.sandbox import bedrock_wire, calls, generation
from infra.sandbox.bedrock_embed import serve_invoke
from infra.sandbox.bedrock_request import ask_of, bill_of, check, parse
from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Bill, Frame
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.generation import Answer, Block
from infra.sandbox.models import Dialect
from infra.sandbox.requests import BadBody
from infra.sandbox.wire import Desk

_PATH = re.compile(r"(|/.+?)/model/(.+)/(converse|converse-stream|invoke)")
_STOP = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool": "tool_use",
    "filter": "content_filtered",
    "stop_sequence": "stop_sequence",
}
_STREAM_TYPE = (b"content-type", b"application/vnd.amazon.eventstream")


class BedrockWire:
    """The vendor's protocol."""

    name: Dialect = "bedrock"

    def find(self, path: str) -> str | None:
        """The base path when this path is the vendor's."""
        match = _PATH.fullmatch(path)
        return match[1] if match else None

    async def serve(self, exchange: Exchange, desk: Desk) -> None:
        """Serve one call."""
        match = _PATH.fullmatch(exchange.row.path)
        assert match is not None
        row = exchange.row
        row.model, row.stream = match[2], match[3] == "converse-stream"
        body = await exchange.body(desk.settings.body_bytes_max)
        bedrock_wire.authenticate(exchange, body, desk.settings.keys)
        request = None if match[3] == "invoke" else parse(body)
        model = desk.catalogue.get(row.model, "bedrock")
        if model is None:
            raise invalid("The provided model identifier is invalid.")
        lane = desk.behaviours.lane(row.base, model)
        if request is None:
            await serve_invoke(exchange, body, model, lane)
            return
        plan = lane.plan()
        if await calls.before(exchange, plan, anthropic=False):
            return
        check(request, model)
        prompt, bill = bill_of(request, model, f"{row.base}|{row.key}", desk.cache)
        too_long = plan.fault is not None and plan.fault.kind == "context_too_long"
        if too_long or bill.input_tokens > model.context_tokens:
            raise invalid("Input is too long for requested model.")
        calls.admit(lane, bill.input_tokens)
        ask = ask_of(request, model, lane, prompt)
        ask.filtered = plan.fault is not None and plan.fault.kind == "content_filtered"
        answer = generation.compose(ask)
        row.finish_reason = _STOP[answer.finish]
        row.tool_calls = sum(block.kind == "tool" for block in answer.blocks)
        writer = Writer(bill, answer)
        headers = bedrock_wire.plain_headers(exchange)
        if not row.stream:
            await calls.serve_whole(
                exchange, plan, bill, writer.tally(), writer.whole, lambda: headers
            )
            return
        frames = writer.frames(lane.behaviour.tokens_per_frame)
        fault = {"message": "The system encountered an unexpected error during processing."}
        broken = Frame(bedrock_wire.message("exception", "modelStreamErrorException", fault))
        await calls.serve_stream(exchange, plan, bill, frames, broken, [_STREAM_TYPE, *headers])

    def explain(self, bad: BadBody) -> ApiError:
        """A body's fault in the words of the vendor."""
        if bad.problem == "json":
            return ApiError(400, "invalid_request", "The request body is not valid JSON.")
        return invalid(f"Malformed input request: #/{bad.path.replace('.', '/')}: {bad.message}")

    async def refuse(self, exchange: Exchange, error: ApiError, lane: Lane | None) -> None:
        """Send an error in the vendor's body."""
        del lane  # the vendor says nothing of its limits
        await bedrock_wire.answer_error(exchange, error)


class Writer:
    """Writes an answer in Bedrock's format."""

    def __init__(self, bill: Bill, answer: Answer) -> None:
        self._bill = bill
        self._answer = answer
        self._blocks = [block for block in answer.blocks if block.pieces or block.kind != "text"]

    def _tail(self) -> dict[str, Any]:
        bill, output = self._bill, self._answer.tokens
        usage = {
            "inputTokens": bill.input_tokens - bill.cached - bill.cache_write,
            "outputTokens": output,
            "totalTokens": bill.input_tokens + output,
            "cacheReadInputTokens": bill.cached,
            "cacheWriteInputTokens": bill.cache_write,
        }
        return {"usage": usage, "metrics": {"latencyMs": 1 + output}}

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
        message = {"role": "assistant", "content": [self._content(block) for block in self._blocks]}
        stop = _STOP[self._answer.finish]
        return msgspec.json.encode(
            {"output": {"message": message}, "stopReason": stop, **self._tail()}
        )

    def _content(self, block: Block) -> dict[str, Any]:
        text = "".join(block.pieces)
        if block.kind == "text":
            return {"text": text}
        if block.kind == "thinking":
            return {"reasoningContent": {"reasoningText": {"text": text, "signature": _sign(text)}}}
        cut_short = self._answer.finish == "length" and block is self._blocks[-1]
        value = {} if cut_short else msgspec.json.decode(text)
        return {"toolUse": {"toolUseId": f"tooluse_{block.id}", "name": block.name, "input": value}}

    def frames(self, step: int) -> list[Frame]:
        """The answer as the messages of a stream; the usage comes after the end of the message."""
        frames = [_event("messageStart", {"role": "assistant"})]
        for index, block in enumerate(self._blocks):
            self._stream_block(frames, index, block, step)
        frames.append(_event("messageStop", {"stopReason": _STOP[self._answer.finish]}))
        frames.append(_event("metadata", self._tail(), kind="usage+end"))
        return frames

    def _stream_block(self, frames: list[Frame], index: int, block: Block, step: int) -> None:
        place = {"contentBlockIndex": index}
        if block.kind == "tool":
            start = {"toolUse": {"toolUseId": f"tooluse_{block.id}", "name": block.name}}
            frames.append(_event("contentBlockStart", {"start": start, **place}))
        for at in range(0, len(block.pieces), step):
            part = block.pieces[at : at + step]
            text = "".join(part)
            delta: dict[str, Any] = {"text": text}
            if block.kind == "tool":
                delta = {"toolUse": {"input": text}}
            elif block.kind == "thinking":
                delta = {"reasoningContent": {"text": text}}
            data = bedrock_wire.message("event", "contentBlockDelta", {"delta": delta, **place})
            shown = text if block.kind == "text" else ""
            thought = len(part) if block.kind == "thinking" else 0
            frames.append(Frame(data, len(part), shown, reasoning=thought))
        if block.kind == "thinking":
            signed = {"reasoningContent": {"signature": _sign("".join(block.pieces))}}
            frames.append(_event("contentBlockDelta", {"delta": signed, **place}))
        frames.append(_event("contentBlockStop", place))


def _sign(text: str) -> str:
    return base64.b64encode(hashlib.sha256(f"bedrock|{text}".encode()).digest()).decode()


def _event(name: str, body: dict[str, Any], *, kind: str = "") -> Frame:
    return Frame(bedrock_wire.message("event", name, body), kind=kind)
