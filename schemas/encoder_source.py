"""Writes the code that encodes events: one function per record, which puts its fields together.

The encoders of events that each call makes lie in `schemas.encoders`, which `python -m schemas.publish`
writes and mypyc compiles; those of all others are made when the first of them is encoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from schemas.avro import Schema
from schemas.encoder import Encoder

_HEAD = '''\
"""Encoders of the events that each call makes. Written by `python -m schemas.publish`, not by hand."""

# fmt: off
from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas.encoder import (
{names}
)

_fields: Final = msgspec.structs.astuple
'''
_NAMES = (
    *("END", "NO", "NULL", "SOME", "YES", "Encoder", "Words", "blob", "double", "items", "long"),
    *("size_of", "some_long", "some_text", "some_word", "text", "time", "utf8", "word"),
)
"""What the text may take from `schemas.encoder`."""
_WORD_IDS = frozenset({"deployment_id", "key_id", "outbox_id"})
"""Ids of which there are few; all others never repeat, and a table of them would only fill up."""
_UNIQUE = frozenset({"", "corrects", "traceparent"})
"""What never repeats as well; items of lists have no name."""
_FEW = 3
"""So many words are quicker one by one."""
_OPTIONAL_TEXT = ["null", "string"]
_OPTIONAL_LONG = ["null", "long"]


def encoder_of(schema: Schema, prefix: bytes = b"") -> Encoder:
    """Return a function from an object with the schema's fields to `prefix` and its Avro body."""
    scope: dict[str, Any] = {}
    # The text is made from our own schemas alone; field names are identifiers by construction.
    exec(source_of([(schema, prefix)]), scope)  # noqa: S102
    encoder: Encoder = scope["ENCODERS"][prefix]
    return encoder


def source_of(records: Iterable[tuple[Schema, bytes]]) -> str:
    """Return a module whose `ENCODERS` are those of these schemas, by the prefixes that they write."""
    module = _Module()
    for schema, prefix in records:
        name = module.record(schema, prefix)
        module.encoders.append(f"    {_literal(prefix)}: {name},")
    encoders = ["ENCODERS: Final[dict[bytes, Encoder]] = {", *module.encoders, "}"]
    blocks = [list(module.tables.values()), *module.functions, encoders]
    body = "\n\n\n".join("\n".join(lines) for lines in blocks) + "\n"
    used = set(re.findall(r"\w+", body))
    return _HEAD.format(names="\n".join(f"    {name}," for name in _NAMES if name in used)) + body


def _literal(data: bytes) -> str:
    return 'b"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'


def _after(what: str, expression: str) -> str:
    """Return an expression for bytes and those of another expression behind them."""
    return f"{what} + ({expression})" if " if " in expression else f"{what} + {expression}"


class _Module:
    """The text of a module as it grows."""

    def __init__(self) -> None:
        self.tables: dict[str, str] = {}
        """The table of each kind of run of words."""
        self.functions: list[list[str]] = []
        self.encoders: list[str] = []
        self._known: dict[str, str] = {}

    def record(self, schema: Schema, prefix: bytes = b"") -> str:
        """Add the function of a record, and of those within; return its name."""
        known = self._known.get(schema["name"])
        if known is not None:
            return known
        name = self._known[schema["name"]] = f"_{schema['name'].replace('-', '_').lower()}"
        parts = [f"{_literal(prefix)},"] if prefix else []
        parts += self._parts(schema["fields"])
        self.functions.append(
            [
                f"def {name}(record: Any) -> bytes:",
                "    t: tuple[Any, ...] = _fields(record)",
                f'    return b"{"%b" * len(parts)}" % (',
                *(f"        {part}" for part in parts),
                "    )",
            ]
        )
        return name

    def _parts(self, fields: list[Schema]) -> Iterator[str]:
        at = 0
        for is_words, found in groupby(fields, _holds_word):
            run = list(found)
            if is_words and len(run) > (1 if _is_price(run[0]) else _FEW):
                what = f"{run[0]['name']} to {run[-1]['name']}"
                yield f"{self._words(run)}.of(t[{at}:{at + len(run)}]),  # {what}"
                at += len(run)
                continue
            for field in run:
                name, kind = field["name"], field["type"]
                if kind == "bytes":  # may be long: not copied one more time
                    yield f"size_of(b{at} := blob(t[{at}])),  # {name}"
                    yield f"b{at},"
                elif kind == "string" and _texts(name) == "text":
                    # Names of their own: mypyc reads them when all are known.
                    yield f"size_of(b{at} := utf8(t[{at}])),  # {name}"
                    yield f"b{at},"
                else:
                    yield f"{self._value(kind, f't[{at}]', name)},  # {name}"
                at += 1

    def _words(self, fields: list[Schema]) -> str:
        kinds = "".join(map(_letter, fields))
        name = f"_WORDS_{len(self.tables) + 1}"
        known = self.tables.setdefault(kinds, f'{name}: Final = Words("{kinds}")')
        return known.partition(":")[0]

    def _value(self, kind: Any, value: str, name: str) -> str:
        """Return an expression that encodes what `value` holds; a field's `name` tells of its values."""
        if isinstance(kind, str) and kind in self._known:
            return f"{self._known[kind]}({value})"
        if isinstance(kind, list):
            if kind in (_OPTIONAL_LONG, _OPTIONAL_TEXT):
                some = f"some_{'long' if kind == _OPTIONAL_LONG else _texts(name)}({value})"
            else:
                some = _after("SOME", self._value(kind[1], value, name))
            return f"NULL if {value} is None else {some}"
        if isinstance(kind, dict):
            return self._nested(kind, value)
        if kind == "boolean":
            return f"YES if {value} else NO"
        if kind == "bytes":
            return f"size_of({value}) + {value}"
        long = "time" if name.endswith("_at_us") else "long"
        return {"string": _texts(name), "long": long, "double": "double"}[kind] + f"({value})"

    def _nested(self, kind: Schema, value: str) -> str:
        if kind["type"] == "record":
            return f"{self.record(kind)}({value})"
        if kind["type"] == "array":
            each = f"{self._value(kind['items'], 'item', '')} for item in {value}"
        else:
            pair = _after("text(key)", self._value(kind["values"], "item", ""))
            each = f"{pair} for key, item in {value}.items()"
        return f"items([{each}]) if {value} else END"


def _texts(name: str) -> str:
    """Return what encodes the texts of a field: there are few of them, or they may be anything."""
    few = name in _WORD_IDS or not name.endswith("_id")
    return "word" if few and name not in _UNIQUE else "text"


def _holds_word(field: Schema) -> bool:
    is_text = field["type"] in ("string", _OPTIONAL_TEXT)
    return _is_price(field) or (is_text and _texts(str(field["name"])) == "word")


def _letter(word: Schema) -> str:
    """Return what `Words` calls a field."""
    if _is_price(word):
        return "p"
    return "w" if word["type"] == "string" else "o"


def _is_price(field: Schema) -> bool:
    return field["type"] == _OPTIONAL_LONG and str(field["name"]).endswith("_price")
