"""Takes a LiteLLM proxy's config.yaml over, and says line by line what could not be.

Written from that project's pages "Proxy Config.yaml", "All settings", "Load Balancing" and "Fallbacks".
A group of deployments (`model_name`) becomes a route of the same name.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.configuration import Document
from infra.tables import (
    LimitTable,
    PriceTable,
    ProviderTable,
    RouteTable,
    RouteTargetTable,
    TargetTable,
)
from infra.vendors import VENDORS, Vendor, fill

_ENVIRONMENT = "os.environ/"
_PREFIXES = {
    "azure_ai": "azure",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "nvidia_nim": "nvidia",
    "ollama_chat": "ollama",
    "hosted_vllm": "vllm",
    "bedrock_converse": "bedrock",
    "bedrock/converse": "bedrock",
    "vertex_ai": "vertex",
    "vertex_ai_beta": "vertex",
    "cohere_chat": "cohere",
    "text-completion-openai": "openai",
    "custom_openai": "openai",
    "openai_like": "openai",
    "xinference": "openai",
    "lm_studio": "openai",
    "llamafile": "openai",
    "litellm_proxy": "openai",
}
"""Prefixes of model names that are called otherwise here."""
_STRATEGIES = {
    "simple-shuffle": "weighted",
    "least-busy": "load_balanced",
    "usage-based-routing": "load_balanced",
    "usage-based-routing-v2": "load_balanced",
    "latency-based-routing": "latency_optimized",
    "cost-based-routing": "cost_optimized",
}
_FALLBACK_STEP = 10
"""Priorities count down by this for each further fallback."""
_OWN_LIMITS = frozenset({"rpm", "tpm", "max_parallel_requests"})
_PLACES = {
    "aws_region_name": "AWS_REGION",
    "vertex_location": "GOOGLE_CLOUD_LOCATION",
    "vertex_project": "GOOGLE_CLOUD_PROJECT",
    "api_version": "OPENAI_API_VERSION",
}
"""What an entry says of where it lives, and the variables of our rows that mean the same."""
_READ = frozenset(
    {
        "model",
        "api_base",
        "base_url",
        "api_key",
        "weight",
        "order",
        "timeout",
        "stream_timeout",
        "extra_headers",
        "input_cost_per_token",
        "output_cost_per_token",
        *_OWN_LIMITS,
        *_PLACES,
    }
)
_AZURE_V1 = frozenset({"v1", "preview", "latest"})
"""Versions whose path is the newer one, without deployments."""
_PER_MILLION = 1_000_000


@dataclass
class _Work:
    """What has been made so far."""

    providers: dict[str, ProviderTable] = field(default_factory=dict)
    targets: dict[str, TargetTable] = field(default_factory=dict)
    prices: dict[str, PriceTable] = field(default_factory=dict)
    groups: dict[str, list[RouteTargetTable]] = field(default_factory=dict)
    timeouts: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def take_over(tables: Mapping[str, Any]) -> tuple[Document, list[str]]:
    """The file for `weir apply`, and a note for everything that is not in it."""
    work = _Work()
    for number, row in enumerate(tables.get("model_list") or []):
        _deployment(work, f"model_list[{number}]", row)
    settings = {**(tables.get("litellm_settings") or {}), **(tables.get("router_settings") or {})}
    routes = _routes(work, settings)
    _aliases(work, routes, settings)
    _leftovers(work, tables)
    document = Document(
        name="litellm",
        providers=work.providers,
        targets=work.targets,
        prices=work.prices,
        routes=routes,
        limits=_limits(tables.get("general_settings") or {}),
    )
    return document, work.notes


# --- deployments -----------------------------------------------------------------------------------


def _deployment(work: _Work, where: str, row: Mapping[str, Any]) -> None:
    params = row.get("litellm_params") or {}
    name, model = row.get("model_name"), params.get("model")
    if not name or not model:
        work.notes.append(f"{where}: it has no model_name or no litellm_params.model")
        return
    where = f"{where} ({name})"
    prefix, target = _split(str(model))
    vendor = _vendor(prefix)
    if vendor is None and not (params.get("api_base") or params.get("base_url")):
        work.notes.append(
            f"{where}: the provider of {model} is not known here; add [providers.{prefix}]"
        )
        return
    provider = _provider(work, where, vendor or prefix, params)
    _unread(work, where, row, params)
    if "*" in str(name) or "*" in target:
        if target != "*" or name not in {"*", f"{prefix}/*"}:
            work.notes.append(
                f"{where}: a pattern is no route; clients ask for {provider}/MODEL, listed or not"
            )
        return
    target_id = f"{provider}/{target}"
    work.targets.setdefault(target_id, _target(row.get("model_info") or {}))
    _price(work, target_id, {**(row.get("model_info") or {}), **params})
    entry = RouteTargetTable(
        target=target_id,
        weight=int(params.get("weight") or params.get("rpm") or 1),
        priority=-int(params.get("order") or 0),
    )
    work.groups.setdefault(str(name), []).append(entry)
    if timeout := params.get("timeout"):
        work.timeouts[str(name)] = max(float(timeout), work.timeouts.get(str(name), 0.0))


def _split(model: str) -> tuple[str, str]:
    """`provider/model` in that product's words; a bare name is OpenAI's, or Anthropic's."""
    for prefix in sorted(_PREFIXES, key=len, reverse=True):
        if model.startswith(f"{prefix}/"):
            return prefix, model.removeprefix(f"{prefix}/")
    prefix, slash, rest = model.partition("/")
    if slash and (_vendor(prefix) or prefix in {"openai", "anthropic", "azure"}):
        return prefix, rest
    if not slash:
        return ("anthropic" if model.startswith("claude") else "openai"), model
    return prefix, rest


