"""One new file adds a provider, an event, a fold: find the instances that modules expose."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import TypeVar

T = TypeVar("T")


def discover(package: str, kind: type[T]) -> list[T]:
    """Return every module-level instance of `kind` below `package`, in module order.

    Other distributions take part through an entry point group named like the package, whose
    entries load such an instance. Raises TypeError when an entry point gives something else.
    """
    root = importlib.import_module(package)
    found: dict[int, T] = {}
    for info in pkgutil.walk_packages(root.__path__, f"{package}."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, kind):
                found.setdefault(id(value), value)
    for entry in entry_points(group=package):
        value = entry.load()
        if not isinstance(value, kind):
            raise TypeError(f"entry point {entry.name!r} of {package} is no {kind.__name__}")
        found.setdefault(id(value), value)
    return list(found.values())
