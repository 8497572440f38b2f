"""OpenAI's `/v1/responses`, as its API reference gives them: whole, streamed, and kept for a while."""

import hmac
import time
from collections import OrderedDict
from typing import Any

import msgspec

from infra.sandbox import calls, generation
from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Bill, Frame
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange
from infra.sandbox.generation import Answer, Ask, Block, Tool
from infra.sandbox.models import Model
from infra.sandbox.openai_responses_request import REQUEST, FunctionTool, ResponseRequest
from infra.sandbox.openai_wire import plain_headers, rate_headers
from infra.sandbox.requests import read
from infra.sandbox.tokens import TOKENS_PER_IMAGE, TOKENS_PER_MESSAGE, TOKENS_PER_REPLY, pieces
from infra.sandbox.wire import Desk

_encode = msgspec.json.encode

KEPT_MAX = 1_000
_EFFORT = {
    "none": 0,
    "minimal": 16,
    "low": 48,
    "medium": 128,
    "high": 192,
    "xhigh": 256,
    "max": 320,
}
_SEALING_KEY = b"the sandbox seals its own reasoning"


_ITEMS = frozenset({"message", "function_call", "function_call_output", "reasoning"})


class Kept:
    """Responses by base path and id; the oldest go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[list[dict[str, Any]], dict[str, Any]]] = (
            OrderedDict()
        )

    def put(self, base: str, items: list[dict[str, Any]], response: dict[str, Any]) -> None:
        """Keep a response with the input that led to it."""
        self._kept[base, response["id"]] = (items, response)
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)

    def get(self, base: str, response_id: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The response by that id.

        Raises:
            ApiError: 404 when there is none.
        """
        found = self._kept.get((base, response_id))
        if found is None:
            raise ApiError(404, "not_found", f"Response with id '{response_id}' not found.")
        return found

    def drop(self, base: str, response_id: str) -> None:
        """Forget a response."""
        self.get(base, response_id)
        del self._kept[base, response_id]


KEPT = Kept()


async def resource(exchange: Exchange, parts: list[str]) -> None:
    """Serve `GET` and `DELETE /v1/responses/{id}`.

    Raises:
        ApiError: there is no such response.
    """
    row = exchange.row
    match row.method, parts:
        case "GET", [response_id]:
            _, response = KEPT.get(row.base, response_id)
            await exchange.answer_json(response, plain_headers(exchange))
        case "DELETE", [response_id]:
            KEPT.drop(row.base, response_id)
            gone = {"id": response_id, "object": "response", "deleted": True}
            await exchange.answer_json(gone, plain_headers(exchange))
        case _:
            raise ApiError(404, "not_found", f"Invalid URL ({row.method} {row.path})")


async def serve(exchange: Exchange, desk: Desk) -> None:
    """Serve one call.

    Raises:
        ApiError: the vendor would refuse it, or a fault says so.
        BadBody: the body is not what the vendor documents.
        Disconnected: the client left.
    """
    request = read(REQUEST, await exchange.body(desk.settings.body_bytes_max))
    model = desk.model(exchange, request.model, "openai")
    row, lane = exchange.row, desk.behaviours.lane(exchange.row.base, model)
    row.stream = bool(request.stream)
    plan = lane.plan()
    if await calls.before(exchange, plan, anthropic=False):
        return
    items = _items(request, row.base)
    check(request, model, items)
    prompt, extra = _prompt(request, items)
    cut = pieces(prompt)
    tokens = len(cut) + extra
    too_long = plan.fault is not None and plan.fault.kind == "context_too_long"
    if too_long or tokens > model.context_tokens:
        message = "Your input exceeds the context window of this model. Please adjust your input."
        raise invalid(message, param="input", code="context_length_exceeded")
    calls.admit(lane, tokens)
    bill = Bill(tokens, cached=desk.cache.match(f"{row.base}|{model.name}|{row.key}", cut))
    ask = _ask(request, model, lane, prompt, items)
    ask.filtered = plan.fault is not None and plan.fault.kind == "content_filtered"
    answer = generation.compose(ask)
    row.tool_calls = sum(block.kind == "tool" for block in answer.blocks)
    writer = Writer(exchange, request, model, bill, answer)
    row.finish_reason = writer.status
    if request.store is not False:
        KEPT.put(row.base, items, writer.response(done=True))
    if request.stream:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            *rate_headers(exchange, lane),
        ]
        frames = writer.frames(lane.behaviour.tokens_per_frame)
        await calls.serve_stream(exchange, plan, bill, frames, writer.broken(), headers)
    else:
        await calls.serve_whole(
            exchange,
            plan,
            bill,
            writer.tally(),
            lambda: _encode(writer.response(done=True)),
            lambda: rate_headers(exchange, lane),
        )


