"""Who calls, and what they may ask for: keys and tenants as gateway and control both read them."""

from __future__ import annotations

import hashlib
import re
from functools import cache

import msgspec

from schemas.clock import now_us
from schemas.errors import AuthenticationFailed, PermissionDenied
from schemas.events.changes import KeyChanged, TenantChanged
from schemas.log import TableView

SECRET_CHARS_MAX = 512
"""Ours have 48; whoever sends more is refused before anything is computed for him."""
_DEPTH_MAX = 8


class Allowed(msgspec.Struct, frozen=True):
    """Patterns of the names that may be asked for, and whose they are."""

    owner: str
    patterns: tuple[str, ...]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _matcher(self.patterns).fullmatch(name) is not None


class Grant(msgspec.Struct, frozen=True):
    """A key with all that its tenants add. A name must be in each of `narrowed`; empty takes all."""

    key: KeyChanged
    organization: str | None = None
    narrowed: tuple[Allowed, ...] = ()
    disabled: str | None = None

    def allows(self, name: str) -> bool:
        """Whether this name may be asked for."""
        return all(name in allowed for allowed in self.narrowed)

    def refusal(self, name: str) -> PermissionDenied:
        """The error for a name that may not be asked for; it says what may."""
        limit = next((it for it in self.narrowed if name not in it), None)
        text = f"the key '{self.key.name}' may not use the model '{name}'"
        if limit is not None:
            text += f"; {limit.owner} allows: {', '.join(limit.patterns)}"
        return PermissionDenied(
            text, action="Ask for one of these, or have an administrator allow this one."
        )


class Access:
    """Finds the grant behind a secret.

    A secret of ours is 256 random bits, so its SHA-256 needs neither salt nor a slow function: there
    is no dictionary to try, and looking up a hash tells nobody's secret by the time that it takes.
    """

    def __init__(self, keys: TableView[KeyChanged], tenants: TableView[TenantChanged]) -> None:
        self.keys = keys
        self._tenants = tenants
        self._stamp = (-1, -1)
        self._by_hash: dict[str, tuple[KeyChanged, bool]] = {}
        self._grants: dict[str, Grant] = {}

    def grant(self, secret: str) -> Grant:
        """Return the grant of a secret.

        Raises AuthenticationFailed for one that is unknown, revoked or expired, PermissionDenied for
        a tenant that is disabled. Messages never hold the secret.
        """
        if self._stamp != (self.keys.generation, self._tenants.generation):
            self._read()
        if len(secret) > SECRET_CHARS_MAX:
            raise AuthenticationFailed("this API key is not known")
        key, replaced = self._by_hash.get(hash_of(secret), (None, False))
        if key is None:
            raise AuthenticationFailed("this API key is not known")
        if replaced and (key.previous_expires_at_us or 0) <= now_us():
            raise AuthenticationFailed("this API key was replaced by a newer one")
        return self._checked(key)

    def grant_of(self, key_id: str) -> Grant:
        """Return the grant of a key that a caller left work with. Raises as `grant`."""
        if self._stamp != (self.keys.generation, self._tenants.generation):
            self._read()
        key = self.keys.get(key_id)
        if key is None:
            raise AuthenticationFailed("this API key is not known")
        return self._checked(key)

    def _checked(self, key: KeyChanged) -> Grant:
        if key.revoked:
            raise AuthenticationFailed("this API key was revoked")
        until_us = key.expires_at_us
        if until_us is not None and until_us <= now_us():
            raise AuthenticationFailed("this API key has expired")
        grant = self._grants.get(key.key_id)
        if grant is None:
            grant = self._grants[key.key_id] = self._of(key)
        if grant.disabled is not None:
            raise PermissionDenied(
                f"{grant.disabled} is disabled", action="Ask an administrator to enable it."
            )
        return grant

    def _read(self) -> None:
        self._stamp = (self.keys.generation, self._tenants.generation)
        self._grants.clear()
        keys = self.keys.entries.values()
        self._by_hash = {
            key.previous_secret_hash: (key, True) for key in keys if key.previous_secret_hash
        }
        self._by_hash |= {key.secret_hash: (key, False) for key in keys}

    def _of(self, key: KeyChanged) -> Grant:
        tenants = self._above(key)
        narrowed = [Allowed("the key", tuple(key.models))] if key.models else []
        narrowed += [Allowed(called(it), tuple(it.models)) for it in tenants if it.models]
        organization = key.organization or next(
            (it.tenant_id for it in tenants if it.kind == "organization"), None
        )
        disabled = next((called(it) for it in tenants if not it.enabled), None)
        return Grant(key, organization, tuple(narrowed), disabled)

    def _above(self, key: KeyChanged) -> list[TenantChanged]:
        """The tenants that a key names, and those above them; a name need not be a tenant."""
        named = {
            "organization": key.organization,
            "team": key.team,
            "project": key.project,
            "user": key.user_id,
            "cost_center": key.cost_center,
        }
        found: dict[str, TenantChanged] = {}
        places = [f"{kind}:{name}" for kind, name in named.items() if name]
        for _ in range(_DEPTH_MAX):
            tenants = [self._tenants.get(f"tenant:{place}") for place in places]
            new = [it for it in tenants if it is not None and it.key not in found]
            found |= {it.key: it for it in new}
            places = [it.parent for it in new if it.parent]
        return list(found.values())


def hash_of(secret: str) -> str:
    """Return the SHA-256 (hex) under which a secret is known."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def called(tenant: TenantChanged) -> str:
    """Return a tenant as messages call it."""
    return f"the {tenant.kind.replace('_', ' ')} '{tenant.name}'"


@cache
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all patterns: ``*`` is any text, ``?`` any character."""
    texts = [re.escape(it).replace(r"\*", ".*").replace(r"\?", ".") for it in patterns]
    return re.compile("|".join(f"(?:{text})" for text in texts), re.DOTALL)
