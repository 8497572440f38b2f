"""The OpenAPI document: valid as 3.1, and of the whole surface."""

from typing import Any
from unittest.mock import Mock

import jsonschema
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.app import CALLS, MODEL_LISTS
from gateway.dialects.neutral import ClientDialect
from gateway.dialects.registry import dialects
from gateway.generate import GENERATE
from infra.alerting.component import Alerting
from infra.alerting.outstanding import DELIVERY
from infra.audit import Auditor
from infra.control import build
from infra.door import Keys
from infra.openapi_calls import EXAMPLES, error_form, form_of
from schemas.errors import InvalidRequest, Unavailable
from schemas.key_view import KeyView

SPOKEN: list[ClientDialect] = [*dialects(), GENERATE]
FRONTS = [front for front in SPOKEN if front.client_paths]


@pytest.fixture(scope="module")
def document() -> Any:
    return build(Keys(KeyView(), "token"), []).openapi()


@pytest.mark.req("GEN-06", "BEY-12")
def test_it_is_openapi_3_1(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    ids = [
        operation["operationId"]
        for place in document["paths"].values()
        for operation in place.values()
    ]
    assert len(ids) == len(set(ids))


@pytest.mark.req("GEN-06", "BEY-12")
def test_every_path_of_the_gateway_is_told(document: Any) -> None:
    paths = document["paths"]
    for front in FRONTS:
        for path in front.client_paths:
            assert CALLS.find(path) is not None
            assert "post" in paths[path]
    assert set(MODEL_LISTS) <= set(paths)
    told = {"/v1/files", "/v1/batches", "/v1/messages/batches", "/generate/batch"}
    assert told | {"/routing/preview", "/passthrough/{provider}/{path}"} <= set(paths)


@pytest.mark.req("GEN-06", "GW-16")
@pytest.mark.parametrize("front", FRONTS, ids=lambda front: f"{front.name}-{front.surface}")
def test_errors_have_the_form_that_is_told(front: Any) -> None:
    for error in (InvalidRequest("no"), Unavailable("away", retry_after_seconds=0.5)):
        body = msgspec.json.decode(front.write_error(error, error.status, "r"))
        jsonschema.validate(body, error_form(front))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"detail": "somebody else's form"}, error_form(front))


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: f"{front.name}-{front.surface}")
def test_every_body_has_an_example_that_its_form_allows(document: Any, front: Any) -> None:
    if front is GENERATE:
        return
    assert EXAMPLES[front.name, front.surface]
    for path in front.client_paths:
        (media,) = document["paths"][path]["post"]["requestBody"]["content"].values()
        if "example" in media:
            jsonschema.validate(media["example"], media["schema"])


def test_what_a_dialect_insists_on_is_required(document: Any) -> None:
    def needed(path: str) -> set[str]:
        (media,) = document["paths"][path]["post"]["requestBody"]["content"].values()
        return set(media["schema"]["required"])

    assert needed("/v1/chat/completions") == {"model", "messages"}
    assert needed("/v1/messages") == {"model", "messages", "max_tokens"}
    assert needed("/v1beta/models/{model}:generateContent") == {"contents"}


def test_a_form_is_what_all_samples_share() -> None:
    assert form_of({"a": 1, "b": None}, {"a": 2, "b": "x", "c": True}) == {
        "type": "object",
        "properties": {"a": {"type": ["number"]}, "b": {"type": ["null", "string"]}},
        "required": ["a", "b"],
    }


@pytest.mark.req("GEN-06")
def test_a_stream_of_news_is_told_like_every_answer() -> None:
    log: Any = Mock()
    alerting = Alerting(log, DELIVERY, Auditor(log))
    document = build(Keys(KeyView(), "token"), alerting.routers).openapi()
    answers = document["paths"]["/api/v1/admin/alerts/stream"]["get"]["responses"]
    assert "text/event-stream" in answers["200"]["content"]
    assert not {"402", "502", "504"} & set(answers)
