"""Where a passed-through call goes, and what its path tells of it."""

from __future__ import annotations

import re
from functools import cache

import msgspec

from gateway.admission import PASS_PREFIX
from gateway.client import Client
from gateway.dialects.neutral import Dialect
from gateway.dialects.reading import member
from gateway.dialects.registry import Paths, dialects, provider_paths
from schemas.events.changes import ProviderChanged

RESOURCES = ("files", "uploads", "fine_tuning", "vector_stores", "conversations", "responses")
"""Vendor resources of OpenAI's clients, below ``/v1/``."""
_UNPAID = re.compile(rb"(?:v1/)?(?:files|uploads)(?:/|$)")
_UNBOUNDED = {
    "fine_tuning": "a fine-tune is paid by the tokens of its file and its epochs",
    "batches": "each line of the file is a call of its own (the gateway's own /v1/batches reserves them)",
    "vector_stores": "a vector store is paid by size and day",
    "conversations": "a stored conversation is read anew at every turn, however long it is",
    "responses": "a stored response is read anew, however long it is",
    "threads": "a stored thread is read anew at every run, however long it is",
    "realtime": "a session is paid by what is said in it",
}
"""What is paid by something that the request does not say, by a part of its path."""


class Place(msgspec.Struct, frozen=True):
    """Where a call goes: a provider's name (None: whoever serves OpenAI's dialect), and the rest."""

    provider: str | None
    rest: bytes


def place_of(client: Client) -> Place | None:
    """Return where a call is to be passed through to, None for every other path."""
    raw = client.raw_path or client.path.encode()
    if client.path.startswith(PASS_PREFIX):
        name, _, rest = raw.removeprefix(PASS_PREFIX.encode()).partition(b"/")
        return Place(name.decode("ascii", "replace"), rest)
    head, _, rest = raw.removeprefix(b"/v1/").partition(b"/")
    resource = head.decode("ascii", "replace")
    if not client.path.startswith("/v1/") or resource not in RESOURCES:
        return None
    # `POST /v1/responses` is a call of its own dialect.
    return Place(None, raw.removeprefix(b"/v1/")) if resource != "responses" or rest else None


def may_cost(method: str, rest: bytes, body: bytes) -> bool:
    """Whether a vendor may do paid work: some take a POST's content under another method, too."""
    return (method == "POST" or bool(body)) and not _UNPAID.match(rest)


def why_unbounded(provider: ProviderChanged, rest: bytes) -> str:
    """Return why nobody knows beforehand what a call will cost."""
    path = "/" + rest.decode("latin-1")
    if calls_of(provider).find(path) is not None:
        return "it names no model"
    for resource, why in _UNBOUNDED.items():
        if f"/{resource}" in path:
            return why
    return f"the gateway does not know what {path} is"


def calls_of(provider: ProviderChanged) -> Paths[Dialect]:
    """Return where, below its base URL, a provider takes what clients of its dialects ask."""
    return _calls(frozenset([provider.dialect, *provider.speaks]))


@cache
def _calls(names: frozenset[str]) -> Paths[Dialect]:
    spoken = [it for it in dialects() if it.name in names and it.client_paths]
    return Paths(spoken, provider_paths)


class _Named(msgspec.Struct):
    model: str | None = None


def model_of(provider: ProviderChanged, rest: bytes, body: bytes) -> str | None:
    """The model that a call names: in its path, where the provider's dialect has it there; else in a
    JSON body, which could say anything beside a path that nobody knows.
    """
    calls = calls_of(provider)
    found = calls.find("/" + rest.decode("latin-1"))
    if found is not None and "model" in found[1]:
        return member(found[1], "model", str)
    if found is None and calls.in_paths:
        return None
    try:
        return msgspec.json.decode(body, type=_Named).model
    except (msgspec.DecodeError, RecursionError):
        return None
