"""The parts of an installation: how each is started, when it counts as ready, how it ends."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from infra.settings import WeirSettings
from streams import READY_FILE

Probe = Literal["http", "tcp", "kafka", "file", "alive"]
ROOT = Path(__file__).parent.parent

GATE_VARIABLE = "WEIR_GATE"
"""Names the file that the supervisor makes once Kafka has the topics and the settings' events."""


@dataclass(frozen=True)
class Part:
    """One process of the installation.

    Parts of a lower `order` are started first and stopped last. `needed` parts must be ready
    before the installation is, but those that are not `awaited`: calls are served while they get ready.
    `stop_s` is the time that an orderly end may take; `ready_file` has the process id of a part that
    is ready, where the probe is a file.
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


def part_command(name: str, python: str = sys.executable) -> tuple[str, ...]:
    """The command of a Python part."""
    return (python, "-m", "infra.part", name)


def standing_parts(settings: WeirSettings, *, sandbox: bool) -> list[Part]:
    """Every part that runs all the time, the broker apart."""
    parts = [
        Part(
            f"gateway-{index}",
            part_command(f"gateway-{index}"),
            order=2,
            probe="http",
            port=settings.port,
            stop_s=45,  # running calls have 30 s, then the outbox is handed over
        )
        for index in range(settings.workers)
    ]
    parts.append(
        Part("control", part_command("control"), order=1, probe="http", port=settings.control_port)
    )
    parts.append(
        Part(
            "streams",
            part_command("streams"),
            order=1,
            probe="file",
            ready_file=settings.home / "streams" / READY_FILE,
            awaited=False,
            # More threads only wait for each other: forecasts of small matrices take three times as long.
            environment={"OPENBLAS_NUM_THREADS": "1"},
        )
    )
    if sandbox:
        command = part_command("sandbox")
        parts.append(Part("sandbox", command, order=0, probe="tcp", port=settings.sandbox_port))
    if settings.trainer == "on":
        parts.append(Part("trainer", part_command("trainer"), order=1, needed=False, stop_s=30))
    return parts


def models_part(settings: WeirSettings, python: Path) -> Part:
    """The model server; it alone runs in the trainer's environment."""
    command = part_command("models", str(python))
    return Part(
        "models", command, order=1, probe="tcp", port=settings.models_port, needed=False, stop_s=30
    )


MODULES = {
    "gateway": "gateway.app",
    "streams": "streams.app",
    "control": "infra.control",
    "trainer": "trainer.app",
    "models": "trainer.serving",
    "sandbox": "infra.sandbox.server",
}
"""Where each kind of part has its `run(settings, log, stop)`."""


def kind_of(name: str) -> str:
    """`gateway` for `gateway-1`."""
    return name.rstrip("0123456789").rstrip("-")
