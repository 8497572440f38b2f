"""Who calls, and what they may ask for: keys and tenants as gateway and control both read them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from schemas.clock import now_us
from schemas.errors import AuthenticationFailed, PermissionDenied
from schemas.events.changes import KeyChanged, TenantChanged
from schemas.key_view import KeyView
from schemas.table_view import TableView

SECRET_CHARS_MAX: Final = 512
"""Ours have 48; whoever sends more is refused before anything is computed for him."""
_DEPTH_MAX: Final = 8
_GRANTS_MAX: Final = 2_048
"""Keys of which what they open is kept at hand (1.5 KB each); beyond, it is worked out anew in 15 us."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Patterns of the names that may be asked for, and whose they are."""

    owner: str
    patterns: tuple[str, ...]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _matcher(self.patterns).fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Grant:
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

    def __init__(self, keys: KeyView, tenants: TableView[TenantChanged]) -> None:
        self.keys = keys
        self._tenants = tenants
        self._stamp = (-1, -1)
        self._grants: dict[str, Grant] = {}

    def grant(self, secret: str) -> Grant:
        """Return the grant of a secret.

        Raises AuthenticationFailed for one that is unknown, revoked or expired, PermissionDenied for
        a tenant that is disabled. Messages never hold the secret.
        """
        if len(secret) > SECRET_CHARS_MAX:
            raise AuthenticationFailed("this API key is not known")
        secret_hash = hash_of(secret)
        key_id = self.keys.entries.id_of(secret_hash)
        if key_id is None:
            raise AuthenticationFailed("this API key is not known")
        grant = self._known(key_id)
        key = grant.key
        if key.secret_hash != secret_hash and (key.previous_expires_at_us or 0) <= now_us():
            raise AuthenticationFailed("this API key was replaced by a newer one")
        return _checked(grant)

    def grant_of(self, key_id: str) -> Grant:
        """Return the grant of a key that a caller left work with. Raises as `grant`."""
        if key_id not in self.keys.entries.records:
            raise AuthenticationFailed("this API key is not known")
        return _checked(self._known(key_id))

    def _known(self, key_id: str) -> Grant:
        stamp = (self.keys.generation, self._tenants.generation)
        if self._stamp != stamp or len(self._grants) >= _GRANTS_MAX:
            self._stamp = stamp
            self._grants.clear()
        grant = self._grants.get(key_id)
        if grant is None:
            grant = self._grants[key_id] = self._of(self.keys.entries[key_id])
        return grant

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


def _checked(grant: Grant) -> Grant:
    if grant.key.revoked:
        raise AuthenticationFailed("this API key was revoked")
    until_us = grant.key.expires_at_us
    if until_us is not None and until_us <= now_us():
        raise AuthenticationFailed("this API key has expired")
    if grant.disabled is not None:
        raise PermissionDenied(
            f"{grant.disabled} is disabled", action="Ask an administrator to enable it."
        )
    return grant


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
