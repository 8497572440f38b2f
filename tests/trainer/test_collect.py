"""Feedback comes back from the log with its texts, its system prompt, and without what was erased."""

import asyncio

import msgspec
import pytest

from infra.kafka import KafkaLog
from schemas.clock import now_us
from schemas.events.llm import ContentCaptured
from schemas.events.operations import PRIVACY_KEYS, DataKeyCreated
from schemas.identity import uuid7
from schemas.privacy import MasterKey, Opener, Sealer
from schemas.table_view import TableView
from tests.trainer import support
from trainer.collect import collect, system_prompt_of


@pytest.mark.req("DATA-08", "FB-01", "SEC-05")
async def test_texts_are_opened_joined_and_forgotten(fresh_log: KafkaLog) -> None:
    keys: list[DataKeyCreated] = []
    sealer = Sealer(MasterKey(support.MASTER_KEY), keys.append)
    begun = now_us()
    request_id = uuid7()
    request = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user"}]}
    content = sealer.seal("anna", msgspec.json.encode({"request": request}), request_id)
    captured = ContentCaptured(
        event_id=uuid7(),
        occurred_at_us=now_us(),
        request_id=request_id,
        mode="full",
        data_key_id=content.data_key_id,
        nonce=content.nonce,
        ciphertext=content.ciphertext,
    )
    given = [
        support.feedback(sealer, "anna", "one?", "1", "I", request_id=request_id),
        support.feedback(sealer, "anna", "two?", "2", "II"),
        support.feedback(sealer, "boris", "three?", "3", "III"),
    ]
    for event in (*keys, captured, *given):
        await fresh_log.publish(event)
    await fresh_log.tombstone(PRIVACY_KEYS, given[2].data_key_id)

    view, stop = TableView(DataKeyCreated), asyncio.Event()
    following = asyncio.create_task(fresh_log.follow([view], stop))
    await view.caught_up.wait()
    opener = Opener(MasterKey(support.MASTER_KEY), view.get)
    found = await collect(fresh_log, opener, since_us=begun, until_us=now_us(), limit=10)
    assert [(f.original_prompt, f.corrected_response) for f in found.feedback] == [
        ("one?", "I"),
        ("two?", "II"),
    ]
    assert [f.system_prompt for f in found.feedback] == ["Be brief.", ""]
    assert (found.erased, found.unreadable) == (1, 0)
    last = await collect(fresh_log, opener, since_us=begun, until_us=now_us(), limit=2)
    assert [f.original_prompt for f in last.feedback] == ["two?"], "the newest, erased ones counted"
    none = await collect(fresh_log, opener, since_us=0, until_us=begun - 1, limit=10)
    assert none.feedback == []
    stop.set()
    await following


@pytest.mark.req("DATA-08")
def test_system_prompts_of_both_dialects() -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert system_prompt_of({"system": "x"}) == "x"
    assert system_prompt_of({"system": blocks}) == "a\nb"
    messages = [{"role": "developer", "content": blocks}, {"role": "user", "content": "no"}]
    assert system_prompt_of({"messages": messages}) == "a\nb"
    assert system_prompt_of({"messages": [{"role": "user", "content": "no"}]}) == ""
