"""What a backend is: it carries out the order of one fine-tune, here or at a vendor's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from schemas.discovery import discover
from schemas.errors import ConfigurationError
from trainer.config import Finished, Line, TuneOrder
from trainer.settings import TrainerSettings

Hear = Callable[[Line], Awaitable[None]]


@dataclass(frozen=True)
class Backend:
    """A named way to tune.

    `tune(settings, order, folder, hear)` leaves the adapter in ``order.adapter`` and tells `hear` of
    its progress. It may be cut off anywhere and called again with the same order: it then goes
    on with what it had begun. Raises ModelTrainingError for what may come out differently the
    next time, any other WeirError for what may not.
    """

    name: str
    tune: Callable[[TrainerSettings, TuneOrder, Path, Hear], Awaitable[Finished]]


def backend(name: str) -> Backend:
    """Return a backend by name. Raises ConfigurationError."""
    known = {found.name: found for found in discover("trainer.backends", Backend)}
    if name not in known:
        raise ConfigurationError(
            f"there is no training backend {name!r}, but {', '.join(sorted(known))}",
            action="Correct `backend` in [parts.trainer] of weir.toml.",
        )
    return known[name]
