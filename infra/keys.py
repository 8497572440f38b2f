"""API keys: made, changed, rotated with overlap, revoked. Only hashes of secrets are ever kept."""

import secrets
from datetime import timedelta
from typing import Any

import msgspec

from infra.admin_desk import iso
from infra.commands import Accepted, Commands, facts
from infra.entities import microseconds
from infra.tables import KeyTable
from schemas.access import hash_of
from schemas.clock import now_us
from schemas.errors import Conflict, NotFound
from schemas.events.changes import KeyChanged
from schemas.identity import uuid7

OVERLAP = timedelta(days=1)
"""How long the previous secret works after a rotation unless said otherwise."""
_SECRET_BYTES = 32


def new_secret() -> str:
    """A secret of 256 random bits."""
    return f"weir-{secrets.token_urlsafe(_SECRET_BYTES)}"


def key_fields(key_id: str, name: str, table: KeyTable, secret_hash: str) -> dict[str, Any]:
    """A key's event."""
    return {
        "key_id": key_id,
        "name": name,
        "secret_hash": table.secret_hash or secret_hash,
        "expires_at_us": None if table.expires_at is None else microseconds(table.expires_at),
        **table.model_dump(exclude={"secret_hash", "expires_at"}),
    }


def key_table(event: KeyChanged, *, with_hash: bool = False) -> KeyTable:
    """The way back; the hash is told only where it is asked for."""
    told = {name: value for name, value in facts(event).items() if name in KeyTable.model_fields}
    told |= {
        "expires_at": iso(event.expires_at_us),
        "secret_hash": event.secret_hash if with_hash else None,
    }
    # What the log holds is shown as it is: one odd key must not hide all others.
    return KeyTable.model_construct(**told)


class KeyCommands:
    """What can be done with keys."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def get(self, key_id: str) -> KeyChanged:
        """The key of an id. Raises NotFound."""
        event = self._commands.view(KeyChanged).get(key_id)
        if event is None:
            raise NotFound(f"there is no key {key_id}")
        return event

    def list(self) -> list[KeyChanged]:
        """Every key, the newest last."""
        return sorted(self._commands.view(KeyChanged).entries.values(), key=lambda key: key.key_id)

    def named(self, name: str) -> KeyChanged | None:
        """The key of this name that is not revoked. Raises Conflict when there are several."""
        found = [key for key in self.list() if key.name == name and not key.revoked]
        if len(found) > 1:
            raise Conflict(
                f"{len(found)} keys are called '{name}'",
                action=f"Revoke all but one of {', '.join(key.key_id for key in found)}.",
            )
        return found[0] if found else None

    async def create(
        self, name: str, table: KeyTable, actor: str, correlation_id: str | None = None
    ) -> tuple[Accepted, str | None]:
        """Make a key; returns its secret, None where the table gave a hash."""
        secret = None if table.secret_hash else new_secret()
        key_id = uuid7()
        fields = key_fields(key_id, name, table, hash_of(secret or ""))
        accepted = await self._commands.put(
            KeyChanged,
            key_id,
            fields,
            actor=actor,
            expected_version=0,
            correlation_id=correlation_id,
        )
        return accepted, secret

    async def change(
        self, key_id: str, expected_version: int | None, actor: str, /, **changes: Any
    ) -> Accepted:
        """Replace some of the event's fields. Raises Conflict for a key that is revoked."""
        current = self.get(key_id)
        if current.revoked:
            raise Conflict(f"the key {key_id} is revoked for good", action="Make a new key.")
        fields = facts(msgspec.structs.replace(current, **changes))
        return await self._commands.put(
            KeyChanged,
            key_id,
            fields,
            actor=actor,
            expected_version=current.entity_version
            if expected_version is None
            else expected_version,
        )

    async def rotate(
        self, key_id: str, overlap: timedelta, expected_version: int | None, actor: str
    ) -> tuple[Accepted, str]:
        """Give a key a new secret; the one before works on for the overlap."""
        secret, current = new_secret(), self.get(key_id)
        until_us = now_us() + overlap // timedelta(microseconds=1)
        changes: dict[str, Any] = {
            "secret_hash": hash_of(secret),
            "previous_secret_hash": current.secret_hash if overlap else None,
            "previous_expires_at_us": until_us if overlap else None,
        }
        return await self.change(key_id, expected_version, actor, **changes), secret

    async def revoke(self, key_id: str, expected_version: int | None, actor: str) -> Accepted:
        """End a key for good; what it did stays known under its id."""
        return await self.change(
            key_id,
            expected_version,
            actor,
            revoked=True,
            previous_secret_hash=None,
            previous_expires_at_us=None,
        )
