"""Requests with any part of them replaced by something else: refused with a reason, or translated;
never a fault of the gateway's own. And the same for providers' answers.
"""

import contextlib
import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from gateway.dialects.anthropic_messages import ANTHROPIC
from gateway.dialects.cohere_chat import COHERE
from gateway.dialects.cohere_embeddings import COHERE_EMBEDDINGS
from gateway.dialects.gemini_chat import GEMINI
from gateway.dialects.gemini_count import GEMINI_COUNT
from gateway.dialects.gemini_embeddings import GEMINI_CONTENT, GEMINI_EMBEDDINGS
from gateway.dialects.neutral import Embedded, Opening
from gateway.dialects.openai_chat import OPENAI
from gateway.dialects.openai_embeddings import EMBEDDINGS
from gateway.dialects.reading import read_object
from gateway.dialects.rerank import COHERE_RERANK, RERANK
from gateway.dialects.sse import write_frame
from gateway.streaming import StreamRelay
from schemas.errors import InvalidRequest, UpstreamError
from tests.gateway.test_dialects import ANTHROPIC_REQUEST, OPENAI_REQUEST

CASSETTES = Path(__file__).parent / "cassettes"
GEMINI_WHOLE: Any = json.loads((CASSETTES / "gemini" / "generate_content.json").read_text("utf-8"))
GEMINI_STREAM: Any = json.loads(
    (CASSETTES / "gemini" / "stream_generate_content.json").read_text("utf-8")
)
COHERE_WHOLE: Any = json.loads((CASSETTES / "cohere" / "chat.json").read_text("utf-8"))
COHERE_STREAM: Any = json.loads((CASSETTES / "cohere" / "chat_stream.json").read_text("utf-8"))
OPENING = Opening("m", True, True, None, False, {}, None)
CHAT = (OPENAI, ANTHROPIC, GEMINI, COHERE)
ROUNDS = 1_500
STRANGE: list[Any] = [None, True, -1, 0, 1.5, 2**70, "", "x", "ANY", [], {}, [[]], [1], {"x": 1}]


def mutated(value: Any, rng: random.Random) -> Any:
    """Replace, remove or repeat one random node."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(value)
    node, key = rng.choice(places)
    match rng.randrange(4):
        case 0 if isinstance(node, dict):
            del node[key]
        case 1 if isinstance(node, list):
            node.insert(key, copy.deepcopy(node[key]))
        case _:
            node[key] = copy.deepcopy(rng.choice(STRANGE))
    return value


def fields(body: Any) -> Any:
    return read_object(json.dumps(body).encode())


EMBED_GEMINI = {
    "model": "m",
    "requests": [
        {"content": {"parts": [{"text": "x"}]}, "taskType": "CLUSTERING", "outputDimensionality": 8}
    ],
}
EMBED_COHERE = {
    "model": "m",
    "inputs": [{"content": [{"type": "text", "text": "x"}]}],
    "input_type": "search_query",
    "embedding_types": ["float"],
    "output_dimension": 8,
}
RANK = {
    "model": "m",
    "query": "x",
    "documents": ["a", {"text": "b"}],
    "top_n": 1,
    "return_documents": True,
}
VECTORS = (EMBEDDINGS, GEMINI_EMBEDDINGS, COHERE_EMBEDDINGS)


@pytest.mark.req("GW-09")
@pytest.mark.parametrize(
    ("front", "body", "backs"),
    [
        (OPENAI, OPENAI_REQUEST, CHAT),
        (ANTHROPIC, ANTHROPIC_REQUEST, CHAT),
        (GEMINI, {**GEMINI_WHOLE["request"], "model": "m"}, CHAT),
        (COHERE, COHERE_WHOLE["request"], CHAT),
        (GEMINI_COUNT, {**GEMINI_WHOLE["request"], "model": "m"}, (GEMINI_COUNT,)),
        (GEMINI_EMBEDDINGS, EMBED_GEMINI, VECTORS),
        (GEMINI_CONTENT, {"model": "m", **EMBED_GEMINI["requests"][0]}, VECTORS),  # type: ignore[dict-item]
        (COHERE_EMBEDDINGS, EMBED_COHERE, VECTORS),
        (RERANK, RANK, (RERANK, COHERE_RERANK)),
    ],
    ids=lambda item: getattr(item, "name", None) and f"{item.name}-{item.surface}",
)
def test_strange_requests(front: Any, body: Any, backs: Any) -> None:
    rng = random.Random(7)
    translated = 0
    for _ in range(ROUNDS):
        strange = mutated(body, rng)
        if rng.random() < 0.3:
            strange = mutated(strange, rng)
        if not isinstance(strange.get("model"), str):
            continue
        try:
            given = fields(strange)
            opening = front.open(given)
            front.forward_request(front.limited(given, "m", 9), "m", opening)
            question = front.read_request(given)
            for back in backs:
                back.unsaid(question, "m")
                with contextlib.suppress(InvalidRequest):
                    json.loads(back.write_request(question, "gemini-3.8-flash", None))
                    translated += 1
        except InvalidRequest:
            continue
        except Exception as error:
            raise AssertionError(f"{error!r} for {json.dumps(strange)}") from error
    assert translated > ROUNDS // 10


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize(
    ("back", "body"),
    [
        (GEMINI, GEMINI_WHOLE["answer"]),
        (COHERE, COHERE_WHOLE["answer"]),
        (GEMINI_EMBEDDINGS, {"embeddings": [{"values": [0.5]}], "usageMetadata": {}}),
        (COHERE_EMBEDDINGS, {"id": "i", "embeddings": {"float": [[0.5]]}, "meta": {}}),
        (RERANK, {"id": "i", "results": [{"index": 0, "relevance_score": 0.5}], "meta": {}}),
    ],
    ids=lambda item: getattr(item, "name", None) and f"{item.name}-{item.surface}",
)
def test_strange_answers(back: Any, body: Any) -> None:
    rng = random.Random(7)
    for _ in range(ROUNDS):
        strange = mutated(body, rng)
        try:
            answer = back.read_answer(json.dumps(strange).encode())
            if isinstance(answer, Embedded):
                _ = answer.vectors
            if back in CHAT:
                for front in CHAT:
                    json.loads(front.write_answer(answer, None))
            else:
                json.loads(back.write_answer(answer, None))
        except UpstreamError:
            continue
        except Exception as error:
            raise AssertionError(f"{error!r} for {json.dumps(strange)}") from error


@pytest.mark.req("BEY-09")
@pytest.mark.parametrize(
    ("back", "frames"),
    [
        (GEMINI, GEMINI_STREAM["frames"]),
        (COHERE, COHERE_STREAM["answer"]),
        (COHERE, COHERE_STREAM["tools"]),
    ],
    ids=["gemini", "cohere", "cohere-tools"],
)
def test_strange_streams(back: Any, frames: Any) -> None:
    rng = random.Random(7)
    for round_ in range(ROUNDS):
        strange = mutated(frames, rng)
        front = CHAT[round_ % len(CHAT)]
        relay = StreamRelay(front, back, OPENING)
        try:
            for frame in strange:
                relay.feed(write_frame(json.dumps(frame).encode()))
            relay.check_end()
            relay.answer()
        except UpstreamError:
            continue
        except Exception as error:
            raise AssertionError(f"{error!r} for {front.name}: {json.dumps(strange)}") from error
        else:
            assert relay.finish is not None
