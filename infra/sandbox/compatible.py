"""The vendors that speak OpenAI's chat with words of their own: what they take, answer and refuse.

Each lives under its name: `http://127.0.0.1:8083/groq/openai/v1`, `…/perplexity`, `…/azure/openai/v1`.
"""

import html
import re
from typing import Any

import msgspec

from infra.sandbox import openai_chat, openai_request, openai_wire
from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Frame
from infra.sandbox.compatible_vendors import VENDORS, Vendor
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.exchange import Exchange, Header
from infra.sandbox.generation import Answer, Block
from infra.sandbox.models import Dialect
from infra.sandbox.requests import BadBody
from infra.sandbox.wire import Desk

_PATH = re.compile(r"(/[a-z-]+)(/.*?)?/(chat/completions|models|key)")
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)")
_SAFE: dict[str, Any] = {
    name: {"filtered": False, "severity": "safe"}
    for name in ("hate", "self_harm", "sexual", "violence")
}
_encode = msgspec.json.encode


class CompatibleWire:
    """All of these vendors."""

    name: Dialect = "openai"

    def find(self, path: str) -> str | None:
        """The vendor's place when this path is one of its own."""
        match = _PATH.fullmatch(path)
        return match[1] if match and match[1][1:] in VENDORS else None

    async def serve(self, exchange: Exchange, desk: Desk) -> None:
        """Serve one call."""
        match = _PATH.fullmatch(exchange.row.path)
        assert match is not None
        vendor = VENDORS[match[1][1:]]
        body = await exchange.body(desk.settings.body_bytes_max)
        _authenticate(exchange, vendor, desk.settings.keys)
        if match[3] == "models":
            await _list(exchange, vendor)
            return
        if match[3] == "key":  # OpenRouter's way to look at one's own key
            key = {"label": exchange.row.key, "usage": 0, "limit": None, "is_free_tier": False}
            await exchange.answer_json({"data": key}, openai_wire.plain_headers(exchange))
            return
        fields = _object(body)
        deployment = _DEPLOYMENT.fullmatch(match[2] or "")
        if deployment is not None:
            if "api-version" not in exchange.query:
                raise ApiError(404, "not_found", "Resource not found", code="404")
            fields["model"] = deployment[1]
        exchange.row.model = str(fields.get("model"))
        _check(vendor, fields)
        request = openai_request.parse(_encode(_plain(vendor, fields)))
        model = desk.catalogue.get(request.model, "openai")
        if model is None or (vendor.models and model not in vendor.models):
            raise _no_model(vendor, request.model)
        lane = desk.behaviours.lane(exchange.row.base, model)
        # That OpenAI's reasoning models refuse the old name of a limit is their own matter.
        if request.max_tokens is not None and model.reasoning:
            request.max_completion_tokens, request.max_tokens = request.max_tokens, None

        def make(*given: Any) -> Writer:
            writer = Writer(*given)
            writer.vendor = vendor
            return writer

        await openai_chat.serve(exchange, request, model, lane, desk.cache, make)

    def explain(self, bad: BadBody) -> ApiError:
        """A body's fault in words."""
        return invalid(f"{bad.path}: {bad.message}" if bad.path else bad.message)

    async def refuse(self, exchange: Exchange, error: ApiError, lane: Lane | None) -> None:
        """Send an error in the vendor's body."""
        vendor = VENDORS[exchange.row.base[1:]]
        headers = (
            openai_wire.plain_headers(exchange)
            if lane is None
            else openai_wire.rate_headers(exchange, lane)
        )
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
        exchange.row.error_code = error.code or error.kind
        body, lines = _error(vendor, error)
        await exchange.answer(error.status, body, [*headers, *lines])


def _authenticate(exchange: Exchange, vendor: Vendor, keys: frozenset[str]) -> None:
    if vendor.keyless:
        return
    bearer = exchange.header(b"authorization") or ""
    key = bearer.removeprefix("Bearer ") if bearer.startswith("Bearer ") else ""
    if vendor.errors == "azure":
        key = exchange.header(b"api-key") or key
    if not key or (keys and key not in keys):
        raise ApiError(401, "authentication", "Unauthorized", code="401")
    exchange.row.key = f"{key[:3]}…{key[-4:]}"


