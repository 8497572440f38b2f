"""The one form that every dialect reads into and writes from: 2N translations instead of N²."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, Protocol

import msgspec

from gateway.dialects.sse import Frame
from schemas.errors import UpstreamError, WeirError

Json = dict[str, Any]
Fields = dict[str, msgspec.Raw]
"""A request's top-level members, their values as the client wrote them."""

Effort = Literal["none", "minimal", "low", "medium", "high"]
FinishReason = Literal["stop", "length", "tool_calls", "filter", "stop_sequence"]


class Cacheable(msgspec.Struct, frozen=True, kw_only=True):
    """What may end a part of the prompt that the vendor is asked to keep, so that it need not be read
    and paid for again: `cache_ttl` says how long ("5m", "1h"), None asks for nothing.
    """

    cache_ttl: str | None = None


class Text(Cacheable, frozen=True, tag="text"):
    text: str


class Image(Cacheable, frozen=True, tag="image"):
    """An image by address, or inline as base64 `data` of `media_type`."""

    url: str | None = None
    media_type: str | None = None
    data: str | None = None

    @property
    def address(self) -> str:
        """Its URL; inline it is a data URL."""
        return self.url or f"data:{self.media_type};base64,{self.data}"


class Document(Cacheable, frozen=True, tag="document"):
    """A file, inline as base64, or (with `data` empty) by address."""

    media_type: str
    data: str
    name: str | None = None
    url: str | None = None

    @property
    def address(self) -> str:
        """Its URL; inline it is a data URL."""
        return self.url or f"data:{self.media_type};base64,{self.data}"


class Audio(msgspec.Struct, frozen=True, tag="audio"):
    """Sound, inline as base64; `media_type` as in ``audio/wav``."""

    media_type: str
    data: str


class ToolCall(Cacheable, frozen=True, tag="tool_call"):
    """`arguments` is JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


class ToolResult(Cacheable, frozen=True, tag="tool_result"):
    call_id: str
    parts: list[Text | Image | Document]
    is_error: bool = False


class Thinking(msgspec.Struct, frozen=True, tag="thinking"):
    """`signature` lets its vendor verify the block later; `redacted` marks it as ciphertext.

    `vendor` is the dialect whose signature it is (anthropic, openai, gemini); no other takes it.
    """

    text: str
    signature: str | None = None
    redacted: bool = False
    vendor: str = "anthropic"


Part = Text | Image | Document | Audio | ToolCall | ToolResult | Thinking


def text_of(parts: Iterable[Part], between: str = "") -> str:
    """Return the texts among parts, joined."""
    return between.join(part.text for part in parts if isinstance(part, Text))


class Message(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant"]
    parts: list[Part]


class Tool(Cacheable, frozen=True):
    name: str
    description: str | None
    parameters: Json
    strict: bool | None = None


class ToolChoice(msgspec.Struct, frozen=True):
    """`name` is set when the model must call that one tool."""

    kind: Literal["auto", "none", "required", "tool"]
    name: str | None = None
    parallel: bool | None = None


class Reasoning(msgspec.Struct, frozen=True):
    """How much the model may think before it answers: a level, or a number of tokens (0: not at
    all, None: as the level says). `shown` asks for its thoughts.
    """

    effort: Effort | None = None
    budget_tokens: int | None = None
    shown: bool = False


class Chat(msgspec.Struct, frozen=True, kw_only=True):
    """A request. `schema` is a JSON schema that the answer must follow (may, if not `schema_strict`),
    `schema_name` its name.

    `params` are further parameters under the names of OpenAI's chat (logprobs, verbosity…); a
    dialect says in its `params` for which it has a word. `unread` names the members of the client's
    own form that have no place here.
    """

    messages: list[Message]
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    reasoning: Reasoning | None = None
    stop: list[str] = []
    tools: list[Tool] = []
    tool_choice: ToolChoice | None = None
    user: str | None = None
    schema: Json | None = None
    schema_name: str = "answer"
    schema_strict: bool = True
    json_mode: bool = False
    params: Json = {}
    unread: list[str] = []


class Embed(msgspec.Struct, frozen=True, kw_only=True):
    """A request for vectors: texts, or tokens where the vendor takes them.

    `kind` says what for, in Cohere's words (search_query, search_document…).
    """

    inputs: list[str | list[int]]
    dimensions: int | None = None
    base64: bool = False
    kind: str | None = None
    user: str | None = None
    stream: bool = False
    params: Json = {}
    unread: list[str] = []


Question = Any
"""What a client asks, in the neutral form of its surface: `Chat`, `Embed`…"""


class Usage(msgspec.Struct, frozen=True):
    """Tokens; None is unknown. `input_tokens` includes those read from the vendor's cache and those
    written to it.
    """

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_input_tokens: int | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. `units` counts what is not counted in tokens, or which tokens are of another
    kind (see `schemas.pricing`). `untold` names a member that has no place here: such an answer can
    only be told as it came.
    """

    id: str
    model: str
    parts: list[Part] = []
    finish: FinishReason | None = None
    usage: Usage | None = None
    units: dict[str, int] = {}
    untold: str | None = None


