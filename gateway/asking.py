"""What routing may know of a call: the caller's hints, what the call needs, what it is about."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from gateway.admission import Admitted
from gateway.ask import Ask
from gateway.client import Client
from gateway.dialects.neutral import Chat, Document, Image, Part, Text
from gateway.plans import Plan, hinted
from schemas.errors import InvalidRequest

if TYPE_CHECKING:
    from gateway.detection.detector import Detected, Detector

COMPLEXITIES = ("simple", "standard", "complex")
TEXT_CHARS_MAX = 2_000
"""Of a long text the detector reads this much of its beginning and of its end."""
KEPT = 4_096
"""Texts whose task is remembered: retries, agents' loops and templates repeat them."""


class Asker:
    """Finds out what a call is about, where its plan asks for it."""

    def __init__(self) -> None:
        self._detector: Detector | None = None
        self._loading = asyncio.Lock()
        self._known: OrderedDict[int, Detected] = OrderedDict()

    async def ask(self, client: Client, admitted: Admitted, plan: Plan) -> Ask:
        """Return what routing may know. Raises InvalidRequest for a hint that makes no sense."""
        opening, header = admitted.opening, client.header
        complexity = header(b"x-weir-complexity")
        if complexity is not None and complexity not in COMPLEXITIES:
            raise InvalidRequest(
                f"x-weir-complexity: '{complexity}' is none of {', '.join(COMPLEXITIES)}"
            )
        ask = Ask(
            surface=admitted.front.capability,
            needs=frozenset({"tools"}) if opening.has_tools else frozenset(),
            input_tokens=admitted.input_tokens_estimate,
            max_tokens=opening.max_tokens,
            task_type=admitted.task_type,
            complexity=complexity,
            strategy=hinted(plan, header(b"x-weir-strategy"), header(b"x-weir-prefer")),
            tags=admitted.tags,
            sticky=admitted.user_id or admitted.session_id,
        )
        if ask.surface != "chat" or (plan.settled and not plan.detects):
            return ask
        unsaid = ask.task_type is None or complexity is None
        detects = plan.detects and unsaid
        if not (detects or plan.abilities):
            return ask
        chat = _read(admitted, detects or _may_need(admitted.body))
        if chat is None:
            return ask
        ask = msgspec.structs.replace(ask, needs=ask.needs | needs(chat))
        return await self._detected(ask, chat) if detects else ask

    async def _detected(self, ask: Ask, chat: Chat) -> Ask:
        asked, system = asked_text(chat)
        found = await self.detect(asked, system)
        if ask.task_type is not None:
            return msgspec.structs.replace(ask, complexity=ask.complexity or found.complexity)
        return msgspec.structs.replace(
            ask,
            task_type=found.task_type,
            confidence=found.confidence,
            complexity=ask.complexity or found.complexity,
            detected=True,
        )

    async def detect(self, asked: str, system: str = "") -> Detected:
        """Return the task and complexity of a text; the same text is looked at once."""
        key = hash((asked, system))
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found
        detector = self._detector or await self._load()
        found = self._known[key] = detector.detect(asked, system)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return found

    async def _load(self) -> Detector:
        """Load the model at its first use, beside running calls: it brings a library along."""
        async with self._loading:
            if self._detector is None:
                self._detector = await asyncio.to_thread(_load)
        return self._detector


def needs(chat: Chat) -> frozenset[str]:
    """Return the capabilities that a request's content needs."""
    found = set()
    for message in chat.messages:
        for part in message.parts:
            if isinstance(part, Image):
                found.add("vision")
            elif isinstance(part, Document):
                found.add("documents")
    if chat.schema is not None:
        found.add("structured")
    if chat.tools:
        found.add("tools")
    return frozenset(found)


def asked_text(chat: Chat) -> tuple[str, str]:
    """Return the last user message and the system prompt, each bounded."""
    asked = next(
        (
            text
            for message in reversed(chat.messages)
            if message.role == "user" and (text := _text(message.parts))
        ),
        "",
    )
    system = "\n".join(_text(item.parts) for item in chat.messages if item.role == "system")
    return bounded(asked), bounded(system)


def bounded(text: str) -> str:
    """Return a text's beginning and end."""
    if len(text) <= 2 * TEXT_CHARS_MAX:
        return text
    return f"{text[:TEXT_CHARS_MAX]}\n{text[-TEXT_CHARS_MAX:]}"


def _text(parts: list[Part]) -> str:
    return "\n".join(part.text for part in parts if isinstance(part, Text))


def _may_need(body: bytes) -> bool:
    """Whether a body may hold what not every target takes; only then is it worth reading."""
    return b"image" in body or b"file" in body or b"document" in body or b"schema" in body


def _read(admitted: Admitted, worth: bool) -> Chat | None:
    """Return the request in neutral form, None where that says nothing for routing."""
    if not worth:
        return None
    try:
        chat: Chat = admitted.front.read_request(admitted.fields)
    except InvalidRequest:
        # What has no place in the neutral form is judged by a target that speaks the dialect.
        return None
    return chat


def _load() -> Detector:
    from gateway.detection.detector import Detector

    return Detector.load()
