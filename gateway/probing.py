"""Whether a provider answers with the key that it was given: a real call that costs nothing.

Most vendors list their models for whoever has a key. Where a vendor does not, or lists them for
everybody, it is asked something that it must refuse: a chat without messages. It checks the key first,
so a refusal of the request says that the key is good. `options["probe"]` of a provider is a path to ask
instead, or ``refusal``.
"""

from __future__ import annotations

import time

import msgspec

from gateway.dialects.neutral import Chat, Dialect
from gateway.dialects.registry import dialect
from gateway.health import CALLER_ERRORS
from gateway.upstream import Endpoint, Failed, Upstream, read_whole
from schemas.errors import UpstreamModelMissing, UpstreamNetwork
from schemas.events.changes import ProviderChanged

REFUSAL = "refusal"
WAIT_S = 10.0
LIST_BYTES_MAX = 16 * 1024 * 1024
_UNREACHABLE = "Check the provider's base_url, and that this machine can reach it."


class Probe(msgspec.Struct, frozen=True):
    """How a provider answered. `models` is its own list, None where it was not asked for one.

    `error` and `action` are None when all is well; `latency_ms` is None when nothing was sent.
    """

    provider: str
    ok: bool
    latency_ms: float | None
    error_code: str | None = None
    error: str | None = None
    action: str | None = None
    models: list[str] | None = None


class _Entry(msgspec.Struct):
    id: str = ""


class _Page(msgspec.Struct):
    data: list[_Entry] = []


_read_page = msgspec.json.Decoder(_Page).decode


async def probe(upstream: Upstream, provider: ProviderChanged, model: str | None) -> Probe:
    """Ask a provider; `model` is one that it has, for those who must be asked for a chat."""
    spoken = dialect(provider.dialect)
    if spoken is None:
        told = f"nobody here speaks '{provider.dialect}'"
        return Probe(provider.name, False, None, "configuration_error", told)
    path = provider.options.get("probe") or spoken.models_path
    if path in {None, REFUSAL} and model is None:
        action = f"Name one: [providers.{provider.name}] models."
        told = "it can only be asked for a chat, and no model of it is listed"
        return Probe(provider.name, False, None, "configuration_error", told, action)
    started_s = time.perf_counter()
    try:
        endpoint = upstream.endpoint(provider, spoken)
        started_s = time.perf_counter()  # what the vendor takes, not what finding its key does
        if path is None or path == REFUSAL:
            models = None
            await _refused(upstream, endpoint, spoken, model or "")
        else:
            models = await _listed(upstream, endpoint, path)
    except Failed as failure:
        error = failure.error
        spent_ms = None if failure.status is None else _ms_since(started_s)
        advice = _UNREACHABLE if isinstance(error, UpstreamNetwork) else error.advice
        return Probe(provider.name, False, spent_ms, error.code, error.message, advice)
    return Probe(provider.name, True, _ms_since(started_s), models=models)


def _ms_since(started_s: float) -> float:
    return round((time.perf_counter() - started_s) * 1000, 1)


async def _listed(upstream: Upstream, endpoint: Endpoint, path: str) -> list[str] | None:
    connection = await upstream.ask(endpoint, path, WAIT_S)
    body = await read_whole(connection, WAIT_S, LIST_BYTES_MAX)
    try:
        return [entry.id for entry in _read_page(body).data if entry.id] or None
    except msgspec.DecodeError:
        return None  # it answered with the key: what it said is no list of models


async def _refused(upstream: Upstream, endpoint: Endpoint, spoken: Dialect, model: str) -> None:
    """Ask for what must be refused. Raises Failed for every other reason."""
    body = spoken.write_request(Chat(messages=[], max_tokens=1), model, None)
    target = endpoint.target(model, stream=False)
    try:
        connection = await upstream.open(
            endpoint, target, body, (), connect_s=WAIT_S, first_byte_s=WAIT_S
        )
    except Failed as failure:
        missing = isinstance(failure.error, UpstreamModelMissing)
        if missing or failure.error.error_class not in CALLER_ERRORS:
            raise
        return
    await read_whole(connection, WAIT_S, LIST_BYTES_MAX)