class Embedded(Answer, frozen=True, kw_only=True):
    """Vectors, one per input. They are large: `read` makes them when another dialect asks for them."""

    read: Callable[[], list[list[float]]]

    @property
    def vectors(self) -> list[list[float]]:
        """The vectors in the order of the inputs. Raises UpstreamProtocol for broken ones."""
        return self.read()


DeltaKind = Literal[
    "start",  # `id`, `name` is the model
    "text",
    "thinking",
    "signature",
    "tool_call",  # a call begins: `id`, `name`
    "arguments",  # JSON text of the call `index`
    "untold",  # content that has no place here: `name` is its member
    "finish",  # `text` is the FinishReason
    "usage",
    "end",
]


class Delta(msgspec.Struct, frozen=True):
    """One step of a stream; `index` counts the tool calls of the answer from 0.

    A signature names its vendor. `id` "redacted" marks thinking that is ciphertext.
    """

    kind: DeltaKind
    text: str = ""
    index: int = 0
    id: str = ""
    name: str = ""
    usage: Usage | None = None
    units: dict[str, int] | None = None


END = Delta("end")
CONTENT_KINDS = frozenset({"text", "thinking", "signature", "tool_call", "arguments", "untold"})


class Splitter(Protocol):
    """Cuts a provider's stream into frames; raises UpstreamProtocol for what cannot be one."""

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that are complete now."""
        ...


class StreamReader(Protocol):
    """Reads a provider's frames; raises UpstreamError for an error frame or a broken one."""

    def read(self, frame: Frame) -> list[Delta]:
        """Return what a frame says; the last delta of a complete stream is `END`."""
        ...


