"""Gemini's generateContent request as documented: what it accepts, refuses and asks for.

Written from ai.google.dev/api/generate-content, …/api/caching (Content, Part, Tool, ToolConfig) and
ai.google.dev/gemini-api/docs/thought-signatures.
"""

import base64
import hmac
import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from infra.sandbox.behaviour import Lane
from infra.sandbox.calls import Bill
from infra.sandbox.errors import ApiError, invalid
from infra.sandbox.generation import Ask, Tool
from infra.sandbox.models import Model
from infra.sandbox.prompts import PromptCache
from infra.sandbox.requests import BadBody, read
from infra.sandbox.tokens import pieces

_encode = msgspec.json.encode

TOKENS_PER_IMAGE = 258
"""A picture's tokens as documented for small ones. The sandbox does not look at pictures."""
_SIGNING_KEY = b"the sandbox signs Gemini's thoughts"
SKIP = "skip_thought_signature_validator"
_FREE_FORM = frozenset(
    [
        "args",
        "response",
        "labels",
        "parameters",
        "parametersJsonSchema",
        "responseSchema",
        "parameters_json_schema",
        "responseJsonSchema",
        "response_schema",
        "response_json_schema",
    ]
)
_LEVELS = {"MINIMAL": 16, "LOW": 48, "MEDIUM": 128, "HIGH": 192, "XHIGH": 256}
THOUGHTS_MAX = 96
"""Most tokens of thought when the request says nothing of it."""


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    name: str
    args: dict[str, Any] = {}
    id: str | None = None


