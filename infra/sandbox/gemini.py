"""Gemini: generateContent whole and streamed, token counts, embeddings, models; and its Vertex paths.

Written from ai.google.dev/api/generate-content, …/api/tokens, …/api/embeddings, …/api/models and
cloud.google.com/vertex-ai/generative-ai/docs/reference/rest (address form, bearer tokens).
"""

import re
from typing import Any
from urllib.parse import unquote

import msgspec

from infra.sandbox import calls, gemini_wire, generation
from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Bill, Frame
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.gemini_embed import serve_embed
from infra.sandbox.gemini_request import (
    FunctionCall,
    GenerateRequest,
    ask_of,
    bill_of,
    check,
    parse,
    parse_count,
    prompt_of,
    signature,
)
from infra.sandbox.generation import Answer, Block
from infra.sandbox.google_tokens import GOOGLE_TOKENS
from infra.sandbox.models import Dialect, Model
from infra.sandbox.requests import BadBody
from infra.sandbox.tokens import count
from infra.sandbox.wire import Desk

_encode = msgspec.json.encode
_PATH = re.compile(
    r"(?P<base>.*?)/(?:v1|v1beta|v1beta1)/"
    r"(?:(?P<vertex>projects/[^/]+/locations/[^/]+/publishers/google/)?models|tunedModels)"
    r"(?:/(?P<model>[^:]+?)(?::(?P<verb>\w+))?)?"
)
_VERBS = frozenset(
    [
        "generateContent",
        "streamGenerateContent",
        "countTokens",
        "embedContent",
        "batchEmbedContents",
        "predict",
    ]
)
_FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool": "STOP",
    "filter": "SAFETY",
    "stop_sequence": "STOP",
}
_UNSAFE = [
    {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True},
]


class GeminiWire:
    """The vendor."""

    name: Dialect = "gemini"

    def find(self, path: str) -> str | None:
        """Base path; model lists are told from OpenAI's by their version, `v1beta`."""
        found = _PATH.fullmatch(path)
        if found is None:
            return None
        if found["verb"] is None and "/v1beta/" not in path:
            return None
        return found["base"]

    async def serve(self, exchange: Exchange, desk: Desk) -> None:
        """Serve one call."""
        found = _PATH.fullmatch(exchange.rest)
        assert found is not None, "find() found it"
        _authenticate(exchange, desk, vertex=found["vertex"] is not None)
        body = await exchange.body(desk.settings.body_bytes_max)
        name, verb = unquote(found["model"] or ""), found["verb"]
        if verb is None:
            await _models(exchange, desk, name)
            return
        exchange.row.model = name
        model = desk.catalogue.get(name, "gemini")
        if verb not in _VERBS or exchange.row.method != "POST":
            raise ApiError(404, "not_found", f"Method not found: {verb}.")
        if model is None:
            raise ApiError(
                404,
                "not_found",
                f"models/{name} is not found for API version v1beta, or is not supported for {verb}. "
                "Call ListModels to see the list of available models and their supported methods.",
                code="model_not_found",
            )
        if verb in ("generateContent", "streamGenerateContent"):
            await _generate(exchange, desk, parse(body), model, stream=verb[0] == "s")
        elif verb == "countTokens":
            await _count(exchange, body)
        else:
            lane = desk.behaviours.lane(exchange.row.base, model)
            on_vertex = found["vertex"] is not None
            await serve_embed(exchange, verb, body, model, lane, vertex=on_vertex)

    async def refuse(self, exchange: Exchange, error: ApiError, lane: Lane | None) -> None:
        """Send an error in the vendor's body."""
        await gemini_wire.answer_error(exchange, error, lane)

    def explain(self, bad: BadBody) -> ApiError:
        """A body's fault in the vendor's words."""
        return gemini_wire.explain(bad)


def _authenticate(exchange: Exchange, desk: Desk, *, vertex: bool) -> None:
    bearer = exchange.header(b"authorization") or ""
    if vertex:
        token = bearer.removeprefix("Bearer ").strip()
        if not GOOGLE_TOKENS.knows(token):
            message = (
                "Request had invalid authentication credentials. Expected OAuth 2 access token."
            )
            raise ApiError(401, "authentication", message)
        exchange.row.key = f"{token[:3]}…{token[-4:]}"
        return
    key = exchange.header(b"x-goog-api-key") or exchange.query.get("key") or ""
    if not key:
        message = (
            "Method doesn't allow unregistered callers (callers without established identity)."
        )
        raise ApiError(403, "authentication", message)
    exchange.row.key = f"{key[:3]}…{key[-4:]}" if len(key) > 8 else "…"
    if desk.settings.keys and key not in desk.settings.keys:
        message = "API key not valid. Please pass a valid API key."
        raise invalid(message, code="API_KEY_INVALID")


