"""Embeddings and rerank of Gemini and Cohere: their clients before every kind of target, and they
behind OpenAI's client.
"""

import json
from typing import Any

import cohere
import pytest
from cohere.types import EmbedByTypeResponse
from cohere.v2.types.v2rerank_response import V2RerankResponse
from google.genai import errors, types
from openai.types import CreateEmbeddingResponse

from gateway.dialects.bedrock_embeddings import BEDROCK_EMBEDDINGS
from gateway.dialects.cohere_embeddings import COHERE_EMBEDDINGS
from gateway.dialects.gemini_embeddings import GEMINI_EMBEDDINGS
from gateway.dialects.neutral import Embed, Embedded, Opening
from gateway.dialects.openai_embeddings import EMBEDDINGS
from gateway.dialects.reading import read_object
from gateway.dialects.rerank import COHERE_RERANK, RERANK
from gateway.dialects.vertex_embeddings import VERTEX_EMBEDDINGS
from schemas.errors import InvalidRequest, UpstreamProtocol
from schemas.events.changes import PriceChanged
from tests.gateway.strict import check
from tests.gateway.test_cohere_client import client as cohere_client
from tests.gateway.test_genai import client as gemini_client
from tests.gateway.worker import META, Worker, price, provider, target
from tests.sandbox.served import Served

GEMINI = "gemini/gemini-embedding-001"
COHERE = "cohere/embed-v4.0"
OPENAI = "openai/text-embedding-3-small"
RANKER = "cohere/rerank-v3.5"
MODELS = [GEMINI, COHERE, OPENAI]
TEXTS = ["a red car", "the blue sea"]
SIZE = 256
OPENING = Opening("m", False, True, 0, False, {}, None)


@pytest.fixture(autouse=True)
def vendors(worker: Worker, sandbox: Served) -> None:
    search = PriceChanged(
        **META,
        provider="cohere",
        model="rerank-v3.5",
        valid_from_us=0,
        input_price=None,
        cached_input_price=None,
        output_price=None,
        price_version="test-1",
        source="test",
        unit_prices={"search": 2_000_000_000_000},
    )
    worker.change(
        provider("gemini", "gemini", f"{sandbox.url}/gem/v1beta"),
        provider("cohere", "cohere", f"{sandbox.url}/coh"),
        provider("ranker", "openai", f"{sandbox.url}/coh/v1"),
        target("gemini", "gemini-embedding-001", capabilities=["embeddings"]),
        target("cohere", "embed-v4.0", capabilities=["embeddings"]),
        target("cohere", "rerank-v3.5", capabilities=["rerank"]),
        target("openai", "text-embedding-3-small", capabilities=["embeddings"]),
        price("gemini", "gemini-embedding-001", 150_000_000, 0),
        search,
    )


def fields(body: Any) -> Any:
    return read_object(json.dumps(body).encode())


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_openais_client(worker: Worker, model: str) -> None:
    body = {"model": model, "input": TEXTS, "dimensions": SIZE, "encoding_format": "float"}
    status, told, answer = worker.request("POST", "/v1/embeddings", body)
    assert status == 200, answer
    check(json.loads(answer), CreateEmbeddingResponse)
    _, response, cost = worker.call(told["x-weir-request-id"])
    assert (response.surface, response.usage_basis) == ("embeddings", "reported")
    if model == GEMINI:
        assert cost.cost_nano_usd == 150 * (response.input_tokens or 0)
    parsed = worker.openai().embeddings.create(model=model, input=TEXTS, dimensions=SIZE)
    assert [len(entry.embedding) for entry in parsed.data] == [SIZE, SIZE]


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_geminis_client(worker: Worker, model: str) -> None:
    api = gemini_client(worker)
    config = types.EmbedContentConfig(output_dimensionality=SIZE, task_type="RETRIEVAL_QUERY")
    found = api.models.embed_content(model=model, contents=list(TEXTS), config=config)
    assert [len(entry.values or []) for entry in found.embeddings or []] == [SIZE, SIZE]
    body = {"content": {"parts": [{"text": "x"}]}, "outputDimensionality": SIZE}
    path = f"/v1beta/models/{model}:embedContent"
    status, _, answer = worker.request("POST", path, body)
    assert status == 200, answer
    assert len(json.loads(answer)["embedding"]["values"]) == SIZE


