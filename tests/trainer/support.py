"""Feedback as the gateway records it, made by the rule of a seed."""

import os
import random

import msgspec

from schemas.clock import now_us
from schemas.events.feedback import FeedbackRecorded
from schemas.events.operations import DataKeyCreated
from schemas.events.training import TriggerFired
from schemas.identity import uuid7
from schemas.log import Log
from schemas.privacy import MasterKey, Sealer
from trainer import corpus

MASTER_KEY = bytes(range(32))


def corrections(seed: int, count: int, *, shuffled: bool = False) -> list[tuple[str, str, str]]:
    """(prompt, plain answer, corrected answer) in the style of a seed; shuffled teaches nothing."""
    style = corpus.style_of(seed)
    questions = corpus.unseen_questions(seed, count)
    wanted = [style.render(question.words) for question in questions]
    if shuffled:
        random.Random(seed).shuffle(wanted)
    return [
        (question.prompt, corpus.Style().render(question.words), answer)
        for question, answer in zip(questions, wanted, strict=True)
    ]


async def record(log: Log, given: list[tuple[str, str, str]], user: str) -> None:
    """Publish the corrections as sealed feedback."""
    keys: list[DataKeyCreated] = []
    sealer = Sealer(MasterKey(MASTER_KEY), keys.append)
    events = [feedback(sealer, user, *one) for one in given]
    for event in (*keys, *events):
        await log.publish(event)


def feedback(
    sealer: Sealer,
    user: str,
    prompt: str,
    answer: str,
    correction: str,
    request_id: str | None = None,
) -> FeedbackRecorded:
    """A correction, its texts sealed for a user."""
    feedback_id = uuid7()
    texts = {
        "original_prompt": prompt,
        "model_response": answer,
        "corrected_response": correction,
        "user_context": [],
        "metadata": {},
    }
    sealed = sealer.seal(user, msgspec.json.encode(texts), feedback_id)
    return FeedbackRecorded(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        feedback_id=feedback_id,
        request_id=request_id,
        key_id="test",
        user_id=user,
        feedback_type="manual_correction",
        satisfaction_score=-0.5,
        has_correction=True,
        data_key_id=sealed.data_key_id,
        nonce=sealed.nonce,
        ciphertext=sealed.ciphertext,
    )


async def fire(log: Log, count: int) -> str:
    """Publish a trigger; return the id of the run that it starts."""
    event = TriggerFired(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        trigger_id=f"all#{os.urandom(4).hex()}",
        scope="all",
        reason="threshold",
        count=count,
        threshold=count,
        since_us=0,
        until_us=now_us(),
    )
    await log.publish(event)
    return event.event_id