async def _generate(
    exchange: Exchange, desk: Desk, request: GenerateRequest, model: Model, *, stream: bool
) -> None:
    row, lane = exchange.row, desk.behaviours.lane(exchange.row.base, model)
    row.stream = stream
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return
    check(request, model)
    owner = f"{row.base}|{row.key}"
    prompt, bill = bill_of(request, model, owner, desk.cache)
    fault = plan.fault.kind if plan.fault is not None else ""
    if fault == "context_too_long" or bill.input_tokens > model.context_tokens:
        raise invalid(
            f"The input token count ({bill.input_tokens}) exceeds the maximum number of tokens "
            f"allowed ({model.context_tokens})."
        )
    calls.admit(lane, bill.input_tokens)
    ask = ask_of(request, model, lane, prompt)
    ask.filtered = fault == "content_filtered"
    answers = []
    for variant in range(request.generation_config.candidate_count or 1):
        ask.variant = variant
        answers.append(generation.compose(ask))
    row.finish_reason = _FINISH[answers[0].finish]
    row.tool_calls = sum(block.kind == "tool" for answer in answers for block in answer.blocks)
    writer = Writer(exchange, request, model, bill, answers)
    if ask.filtered and plan.fault is not None and plan.fault.after_tokens == 0:
        await _blocked(exchange, writer, bill, stream=stream)
    elif stream:
        frames = writer.frames(lane.behaviour.tokens_per_frame)
        sse = exchange.query.get("alt") == "sse"
        kind = b"text/event-stream" if sse else b"application/json; charset=UTF-8"
        lines = [(b"content-type", kind), *gemini_wire.headers(exchange)]
        frames = frames if sse else _as_array(frames)
        await calls.serve_stream(exchange, plan, bill, frames, _BROKEN, lines)
    else:
        lines = gemini_wire.headers(exchange)
        tally = writer.tally()
        await calls.serve_whole(exchange, plan, bill, tally, writer.whole, lambda: lines)


async def _blocked(exchange: Exchange, writer: "Writer", bill: Bill, *, stream: bool) -> None:
    """Answer that the prompt itself was refused: 200, without candidates."""
    exchange.row.finish_reason = "BLOCKED"
    exchange.row.input_tokens = bill.input_tokens
    exchange.row.usage_sent = True
    body = _encode(writer.blocked())
    lines = gemini_wire.headers(exchange)
    if stream:
        lines.append((b"content-type", b"text/event-stream"))
        body = b"data: " + body + b"\r\n\r\n"
    await exchange.answer(200, body, lines)


async def _count(exchange: Exchange, body: bytes) -> None:
    request = parse_count(body)
    contents, extra = request.contents, []
    if request.generate_content_request is not None:
        given = {k: v for k, v in request.generate_content_request.items() if k != "model"}
        whole = parse(_encode(given))
        contents, extra = whole.contents, [whole.system_instruction, whole.tools]
    prompt, beyond = prompt_of(contents, list(extra))
    total = count(prompt) + beyond
    details = [{"modality": "TEXT", "tokenCount": total}]
    await exchange.answer_json(
        {"totalTokens": total, "promptTokensDetails": details}, gemini_wire.headers(exchange)
    )


async def _models(exchange: Exchange, desk: Desk, name: str) -> None:
    known = {model.name: model for _, model in desk.catalogue.listed("gemini")}
    if not name:
        models = [_listed(model) for model in known.values()]
        await exchange.answer_json({"models": models}, gemini_wire.headers(exchange))
        return
    if name not in known:
        raise ApiError(404, "not_found", f"models/{name} is not found for API version v1beta.")
    await exchange.answer_json(_listed(known[name]), gemini_wire.headers(exchange))


def _listed(model: Model) -> dict[str, Any]:
    embeds = model.kind == "embedding"
    methods = ["embedContent"] if embeds else ["generateContent", "countTokens"]
    return {
        "name": f"models/{model.name}",
        "version": "001",
        "displayName": model.display_name or model.name,
        "inputTokenLimit": model.context_tokens,
        "outputTokenLimit": model.output_tokens_max,
        "supportedGenerationMethods": methods,
    }


_BROKEN = Frame(
    b"data: "
    + gemini_wire.error_body(ApiError(503, "overloaded", "The model is overloaded."))
    + b"\r\n\r\n"
)


def _as_array(frames: list[Frame]) -> list[Frame]:
    """A stream without `alt=sse` is one JSON array, sent piece by piece."""
    shown = [index for index, frame in enumerate(frames) if frame.data]
    out = list(frames)
    for index in shown:
        body = frames[index].data[len(b"data: ") :].rstrip()
        head = b"[" if index == shown[0] else b",\r\n"
        tail = b"]" if index == shown[-1] else b""
        out[index] = frames[index]._replace(data=head + body + tail)
    return out


