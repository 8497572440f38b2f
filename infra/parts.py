"""What a part of an installation is: how it is started, when it counts as ready, how it ends.

Nothing here reads the settings: a gateway worker, which is handed its own, imports this.
"""

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Probe = Literal["http", "tcp", "kafka", "file", "alive"]
ROOT = Path(__file__).parent.parent


def cache_dir() -> Path:
    """What outlives a checkout, downloads and compiled code: `WEIR_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("WEIR_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weir"


GATE_VARIABLE = "WEIR_GATE"
"""Names the file that the supervisor makes once Kafka has the topics and the settings' events."""


@dataclass(frozen=True)
class Part:
    """One process of the installation.

    Parts of a lower `order` are started first and stopped last. `needed` parts must be ready
    before the installation is, but those that are not `awaited`: calls are served while they get ready.
    `stop_s` is the time that an orderly end may take; `ready_file` has the process id of a part that
    is ready, where the probe is a file. `handed` is what its process finds on its standard input.
    """

    name: str
    command: tuple[str, ...]
    order: int
    probe: Probe = "alive"
    port: int = 0
    needed: bool = True
    awaited: bool = True
    ready_file: Path | None = None
    stop_s: float = 15.0
    environment: Mapping[str, str] = field(default_factory=dict)
    handed: bytes = field(default=b"", repr=False)


MODULES = {
    "gateway": "gateway.app",
    "streams": "streams.app",
    "control": "infra.control",
    "trainer": "trainer.app",
    "models": "trainer.serving",
    "sandbox": "infra.sandbox.server",
}
"""Where each kind of part has its `run(settings, log, stop)`."""

_SETTINGS = {
    "gateway": ("gateway.settings", "GatewaySettings"),
    "streams": ("streams.settings", "StreamsSettings"),
    "control": ("infra.control", "ControlSettings"),
    "projections": ("projections.settings", "ProjectionsSettings"),
    "trainer": ("trainer.settings", "TrainerSettings"),
    "models": ("trainer.settings", "TrainerSettings"),
    "sandbox": ("infra.sandbox.settings", "SandboxSettings"),
}


def kind_of(name: str) -> str:
    """`gateway` for `gateway-1`."""
    return name.rstrip("0123456789").rstrip("-")


def settings_class(kind: str) -> type[Any]:
    """The dataclass of settings that a kind of part declares."""
    module, name = _SETTINGS[kind]
    declared: type[Any] = getattr(importlib.import_module(module), name)
    return declared
