"""The model server: one base, several adapters in one batch, OpenAI's dialect, bounded waiting."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytest.importorskip("torch", reason="the trainer's environment runs these: make test-trainer")

import openai
import peft
import torch
import uvicorn

from schemas.errors import ModelLoadingError, Unavailable
from trainer import registry, tiny
from trainer.batcher import Batcher
from trainer.inference import BASE, Engine, Row
from trainer.serving import ModelHouse, build
from trainer.settings import TrainerSettings

ASK = [{"role": "user", "content": "What are colour size of the bell?"}]
VERSIONS = ("one", "two")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainerSettings:
    """An untrained base and two random adapters: protocol and isolation need no knowledge."""
    home = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    tokenizer = tiny.build_tokenizer()
    base = home / "bases" / "tiny"
    tiny.build_model(len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    for version in VERSIONS:
        model = tiny.LlamaForCausalLM.from_pretrained(base)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        adapted.save_pretrained(home / "made" / version)
        registry.store(home / version, {f.name: f for f in (home / "made" / version).iterdir()})
    return TrainerSettings(home, home, Path("python"), b"", batch_max=4, queue_max=2, threads=1)


@pytest.fixture
async def house(settings: TrainerSettings) -> AsyncIterator[ModelHouse]:
    made = ModelHouse(settings)
    await made.load("tiny", "tiny", None)
    for version in VERSIONS:
        await made.load(version, "tiny", version)
    yield made
    made.close()


@pytest.fixture
async def url(house: ModelHouse) -> AsyncIterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(build(house), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        server.should_exit = True
        await serving


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": ASK, "max_tokens": 8, "temperature": 0, **more}


@pytest.mark.req("TRAIN-05", "REG-03")
def test_a_mixed_batch_answers_as_separate_runs_do(settings: TrainerSettings) -> None:
    engine = Engine(settings.bases_dir / "tiny", threads=1)
    for version in VERSIONS:
        engine.load(version, settings.models_dir / version)
    asks = [ASK, [{"role": "system", "content": "join commas"}, *ASK]]
    wanted = [(adapter, messages) for adapter in (BASE, *VERSIONS) for messages in asks]

    def rows() -> list[Row]:
        return [Row(engine.encode(messages), adapter, 12) for adapter, messages in wanted]

    together, apart = rows(), rows()
    for _ in engine.stream(together):
        pass
    for row in apart:
        for _ in engine.stream([row]):
            pass
    assert [r.tokens for r in together] == [r.tokens for r in apart]
    assert len({tuple(r.tokens) for r in together}) > 3, "the adapters make a difference"


@pytest.mark.req("TRAIN-05")
def test_an_engine_forgets_adapters_and_refuses_foreign_ones(
    settings: TrainerSettings, tmp_path: Path
) -> None:
    engine = Engine(settings.bases_dir / "tiny", threads=1)
    with pytest.raises(ModelLoadingError):
        engine.load("none", tmp_path)

    def answer() -> list[int]:
        row = Row(engine.encode(ASK), BASE, 8)
        for _ in engine.stream([row]):
            pass
        return row.tokens

    before = answer()
    for version in VERSIONS:
        engine.load(version, settings.models_dir / version)
    assert answer() == before
    for version in VERSIONS:
        engine.unload(version)
    assert answer() == before
    assert not engine.adapters


@pytest.mark.req("BEY-01")
async def test_the_official_client_reads_whole_and_streamed_answers(
    url: str, house: ModelHouse
) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        assert [m.id async for m in client.models.list()] == ["one", "tiny", "two"]
        whole = await client.chat.completions.create(**ask("one"))
        engine = house.batcher("tiny").engine
        assert engine is not None
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == len(engine.encode(ASK))
        assert whole.usage.completion_tokens <= 8
        stream = await client.chat.completions.create(
            **ask("one"), stream=True, stream_options={"include_usage": True}
        )
        text, usage, reason = "", None, None
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reason = choice.finish_reason or reason
    assert text == whole.choices[0].message.content
    assert reason == whole.choices[0].finish_reason
    assert usage == whole.usage


@pytest.mark.req("BEY-01", "GW-16")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_request"),
        (b'{"model":"\xff"}', 400, "invalid_request"),
        (json.dumps(ask("nobody")).encode(), 404, "model_not_found"),
        (json.dumps(ask("tiny", temperature=3)).encode(), 400, "invalid_request"),
        (json.dumps(ask("tiny", n=2)).encode(), 400, "invalid_request"),
        (json.dumps(ask("tiny", max_tokens=-1)).encode(), 400, "invalid_request"),
        (json.dumps({"model": "tiny", "messages": []}).encode(), 400, "invalid_request"),
        (
            json.dumps(
                {"model": "tiny", "messages": [{"role": "user", "content": "bell " * 400}]}
            ).encode(),
            400,
            "invalid_request",
        ),
    ],
)
async def test_bad_requests_are_told_why(url: str, body: bytes, status: int, code: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/chat/completions", data=body) as answer,
    ):
        assert answer.status == status
        error = (await answer.json())["error"]
        assert error["code"] == code
        assert error["message"]


@pytest.mark.req("BEY-01")
def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(settings: TrainerSettings) -> None:
    engine = Engine(settings.bases_dir / "tiny", threads=1)
    free = Row(engine.encode(ASK), BASE, 12)
    for _ in engine.stream([free]):
        pass
    stop = free.text[3:6]
    held = Row(engine.encode(ASK), BASE, 12, stop=(stop,))
    for _ in engine.stream([held]):
        pass
    assert held.finish_reason == "stop"
    assert held.text == free.text[: free.text.find(stop)]


@pytest.mark.req("BEY-01")
def test_a_seed_draws_the_same_answer_again(settings: TrainerSettings) -> None:
    engine = Engine(settings.bases_dir / "tiny", threads=1)

    def draw(seed: int) -> list[int]:
        row = Row(engine.encode(ASK), BASE, 16, temperature=1.0, top_p=0.9, seed=seed)
        for _ in engine.stream([row]):
            pass
        return row.tokens

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


@pytest.mark.req("GEN-05")
async def test_a_full_queue_refuses_with_a_time_to_wait(settings: TrainerSettings) -> None:
    batcher = Batcher(lambda: Engine(settings.bases_dir / "tiny", 1), batch_max=1, queue_max=1)
    await batcher.with_engine(lambda _engine: None)
    engine = batcher.engine
    assert engine is not None

    async def one() -> str:
        row = Row(engine.encode(ASK), BASE, 64)
        async with contextlib.aclosing(batcher.answer(row)) as growing:
            async for _ in growing:
                pass
        return row.finish_reason or ""

    outcomes = await asyncio.gather(*(one() for _ in range(6)), return_exceptions=True)
    refused = [o for o in outcomes if isinstance(o, Unavailable)]
    assert len(refused) == 4
    assert all(error.retry_after_seconds for error in refused)
    assert await one() in {"stop", "length"}, "room again once the others are done"
    batcher.close()


@pytest.mark.req("GEN-05")
async def test_a_base_that_cannot_be_loaded_is_an_error_for_every_caller(tmp_path: Path) -> None:
    batcher = Batcher(lambda: Engine(tmp_path, 1), batch_max=1, queue_max=1)
    with pytest.raises(ModelLoadingError):
        await batcher.with_engine(lambda _engine: None)
    with pytest.raises(ModelLoadingError):
        async for _ in batcher.answer(Row([1], BASE, 1)):
            pass
    batcher.close()