class Writer:
    """Writes answers in Gemini's format."""

    def __init__(
        self,
        exchange: Exchange,
        request: GenerateRequest,
        model: Model,
        bill: Bill,
        answers: list[Answer],
    ) -> None:
        thinking = request.generation_config.thinking_config
        self._shown = thinking is not None and thinking.include_thoughts
        self._signs = model.signs_calls
        self._bill = bill
        self._answers = answers
        self._head = {
            "modelVersion": model.reported,
            "responseId": exchange.row.id.removeprefix("req_"),
        }

    def _usage(self, produced: int, thought: int) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "promptTokenCount": self._bill.input_tokens,
            "totalTokenCount": self._bill.input_tokens + produced,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": self._bill.input_tokens}],
        }
        if produced > thought:
            usage["candidatesTokenCount"] = produced - thought
        if thought:
            usage["thoughtsTokenCount"] = thought
        if self._bill.cached:
            usage["cachedContentTokenCount"] = self._bill.cached
        return usage

    def _body(self, candidates: list[dict[str, Any]], produced: int, thought: int) -> bytes:
        usage = self._usage(produced, thought)
        return _encode({"candidates": candidates, "usageMetadata": usage, **self._head})

    def blocked(self) -> dict[str, Any]:
        """The answer to a prompt that was refused."""
        feedback = {"blockReason": "SAFETY", "safetyRatings": _UNSAFE}
        return {"promptFeedback": feedback, "usageMetadata": self._usage(0, 0), **self._head}

    def tally(self) -> list[Frame]:
        """Tokens and text without the bytes of a stream: what a whole answer is billed by."""
        return [
            Frame(
                b"",
                len(block.pieces),
                "".join(block.pieces) if block.kind == "text" else "",
                reasoning=len(block.pieces) if block.kind == "thinking" else 0,
            )
            for answer in self._answers
            for block in answer.blocks
        ]

    def whole(self) -> bytes:
        """The answer in one piece."""
        candidates = []
        for index, answer in enumerate(self._answers):
            parts = [part for block in answer.blocks for part in self._parts(block, answer)]
            content = {"parts": parts or [{"text": ""}], "role": "model"}
            candidates.append({"content": content, **self._end(answer), "index": index})
        produced = sum(answer.tokens for answer in self._answers)
        return self._body(candidates, produced, sum(a.thinking_tokens for a in self._answers))

    def _end(self, answer: Answer) -> dict[str, Any]:
        end: dict[str, Any] = {"finishReason": _FINISH[answer.finish]}
        return {**end, "safetyRatings": _UNSAFE} if answer.finish == "filter" else end

    def _parts(self, block: Block, answer: Answer) -> list[dict[str, Any]]:
        text = "".join(block.pieces)
        if block.kind == "thinking":
            return [{"text": text, "thought": True}] if self._shown else []
        if block.kind == "text":
            return [{"text": text}] if text else []
        cut_short = answer.finish == "length" and block is answer.blocks[-1]
        args = {} if cut_short else msgspec.json.decode(text)
        call = FunctionCall(block.name, args, block.id[:8] if self._signs else None)
        wire = {
            name: value for name, value in msgspec.to_builtins(call).items() if value is not None
        }
        part: dict[str, Any] = {"functionCall": wire}
        first = next(other for other in answer.blocks if other.kind == "tool")
        if self._signs and block is first:
            part["thoughtSignature"] = signature(call)
        return [part]

    def frames(self, step: int) -> list[Frame]:
        """The answer as the steps of a stream: each with the usage so far, the last with the reason."""
        frames: list[Frame] = []
        produced = thought = 0
        for index, answer in enumerate(self._answers):
            for block in answer.blocks:
                # A call comes in one piece.
                size = len(block.pieces) if block.kind == "tool" else step
                for at in range(0, len(block.pieces), max(1, size)):
                    piece = Block(block.kind, block.pieces[at : at + size], block.name, block.id)
                    parts = self._parts(block if block.kind == "tool" else piece, answer)
                    produced += len(piece.pieces)
                    thought += len(piece.pieces) if block.kind == "thinking" else 0
                    content = {"parts": parts, "role": "model"}
                    data = self._body([{"content": content, "index": index}], produced, thought)
                    frames.append(_frame(data if parts else b"", piece))
            last = {"content": {"parts": [{"text": ""}], "role": "model"}, **self._end(answer)}
            data = self._body([{**last, "index": index}], produced, thought)
            frames.append(Frame(b"data: " + data + b"\r\n\r\n", kind="usage+end"))
        return frames


def _frame(data: bytes, block: Block) -> Frame:
    tokens = len(block.pieces)
    shown = "".join(block.pieces) if block.kind == "text" else ""
    line = b"data: " + data + b"\r\n\r\n" if data else b""
    return Frame(line, tokens, shown, reasoning=tokens if block.kind == "thinking" else 0)
