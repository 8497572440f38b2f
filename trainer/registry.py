"""The model registry: states from events, files on disk with their checksums.

A version's folder ``models/{id}`` holds the adapter, its tokenizer, the base's config.json,
training_metadata.json, evaluation_results.json and the report; checksums.json covers them all.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from schemas.clock import now_us
from schemas.errors import Conflict, ModelLoadingError, ModelSavingError
from schemas.events.changes import ModelVersionChanged
from schemas.identity import uuid7

CHECKSUMS = "checksums.json"

TRANSITIONS: Mapping[str | None, frozenset[str]] = {
    None: frozenset({"created", "training"}),
    "created": frozenset({"training", "available", "archived", "failed"}),
    "training": frozenset({"available", "archived", "failed"}),
    "available": frozenset({"deployed", "archived"}),
    "deployed": frozenset({"available", "archived"}),
    "archived": frozenset({"available"}),
    "failed": frozenset({"archived"}),
}
"""From which status (REG-01) a version may move to which; None is before its first event."""


def version_id(name: str, run_id: str, at_us: int) -> str:
    """``{name}_{yyyymmdd}_{8 hex}``, the same each time a run asks for it."""
    day = datetime.fromtimestamp(at_us / 1_000_000, UTC).strftime("%Y%m%d")
    return f"{name}_{day}_{hashlib.blake2b(run_id.encode(), digest_size=4).hexdigest()}"


def moved(
    current: ModelVersionChanged | None, status: str, actor: str, **changes: object
) -> ModelVersionChanged:
    """The event that takes a version from its current state to `status`.

    Raises Conflict for a transition that the registry does not know.
    """
    before = current.status if current else None
    if status not in TRANSITIONS[before]:
        raise Conflict(f"a version cannot go from {before or 'nothing'} to {status}")
    fields: dict[str, object] = {
        **({name: getattr(current, name) for name in current.__struct_fields__} if current else {}),
        **changes,
        "event_id": uuid7(),
        "occurred_at_us": now_us(),
        "entity_version": current.entity_version + 1 if current else 1,
        "actor": actor,
        "status": status,
    }
    return msgspec.convert(fields, ModelVersionChanged, builtin_types=(bytes,))


def store(folder: Path, sources: Mapping[str, Path | bytes]) -> dict[str, str]:
    """Write a version's files into `folder`, whole or not at all; return {name: sha256}.

    Storing the same version again replaces it. Raises ModelSavingError when the disk refuses.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        for name, source in sources.items():
            if isinstance(source, bytes):
                (partial / name).write_bytes(source)
            else:
                shutil.copyfile(source, partial / name)
        sums = {name: _sha256(partial / name) for name in sorted(sources)}
        (partial / CHECKSUMS).write_bytes(msgspec.json.format(msgspec.json.encode(sums)))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise ModelSavingError(
            f"{folder.name} could not be stored: {error.strerror}",
            action="Free disk space under the data folder; the run goes on by itself.",
        ) from error
    return sums


def verify(folder: Path) -> dict[str, str]:
    """Return {name: sha256} of a stored version. Raises ModelLoadingError when a file differs."""
    try:
        sums = msgspec.json.decode((folder / CHECKSUMS).read_bytes(), type=dict[str, str])
        broken = [name for name, digest in sums.items() if _sha256(folder / name) != digest]
    except (OSError, msgspec.DecodeError) as error:
        raise ModelLoadingError(f"the files of {folder.name} cannot be read: {error}") from error
    if broken:
        raise ModelLoadingError(f"{folder.name}: damaged files {', '.join(broken)}")
    return sums


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
