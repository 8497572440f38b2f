"""What a part is told at its start: by the supervisor on its standard input, else by the settings.

Reading the settings takes pydantic: 13 MiB of each worker, and a third of its start. What is edited in
`weir.toml` afterwards neither keeps a worker that died from coming back nor makes it unlike the others.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from infra.parts import settings_class
from schemas.log import Connection

FROM_INPUT = "-"
"""The argument of a part whose handover comes on its standard input."""


class Handover(msgspec.Struct, frozen=True):
    """`own` is what the part's package declares as its settings. Holds secrets: it is never a file."""

    home: Path
    log_level: str
    connection: Connection
    own: Any

    def dump(self) -> bytes:
        """Return it as the supervisor writes it."""
        return msgspec.msgpack.encode(self, enc_hook=os.fspath)

    @classmethod
    def load(cls, kind: str, data: bytes) -> Handover:
        """Read what `dump` gave for a kind of part. Raises msgspec.DecodeError for anything else."""
        read = msgspec.msgpack.decode(data, type=cls, dec_hook=_path)
        own = msgspec.convert(
            read.own, settings_class(kind), builtin_types=(bytes,), dec_hook=_path
        )
        return msgspec.structs.replace(read, own=own)


def _path(kind: type[Any], value: Any) -> Any:
    return kind(value)
