"""Reads feedback back from the log, and opens the texts whose keys still exist."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from schemas.codec import decode_as
from schemas.errors import ContentErased, LogError
from schemas.event import Topic
from schemas.events.feedback import FEEDBACK, FeedbackRecorded
from schemas.events.llm import CONTENT, ContentCaptured
from schemas.events.operations import PRIVACY_KEYS, DataKeyCreated
from schemas.log import Log, Record
from schemas.privacy import Opener, Sealed
from trainer.datasets import Feedback

BATCH_RECORDS = 2000


class Texts(msgspec.Struct, frozen=True):
    """What a piece of feedback seals, as the gateway writes it."""

    original_prompt: str
    model_response: str
    corrected_response: str | None = None
    user_context: list[str] = []
    metadata: dict[str, str] = {}


@dataclass
class Collected:
    """Feedback of a window, newest last, and how much of it cannot be used any more or yet."""

    feedback: list[Feedback] = field(default_factory=list)
    erased: int = 0
    unreadable: int = 0


async def collect(
    log: Log, opener: Opener, *, since_us: int, until_us: int, limit: int
) -> Collected:
    """The last `limit` pieces of feedback that occurred in the window, texts opened.

    What a person had erased stays erased. Raises as the log's reader does.
    """
    events: list[FeedbackRecorded] = []
    found = Collected()
    async for record in _read(log, FEEDBACK):
        try:
            event = decode_as(record.value, FeedbackRecorded) if record.value else None
        except LogError:
            found.unreadable += 1
            continue
        if event is not None and since_us <= event.occurred_at_us <= until_us:
            events.append(event)
    events.sort(key=lambda event: (event.occurred_at_us, event.feedback_id))
    events = events[-limit:]
    systems = await _system_prompts(log, opener, {e.request_id for e in events if e.request_id})
    for event in events:
        sealed = Sealed(event.data_key_id, event.nonce, event.ciphertext)
        try:
            texts = msgspec.json.decode(opener.open(sealed, event.feedback_id), type=Texts)
        except ContentErased:
            found.erased += 1
            continue
        found.feedback.append(_opened(event, texts, systems.get(event.request_id or "", "")))
    return found


def _opened(event: FeedbackRecorded, texts: Texts, system_prompt: str) -> Feedback:
    return Feedback(
        feedback_id=event.feedback_id,
        occurred_at_us=event.occurred_at_us,
        feedback_type=event.feedback_type,
        satisfaction_score=event.satisfaction_score,
        original_prompt=texts.original_prompt,
        model_response=texts.model_response,
        corrected_response=texts.corrected_response,
        system_prompt=system_prompt or texts.metadata.get("system_prompt", ""),
        user_context=texts.user_context,
        user_segment=event.user_segment,
        request_id=event.request_id,
        model_id=event.model_id,
        task_type=event.task_type,
    )


async def read_data_keys(log: Log) -> dict[str, DataKeyCreated]:
    """The data keys that exist, by id, read up to the end of their topic.

    A view that is followed would do but for its delay: a key that it has not read yet would make
    its text look erased. Raises as the log's reader does.
    """
    keys: dict[str, DataKeyCreated] = {}
    async for record in _read(log, PRIVACY_KEYS):
        try:
            event = decode_as(record.value, DataKeyCreated) if record.value else None
        except LogError:
            continue  # what was sealed with it is counted as erased
        if event is not None:
            keys[event.data_key_id] = event
        elif record.value is None and record.key is not None:
            keys.pop(record.key.decode(), None)
    return keys


async def _read(log: Log, topic: Topic) -> AsyncIterator[Record]:
    """Every record of a topic up to its end."""
    async with log.reader([topic]) as reader:
        while await reader.lag() > 0:
            for record in await reader.batch(BATCH_RECORDS, 1.0):
                yield record


async def _system_prompts(log: Log, opener: Opener, wanted: set[str]) -> dict[str, str]:
    """The system prompts of recorded requests, by request id; none for what is not recorded."""
    prompts: dict[str, str] = {}
    if not wanted:
        return prompts
    keys = {request_id.encode() for request_id in wanted}
    async for record in _read(log, CONTENT):
        if record.key not in keys or record.value is None:
            continue
        try:
            event = decode_as(record.value, ContentCaptured)
            if event is not None:
                sealed = Sealed(event.data_key_id, event.nonce, event.ciphertext)
                content = msgspec.json.decode(opener.open(sealed, event.request_id))
                prompts[event.request_id] = system_prompt_of(content.get("request") or {})
        except LogError:
            continue  # erased, or of no use: the example goes without
    return prompts


def system_prompt_of(request: dict[str, Any]) -> str:
    """The system prompt of a recorded request in either vendor's dialect, empty without one."""
    parts = [_text(request.get("system"))]
    parts += [
        _text(message.get("content"))
        for message in request.get("messages") or ()
        if message.get("role") in {"system", "developer"}
    ]
    return "\n\n".join(part for part in parts if part)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "\n".join(
            str(block.get("text", "")) for block in content if isinstance(block, dict)
        ).strip()
    return ""
