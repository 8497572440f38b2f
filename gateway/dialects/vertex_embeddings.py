"""Vertex AI's embeddings as its side speaks them: `batchEmbedContents` of Gemini's models, `predict` of
those before them.

Its `batchEmbedContents` is not the Gemini API's: what vectors are to be like lies in a member of its
own. A provider of Gemini's dialect says by its option ``embeddings = "vertex"`` that it speaks this.

Sources: Vertex AI, "Text embeddings API"
(https://cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api); the
vendor's client google-genai, `Models.embed_content`, which tells the methods by the model's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import msgspec

from gateway.dialects.gemini_base import model_place
from gateway.dialects.gemini_embeddings import GeminiEmbeddings, wishes
from gateway.dialects.neutral import Answer, Embed, Embedded, Json, Usage
from gateway.dialects.reading import texts_of
from schemas.errors import UpstreamProtocol

_encode = msgspec.json.encode


class _Statistics(msgspec.Struct):
    token_count: float


class _Vector(msgspec.Struct):
    values: msgspec.Raw
    statistics: _Statistics | None = None


class _Prediction(msgspec.Struct):
    embeddings: _Vector


class _Predicted(msgspec.Struct):
    predictions: list[_Prediction]


_read_predicted = msgspec.json.Decoder(_Predicted).decode


class VertexEmbeddings(GeminiEmbeddings):
    """Vectors of texts. It is a dialect of providers alone: clients speak the Gemini API's."""

    name = "vertex"
    client_paths: ClassVar[Mapping[str, Json]] = {}

    def path_of(self, model: str, stream: bool) -> str:
        del stream
        return f"/{model_place(model)}:{'predict' if _predicts(model) else 'batchEmbedContents'}"

    def write_request(self, chat: Embed, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        texts, wanted = texts_of(chat), wishes(chat)
        if not _predicts(model):
            wish = {"embedContentConfig": wanted} if wanted else {}
            contents = [{"parts": [{"text": text}]} for text in texts]
            return _encode({"requests": [{"content": content, **wish} for content in contents]})
        task = wanted.pop("taskType", None)
        kind = {"task_type": task} if task else {}
        instances = [{"content": text, **kind} for text in texts]
        return _encode({"instances": instances, "parameters": wanted})

    def read_answer(self, body: bytes) -> Answer:
        try:
            vectors = [one.embeddings for one in _read_predicted(body).predictions]
        except msgspec.ValidationError:
            return super().read_answer(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer holds no embeddings: {error}") from error
        tokens = [vector.statistics.token_count for vector in vectors if vector.statistics]
        usage = Usage(round(sum(tokens)), None, 0) if len(tokens) == len(vectors) else None
        return Embedded(id="", model="", usage=usage, read=partial(_numbers, vectors))


def _predicts(model: str) -> bool:
    """Whether a model is one of those before Gemini's."""
    return "gemini" not in model.rpartition("/")[2]


def _numbers(vectors: list[_Vector]) -> list[list[float]]:
    try:
        return [msgspec.json.decode(vector.values, type=list[float]) for vector in vectors]
    except msgspec.DecodeError as error:
        raise UpstreamProtocol(f"the answer's embeddings cannot be read: {error}") from error


VERTEX_EMBEDDINGS = VertexEmbeddings()
