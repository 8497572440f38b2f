"""What callers are told of what went wrong, in the words of their own clients."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import anthropic
import boto3
import cohere
import openai
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from cohere.core.api_error import ApiError
from google import genai
from google.genai import errors as genai_errors

from gateway.dialects.reading import classify
from schemas.errors import (
    UpstreamAuthentication,
    UpstreamForbidden,
    UpstreamOverloaded,
)
from schemas.events.changes import GuardrailChanged, RouteTarget
from tests.gateway.worker import META, SECRET, Worker, provider, route, target
from tests.sandbox.served import Served

MODEL = "gpt-4o-mini"
HELLO: Any = [{"role": "user", "content": "Say hello."}]
_numbers = itertools.count()


def alone(worker: Worker, sandbox: Served, fault: dict[str, Any]) -> str:
    """Return a target that has the fault, under a name that nothing is known of yet."""
    name = f"told{next(_numbers)}"
    sandbox.behave(MODEL, f"/{name}", faults=[fault])
    worker.change(provider(name, "openai", f"{sandbox.url}/{name}/v1"))
    return f"{name}/{MODEL}"


@pytest.mark.req("PROV-07", "RT-08")
@pytest.mark.parametrize("kind", ["unavailable", "overloaded"])
def test_a_lone_target_that_is_overloaded_is_told_as_such(
    worker: Worker, sandbox: Served, kind: str
) -> None:
    model = alone(worker, sandbox, {"kind": kind, "retry_after_s": 7})
    with pytest.raises(openai.InternalServerError) as found:
        worker.openai().chat.completions.create(model=model, messages=HELLO)
    assert (found.value.status_code, found.value.code) == (503, "upstream_overloaded")
    assert found.value.response.headers["retry-after"] == "7"
    with pytest.raises(anthropic.APIStatusError) as seen:
        worker.anthropic().messages.create(model=model, messages=HELLO, max_tokens=5)
    assert seen.value.status_code == 503
    assert seen.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]


@pytest.mark.req("PROV-07", "RT-08")
def test_who_is_told_to_wait_hears_how_long_even_where_the_vendor_named_no_time(
    worker: Worker, sandbox: Served
) -> None:
    model = alone(worker, sandbox, {"kind": "unavailable"})
    with pytest.raises(openai.InternalServerError) as found:
        worker.openai().chat.completions.create(model=model, messages=HELLO)
    assert (found.value.status_code, found.value.code) == (503, "upstream_overloaded")
    assert found.value.response.headers["retry-after"] == "1"


@pytest.mark.req("PROV-07")
def test_529_is_overload_and_names_no_time_where_the_vendor_named_none() -> None:
    error = classify(529, "overloaded_error", "Overloaded")
    assert isinstance(error, UpstreamOverloaded)
    assert error.retry_after_seconds is None
    assert error.error_class == "server"


@pytest.mark.req("GEN-05")
@pytest.mark.parametrize("name", ["vectors/embed-3", "vectors-route", "embed-3"])
def test_a_model_that_cannot_do_what_is_asked_is_the_callers_mistake(
    worker: Worker, sandbox: Served, name: str
) -> None:
    worker.change(
        provider("vectors", "openai", f"{sandbox.url}/vectors/v1"),
        target("vectors", "embed-3", capabilities=["embeddings"]),
        route("vectors-route", RouteTarget("vectors/embed-3")),
    )
    before = len(sandbox.rows("/vectors"))
    with pytest.raises(openai.BadRequestError, match="takes chat calls"):
        worker.openai().chat.completions.create(model=name, messages=HELLO)
    assert len(sandbox.rows("/vectors")) == before


@pytest.mark.req("PROV-07", "PROV-09")
@pytest.mark.parametrize(
    ("status", "kind", "message", "expected"),
    [
        (401, "", "You do not have access to the model", UpstreamAuthentication),
        (403, "", "You are not allowed to generate embeddings from gpt-4o.", UpstreamForbidden),
        (403, "", "Project p does not have access to model `o3`", UpstreamForbidden),
        (403, "", "You don't have access to the model with the specified ID.", UpstreamForbidden),
        (
            403,
            "PERMISSION_DENIED",
            "Permission 'aiplatform.endpoints.predict' denied",
            UpstreamForbidden,
        ),
        (
            403,
            "permission_error",
            "Your API key does not have permission to use the specified resource.",
            UpstreamForbidden,
        ),
        (403, "", "The security token in the request is invalid.", UpstreamAuthentication),
        (
            403,
            "PERMISSION_DENIED",
            "Your API key was reported as leaked. It has no access to models.",
            UpstreamAuthentication,
        ),
        (403, "", "Country, region, or territory not supported", UpstreamAuthentication),
        (403, "", "", UpstreamAuthentication),
    ],
)
def test_a_403_says_whether_the_key_is_to_blame(
    status: int, kind: str, message: str, expected: type
) -> None:
    assert type(classify(status, kind, message)) is expected


@pytest.mark.req("PROV-07", "PROV-09")
def test_a_forbidden_model_sets_no_key_aside(
    own_worker: Worker, sandbox: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWO_KEYS_A", "sk-first")
    monkeypatch.setenv("TWO_KEYS_B", "sk-second")
    fields: Any = {"secret": "env:TWO_KEYS_A", "secrets": ["env:TWO_KEYS_B"]}
    own_worker.change(provider("keys", "openai", f"{sandbox.url}/keys/v1", **fields))
    own_worker.change(route("by-route", RouteTarget("keys/gpt-4o")))
    with pytest.raises(openai.PermissionDeniedError, match="not allowed"):
        own_worker.openai().embeddings.create(model="keys/gpt-4o", input="x")
    assert own_worker.app.proxy.book.standing("keys/gpt-4o", 1, 0).success == 1
    with pytest.raises(openai.PermissionDeniedError) as found:
        own_worker.openai().embeddings.create(model="by-route", input="x")
    assert found.value.code == "upstream_forbidden"
    assert own_worker.responses()[-1].attempts[0].error_class == "permission"
    (ring,) = own_worker.app.proxy._upstream._rings.values()
    assert {ring.take() for _ in range(4)} == {"env:TWO_KEYS_A", "env:TWO_KEYS_B"}


def by_openai(worker: Worker) -> Any:
    with pytest.raises(openai.BadRequestError) as found:
        worker.openai().chat.completions.create(model="guarded", messages=HELLO)
    assert found.value.code == "guardrail_blocked"
    return found.value.body


def by_anthropic(worker: Worker) -> Any:
    with pytest.raises(anthropic.BadRequestError) as found:
        worker.anthropic().messages.create(model="guarded", messages=HELLO, max_tokens=5)
    return found.value.body["error"]  # type: ignore[index]


def by_cohere(worker: Worker) -> Any:
    client = cohere.ClientV2(SECRET, base_url=worker.url, timeout=20)
    with pytest.raises(ApiError) as found:
        client.chat(model="guarded", messages=HELLO)
    return found.value.body


def by_boto3(worker: Worker) -> Any:
    client = boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=worker.url,
        config=Config(retries={"total_max_attempts": 1}),
        aws_access_key_id="weir",
        aws_secret_access_key="weir",
        aws_session_token=SECRET,
    )
    said: Any = [{"role": "user", "content": [{"text": "Say hello."}]}]
    with pytest.raises(ClientError) as found:
        client.converse(modelId="guarded", messages=said)
    assert found.value.response["Error"]["Code"] == "ValidationException"
    headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}
    _, _, body = worker.request("POST", "/model/guarded/converse", {"messages": said}, headers)
    return json.loads(body)


@pytest.mark.req("GW-16", "BEY-16")
@pytest.mark.parametrize("ask", [by_openai, by_anthropic, by_cohere, by_boto3])
def test_the_vendors_clients_read_errors_that_say_what_to_do(
    worker: Worker, ask: Callable[[Worker], Any]
) -> None:
    guard(worker)
    told = ask(worker)
    assert told["action"].startswith("Take out what the details name")
    assert told["details"] == ["words"]


@pytest.mark.req("GW-16", "BEY-16")
def test_geminis_client_reads_them_in_its_own_form(worker: Worker) -> None:
    guard(worker)
    options = genai.types.HttpOptions(base_url=worker.url, api_version="v1beta")
    client = genai.Client(api_key=SECRET, http_options=options)
    with pytest.raises(genai_errors.ClientError) as found:
        client.models.generate_content(model="guarded", contents="Say hello.")
    details = found.value.details["error"]["details"]
    assert details[0]["metadata"]["action"].startswith("Take out what the details name")
    assert details[1]["fieldViolations"] == [{"description": "words"}]


def guard(worker: Worker) -> None:
    words = GuardrailChanged(
        **META, name="hello", kind="words", stages=["request"], action="block", words=["hello"]
    )
    worker.change(words, route("guarded", RouteTarget(f"openai/{MODEL}"), guardrails=["hello"]))
