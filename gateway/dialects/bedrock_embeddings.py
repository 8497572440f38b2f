"""Embeddings of Amazon Bedrock by InvokeModel, as its side speaks it: Titan's and Cohere's models.

The body of InvokeModel is the model's own, so this is a dialect of providers alone: clients speak
OpenAI's, Gemini's or Cohere's embeddings.

Sources: Amazon Bedrock user guide, "Amazon Titan Embeddings Text"
(https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html) and "Cohere
Embed" (…/model-parameters-embed.html); API reference, "InvokeModel", for the header of its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from urllib.parse import quote

import msgspec

from gateway.dialects.bedrock_base import BedrockBase
from gateway.dialects.cohere_embeddings import KIND_DEFAULT
from gateway.dialects.neutral import Answer, Embed, Embedded, Json, Usage
from gateway.dialects.reading import texts_of
from schemas.errors import InvalidRequest, UpstreamProtocol

TOKENS_HEADER = b"x-amzn-bedrock-input-token-count"
_encode = msgspec.json.encode


class _Tally(msgspec.Struct, rename="camel"):
    """An answer with its vectors unread: Titan gives one, Cohere's models a list of them by type."""

    embedding: msgspec.Raw = msgspec.Raw()
    embeddings: msgspec.Raw = msgspec.Raw()
    input_text_token_count: int | None = None


class _ByType(msgspec.Struct):
    floats: list[list[float]] = msgspec.field(name="float")


_read_tally = msgspec.json.Decoder(_Tally).decode
_read_one = msgspec.json.Decoder(list[float]).decode
_read_by_type = msgspec.json.Decoder(_ByType).decode


class BedrockEmbeddings(BedrockBase):
    """Vectors of texts."""

    surface = "embeddings"

    def path_of(self, model: str, stream: bool) -> str:
        del stream
        return f"/model/{quote(model, safe='')}/invoke"

    def write_request(self, chat: Embed, model: str, max_output_tokens: int | None) -> bytes:
        del max_output_tokens
        texts = texts_of(chat)
        if _is_coheres(model):
            body: Json = {"texts": texts, "input_type": chat.kind or KIND_DEFAULT}
            body["embedding_types"] = ["float"]
            size = "output_dimension"
        elif "titan-embed" in model:
            if len(texts) != 1:
                raise InvalidRequest(
                    f"{model} makes the vector of one text a call, this call has {len(texts)}",
                    action="Send the texts one by one, or name a model that takes several.",
                )
            body, size = {"inputText": texts[0]}, "dimensions"
        else:
            raise InvalidRequest(
                f"{model} is no embeddings model of Bedrock whose form is known",
                action="Name a model of Titan Text Embeddings or Cohere Embed.",
            )
        if chat.dimensions is not None:
            body[size] = chat.dimensions
        return _encode(body)

    def unsaid(self, chat: Embed, model: str) -> list[str]:
        names = [] if chat.user is None else ["user"]
        return names if chat.kind is None or _is_coheres(model) else [*names, "input_type"]

    def read_answer(self, body: bytes) -> Answer:
        try:
            tally = _read_tally(body)
        except msgspec.DecodeError as error:
            raise UpstreamProtocol(f"the answer holds no embeddings: {error}") from error
        if not (tally.embedding or tally.embeddings):
            raise UpstreamProtocol("the answer holds no embeddings")
        tokens = tally.input_text_token_count
        usage = None if tokens is None else Usage(tokens, None, 0)
        return Embedded(id="", model="", usage=usage, read=partial(_vectors, tally))

    def counted(self, answer: Answer, headers: Mapping[bytes, bytes]) -> Answer:
        """Cohere's models leave it to the header to tell the tokens."""
        tokens = headers.get(TOKENS_HEADER, b"")
        if not tokens.isdigit():
            return answer
        return msgspec.structs.replace(answer, usage=Usage(int(tokens), None, 0))


def _is_coheres(model: str) -> bool:
    return "cohere.embed" in model


def _vectors(tally: _Tally) -> list[list[float]]:
    try:
        if tally.embeddings:
            return _read_by_type(tally.embeddings).floats
        return [_read_one(tally.embedding)]
    except msgspec.DecodeError as error:
        raise UpstreamProtocol(f"the answer's embeddings cannot be read: {error}") from error


BEDROCK_EMBEDDINGS = BedrockEmbeddings()
