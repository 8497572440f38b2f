"""Content is sealed per person from the first version on, so that a person can be forgotten.

Every text is encrypted with AES-256-GCM under a data key of its subject; the data key itself is
stored only wrapped by the master key (``weir.privacy.keys``). Destroying the data keys of a
subject makes every copy in the log, its archives and its projections unreadable.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.clock import now_us
from schemas.errors import ConfigurationError, ContentErased
from schemas.events.operations import DataKeyCreated
from schemas.identity import uuid7

KEY_BYTES = 32
NONCE_BYTES = 12
SUBJECTS_MAX = 10_000
"""Data keys held in memory; a subject that was pushed out gets a further key, which is fine."""


class Sealed(msgspec.Struct, frozen=True):
    """Ciphertext, and what is needed to open it."""

    data_key_id: str
    nonce: bytes
    ciphertext: bytes


class MasterKey:
    """Wraps and unwraps data keys. Raises ConfigurationError unless it is 32 bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigurationError(
                f"the master key has {len(key)} bytes instead of {KEY_BYTES}",
                action="Restore WEIR_MASTER_KEY or master.key from your backup.",
            )
        self._cipher = AESGCM(key)

    def create(self, subject: str) -> tuple[DataKeyCreated, bytes]:
        """Return a new data key of a subject: the event that keeps it, and its plaintext."""
        key, nonce, key_id = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES), uuid7()
        event = DataKeyCreated(
            event_id=uuid7(),
            occurred_at_us=now_us(),
            data_key_id=key_id,
            subject=subject,
            nonce=nonce,
            wrapped=self._cipher.encrypt(nonce, key, key_id.encode()),
        )
        return event, key

    def unwrap(self, event: DataKeyCreated) -> bytes:
        """Return the plaintext of a data key. Raises ConfigurationError for a foreign master."""
        try:
            return self._cipher.decrypt(event.nonce, event.wrapped, event.data_key_id.encode())
        except InvalidTag as error:
            raise ConfigurationError(
                f"the data key {event.data_key_id} was wrapped by another master key",
                action="Restore the master.key that belongs to this log.",
            ) from error


class Sealer:
    """Seals texts; `emit` must record a new data key before anything sealed with it."""

    def __init__(self, master: MasterKey, emit: Callable[[DataKeyCreated], None]) -> None:
        self._master = master
        self._emit = emit
        self._ciphers: OrderedDict[str, tuple[str, AESGCM]] = OrderedDict()

    def seal(self, subject: str, plaintext: bytes, bound_to: str) -> Sealed:
        """Encrypt for a subject; `bound_to` (a request or feedback id) must match on opening."""
        known = self._ciphers.get(subject)
        if known is None:
            known = self._create(subject)
        else:
            self._ciphers.move_to_end(subject)
        key_id, cipher = known
        nonce = os.urandom(NONCE_BYTES)
        return Sealed(key_id, nonce, cipher.encrypt(nonce, plaintext, bound_to.encode()))

    def _create(self, subject: str) -> tuple[str, AESGCM]:
        event, key = self._master.create(subject)
        self._emit(event)
        self._ciphers[subject] = (event.data_key_id, AESGCM(key))
        if len(self._ciphers) > SUBJECTS_MAX:
            self._ciphers.popitem(last=False)
        return self._ciphers[subject]


class Opener:
    """Opens sealed texts with the data keys that still exist."""

    def __init__(self, master: MasterKey, find: Callable[[str], DataKeyCreated | None]) -> None:
        self._master = master
        self._find = find

    def open(self, sealed: Sealed, bound_to: str) -> bytes:
        """Return the plaintext. Raises ContentErased when its data key is gone."""
        event = self._find(sealed.data_key_id)
        if event is None:
            raise ContentErased(f"the data key {sealed.data_key_id} no longer exists")
        cipher = AESGCM(self._master.unwrap(event))
        try:
            return cipher.decrypt(sealed.nonce, sealed.ciphertext, bound_to.encode())
        except InvalidTag as error:
            raise ContentErased(f"the content of {bound_to} does not match its key") from error