def _vendor(prefix: str) -> str | None:
    name = _PREFIXES.get(prefix, prefix)
    return name if any(vendor.name == name for vendor in VENDORS) else None


def _provider(work: _Work, where: str, vendor: str, params: Mapping[str, Any]) -> str:
    """The name of a provider with this address and key; it is made where there is none yet."""
    if vendor == "azure" and _deployed(params):
        vendor = "azure-deployments"
    known = next((it for it in VENDORS if it.name == vendor), None)
    base_url = _text(work, where, "api_base", params.get("api_base") or params.get("base_url"))
    usual_url, options = _usual(known, params) if known else (None, {})
    if vendor in {"azure", "azure-deployments"} and base_url:
        base_url = _azure(base_url, deployed=vendor != "azure")
    if params.get("aws_region_name"):
        options["auth"] = "aws"
    key_env = _variable(work, where, vendor, params.get("api_key"))
    if key_env is None and known is not None and base_url is None and not params.get("api_key"):
        key_env = known.key_variable  # where the proxy looks, too, when it is not told
    limits = {name: int(params[name]) for name in _OWN_LIMITS if params.get(name)}
    # An address of one's own must not take the place of the vendor's.
    own = known is None or (base_url is not None and vendor == "openai")
    table = ProviderTable(
        dialect=known.dialect if known else "openai",
        base_url=base_url or usual_url,
        key_env=[key_env] if key_env else [],
        headers={str(k): str(v) for k, v in (params.get("extra_headers") or {}).items()},
        options=options,
        requests_per_minute=limits.get("rpm"),
        tokens_per_minute=limits.get("tpm"),
        concurrency=limits.get("max_parallel_requests"),
        price_provider=None if own or known is None else known.price_provider,
    )
    stem = f"{vendor}-own" if own else vendor
    for name, given in work.providers.items():
        if re.fullmatch(rf"{re.escape(stem)}(-\d+)?", name) and given == table:
            return name
    number = sum(bool(re.fullmatch(rf"{re.escape(stem)}(-\d+)?", it)) for it in work.providers)
    name = f"{stem}-{number + 1}" if number else stem
    work.providers[name] = table
    return name


