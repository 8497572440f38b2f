"""The keys as the log has them, found by the hashes of their secrets too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping

from schemas import codec
from schemas.events.changes import KeyChanged
from schemas.table_view import TableView


class KeyEntries(MutableMapping[str, KeyChanged]):
    """Keys by id, found by the hashes of their secrets too; each is held as its record.

    A record with its place in both tables takes 0.5 KB, the object that is made of it when somebody
    looks 1.1 KB: for 30,000 keys a worker's memory is two thirds of what it would be.
    """

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self._ids: dict[str, str] = {}

    def __getitem__(self, key_id: str) -> KeyChanged:
        event = codec.decode(self.records[key_id])
        assert isinstance(event, KeyChanged)
        return event

    def __setitem__(self, key_id: str, event: KeyChanged) -> None:
        self.keep(key_id, event, codec.encode(event))

    def keep(self, key_id: str, event: KeyChanged, record: bytes) -> None:
        """Set a key that was decoded from this record."""
        self.pop(key_id, None)
        self.records[key_id] = record
        self._ids[event.secret_hash] = key_id
        if event.previous_secret_hash:
            self._ids.setdefault(event.previous_secret_hash, key_id)

    def __delitem__(self, key_id: str) -> None:
        event = self[key_id]
        del self.records[key_id]
        for secret_hash in (event.secret_hash, event.previous_secret_hash):
            # Another key that came later with the same secret has it.
            if secret_hash and self._ids.get(secret_hash) == key_id:
                del self._ids[secret_hash]

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def id_of(self, secret_hash: str) -> str | None:
        """Return the key that has this secret, or had it before its last rotation."""
        return self._ids.get(secret_hash)


class KeyView(TableView[KeyChanged]):
    """The keys as the log has them."""

    entries: KeyEntries

    def __init__(self) -> None:
        super().__init__(KeyChanged, KeyEntries())

    def keep(self, key: str, event: KeyChanged, value: bytes) -> None:
        """As `TableView.keep`; the record is kept as it came."""
        self.entries.keep(key, event, value)

    def records(self) -> Mapping[str, bytes]:
        """As `TableView.records`; nothing is encoded for it."""
        return self.entries.records

    def entries_of(self, records: Mapping[str, bytes]) -> KeyEntries:
        """As `TableView.entries_of`; the records are kept as they are."""
        entries = KeyEntries()
        for key_id, record in records.items():
            event = codec.decode_as(record, KeyChanged)
            if event is not None:
                entries.keep(key_id, event, record)
        return entries