class FunctionResponse(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    name: str
    response: dict[str, Any]
    id: str | None = None


class Blob(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    mime_type: str
    data: str
    display_name: str | None = None


class FileData(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    file_uri: str
    mime_type: str | None = None


class Part(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """One part: exactly one of its data members is there."""

    text: str | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None
    thought: bool | None = None
    thought_signature: str | None = None


class Content(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    parts: list[Part]
    role: str | None = None


class FunctionDeclaration(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None


class ToolOffer(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    function_declarations: list[FunctionDeclaration] = []
    google_search: dict[str, Any] | None = None
    code_execution: dict[str, Any] | None = None
    url_context: dict[str, Any] | None = None


class FunctionCalling(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    mode: Literal["AUTO", "ANY", "NONE", "VALIDATED"] = "AUTO"
    allowed_function_names: list[str] | None = None


class ToolConfig(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    function_calling_config: FunctionCalling = msgspec.field(default_factory=FunctionCalling)


class ThinkingConfig(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    include_thoughts: bool = False
    thinking_budget: Annotated[int, Meta(ge=-1)] | None = None
    thinking_level: str | None = None


class GenerationConfig(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    stop_sequences: Annotated[list[str], Meta(max_length=5)] | None = None
    response_mime_type: str | None = None
    response_schema: dict[str, Any] | None = None
    response_json_schema: dict[str, Any] | None = None
    response_modalities: list[str] | None = None
    candidate_count: Annotated[int, Meta(ge=1, le=8)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[float, Meta(ge=1)] | None = None
    seed: int | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    thinking_config: ThinkingConfig | None = None
    media_resolution: str | None = None


class GenerateRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True):
    """The documented members; anything else is refused as the vendor refuses it."""

    contents: list[Content]
    system_instruction: Content | None = None
    tools: list[ToolOffer] = []
    tool_config: ToolConfig | None = None
    safety_settings: list[dict[str, Any]] | None = None
    generation_config: GenerationConfig = msgspec.field(default_factory=GenerationConfig)
    cached_content: str | None = None
    labels: dict[str, str] | None = None
    service_tier: str | None = None
    store: bool | None = None


class CountRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    contents: list[Content] = []
    generate_content_request: dict[str, Any] | None = None


_GENERATE = msgspec.json.Decoder(GenerateRequest)
_COUNT = msgspec.json.Decoder(CountRequest)


def parse(body: bytes) -> GenerateRequest:
    """The request in a body, whose members may be written in camelCase or snake_case.

    Raises:
        BadBody: it is not what the vendor documents.
    """
    return read(_GENERATE, _encode(_camel(_json(body))))


def parse_count(body: bytes) -> CountRequest:
    """The same for `countTokens`."""
    return read(_COUNT, _encode(_camel(_json(body))))


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBody("json", "", str(error)) from error


def _camel(value: Any) -> Any:
    if isinstance(value, list):
        return [_camel(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {
        re.sub(r"_([a-z])", lambda match: match[1].upper(), name): (
            entry if name in _FREE_FORM else _camel(entry)
        )
        for name, entry in value.items()
    }


def signature(call: FunctionCall) -> str:
    """The signature by which the sandbox knows its own call again."""
    text = _encode([call.name, call.args])
    return base64.b64encode(hmac.digest(_SIGNING_KEY, text, "sha256")).decode()


def check(request: GenerateRequest, model: Model) -> None:
    """Refuse what the vendor refuses beyond types.

    Raises:
        ApiError: 400, 404 for a model that generates nothing.
    """
    if model.kind != "chat":
        raise ApiError(
            404,
            "not_found",
            f"models/{model.name} is not found for API version v1beta, or is not supported for "
            "generateContent.",
        )
    if not request.contents:
        raise invalid("* GenerateContentRequest.contents: contents is not specified\n")
    config = request.generation_config
    if config.response_schema is not None and config.response_json_schema is not None:
        raise invalid("Only one of response_schema and response_json_schema can be set.")
    has_schema = config.response_schema is not None or config.response_json_schema is not None
    limit = config.max_output_tokens
    if limit is not None and limit > model.output_tokens_max:
        raise invalid(
            f"Unable to submit request because it has a maxOutputTokens value of {limit} but the supported "
            f"range is from 1 (inclusive) to {model.output_tokens_max + 1} (exclusive). Update the value "
            "and try again."
        )
    if has_schema and config.response_mime_type != "application/json":
        raise invalid("* GenerateContentRequest.generation_config.response_mime_type: must be json")
    _check_history(request.contents, model)


def _turns(contents: list[Content]) -> list[Content]:
    """Neighbours of one role count as one turn: the vendor's client keeps a stream's frames apart."""
    turns: list[Content] = []
    for content in contents:
        if turns and turns[-1].role == content.role and content.parts:
            turns[-1] = Content([*turns[-1].parts, *content.parts], content.role)
        else:
            turns.append(content)
    return turns


def _check_history(contents: list[Content], model: Model) -> None:
    open_calls = 0
    for index, content in enumerate(_turns(contents)):
        if content.role not in (None, "user", "model", "function"):
            raise invalid("Please use a valid role: user, model.")
        if not content.parts:
            raise invalid(
                f"* GenerateContentRequest.contents[{index}].parts: contents.parts must not be empty.\n"
            )
        for part in content.parts:
            _check_part(part)
        calls = [part for part in content.parts if part.function_call is not None]
        results = sum(part.function_response is not None for part in content.parts)
        if results != open_calls:
            raise invalid(
                "Please ensure that the number of function response parts is equal to the number of "
                "function call parts of the function call turn."
            )
        if calls and model.signs_calls:
            _check_signature(calls[0], index)
        open_calls = len(calls)


def _check_part(part: Part) -> None:
    kinds = (part.text, part.inline_data, part.file_data, part.function_call)
    given = sum(kind is not None for kind in (*kinds, part.function_response))
    if given != 1:
        raise invalid("contents.parts must have one initialized field: data")


def _check_signature(part: Part, index: int) -> None:
    call = part.function_call
    given = (part.thought_signature or "").translate(str.maketrans("-_", "+/"))
    if not given:
        name = call.name if call is not None else ""
        raise invalid(
            "Function call is missing a thought_signature in functionCall parts. This is required for "
            f"tools to work correctly. Function call `default_api:{name}`, position {index}."
        )
    if call is not None and given not in (signature(call), SKIP.replace("_", "/")):
        raise invalid("Thought signature is not valid.")


def prompt_of(contents: list[Content], extra: list[Any]) -> tuple[str, int]:
    """The prompt's text, and the tokens beyond that text."""
    parts = [_encode(value).decode() for value in extra if value]
    beyond = 0
    for content in contents:
        parts.append(content.role or "user")
        for part in content.parts:
            if part.text is not None:
                parts.append(part.text)
            elif part.inline_data is not None or part.file_data is not None:
                beyond += TOKENS_PER_IMAGE
            else:
                parts.append(_encode(part.function_call or part.function_response).decode())
    return "\n".join(parts), beyond


def bill_of(
    request: GenerateRequest, model: Model, owner: str, cache: PromptCache
) -> tuple[str, Bill]:
    """The prompt and the input side of its bill; like prefixes are cached without being asked for."""
    prompt, beyond = prompt_of(request.contents, [request.system_instruction, request.tools])
    cut = pieces(prompt)
    return prompt, Bill(len(cut) + beyond, cached=cache.match(f"{owner}|{model.name}", cut))


def ask_of(request: GenerateRequest, model: Model, lane: Lane, prompt: str) -> Ask:
    """What the request asks of the generator."""
    config = request.generation_config
    ask = Ask(
        prompt=f"{model.name}\n{prompt}",
        limit=config.max_output_tokens or model.output_tokens_max,
        length_min=lane.behaviour.answer_tokens_min,
        length_max=lane.behaviour.answer_tokens_max,
        stops=tuple(config.stop_sequences or ()),
    )
    if model.reasoning:
        ask.reasoning_max = _thoughts(config.thinking_config or ThinkingConfig())
    if config.response_mime_type == "application/json":
        anything = {"type": "object", "properties": {"answer": {"type": "string"}}}
        schema = config.response_json_schema or config.response_schema
        ask.schema = anything if schema is None else _plain(schema)
    _ask_tools(request, ask)
    return ask


def _thoughts(thinking: ThinkingConfig) -> int:
    if thinking.thinking_budget is not None and thinking.thinking_budget >= 0:
        return min(thinking.thinking_budget, 256)
    return _LEVELS.get(thinking.thinking_level or "", THOUGHTS_MAX)


def _ask_tools(request: GenerateRequest, ask: Ask) -> None:
    calling = (request.tool_config or ToolConfig()).function_calling_config
    offers = [offer for tool in request.tools for offer in tool.function_declarations]
    if calling.mode == "ANY" and calling.allowed_function_names:
        offers = [offer for offer in offers if offer.name in calling.allowed_function_names]
    answered = any(part.function_response for part in request.contents[-1].parts)
    if not offers or calling.mode == "NONE" or (calling.mode == "AUTO" and answered):
        return
    ask.tools = tuple(
        Tool(offer.name, offer.parameters_json_schema or _plain(offer.parameters or {}))
        for offer in offers
    )
    ask.call_tools = "any"
    ask.preamble = calling.mode == "AUTO"


def _plain(schema: Any) -> Any:
    """The vendor's schema as JSON schema: its types may be written in capitals."""
    if isinstance(schema, list):
        return [_plain(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value.lower() if name == "type" and isinstance(value, str) else _plain(value)
        for name, value in schema.items()
    }