def _usual(vendor: Vendor, params: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """A vendor's own address and options, with what the entry says of project, region and version.

    The address is None where neither it nor the environment says enough.
    """
    said = {variable: str(params[name]) for name, variable in _PLACES.items() if params.get(name)}
    environment = {**os.environ, **said}
    filled = {name: fill(text, environment) for name, text in vendor.options.items()}
    options = {name: text for name, text in filled.items() if text is not None}
    return fill(vendor.base_url, environment), options


def _deployed(params: Mapping[str, Any]) -> bool:
    """Whether an Azure resource is asked by the paths of its deployments: a dated version says so."""
    return str(params.get("api_version") or "v1") not in _AZURE_V1


def _azure(base_url: str, *, deployed: bool) -> str:
    """The address of an Azure resource."""
    root = base_url.rstrip("/").removesuffix("/openai/v1").removesuffix("/openai")
    return f"{root}/openai/deployments/{{model}}" if deployed else f"{root}/openai/v1"


def _variable(work: _Work, where: str, vendor: str, key: object) -> str | None:
    """The variable that holds a key. One that stands in the file itself must move out of it."""
    if key is None:
        return None
    text = str(key)
    if text.startswith(_ENVIRONMENT):
        return text.removeprefix(_ENVIRONMENT)
    if text.lower() in {"none", "null", "", "fake", "fake-key", "dummy"}:
        return None
    name = f"{re.sub(r'[^A-Z0-9]', '_', vendor.upper())}_KEY_{len(work.providers) + 1}"
    work.notes.append(f"{where}: the key stands in the file; put it into the variable {name}")
    return name


def _text(work: _Work, where: str, name: str, value: object) -> str | None:
    """A text; a variable in its place is read now, for addresses are no secrets."""
    if value is None:
        return None
    text = str(value)
    if text.startswith(_ENVIRONMENT):
        variable = text.removeprefix(_ENVIRONMENT)
        if found := os.environ.get(variable):
            return found
        work.notes.append(f"{where}: {name} is in the variable {variable}, which is not set here")
        return f"https://set-{variable.lower().replace('_', '-')}.invalid"
    return text


def _target(info: Mapping[str, Any]) -> TargetTable:
    tokens = info.get("max_input_tokens"), info.get("max_output_tokens")
    context, output = (int(it) if it else None for it in tokens)
    return TargetTable(context_length=context, max_output_tokens=output)


def _price(work: _Work, target_id: str, told: Mapping[str, Any]) -> None:
    costs = told.get("input_cost_per_token"), told.get("output_cost_per_token")
    if any(cost is not None for cost in costs):
        amounts = [None if it is None else _usd(it) for it in costs]
        work.prices[target_id] = PriceTable.model_validate(
            {
                "input_usd_per_million": amounts[0],
                "output_usd_per_million": amounts[1],
                "price_version": "litellm",
            }
        )


def _usd(per_token: object) -> str:
    from decimal import Decimal

    return format(Decimal(str(per_token)) * _PER_MILLION, "f")


def _unread(work: _Work, where: str, row: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    known_info = {
        "id",
        "max_input_tokens",
        "max_output_tokens",
        "input_cost_per_token",
        "output_cost_per_token",
    }
    for name in sorted(set(params) - _READ):
        work.notes.append(f"{where}: litellm_params.{name} has no counterpart")
    for name in sorted(set(row.get("model_info") or {}) - known_info):
        work.notes.append(f"{where}: model_info.{name} has no counterpart")


# --- routes ----------------------------------------------------------------------------------------


def _routes(work: _Work, settings: Mapping[str, Any]) -> dict[str, RouteTable]:
    strategy = _STRATEGIES.get(str(settings.get("routing_strategy", "simple-shuffle")))
    if strategy is None:
        work.notes.append(
            f"router_settings.routing_strategy: {settings['routing_strategy']} is not known here; "
            "weighted is used"
        )
    fallbacks = _fallbacks(work, settings)
    usual = settings.get("default_fallbacks") or []
    routes = {}
    for name, entries in work.groups.items():
        targets = list(entries)
        for step, other in enumerate(fallbacks.get(name, usual), 1):
            if other not in work.groups:
                work.notes.append(
                    f"fallbacks: {name} falls back to {other}, which is no model_name"
                )
                continue
            lower = min(it.priority for it in entries) - _FALLBACK_STEP * step
            targets += [
                it.model_copy(update={"priority": lower + it.priority})
                for it in work.groups[other]
                if it.target not in {known.target for known in targets}
            ]
        routes[name] = RouteTable(
            targets=targets,
            strategy=strategy or "weighted",
            attempts=_attempts(settings, len(targets)),
            total_timeout_ms=_timeout_ms(work.timeouts.get(name), settings),
            unsupported="drop" if settings.get("drop_params") else "error",
            cache_ttl_s=_cache_s(settings),
        )
    return routes


def _attempts(settings: Mapping[str, Any], targets: int) -> int:
    """One call and its retries, and one for each further target, within what a route may have."""
    retries = settings.get("num_retries")
    return min(10, max(1 + int(retries if retries is not None else 2), targets))


def _timeout_ms(own_s: float | None, settings: Mapping[str, Any]) -> int:
    given = own_s or settings.get("timeout") or settings.get("request_timeout")
    return int(float(given) * 1000) if given else 600_000


def _cache_s(settings: Mapping[str, Any]) -> int:
    if not settings.get("cache"):
        return 0
    return int((settings.get("cache_params") or {}).get("ttl") or 600)


def _fallbacks(work: _Work, settings: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
        for row in settings.get(name) or []:
            for group, others in row.items():
                known = found.setdefault(str(group), [])
                known += [str(it) for it in _listed(others) if str(it) not in known]
        if settings.get(name) and name != "fallbacks":
            work.notes.append(f"{name}: taken as fallbacks for every failure, after the usual ones")
    return found


def _listed(value: object) -> Iterable[object]:
    return value if isinstance(value, list) else [value]


def _aliases(work: _Work, routes: dict[str, RouteTable], settings: Mapping[str, Any]) -> None:
    for alias, told in (settings.get("model_group_alias") or {}).items():
        group = told.get("model") if isinstance(told, dict) else told
        if group in routes:
            routes[str(alias)] = routes[str(group)].model_copy()
        else:
            work.notes.append(f"model_group_alias.{alias}: {group} is no model_name")


# --- everything else -------------------------------------------------------------------------------


def _limits(general: Mapping[str, Any]) -> dict[str, LimitTable]:
    limit = general.get("global_max_parallel_requests")
    if not limit:
        return {}
    return {"litellm-global": LimitTable(scope="global", concurrency=int(limit))}


_SETTINGS = frozenset(
    {
        "fallbacks",
        "context_window_fallbacks",
        "content_policy_fallbacks",
        "default_fallbacks",
        "num_retries",
        "timeout",
        "request_timeout",
        "routing_strategy",
        "model_group_alias",
        "drop_params",
        "cache",
    }
)
_INSTEAD = {
    "allowed_fails": "circuits decide by themselves; see [circuits]",
    "cooldown_time": "circuits decide by themselves; see [circuits]",
    "redis_host": "workers share what they know through Kafka",
    "redis_port": "workers share what they know through Kafka",
    "redis_password": "workers share what they know through Kafka",
    "set_verbose": "WEIR_LOG_LEVEL=debug",
    "master_key": "WEIR_ADMIN_KEY, or the key that the first `weir up` shows",
    "database_url": "the log is the only database",
    "success_callback": "every call is an event on Kafka; see docs/asyncapi.json",
    "failure_callback": "every call is an event on Kafka; see docs/asyncapi.json",
    "callbacks": "every call is an event on Kafka; see docs/asyncapi.json",
    "alerting": "alerts are events; see weir.alerts.v1",
    "cache_params": "its ttl is taken; answers are kept by Weir itself",
}


def _leftovers(work: _Work, tables: Mapping[str, Any]) -> None:
    for section in ("litellm_settings", "router_settings", "general_settings"):
        for name in tables.get(section) or {}:
            if name in _SETTINGS or name == "global_max_parallel_requests":
                continue
            instead = _INSTEAD.get(str(name), "it has no counterpart")
            work.notes.append(f"{section}.{name}: {instead}")
    known = {"model_list", "litellm_settings", "router_settings", "general_settings"}
    for section in sorted(set(tables) - known):
        what = (
            "set them in the environment of `weir up`"
            if section == "environment_variables"
            else "it has no counterpart"
        )
        work.notes.append(f"{section}: {what}")
