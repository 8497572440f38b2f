"""OpenAI's responses, as clients and as providers speak them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec
from mypy_extensions import mypyc_attr

from gateway.dialects import openai_responses_items as items
from gateway.dialects import openai_responses_request as requests
from gateway.dialects.neutral import (
    Answer,
    Chat,
    Fields,
    Json,
    Opening,
    Part,
    Receipt,
    StreamReader,
    StreamWriter,
    Text,
    Thinking,
    ToolCall,
)
from gateway.dialects.openai_base import OpenAIBase
from gateway.dialects.openai_responses_stream import Reader, Writer, fault
from gateway.dialects.openai_responses_wire import OWN, parts_of, read_response
from gateway.dialects.reading import asks, member, required, text_tags
from gateway.dialects.receipts import receipt_event
from gateway.dialects.sse import write_frame
from schemas.errors import UpstreamProtocol, WeirError

_encode = msgspec.json.encode
_MARK = b'"' + OWN.encode()


@mypyc_attr(allow_interpreted_subclasses=True)
class OpenAIResponses(OpenAIBase):
    """The dialect ``openai_responses``."""

    name = "openai_responses"
    client_paths: ClassVar[Mapping[str, Json]] = {"/v1/responses": {}}
    words: ClassVar[Mapping[str, str]] = {"verbosity": "text.verbosity"}
    params = requests.PARAMS

    def path_of(self, model: str, stream: bool) -> str:
        del model, stream
        return "/responses"

    # --- requests ----------------------------------------------------------------------------

    def open(self, fields: Fields) -> Opening:
        if "input" not in fields and "prompt" not in fields:
            required(fields, "input", str)
        return Opening(
            model=required(fields, "model", str),
            stream=bool(member(fields, "stream", bool)),
            wants_usage=True,
            max_tokens=member(fields, "max_output_tokens", int),
            has_tools=asks(fields, "tools"),
            tags=text_tags(member(fields, "metadata", dict)),
            user_id=member(fields, "safety_identifier", str) or member(fields, "user", str),
        )

    def limited(self, fields: Fields, model: str, max_tokens: int) -> Fields:
        del model
        return {**fields, "max_output_tokens": msgspec.Raw(b"%d" % max_tokens)}

    def read_request(self, fields: Fields) -> Chat:
        return requests.read(fields)

    def write_request(self, chat: Chat, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        return requests.write(chat, model)

    def unsaid(self, chat: Chat, model: str) -> list[str]:
        del model
        return requests.unsaid(chat)

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        del opening
        given = fields.get("input")
        if given is not None and _MARK in bytes(given):
            # Thoughts that another vendor sealed mean nothing here.
            items = member(fields, "input", list[msgspec.Raw]) or []
            kept = [item for item in items if _MARK not in bytes(item)]
            return _encode({**fields, "model": model, "input": kept})
        return _encode({**fields, "model": model})

    # --- answers -----------------------------------------------------------------------------

    def read_answer(self, body: bytes) -> Answer:
        try:
            wire = read_response(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer is no response: {error}") from error
        if wire.status == "failed":
            raise fault(wire.error)
        return Answer(
            id=wire.id,
            model=wire.model,
            parts=parts_of(wire.output),
            finish=wire.finish,
            usage=wire.usage.neutral() if wire.usage else None,
            units=wire.units(),
        )

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        del receipt
        head = items.head_of(answer.id, answer.model)
        output = [_item(part, answer.id, at) for at, part in enumerate(answer.parts)]
        return _encode(items.ended(head, output, answer.finish or "stop", answer.usage))

    # --- streams -----------------------------------------------------------------------------

    def stream_reader(self) -> StreamReader:
        return Reader()

    def stream_writer(self, opening: Opening) -> StreamWriter:
        del opening
        return Writer()

    def end_of_stream(self, receipt: Receipt) -> bytes:
        return receipt_event(receipt)

    def write_error_frame(self, error: WeirError, status: int, request_id: str) -> bytes:
        del status, request_id
        body = {"type": "error", "code": error.code, "message": error.message, "param": None}
        return write_frame(_encode({**body, "sequence_number": 0}), "error")


def _item(part: Part, answer_id: str, number: int) -> Json:
    match part:
        case Text():
            return items.message_item(f"msg_{answer_id}_{number}", part.text)
        case ToolCall():
            return items.call_item(f"fc_{answer_id}_{number}", part.id, part.name, part.arguments)
        case Thinking():
            return items.reasoning_item(f"rs_{answer_id}_{number}", part)
    raise TypeError(f"an answer holds no {type(part).__name__}")


OPENAI_RESPONSES = OpenAIResponses()