@pytest.mark.req("BEY-02")
@pytest.mark.parametrize("model", MODELS)
def test_coheres_client(worker: Worker, model: str) -> None:
    body: Any = {
        "model": model,
        "texts": TEXTS,
        "input_type": "search_document",
        "output_dimension": SIZE,
    }
    status, _, answer = worker.request("POST", "/v2/embed", body)
    assert status == 200, answer
    check(json.loads(answer), EmbedByTypeResponse)
    found = cohere_client(worker).embed(embedding_types=["float"], **body)
    assert [len(vector) for vector in found.embeddings.float_ or []] == [SIZE, SIZE]


def test_what_only_the_own_vendor_can_is_refused(worker: Worker) -> None:
    with pytest.raises(cohere.BadRequestError, match="vectors of floats"):
        cohere_client(worker).embed(
            model=OPENAI, texts=TEXTS, input_type="search_query", embedding_types=["int8"]
        )
    small = cohere_client(worker).embed(
        model=COHERE, texts=TEXTS, input_type="search_query", embedding_types=["int8"]
    )
    assert small.embeddings.int8
    api = gemini_client(worker)
    picture: Any = types.Part.from_bytes(data=b"x", mime_type="image/png")
    with pytest.raises(errors.ClientError, match="text alone"):
        api.models.embed_content(model=OPENAI, contents=picture)
    for dialect in (GEMINI_EMBEDDINGS, COHERE_EMBEDDINGS, VERTEX_EMBEDDINGS, BEDROCK_EMBEDDINGS):
        with pytest.raises(InvalidRequest, match="not tokens"):
            dialect.write_request(Embed(inputs=[[1, 2]]), "m", None)


@pytest.mark.req("BEY-02")
def test_what_vectors_are_for_crosses_over() -> None:
    asked = {"model": "m", "texts": ["x"], "input_type": "search_query", "output_dimension": 8}
    embed = COHERE_EMBEDDINGS.read_request(fields(asked))
    there = json.loads(GEMINI_EMBEDDINGS.write_request(embed, "e", None))
    assert there == {
        "requests": [
            {
                "model": "models/e",
                "content": {"parts": [{"text": "x"}]},
                "outputDimensionality": 8,
                "taskType": "RETRIEVAL_QUERY",
            }
        ]
    }
    back = GEMINI_EMBEDDINGS.read_request(fields({"model": "m", **there}))
    assert back.unread == []
    again = json.loads(COHERE_EMBEDDINGS.write_request(back, "m", None))
    assert again == {**asked, "embedding_types": ["float"]}
    assert EMBEDDINGS.unsaid(back, "m") == ["input_type"]
    unknown = {**there["requests"][0], "taskType": "QUESTION_ANSWERING"}
    told = GEMINI_EMBEDDINGS.read_request(fields({"model": "m", "requests": [unknown]}))
    assert told.unread == ["taskType"]


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (GEMINI_EMBEDDINGS, b'{"embeddings": [5]}'),
        (COHERE_EMBEDDINGS, b'{"embeddings": 5}'),
        (VERTEX_EMBEDDINGS, b'{"predictions": [{"embeddings": {"values": 5}}]}'),
        (VERTEX_EMBEDDINGS, b'{"embeddings": [5]}'),
        (BEDROCK_EMBEDDINGS, b'{"embeddings": 5}'),
        (BEDROCK_EMBEDDINGS, b'{"embedding": 5}'),
    ],
)
def test_broken_vectors_are_a_protocol_error(dialect: Any, body: bytes) -> None:
    for nothing in (b'{"nothing": []}', b"nothing"):
        with pytest.raises(UpstreamProtocol):
            dialect.read_answer(nothing)
    answer = dialect.read_answer(body)
    assert isinstance(answer, Embedded)
    with pytest.raises(UpstreamProtocol):
        _ = answer.vectors


@pytest.mark.req("PROV-02")
@pytest.mark.parametrize(
    ("dialect", "model", "wire"),
    [
        (VERTEX_EMBEDDINGS, "text-embedding-005", "predict"),
        (VERTEX_EMBEDDINGS, "gemini-embedding-001", "batchEmbedContents"),
        (BEDROCK_EMBEDDINGS, "cohere.embed-v4:0", "cohere"),
        (BEDROCK_EMBEDDINGS, "amazon.titan-embed-text-v2:0", "titan"),
    ],
)
def test_each_model_is_asked_in_its_own_words(dialect: Any, model: str, wire: str) -> None:
    embed = Embed(inputs=["x"], dimensions=8, kind="search_query")
    config = {"outputDimensionality": 8, "taskType": "RETRIEVAL_QUERY"}
    content = {"parts": [{"text": "x"}]}
    assert (
        json.loads(dialect.write_request(embed, model, None))
        == {
            "predict": {
                "instances": [{"content": "x", "task_type": "RETRIEVAL_QUERY"}],
                "parameters": {"outputDimensionality": 8},
            },
            "batchEmbedContents": {
                "requests": [{"content": content, "embedContentConfig": config}]
            },
            "cohere": {
                "texts": ["x"],
                "input_type": "search_query",
                "embedding_types": ["float"],
                "output_dimension": 8,
            },
            "titan": {"inputText": "x", "dimensions": 8},
        }[wire]
    )
    assert dialect.unsaid(embed, model) == (["input_type"] if wire == "titan" else [])


