"""OpenAI's chat completions: the answer, whole and as a stream."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from infra.sandbox import calls, generation
from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Bill, Frame
from infra.sandbox.errors import invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.generation import Answer, Block
from infra.sandbox.models import Model
from infra.sandbox.openai_request import ChatRequest, ask_of, check, prompt_of
from infra.sandbox.openai_wire import error_body, rate_headers
from infra.sandbox.prompts import PromptCache
from infra.sandbox.tokens import pieces

_encode = msgspec.json.encode

FINGERPRINT = "fp_5a4d6e0b1c"
_OBFUSCATION = "mZ3kQx8TfLw2VbNd"
_FINISH = {
    "stop": "stop",
    "length": "length",
    "tool": "tool_calls",
    "filter": "content_filter",
    "stop_sequence": "stop",
}


async def serve(
    exchange: Exchange,
    request: ChatRequest,
    model: Model,
    lane: Lane,
    cache: PromptCache,
    make: "Maker | None" = None,
) -> None:
    """Serve one call; `make` writes the answer where a compatible vendor does so otherwise.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        Disconnected: the client left.
    """
    row = exchange.row
    row.stream = bool(request.stream)
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return
    check(request, model)
    prompt, extra = prompt_of(request)
    cut = pieces(prompt)
    tokens = len(cut) + extra
    too_long = plan.fault is not None and plan.fault.kind == "context_too_long"
    if too_long or tokens > model.context_tokens:
        raise invalid(
            f"This model's maximum context length is {model.context_tokens} tokens. However, your messages "
            f"resulted in {tokens} tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        )
    calls.admit(lane, tokens)
    bill = Bill(tokens, cached=cache.match(f"{row.base}|{model.name}|{row.key}", cut))
    ask = ask_of(request, model, lane, prompt)
    ask.filtered = plan.fault is not None and plan.fault.kind == "content_filtered"
    answers = []
    for variant in range(request.n or 1):
        ask.variant = variant
        answers.append(generation.compose(ask))
    row.finish_reason = _FINISH[answers[0].finish]
    row.tool_calls = sum(block.kind == "tool" for answer in answers for block in answer.blocks)
    writer = (make or Writer)(exchange, request, model, bill, answers)
    if request.stream:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            *rate_headers(exchange, lane),
        ]
        frames = writer.frames(lane.behaviour.tokens_per_frame)
        await calls.serve_stream(exchange, plan, bill, frames, _BROKEN, headers)
    else:
        await calls.serve_whole(
            exchange, plan, bill, writer.tally(), writer.whole, lambda: rate_headers(exchange, lane)
        )


_BROKEN = Frame(
    b"data: "
    + error_body("server", "The server had an error while processing your request.", None, None)
    + b"\n\n"
)


class Writer:
    """Writes answers in OpenAI's format."""

    def __init__(
        self,
        exchange: Exchange,
        request: ChatRequest,
        model: Model,
        bill: Bill,
        answers: list[Answer],
    ) -> None:
        self._request = request
        self._bill = bill
        self._answers = answers
        self._model = model.reported
        self._id = f"chatcmpl-{exchange.row.id.removeprefix('req_')}"
        self._created = int(time.time())
        options = request.stream_options
        self._usage_asked = options is not None and bool(options.include_usage)
        self._obfuscated = options is None or options.include_obfuscation is not False

    def usage(self) -> dict[str, Any]:
        """The bill as the vendor writes it."""
        output = sum(answer.tokens for answer in self._answers)
        return {
            "prompt_tokens": self._bill.input_tokens,
            "completion_tokens": output,
            "total_tokens": self._bill.input_tokens + output,
            "prompt_tokens_details": {"cached_tokens": self._bill.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": sum(answer.thinking_tokens for answer in self._answers),
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def tally(self) -> list[Frame]:
        """Tokens and text without the bytes of a stream: what a whole answer is billed by."""
        return [
            Frame(b"", len(block.pieces), reasoning=len(block.pieces))
            if block.kind == "thinking"
            else Frame(
                b"", len(block.pieces), "".join(block.pieces) if block.kind == "text" else ""
            )
            for answer in self._answers
            for block in answer.blocks
        ]

    def whole(self) -> bytes:
        """The answer in one piece."""
        return _encode(self.body())

    def body(self) -> dict[str, Any]:
        """The answer in one piece, before it is JSON."""
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": [self._choice(index, answer) for index, answer in enumerate(self._answers)],
            "usage": self.usage(),
            "service_tier": "default",
            "system_fingerprint": FINGERPRINT,
        }

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        text = [block for block in answer.blocks if block.kind == "text"]
        tools = [block for block in answer.blocks if block.kind == "tool"]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(text[0].pieces) if text else (None if tools else ""),
            "refusal": None,
            "annotations": [],
        }
        if tools:
            message["tool_calls"] = [
                {
                    "id": f"call_{block.id}",
                    "type": "function",
                    "function": {"name": block.name, "arguments": "".join(block.pieces)},
                }
                for block in tools
            ]
        logprobs = None
        if self._request.logprobs and text:
            content = [logprob(piece, self._request.top_logprobs or 0) for piece in text[0].pieces]
            logprobs = {"content": content, "refusal": None}
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": _FINISH[answer.finish],
        }

    def frames(self, tokens_per_frame: int) -> list[Frame]:
        """The answer as the events of a stream."""
        frames: list[Frame] = []
        for index, answer in enumerate(self._answers):
            self._stream_choice(frames, index, answer, tokens_per_frame)
        if self._usage_asked:
            frames.append(Frame(self._event(b"[]", _encode(self.usage())), kind="usage"))
        frames.append(Frame(b"data: [DONE]\n\n", kind="end"))
        return frames

    def _stream_choice(self, frames: list[Frame], index: int, answer: Answer, step: int) -> None:
        has_tools = any(block.kind == "tool" for block in answer.blocks)
        first = {"role": "assistant", "content": None if has_tools else "", "refusal": None}
        frames.append(Frame(self._delta(index, _encode(first))))
        number = 0
        for block in answer.blocks:
            if block.kind == "thinking":
                self._stream_thinking(frames, index, block, step)
            elif block.kind == "tool":
                self._stream_tool(frames, index, number, block, step)
                number += 1
            else:
                self._stream_text(frames, index, block, step)
        frames.append(Frame(self._delta(index, b"{}", finish=_FINISH[answer.finish])))

    def _stream_thinking(self, frames: list[Frame], index: int, block: Block, step: int) -> None:
        """The vendor keeps its thoughts to itself: time passes."""
        del index, step
        frames.append(Frame(b"", len(block.pieces), kind="wait", reasoning=len(block.pieces)))

    def _stream_text(self, frames: list[Frame], index: int, block: Block, step: int) -> None:
        top = self._request.top_logprobs or 0
        head, middle, tail = self._parts(index)
        for start in range(0, len(block.pieces), step):
            part = block.pieces[start : start + step]
            text = part[0] if step == 1 else "".join(part)
            delta = b'{"content":%b}' % _encode(text)
            if self._request.logprobs:
                logprobs = _encode(
                    {"content": [logprob(piece, top) for piece in part], "refusal": None}
                )
                data = self._delta(index, delta, logprobs=logprobs, seed=len(text))
            else:
                data = head + delta + middle + self._padding(len(text)) + tail
            frames.append(Frame(data, len(part), text))

    def _stream_tool(
        self, frames: list[Frame], index: int, number: int, block: Block, step: int
    ) -> None:
        opening = {
            "tool_calls": [
                {
                    "index": number,
                    "id": f"call_{block.id}",
                    "type": "function",
                    "function": {"name": block.name, "arguments": ""},
                }
            ]
        }
        frames.append(Frame(self._delta(index, _encode(opening))))
        for start in range(0, len(block.pieces), step):
            part = block.pieces[start : start + step]
            delta = {"tool_calls": [{"index": number, "function": {"arguments": "".join(part)}}]}
            frames.append(Frame(self._delta(index, _encode(delta)), len(part)))

    def _padding(self, length: int) -> bytes:
        """Random-looking characters by which the vendor hides the length of tokens."""
        if not self._obfuscated:
            return b""
        return b',"obfuscation":"%b"' % _OBFUSCATION[: 1 + -length % 16].encode()

    def _parts(self, index: int) -> tuple[bytes, bytes, bytes]:
        """What surrounds the delta and the padding of a plain event, made once per stream."""
        marked = self._event(
            b'[{"index":%d,"delta":\x00,"logprobs":null,"finish_reason":null}]' % index,
            None,
            padding=b"\x00",
        )
        head, middle, tail = marked.split(b"\x00")
        return head, middle, tail

    def _delta(
        self,
        index: int,
        delta: bytes,
        *,
        finish: str | None = None,
        logprobs: bytes = b"null",
        seed: int = 0,
    ) -> bytes:
        choice = b'[{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}]'
        return self._event(
            choice % (index, delta, logprobs, _encode(finish)), None, padding=self._padding(seed)
        )

    def _event(self, choices: bytes, usage: bytes | None, *, padding: bytes = b"") -> bytes:
        shown = b',"usage":%b' % (usage or b"null") if self._usage_asked else b""
        return (
            b'data: {"id":"%b","object":"chat.completion.chunk","created":%d,"model":%b,"service_tier":"default",'
            b'"system_fingerprint":"%b","choices":%b%b%b}\n\n'
            % (
                self._id.encode(),
                self._created,
                _encode(self._model),
                FINGERPRINT.encode(),
                choices,
                shown,
                padding,
            )
        )


Maker = Callable[[Exchange, ChatRequest, Model, Bill, list[Answer]], Writer]


def logprob(piece: str, top: int) -> dict[str, Any]:
    """A token's log-probability: made up, but the same for the same token."""
    value = -round((sum(piece.encode()) % 97) / 100, 4)
    entry = {"token": piece, "logprob": value, "bytes": list(piece.encode())}
    others = [
        {"token": f"{piece}{rank}"[-12:], "logprob": round(value - rank, 4), "bytes": None}
        for rank in range(1, top)
    ]
    return {**entry, "top_logprobs": [entry, *others] if top else []}