class StreamWriter(Protocol):
    """Writes frames for a client."""

    def write(self, delta: Delta) -> bytes:
        """Return the frames for a delta (possibly none); `END` gives the end marker."""
        ...


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialect of our own may tell about a settled call. `cost_usd` None is unknown.

    `asked` says that the caller wants to be told. `route_info` gives a `gateway.route_info.RouteInfo`,
    to be written as it is.
    """

    request_id: str
    route: str
    target: str
    provider: str
    model: str
    model_type: str
    deployment_id: str | None
    attempts: int
    latency_ms: float
    cost_usd: str | None
    usage: Usage
    cache_hit: bool = False
    asked: bool = False
    route_info: Callable[[], msgspec.Struct] | None = None


class Opening(msgspec.Struct, frozen=True):
    """What admission needs to know of a request before it is read in full."""

    model: str
    stream: bool
    wants_usage: bool
    max_tokens: int | None
    has_tools: bool
    tags: dict[str, str]
    user_id: str | None
    session_id: str | None = None
    task_type: str | None = None
    timeout_s: float | None = None
    units: dict[str, int] = {}
    """What the request itself says will be billed, as the characters to be spoken."""
    choices: int = 1
    """How many answers it asks for, where `gateway.choices` can put several together."""


class ClientDialect(Protocol):
    """A dialect as clients see it. `gateway.dialects.base` has what most of them share."""

    name: ClassVar[str]
    surface: ClassVar[str]
    """What kind of calls it makes: chat, embeddings, images…"""
    words: ClassVar[Mapping[str, str]]
    """Its own names for neutral members, where they differ (``stop``: ``stop_sequences``)."""
    client_paths: ClassVar[Mapping[str, Json]]
    stream_type: ClassVar[bytes]
    heartbeats: ClassVar[bool]

    @property
    def capability(self) -> str:
        """What a target must be able to do for it: most often the surface."""
        ...

    def read_body(self, body: bytes, content_type: str | None) -> Fields:
        """Return a request's members, their values unread. Raises InvalidRequest."""
        ...

    def open(self, fields: Fields) -> Opening:
        """Read the members that matter to the gateway. Raises InvalidRequest."""
        ...

    def limited(self, fields: Fields, model: str, max_tokens: int) -> Fields:
        """Return a request with a limit on its output, where the client named none."""
        ...

    def read_request(self, fields: Fields) -> Question:
        """Read a request in full. Raises InvalidRequest."""
        ...

    def request_record(self, body: bytes, fields: Fields) -> bytes:
        """Return the request as JSON for the record."""
        ...

    def answer_here(self, fields: Fields) -> Answer | None:
        """Return the gateway's own answer where no provider is asked; most surfaces have none."""
        ...

    def write_answer(self, answer: Answer, receipt: Receipt | None) -> bytes:
        """Write a whole answer."""
        ...

    def stream_writer(self, opening: Opening) -> StreamWriter:
        """Start a stream."""
        ...

    def end_of_stream(self, receipt: Receipt) -> bytes:
        """Return what is sent just before the end marker; nothing in most dialects."""
        ...

    def write_error(self, error: WeirError, status: int, request_id: str) -> bytes:
        """Write an error body."""
        ...

    def is_error(self, body: bytes) -> bool:
        """Whether a provider's error body is one that this dialect's clients can read."""
        ...

    def error_headers(self, status: int) -> list[tuple[bytes, bytes]]:
        """Return headers that an error of this dialect has beside its body."""
        ...

    def write_error_frame(self, error: WeirError, status: int, request_id: str) -> bytes:
        """Write the frame that tells the client that its stream has failed."""
        ...


class Dialect(ClientDialect, Protocol):
    """A dialect that providers speak too."""

    default_headers: ClassVar[Mapping[str, str]]
    models_path: ClassVar[str | None]
    """Where a provider lists its models, below its base URL; None where it does not."""
    params: ClassVar[frozenset[str]]
    """Which of `Chat.params` it has a word for."""
    ends_with_connection: ClassVar[bool]
    """Whether a stream has no end marker: after its finish reason only the connection ends."""

    def path_of(self, model: str, stream: bool) -> str:
        """Return where requests go, below the provider's base URL."""
        ...

    def authorization(self, secret: str) -> dict[str, str]:
        """Return the headers that carry a provider's key."""
        ...

    def forward_request(self, fields: Fields, model: str, opening: Opening) -> bytes:
        """Write the client's own request for another model, all else as it came."""
        ...

    def write_request(self, chat: Question, model: str, max_output_tokens: int | None) -> bytes:
        """Write a request that came in another dialect. Raises InvalidRequest for content that it
        cannot express.
        """
        ...

    def unsaid(self, chat: Question, model: str) -> list[str]:
        """Return the names of what `write_request` leaves out or changes."""
        ...

    def read_answer(self, body: bytes) -> Answer:
        """Read a whole answer. Raises UpstreamProtocol."""
        ...

    def bare(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the answer with these headers is a run of bytes rather than one of frames."""
        ...

    def splitter(self) -> Splitter:
        """Return what cuts a provider's stream into frames."""
        ...

    def counted(self, answer: Answer, headers: Mapping[bytes, bytes]) -> Answer:
        """Return an answer without usage with what the provider's headers tell of it."""
        ...

    def stream_reader(self) -> StreamReader:
        """Start to read a stream."""
        ...

    def forward_frame(self, frame: Frame, deltas: list[Delta], opening: Opening) -> bytes:
        """Return what a client of this very dialect gets of a frame, read as `deltas`.

        Nothing of a frame that is there only because the gateway asked for it.
        """
        ...

    def read_error(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> UpstreamError:
        """Classify a provider's error."""
        ...