async def count(exchange: Exchange, desk: Desk) -> None:
    """Serve `/v1/responses/input_tokens`, which is free.

    Raises:
        ApiError: the vendor would refuse it.
        BadBody: the body is not what the vendor documents.
    """
    request = read(REQUEST, await exchange.body(desk.settings.body_bytes_max))
    model = desk.model(exchange, request.model, "openai")
    items = _items(request, exchange.row.base)
    check(request, model, items)
    prompt, extra = _prompt(request, items)
    answer = {"object": "response.input_tokens", "input_tokens": len(pieces(prompt)) + extra}
    await exchange.answer_json(answer, plain_headers(exchange))


def _items(request: ResponseRequest, base: str) -> list[dict[str, Any]]:
    """The whole conversation: what was kept, then what was sent."""
    before: list[dict[str, Any]] = []
    if request.previous_response_id is not None:
        try:
            items, response = KEPT.get(base, request.previous_response_id)
        except ApiError as error:
            raise invalid(
                f"Previous response with id '{request.previous_response_id}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from error
        before = [*items, *response["output"]]
    given = request.input
    new = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return [*before, *new]


def check(request: ResponseRequest, model: Model, items: list[dict[str, Any]]) -> None:
    """Refuse what the vendor refuses beyond types.

    Raises:
        ApiError: 400 with the vendor's parameter and code.
    """
    if model.kind != "chat":
        raise ApiError(
            404, "not_found", "This model is not supported in the v1/responses endpoint."
        )
    if not items or request.input in ("", []):
        raise invalid("Missing required parameter: 'input'.", param="input")
    if not model.reasoning and request.reasoning is not None and request.reasoning.effort:
        raise invalid(
            "Unsupported parameter: 'reasoning.effort' is not supported with this model.",
            param="reasoning.effort",
            code="unsupported_parameter",
        )
    open_calls: set[str] = set()
    for at, item in enumerate(items):
        kind = item.get("type", "message")
        if kind not in _ITEMS:
            raise invalid(f"Invalid value: '{kind}'.", param=f"input[{at}]", code="invalid_value")
        if kind == "function_call":
            open_calls.add(item["call_id"])
        elif kind == "function_call_output" and item.get("call_id") not in open_calls:
            raise invalid(
                f"No tool call found for function call output with call_id {item.get('call_id')}.",
                param="input",
            )
        elif kind == "reasoning" and item.get("encrypted_content") is not None:
            _check_seal(item, at)
    answered = {item.get("call_id") for item in items if item.get("type") == "function_call_output"}
    if unanswered := sorted(open_calls - answered):
        raise invalid(f"No tool output found for function call {unanswered[0]}.", param="input")


def seal(item_id: str) -> str:
    """What the sandbox signs its reasoning with."""
    return hmac.new(_SEALING_KEY, item_id.encode(), "sha256").hexdigest()


def _check_seal(item: dict[str, Any], at: int) -> None:
    if item["encrypted_content"] != seal(str(item.get("id"))):
        raise invalid(
            "The encrypted content could not be verified.",
            param=f"input[{at}].encrypted_content",
            code="invalid_encrypted_content",
        )


def _prompt(request: ResponseRequest, items: list[dict[str, Any]]) -> tuple[str, int]:
    texts = [request.instructions or ""]
    extra = TOKENS_PER_REPLY
    for item in items:
        extra += TOKENS_PER_MESSAGE
        texts.append(str(item.get("role", item.get("type"))))
        content = item.get("content", item.get("output", item.get("arguments", "")))
        for part in [content] if isinstance(content, str) else content or []:
            if isinstance(part, str):
                texts.append(part)
            elif part.get("type") == "input_image":
                extra += TOKENS_PER_IMAGE
            else:
                texts.append(str(part.get("text", part.get("refusal", ""))))
    if request.tools:
        texts.append(_encode(request.tools).decode())
    return "\n".join(texts), extra


def _ask(
    request: ResponseRequest, model: Model, lane: Lane, prompt: str, items: list[dict[str, Any]]
) -> Ask:
    ask = Ask(
        prompt=f"{model.name}\n{prompt}",
        limit=request.max_output_tokens or model.output_tokens_max,
        length_min=lane.behaviour.answer_tokens_min,
        length_max=lane.behaviour.answer_tokens_max,
    )
    if model.reasoning:
        effort = request.reasoning.effort if request.reasoning else None
        ask.reasoning_max = _EFFORT[effort or "medium"]
    form = request.text.format if request.text else None
    if form is not None and form.type != "text":
        ask.schema = form.schema or {"type": "object", "properties": {"answer": {"type": "string"}}}
    choice = request.tool_choice or "auto"
    offers = request.tools or []
    if isinstance(choice, dict):
        offers = [offer for offer in offers if offer.name == choice.get("name")]
        if not offers:
            raise invalid("Tool choice not found in 'tools' parameter.", param="tool_choice")
    seen = choice == "auto" and items[-1].get("type") == "function_call_output"
    if offers and choice != "none" and not seen:
        ask.tools = tuple(
            Tool(offer.name, offer.parameters or {"type": "object"}) for offer in offers
        )
        single = request.parallel_tool_calls is False or isinstance(choice, dict)
        ask.call_tools = "one" if single else "any"
    return ask


class Writer:
    """Writes an answer in the format of responses."""

    def __init__(
        self, exchange: Exchange, request: ResponseRequest, model: Model, bill: Bill, answer: Answer
    ) -> None:
        self._request, self._model, self._bill, self._answer = request, model, bill, answer
        self._mark = exchange.row.id.removeprefix("req_")
        self._created = int(time.time())
        self._number = 0
        summary = request.reasoning.summary if request.reasoning else None
        self._summarized = summary is not None
        incomplete = answer.finish in ("length", "filter")
        self.status = "incomplete" if incomplete else "completed"

    def response(self, *, done: bool) -> dict[str, Any]:
        """The response object, at its beginning or at its end."""
        request, answer = self._request, self._answer
        reason = {"length": "max_output_tokens", "filter": "content_filter"}.get(answer.finish)
        form = request.text.format if request.text else None
        shown = {"type": "text"} if form is None else msgspec.to_builtins(form)
        return {
            "id": f"resp_{self._mark}",
            "object": "response",
            "created_at": self._created,
            "status": self.status if done else "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": {"reason": reason} if done and reason else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": self._model.reported,
            "output": [self._item(at, block) for at, block in enumerate(answer.blocks)]
            if done
            else [],
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "reasoning": {"effort": None, "summary": None}
            | (msgspec.to_builtins(request.reasoning) if request.reasoning else {}),
            "service_tier": "default",
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {
                "format": {name: value for name, value in shown.items() if value is not None},
                "verbosity": "medium",
            },
            "tool_choice": request.tool_choice or "auto",
            "tools": [self._tool(tool) for tool in request.tools or ()],
            "top_logprobs": 0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": self._usage() if done else None,
            "user": request.user,
            "metadata": request.metadata or {},
        }

    @staticmethod
    def _tool(tool: FunctionTool) -> dict[str, Any]:
        shown: dict[str, Any] = msgspec.to_builtins(tool)
        return {**shown, "strict": tool.strict is not False}

    def _usage(self) -> dict[str, Any]:
        bill, answer = self._bill, self._answer
        return {
            "input_tokens": bill.input_tokens,
            "input_tokens_details": {"cached_tokens": bill.cached, "cache_write_tokens": 0},
            "output_tokens": answer.tokens,
            "output_tokens_details": {"reasoning_tokens": answer.thinking_tokens},
            "total_tokens": bill.input_tokens + answer.tokens,
        }

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

    def _item(self, at: int, block: Block, status: str = "completed") -> dict[str, Any]:
        text = "".join(block.pieces) if status == "completed" else ""
        if block.kind == "thinking":
            item_id = f"rs_{self._mark}{at}"
            shown = [{"type": "summary_text", "text": text}] if self._summarized and text else []
            item = {"id": item_id, "type": "reasoning", "summary": shown}
            if "reasoning.encrypted_content" in (self._request.include or ()):
                item["encrypted_content"] = seal(item_id)
            return item
        if block.kind == "tool":
            call = {"call_id": f"call_{block.id}", "name": block.name, "arguments": text}
            return {"id": f"fc_{self._mark}{at}", "type": "function_call", "status": status, **call}
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {
            "id": f"msg_{self._mark}{at}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [part] if status == "completed" else [],
        }

    # --- the stream --------------------------------------------------------------------------

    def frames(self, step: int) -> list[Frame]:
        """The answer as the events of a stream."""
        begun = {"response": self.response(done=False)}
        frames = [
            self._event("response.created", begun),
            self._event("response.in_progress", begun),
        ]
        for at, block in enumerate(self._answer.blocks):
            added = {"output_index": at, "item": self._item(at, block, "in_progress")}
            frames.append(self._event("response.output_item.added", added))
            frames += self._block(at, block, step)
            done = {"output_index": at, "item": self._item(at, block)}
            frames.append(self._event("response.output_item.done", done))
        last = {"response": self.response(done=True)}
        # The vendor sends no further mark: this event holds the usage and is the end.
        frames.append(self._event(f"response.{self.status}", last, kind_of="usage_end"))
        return frames

    def _block(self, at: int, block: Block, step: int) -> list[Frame]:
        item_id = self._item(at, block)["id"]
        place = {"item_id": item_id, "output_index": at}
        text = "".join(block.pieces)
        if block.kind == "thinking":
            return self._thoughts(place, block, step)
        if block.kind == "tool":
            kind = "response.function_call_arguments"
            frames = self._deltas(f"{kind}.delta", place, {}, block, step)
            return [*frames, self._event(f"{kind}.done", {**place, "arguments": text})]
        place = {**place, "content_index": 0}
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return [
            self._event("response.content_part.added", {**place, "part": empty}),
            *self._deltas("response.output_text.delta", place, {"logprobs": []}, block, step),
            self._event("response.output_text.done", {**place, "text": text, "logprobs": []}),
            self._event("response.content_part.done", {**place, "part": {**empty, "text": text}}),
        ]

    def _thoughts(self, place: dict[str, Any], block: Block, step: int) -> list[Frame]:
        if not self._summarized or not block.pieces:
            count = len(block.pieces)
            return [Frame(b"", count, kind="wait", reasoning=count)]
        place = {**place, "summary_index": 0}
        text = "".join(block.pieces)
        kind = "response.reasoning_summary"
        empty = {"type": "summary_text", "text": ""}
        return [
            self._event(f"{kind}_part.added", {**place, "part": empty}),
            *self._deltas(f"{kind}_text.delta", place, {}, block, step),
            self._event(f"{kind}_text.done", {**place, "text": text}),
            self._event(f"{kind}_part.done", {**place, "part": {**empty, "text": text}}),
        ]

    def _deltas(
        self, kind: str, place: dict[str, Any], more: dict[str, Any], block: Block, step: int
    ) -> list[Frame]:
        frames = []
        for start in range(0, len(block.pieces), step):
            part = block.pieces[start : start + step]
            text = "".join(part)
            data = self._event(kind, {**place, "delta": text, **more}).data
            reasoning = len(part) if block.kind == "thinking" else 0
            shown = text if block.kind == "text" else ""
            frames.append(Frame(data, len(part), shown, reasoning=reasoning))
        return frames

    def broken(self) -> Frame:
        """The event of a response that fails in the middle."""
        fault = {"code": "server_error", "message": "The server had an error.", "param": None}
        return self._event("error", fault)

    def _event(self, kind: str, fields: dict[str, Any], *, kind_of: str = "") -> Frame:
        data = _encode({"type": kind, "sequence_number": self._number, **fields})
        self._number += 1
        return Frame(b"event: %b\ndata: %b\n\n" % (kind.encode(), data), kind=kind_of)