async def _list(exchange: Exchange, vendor: Vendor) -> None:
    data = [
        {"id": model.name, "object": "model", "created": model.created_s} for model in vendor.models
    ]
    await exchange.answer_json(
        {"object": "list", "data": data}, openai_wire.plain_headers(exchange)
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise BadBody("json", "", str(error)) from error
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise BadBody("missing", "messages", "Field required")
    return value


def _check(vendor: Vendor, fields: dict[str, Any]) -> None:
    """Refuse what this vendor refuses and OpenAI does not."""
    refused = sorted(vendor.refuses & fields.keys())
    if refused:
        raise ApiError(
            422 if vendor.errors == "mistral" else 400,
            "invalid_request",
            f"Extra inputs are not permitted: {refused[0]}",
            param=refused[0],
        )
    form = (fields.get("response_format") or {}).get("type", "text")
    if form not in vendor.formats:
        raise invalid(f"This response_format type is unavailable now: {form}")
    before = ""
    for number, message in enumerate(fields["messages"]):
        where = f"messages.{number}"
        role = message.get("role")
        if role not in vendor.roles:
            raise invalid(f"{where}.role: unexpected value {role!r}")
        unknown = sorted(vendor.refused_members & message.keys())
        if unknown:
            raise invalid(f"'{where}' : property '{unknown[0]}' is unsupported")
        if vendor.alternates and role == before and role != "tool":
            raise invalid(
                "After the (optional) system message(s), user and assistant roles should be alternating."
            )
        before = role
        if vendor.tool_ids is not None:
            ids = [call["id"] for call in message.get("tool_calls") or ()]
            ids += [message["tool_call_id"]] if role == "tool" else []
            if wrong := [one for one in ids if not vendor.tool_ids.fullmatch(one)]:
                raise invalid(
                    f"Tool call id was {wrong[0]} but must be a-z, A-Z, 0-9, with a length of 9."
                )


def _plain(vendor: Vendor, fields: dict[str, Any]) -> dict[str, Any]:
    """The request as OpenAI's own clients would have said it."""
    plain = dict(fields)
    for own, theirs in vendor.names:
        if own in plain:
            plain[theirs] = plain.pop(own)
    plain["messages"] = [
        {
            name: value
            for name, value in message.items()
            if name not in ("reasoning", "reasoning_content")
        }
        for message in plain["messages"]
    ]
    return plain


def _no_model(vendor: Vendor, name: str) -> ApiError:
    match vendor.errors:
        case "azure":
            message = "The API deployment for this resource does not exist."
            return ApiError(404, "not_found", message, code="DeploymentNotFound")
        case "mistral" | "html" | "code":
            return ApiError(400, "invalid_request", f"Invalid model: {name}", code="invalid_model")
    return ApiError(404, "not_found", f"The model `{name}` does not exist", code="model_not_found")


def _error(vendor: Vendor, error: ApiError) -> tuple[bytes, list[Header]]:
    message, code = error.message, error.code
    body: dict[str, Any]
    match vendor.errors:
        case "azure":
            body = {"error": {"code": code or str(error.status), "message": message}}
        case "mistral":
            told: Any = message
            if error.status == 422:
                detail = {"type": "extra_forbidden", "loc": ["body", error.param], "msg": message}
                told = {"detail": [detail]}
            body = {"object": "error", "message": told, "type": error.kind, "code": code or "3000"}
            if error.status == 401:
                body = {"detail": message}
        case "text":
            body = {"code": error.kind, "error": message}
        case "detail":
            body = {"type": "about:blank", "status": error.status, "detail": message}
        case "code" | "html":
            if vendor.errors == "html" and error.status == 401:
                page = f"<html><head><title>401 {html.escape(message)}</title></head></html>"
                return page.encode(), [(b"content-type", b"text/html")]
            body = {"error": {"code": error.status, "message": message, "type": code or error.kind}}
        case _:
            return openai_wire.error_body(error.kind, message, error.param, code), []
    return _encode(body), []


class Writer(openai_chat.Writer):
    """Writes answers in the words of a compatible vendor."""

    vendor: Vendor

    def usage(self) -> dict[str, Any]:
        """The bill as the vendor writes it."""
        usage = super().usage()
        if self.vendor.extra == "deepseek":
            cached = usage.pop("prompt_tokens_details")["cached_tokens"]
            missed = usage["prompt_tokens"] - cached
            usage |= {"prompt_cache_hit_tokens": cached, "prompt_cache_miss_tokens": missed}
        if self.vendor.extra == "openrouter":
            usage |= {"cost": 0.00014, "is_byok": False}
        return usage

    def body(self) -> dict[str, Any]:
        """The answer in one piece, before it is JSON."""
        return self._dressed(super().body(), last=True)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        choice = super()._choice(index, answer)
        thoughts = "".join(
            piece for block in answer.blocks if block.kind == "thinking" for piece in block.pieces
        )
        if thoughts and self.vendor.thoughts == "parts":
            parts = [
                _thinking_part(thoughts),
                {"type": "text", "text": choice["message"]["content"]},
            ]
            choice["message"]["content"] = parts
        elif thoughts and self.vendor.thoughts != "hidden":
            choice["message"][self.vendor.thoughts] = thoughts
        if self.vendor.extra == "azure":
            choice["content_filter_results"] = _filtered(choice["finish_reason"])
        for call in choice["message"].get("tool_calls") or ():
            call["id"] = self._call_id(call["id"])
        return choice

    def _call_id(self, call_id: str) -> str:
        return call_id[-9:] if self.vendor.tool_ids is not None else call_id

    def _dressed(self, body: dict[str, Any], *, last: bool) -> dict[str, Any]:
        """An answer or a chunk with the members that only this vendor has."""
        body.pop("service_tier", None)
        body.pop("obfuscation", None)
        match self.vendor.extra:
            case "groq" if last:
                body["x_groq"] = {"id": body["id"], "usage": self.usage()}
            case "openrouter":
                body["provider"] = "Upstream"
            case "perplexity":
                body["citations"], body["search_results"] = ["https://example.com"], []
            case "azure" if body.get("object") == "chat.completion":
                results = {"prompt_index": 0, "content_filter_results": _SAFE}
                body["prompt_filter_results"] = [results]
        return body

    def frames(self, tokens_per_frame: int) -> list[Frame]:
        """The answer as the events of a stream."""
        frames = [self._frame(frame) for frame in super().frames(tokens_per_frame)]
        if self.vendor.extra == "azure":
            first = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
            results = [{"prompt_index": 0, "content_filter_results": _SAFE}]
            first["prompt_filter_results"] = results
            frames.insert(0, Frame(b"data: " + _encode(first) + b"\n\n"))
        if self.vendor.extra == "openrouter":
            frames.insert(0, Frame(b": OPENROUTER PROCESSING\n\n"))
        return frames

    def _frame(self, frame: Frame) -> Frame:
        if not frame.data.startswith(b"data: {"):
            return frame
        chunk: dict[str, Any] = msgspec.json.decode(frame.data.removeprefix(b"data: "))
        finish = any(choice["finish_reason"] for choice in chunk["choices"])
        if finish and self.vendor.usage == "last":
            chunk["usage"] = self.usage()
        for choice in chunk["choices"]:
            for call in choice["delta"].get("tool_calls") or ():
                if "id" in call:
                    call["id"] = self._call_id(call["id"])
            if self.vendor.extra == "azure":
                choice["content_filter_results"] = _filtered(choice["finish_reason"])
        data = b"data: " + _encode(self._dressed(chunk, last=finish)) + b"\n\n"
        return frame._replace(data=data, kind="usage" if "usage" in chunk else frame.kind)

    def _stream_thinking(self, frames: list[Frame], index: int, block: Block, step: int) -> None:
        if self.vendor.thoughts == "hidden":
            super()._stream_thinking(frames, index, block, step)
            return
        for at in range(0, len(block.pieces), step):
            part = block.pieces[at : at + step]
            text = "".join(part)
            delta = {self.vendor.thoughts: text}
            if self.vendor.thoughts == "parts":
                delta = {"content": [_thinking_part(text)]}  # type: ignore[dict-item]
            frames.append(Frame(self._delta(index, _encode(delta)), len(part), reasoning=len(part)))


def _thinking_part(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


def _filtered(finish: str | None) -> dict[str, Any]:
    if finish != "content_filter":
        return _SAFE
    return {**_SAFE, "violence": {"filtered": True, "severity": "medium"}}