def test_what_bedrocks_models_do_not_take_is_refused() -> None:
    several = Embed(inputs=["x", "y"])
    with pytest.raises(InvalidRequest, match="one text a call, this call has 2"):
        BEDROCK_EMBEDDINGS.write_request(several, "amazon.titan-embed-text-v2:0", None)
    with pytest.raises(InvalidRequest, match="whose form is known"):
        BEDROCK_EMBEDDINGS.write_request(several, "amazon.nova-lite-v1:0", None)


# --- rerank ----------------------------------------------------------------------------------


@pytest.mark.req("BEY-18")
def test_coheres_client_ranks(worker: Worker) -> None:
    api = cohere_client(worker)
    ranked = api.rerank(model=RANKER, query="red car", documents=["the sea", "a red car"], top_n=1)
    assert [result.index for result in ranked.results] == [1]
    body = {"model": RANKER, "query": "red car", "documents": ["x"] * 101}
    status, told, answer = worker.request("POST", "/v2/rerank", body)
    assert status == 200
    check(json.loads(answer), V2RerankResponse)
    admitted, response, cost = worker.call(told["x-weir-request-id"])
    assert (response.surface, response.units) == ("rerank", {"search": 2})
    assert admitted.reserved_nano_usd == cost.cost_nano_usd == 2 * 2_000_000


@pytest.mark.req("BEY-18")
@pytest.mark.parametrize("model", [RANKER, "ranker/rerank-v3.5"])
def test_the_common_rerank(worker: Worker, model: str) -> None:
    body = {
        "model": model,
        "query": "red car",
        "documents": ["the sea", {"text": "a red car"}],
        "top_n": 2,
        "return_documents": True,
    }
    status, told, answer = worker.request("POST", "/v1/rerank", body)
    assert status == 200, answer
    results = json.loads(answer)["results"]
    assert [result["index"] for result in results] == [1, 0]
    assert results[0]["relevance_score"] > results[1]["relevance_score"]
    if model == RANKER:  # whose newest version repeats no documents
        assert told["x-weir-dropped-params"] == "return_documents"
    else:
        assert results[0]["document"] == {"text": "a red car"}
    response = worker.call(told["x-weir-request-id"])[1]
    assert response.units == {"search": 1}


@pytest.mark.req("BEY-18")
def test_a_ranker_behind_coheres_client(worker: Worker) -> None:
    ranked = cohere_client(worker).rerank(
        model="ranker/rerank-v3.5", query="red car", documents=["the sea", "a red car"]
    )
    assert [result.index for result in ranked.results] == [1, 0]


def test_rankings_by_tokens_are_read() -> None:
    body = {
        "model": "jina-reranker-v2",
        "usage": {"total_tokens": 15},
        "results": [{"index": 0, "document": {"text": "x"}, "relevance_score": 0.8}],
    }
    answer = RERANK.read_answer(json.dumps(body).encode())
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (15, 0)
    written = json.loads(COHERE_RERANK.write_answer(answer, None))
    check(written, V2RerankResponse)
    with pytest.raises(UpstreamProtocol):
        RERANK.read_answer(b"{}")


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m", "query": "x", "documents": []},
        {"model": "m", "documents": ["x"]},
        {"model": "m", "query": "x", "documents": "x"},
        {"query": "x", "documents": ["x"]},
    ],
)
def test_what_is_no_request_to_rank(body: Any) -> None:
    with pytest.raises(InvalidRequest):
        RERANK.open(fields(body))


def test_chat_models_do_not_rank(worker: Worker) -> None:
    body = {"model": "openai/gpt-4o-mini", "query": "x", "documents": ["x"]}
    status, _, _ = worker.request("POST", "/v2/rerank", body)
    assert status >= 400
