"""Gives each package's settings the words that they ask for.

A package declares a frozen dataclass in its `settings.py`; its fields are filled by name from the
vocabulary here. A field without a default that no word fills is an error at start, never a guess.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from infra.handover import Handover
from infra.parts import ROOT, kind_of, settings_class
from infra.secret_files import master_key
from infra.settings import WeirSettings, circuit_rules, optimizer_rules, uses_sandbox
from infra.trainer_env import trainer_python
from infra.vendors import LOCAL_PROVIDER
from schemas.errors import ConfigurationError

_PORTS = {"control": 1, "models": 2, "sandbox": 3}


def settings_of(name: str, settings: WeirSettings) -> Any:
    """The settings object of one part. Raises ConfigurationError for a word that is unknown."""
    kind = kind_of(name)
    wanted = settings_class(kind)
    own = settings.parts.get(kind, {})
    return fill(wanted, vocabulary(name, settings) | _converted(wanted, own))


def handover_of(name: str, settings: WeirSettings) -> Handover:
    """All that one part is told. Raises as `settings_of`."""
    own = settings_of(name, settings)
    return Handover(settings.home, settings.log_level, settings.connection(), own)


def _converted(wanted: type[Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What `[parts.NAME]` says, in the types of the fields that it names."""
    hints = get_type_hints(wanted)
    values = {}
    for name, value in own.items():
        if name not in hints:
            raise ConfigurationError(
                f"{wanted.__name__} has no field {name!r}, but {', '.join(sorted(hints))}"
            )
        try:
            values[name] = msgspec.convert(value, hints[name], strict=False, dec_hook=_path)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{wanted.__name__}.{name}: {error}") from error
    return values


def _path(kind: type[Any], value: Any) -> Any:
    return kind(value)


def fill(wanted: type[Any], words: dict[str, Any]) -> Any:
    """An instance of the dataclass with every field that a word exists for."""
    fields = dataclasses.fields(wanted)
    missing = [
        field.name
        for field in fields
        if field.name not in words
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigurationError(f"{wanted.__name__} asks for unknown words: {', '.join(missing)}")
    values = {field.name: words[field.name] for field in fields if field.name in words}
    for field in fields:
        # Settings within settings, as one subject of a part, ask for words of their own.
        if field.name not in words and dataclasses.is_dataclass(field.default):
            values[field.name] = fill(type(field.default), words)
    return wanted(**values)


def vocabulary(name: str, settings: WeirSettings) -> dict[str, Any]:
    """Every word that a package's settings may ask for, as this part shall hear it."""
    kind = kind_of(name)
    digits = name.removeprefix(kind).lstrip("-")
    folders = {"sandbox": "sandbox", "models": "models", "control": "projections"}
    loopback = "http://127.0.0.1"
    return {
        "weir_home": settings.home,
        "home": settings.folder(folders.get(kind, kind)),
        "data_dir": settings.folder(folders.get(kind, kind)),
        "outbox_dir": settings.home / "outbox",
        "models_dir": settings.home / "models",
        "host": settings.host if kind == "gateway" else "127.0.0.1",
        "port": settings.port + _PORTS.get(kind, 0),
        "part": name,
        "worker": int(digits or 0),
        "workers": settings.workers,
        "public_url": f"{loopback}:{settings.port}",
        "gateway_url": f"{loopback}:{settings.port}",
        "control_url": f"{loopback}:{settings.control_port}",
        "models_url": f"{loopback}:{settings.models_port}",
        "sandbox_url": f"{loopback}:{settings.sandbox_port}",
        "sandbox": uses_sandbox(settings, os.environ),
        "local_provider": LOCAL_PROVIDER,
        "master_key": master_key(settings),
        "trainer_python": trainer_python(),
        "python": trainer_python() if kind == "trainer" else Path(sys.executable),
        "root": ROOT,
        "feedback_threshold": settings.feedback_threshold,
        "feedback_window_s": int(settings.feedback_window_hours * 3600),
        "feedback_cooldown_s": int(settings.feedback_cooldown_hours * 3600),
        "cors_origins": tuple(settings.cors_origins),
        "hsts_s": settings.hsts_seconds,
        "docs": settings.docs,
        "call_timeout_s": settings.call_timeout_seconds,
        "body_bytes_max": settings.body_bytes_max,
        "circuits": circuit_rules(settings.circuits),
        "optimizer": optimizer_rules(settings.optimizer),
        "outbox_bytes_max": settings.outbox_bytes_max,
        "books": settings.folder("sandbox") / "books.jsonl" if kind == "sandbox" else None,
        "behaviour": settings.sandbox_behaviour,
    } | ({"seed": settings.sandbox_seed} if kind == "sandbox" else {})
