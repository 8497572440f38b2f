"""What can be asked for as `model`: routes, targets and tuned versions."""

from __future__ import annotations

import msgspec

from gateway.dialects.neutral import Json
from gateway.routing import AUTO
from gateway.state import GatewayState
from schemas.access import Grant
from schemas.clock import now_us
from schemas.errors import InvalidRequest, ModelNotFound
from schemas.events.changes import PriceChanged, PriceTier
from schemas.money import to_usd
from schemas.routing import Target

LIST_MAX = 1_000
_encode = msgspec.json.encode


def openai_list(state: GatewayState, grant: Grant) -> bytes:
    """Return the models as OpenAI lists them."""
    models = [_openai(name, owner) for name, owner in _names(state, grant)]
    return _encode({"object": "list", "data": models})


def openai_model(state: GatewayState, grant: Grant, name: str) -> bytes:
    """Return one model. Raises ModelNotFound."""
    return _encode(_openai(name, _owner(state, grant, name)))


def anthropic_list(state: GatewayState, grant: Grant, limit: int = LIST_MAX) -> bytes:
    """Return the models as Anthropic lists them."""
    names = _names(state, grant)
    models = [_anthropic(name) for name, _ in names[:limit]]
    return _encode(
        {
            "data": models,
            "has_more": len(names) > limit,
            "first_id": models[0]["id"] if models else None,
            "last_id": models[-1]["id"] if models else None,
        }
    )


def anthropic_model(state: GatewayState, grant: Grant, name: str) -> bytes:
    """Return one model. Raises ModelNotFound."""
    _owner(state, grant, name)
    return _encode(_anthropic(name))


def gemini_list(state: GatewayState, grant: Grant) -> bytes:
    """Return the models as Gemini lists them."""
    return _encode({"models": [_gemini(state, name) for name, _ in _names(state, grant)]})


def gemini_model(state: GatewayState, grant: Grant, name: str) -> bytes:
    """Return one model. Raises ModelNotFound."""
    _owner(state, grant, name)
    return _encode(_gemini(state, name))


def _gemini(state: GatewayState, name: str) -> Json:
    target = state.targets.get(name)
    capabilities = target.capabilities if target else frozenset[str]()
    embeds = "embeddings" in capabilities
    model: Json = {
        "name": f"models/{name}",
        "version": "1",
        "displayName": name,
        "supportedGenerationMethods": ["embedContent"]
        if embeds
        else ["generateContent", "countTokens"],
    }
    if target is not None and target.context_length is not None:
        model["inputTokenLimit"] = target.context_length
    if target is not None and target.max_output_tokens is not None:
        model["outputTokenLimit"] = target.max_output_tokens
    return model


def own_list(state: GatewayState, grant: Grant, filters: dict[str, str]) -> bytes:
    """Return the models of GW-05, filtered by type, provider, capability, status.

    Raises InvalidRequest for an unknown filter or a limit that is no number.
    """
    try:
        limit = int(filters.pop("limit", "100"))
        offset = int(filters.pop("offset", "0"))
    except ValueError as error:
        raise InvalidRequest("limit and offset must be numbers") from error
    unknown = set(filters) - {"type", "provider", "capability", "status"}
    if unknown or not 1 <= limit <= LIST_MAX or offset < 0:
        raise InvalidRequest(f"unknown filters or bounds: {', '.join(sorted(unknown)) or limit}")
    capability = filters.pop("capability", None)
    rows = (
        [
            row
            for target in _targets(state, grant)
            if all(
                (row := own_row(state, target))[name] == value for name, value in filters.items()
            )
            and (capability is None or capability in row["capabilities"])
        ]
        if filters
        else [
            own_row(state, target)
            for target in _targets(state, grant)
            if capability is None or capability in target.capabilities
        ]
    )
    page = {"items": rows[offset : offset + limit], "total": len(rows)}
    return _encode({**page, "limit": limit, "offset": offset})


def own_model(state: GatewayState, grant: Grant, name: str) -> bytes:
    """Return one model of GW-05 by id or bare name. Raises ModelNotFound."""
    known = _targets(state, grant)
    target = next((it for it in known if it.id == name), None)
    target = target or next((it for it in known if it.model == name), None)
    if target is None:
        raise ModelNotFound(f"the model '{name}' is not known to this gateway")
    return _encode(own_row(state, target))


def own_row(state: GatewayState, target: Target) -> Json:
    """Return what is known of a target."""
    price = state.price(target.provider, target.model, now_us())
    tuned = target.deployment_id is not None
    kind = "fine_tuned" if tuned else "local" if target.provider == "local" else "commercial"
    available = target.provider in state.providers
    return {
        "id": target.id,
        "name": target.model,
        "type": kind,
        "provider": target.provider,
        "base_model": None,
        "version": None,
        "deployment_id": target.deployment_id,
        "status": "available" if available else "disabled",
        "context_length": target.context_length,
        "max_output_tokens": target.max_output_tokens,
        "prices": _prices(price),
        "capabilities": sorted(target.capabilities),
        "loaded": None,
    }


def _prices(price: PriceChanged | None) -> Json | None:
    if price is None:
        return None
    tiers = [{"above_input_tokens": it.above_input_tokens, **_rates(it)} for it in price.tiers]
    return {**_rates(price), "tiers": tiers, "price_version": price.price_version}


def _rates(price: PriceChanged | PriceTier) -> Json:
    usd = {
        "input_usd_per_million": price.input_price,
        "cached_input_usd_per_million": price.cached_input_price,
        "output_usd_per_million": price.output_price,
        "cache_write_input_usd_per_million": price.cache_write_input_price,
    }
    known = {name: None if value is None else to_usd(value) for name, value in usd.items()}
    units = {name: to_usd(value) for name, value in sorted(price.unit_prices.items())}
    return {**known, "units_usd_per_million": units}


def _targets(state: GatewayState, grant: Grant) -> list[Target]:
    """The targets that a key may use."""
    if not grant.narrowed:
        return list(state.targets.values())
    return [it for it in state.targets.values() if grant.allows(it.id)]


def _names(state: GatewayState, grant: Grant) -> list[tuple[str, str]]:
    """Every name that a key may ask for with its owner: routes, `auto`, then targets."""
    providers = state.providers
    targets = [it for it in _targets(state, grant) if it.provider in providers]
    names = {route: "weir" for route in state.routes if grant.allows(route)}
    if targets or grant.allows(AUTO):
        names[AUTO] = "weir"
    for target in targets:
        names.setdefault(target.id, target.provider)
    return list(names.items())


def _owner(state: GatewayState, grant: Grant, name: str) -> str:
    names = dict(_names(state, grant))
    if name in names:
        return names[name]
    for target in state.targets.values():
        if target.model == name and target.provider in state.providers:
            if not (grant.allows(name) or grant.allows(target.id)):
                continue
            return target.provider
    raise ModelNotFound(f"the model '{name}' does not exist or is not known to this gateway")


def _openai(name: str, owner: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _anthropic(name: str) -> Json:
    shown = name.rpartition("/")[2]
    created = "1970-01-01T00:00:00Z"
    return {"type": "model", "id": name, "display_name": shown, "created_at": created}
