"""OpenAI's legacy completions, as clients and as providers speak them.

Source: OpenAI API reference, "Completions"
(https://developers.openai.com/api/reference/resources/completions/methods/create).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects.neutral import (
    END,
    Answer,
    Chat,
    Delta,
    Fields,
    Json,
    Message,
    Opening,
    Receipt,
    StreamReader,
    StreamWriter,
    Text,
    Usage,
    text_of,
)
from gateway.dialects.openai_base import OpenAIBase, forwarded
from gateway.dialects.openai_chat import usage_of
from gateway.dialects.openai_wire import FINISH_IN, FINISH_OUT, read_text_completion
from gateway.dialects.reading import classify, further, member, required, text_tags
from gateway.dialects.receipts import receipt_chunk
from gateway.dialects.sse import Frame, write_frame
from schemas.errors import InvalidRequest, UpstreamProtocol

_PROMPT: Any = str | list[str | int | list[int]]
_STOP: Any = list[str] | str
_KNOWN = frozenset(
    [
        "model", "prompt", "stream", "stream_options", "metadata", "max_tokens", "temperature",
        "top_p", "stop", "user", "seed", "frequency_penalty", "presence_penalty",
    ]
)  # fmt: skip
_PLAIN = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "user")
MAX_TOKENS_DEFAULT = 16
"""What the vendor produces at most where a request does not say."""
_encode = msgspec.json.encode


@mypyc_attr(allow_interpreted_subclasses=True)
class OpenAICompletions(OpenAIBase):
    """The dialect ``openai_completions``."""

    name = "openai_completions"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/completions": {}}
    params = frozenset({"logit_bias"})

    def path_of(self, model: str, stream: bool) -> str:
        del model, stream
        return "/completions"

    # --- requests ----------------------------------------------------------------------------

    def open(self, fields: Fields) -> Opening:
        options = member(fields, "stream_options", dict) or {}
        required(fields, "prompt", _PROMPT)
        return Opening(
            model=required(fields, "model", str),
            stream=bool(member(fields, "stream", bool)),
            wants_usage=options.get("include_usage") is True,
            max_tokens=member(fields, "max_tokens", int) or MAX_TOKENS_DEFAULT,
            has_tools=False,
            tags=text_tags(member(fields, "metadata", dict)),
            user_id=member(fields, "user", str),
        )

    def read_request(self, fields: Fields) -> Chat:
        prompt: Any = required(fields, "prompt", _PROMPT)
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        if not isinstance(prompt, str):
            raise InvalidRequest(
                "'prompt' must be one text: this target's provider takes no tokens, and answers one",
                action="Send one text, or name a target of the same vendor.",
            )
        more = further(fields, _KNOWN)
        for name in ("n", "best_of"):
            if (more.pop(name, None) or 1) != 1:
                raise InvalidRequest(
                    f"'{name}' must be 1: this target's provider gives one answer to a request",
                    action="Send the request again, or name a target of the same vendor.",
                )
        stop: str | list[str] | None = member(fields, "stop", _STOP)
        return Chat(
            messages=[Message("user", [Text(prompt)])],
            stream=bool(member(fields, "stream", bool)),
            max_tokens=member(fields, "max_tokens", int) or MAX_TOKENS_DEFAULT,
            temperature=member(fields, "temperature", float),
            top_p=member(fields, "top_p", float),
            seed=member(fields, "seed", int),
            frequency_penalty=member(fields, "frequency_penalty", float),
            presence_penalty=member(fields, "presence_penalty", float),
            stop=[stop] if isinstance(stop, str) else stop or [],
            user=member(fields, "user", str),
            params={name: value for name, value in more.items() if name in self.params},
            unread=[name for name in more if name not in self.params],
        )

    def write_request(self, chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
        body: Json = {"model": model, "prompt": _prompt(chat.messages)}
        limit = chat.max_tokens or max_output_tokens
        plain = {name: getattr(chat, name) for name in _PLAIN} | {
            "max_tokens": limit,
            "stop": chat.stop or None,
            **chat.params,
        }
        body |= {name: value for name, value in plain.items() if value is not None}
        if chat.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return _encode(body)

    def unsaid(self, chat: Chat, model: str) -> list[str]:
        del model
        names = ["tools", "schema", "json_mode", "reasoning", "top_k"]
        return [name for name in names if getattr(chat, name)]

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        return forwarded(fields, model, opening)

    # --- answers -----------------------------------------------------------------------------

    def read_answer(self, body: bytes) -> Answer:
        try:
            wire = read_text_completion(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer is no completion: {error}") from error
        if not wire.choices:
            raise UpstreamProtocol("the answer has no choices")
        choice = wire.choices[0]
        return Answer(
            id=wire.id,
            model=wire.model,
            parts=[Text(choice.text)] if choice.text else [],
            finish=FINISH_IN.get(choice.finish_reason or ""),
            usage=wire.usage.neutral() if wire.usage else None,
        )

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        text = text_of(answer.parts)
        choice = _choice(text, _FINISH[answer.finish or "stop"])
        body = {**_head(answer.id, answer.model), "choices": [choice]}
        return _encode(body if answer.usage is None else {**body, "usage": usage_of(answer.usage)})

    # --- streams -----------------------------------------------------------------------------

    def stream_reader(self) -> StreamReader:
        return _Reader()

    def stream_writer(self, opening: Opening) -> StreamWriter:
        return _Writer(opening.wants_usage)

    def end_of_stream(self, receipt: Receipt) -> bytes:
        return receipt_chunk(receipt, "text_completion")

    def forward_frame(self, frame: Frame, deltas: list[Delta], opening: Opening) -> bytes:
        # The usage chunk has no choices: it reads as usage alone.
        alone = bool(deltas) and all(delta.kind == "usage" for delta in deltas)
        return b"" if alone and not opening.wants_usage else frame.raw


_FINISH = {**FINISH_OUT, "tool_calls": "stop"}


def _prompt(messages: list[Message]) -> str:
    texts = []
    for message in messages:
        if not all(isinstance(part, Text) for part in message.parts):
            raise InvalidRequest(
                "this target's provider completes plain text alone",
                action="Send text, or name a target that takes chats.",
            )
        text = text_of(message.parts)
        texts.append(text if len(messages) == 1 else f"{message.role.capitalize()}: {text}")
    return "\n\n".join(texts if len(texts) == 1 else [*texts, "Assistant:"])


def _head(answer_id: str, model: str) -> Json:
    return {
        "id": answer_id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }


def _choice(text: str, finish: str | None) -> Json:
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}


class _Reader:
    """Reads chunks; only the first of several choices is followed."""

    def __init__(self) -> None:
        self._started = False

    def read(self, frame: Frame) -> list[Delta]:
        if frame.data == b"[DONE]":
            return [END]
        try:
            chunk = read_text_completion(frame.data)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"a stream frame is no completion: {error}") from error
        if chunk.error is not None:
            raise classify(500, str(chunk.error.code or ""), chunk.error.message)
        deltas: list[Delta] = []
        if not self._started and chunk.choices:
            self._started = True
            deltas.append(Delta("start", id=chunk.id, name=chunk.model))
        for choice in chunk.choices:
            if choice.index == 0 and choice.text:
                deltas.append(Delta("text", choice.text))
            if choice.index == 0 and choice.finish_reason:
                deltas.append(Delta("finish", FINISH_IN.get(choice.finish_reason, "stop")))
        if chunk.usage is not None:
            deltas.append(Delta("usage", usage=chunk.usage.neutral()))
        return deltas


class _Writer:
    def __init__(self, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._head: Json = {}
        self._usage: Usage | None = None

    def write(self, delta: Delta) -> bytes:
        match delta.kind:
            case "start":
                self._head = _head(delta.id, delta.name)
            case "text":
                return self._chunk([_choice(delta.text, None)])
            case "finish":
                return self._chunk([_choice("", _FINISH.get(delta.text, "stop"))])  # type: ignore[call-overload]
            case "usage":
                self._usage = delta.usage
            case "end":
                last = b""
                if self._wants_usage and self._usage is not None:
                    last = self._chunk([], {"usage": usage_of(self._usage)})
                return last + write_frame(b"[DONE]")
        return b""

    def _chunk(self, choices: list[Json], more: Json | None = None) -> bytes:
        return write_frame(_encode({**self._head, "choices": choices, **(more or {})}))


OPENAI_COMPLETIONS = OpenAICompletions()
