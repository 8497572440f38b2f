"""A gateway's state made by hand, and the words to make it of."""

import hashlib
from typing import Any

from gateway.state import GatewayState
from schemas.event import Event
from schemas.events.changes import (
    Change,
    KeyChanged,
    PriceChanged,
    ProviderChanged,
    RouteChanged,
    TargetChanged,
)
from schemas.table_view import TableView

SECRET = "weir-test-key"


def put(state: GatewayState, *events: Change) -> None:
    """Make events part of a state."""
    views: dict[type[Event], TableView[Any]] = {
        view.event_type: view for view in state.durable_views
    }
    for event in events:
        view = views[type(event)]
        view.entries[event.key] = event
        view.generation += 1


META: dict[str, Any] = {
    "event_id": "e",
    "occurred_at_us": 1,
    "entity_version": 1,
    "actor": "test",
}


def key(secret: str = SECRET, **fields: Any) -> KeyChanged:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    fields = {"key_id": f"key-{digest[:6]}", "name": "test", "scopes": ["inference"], **fields}
    return KeyChanged(**META, secret_hash=digest, **fields)


def provider(name: str, dialect: str, url: str, **fields: Any) -> ProviderChanged:
    fields = {"secret": "env:TEST_PROVIDER_KEY", **fields}
    return ProviderChanged(**META, name=name, dialect=dialect, base_url=url, **fields)


def target(name: str, model: str, **fields: Any) -> TargetChanged:
    fields = {"capabilities": ["chat", "stream", "tools"], **fields}
    return TargetChanged(**META, provider=name, model=model, **fields)


def route(name: str, *targets: Any, **fields: Any) -> RouteChanged:
    return RouteChanged(**META, name=name, targets=list(targets), **fields)


def price(name: str, model: str, input_price: int, output_price: int) -> PriceChanged:
    return PriceChanged(
        **META,
        provider=name,
        model=model,
        valid_from_us=0,
        input_price=input_price,
        output_price=output_price,
        price_version="test-1",
        source="test",
    )


def sandbox_state(url: str) -> GatewayState:
    """A state with both vendors of the sandbox and two further bases of the OpenAI kind."""
    state = GatewayState()
    put(
        state,
        key(),
        provider(
            "openai", "openai", f"{url}/v1", speaks=["openai_responses", "openai_completions"]
        ),
        provider("anthropic", "anthropic", url),
        provider("a", "openai", f"{url}/a/v1"),
        provider("b", "openai", f"{url}/b/v1"),
        target("openai", "gpt-4o-mini"),
        target("openai", "gpt-4o"),
        target("anthropic", "claude-sonnet-4-5", max_output_tokens=64_000),
        price("openai", "gpt-4o-mini", 150_000_000, 600_000_000),
        price("anthropic", "claude-sonnet-4-5", 3_000_000_000, 15_000_000_000),
    )
    return state
