"""Events of any type, drawn at random: what every fold is fed, also one that was added today."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from schemas.event import Event

BASE_US = 1_790_000_000_000_000
TIMES_US = st.one_of(st.integers(0, 300), st.integers(0, 40_000_000)).map(
    lambda second: BASE_US + second * 1_000_000
)
"""Close together, or up to more than a year apart, in no order: many are late."""

NAMES = st.sampled_from(["a", "b", "c|1", "d@60"])

WORDS: dict[str, list[str]] = {
    "error_class": ["server", "timeout", "request", "rate_limited"],
    "entry": ["settled", "corrected", "wasted", "unpriced", "abandoned", "admitted"],
    "kind": ["asked", "spent", "returned", "closed", "refused"],
    "day": ["2026-11-30", "2026-12-01", "2026-12-02", "2026-12-03"],
    "cache": ["hit", "miss"],
    "surface": ["chat", "embeddings"],
    "task_type": ["code", "a word of the caller"],
    "model_id": ["a/one", "b"],
}
"""Words that a field knows; other text is a name."""

_OUTCOMES = {"Attempt": ["success", "failed", "cancelled"]}
_ENDS = ["success", "failed", "cancelled", "abandoned"]


def events(event_type: type[Event]) -> st.SearchStrategy[Event]:
    """Return events of a type. Raises TypeError for a field that nothing is known about."""
    return _structs(event_type)


def _structs(struct: type[Any]) -> st.SearchStrategy[Any]:
    hints = get_type_hints(struct)
    fields = {
        field.name: _values(struct, field.name, hints[field.name])
        for field in msgspec.structs.fields(struct)
    }
    return st.builds(struct, **fields)


def _values(struct: type[Any], name: str, hint: Any) -> st.SearchStrategy[Any]:
    if get_origin(hint) in {Union, UnionType}:
        known = [_values(struct, name, part) for part in get_args(hint) if part is not NoneType]
        return st.one_of(st.none(), *known)
    if get_origin(hint) is list:
        return st.lists(_values(struct, name, *get_args(hint)), max_size=3)
    if get_origin(hint) is dict:
        return st.dictionaries(NAMES, _values(struct, name, get_args(hint)[1]), max_size=2)
    if name == "occurred_at_us":
        return TIMES_US
    if name == "outcome":
        return st.sampled_from(_OUTCOMES.get(struct.__name__, _ENDS))
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: st.sampled_from(WORDS[name]) if name in WORDS else NAMES,
        bool: st.booleans(),
        int: _integers(name),
        float: st.floats(-1, 1),
        bytes: st.just(b""),
    }
    if hint in plain:
        return plain[hint]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _structs(hint)
    raise TypeError(f"{struct.__name__}.{name} is {hint}: say in {__name__} how to draw one")


def _integers(name: str) -> st.SearchStrategy[int]:
    """Counts; amounts of a ledger may be negative, a latency as long as one likes."""
    if name == "cost_nano_usd":
        return st.integers(-(10**12), 10**12)
    return st.integers(0, 10**11) if name == "latency_us" else st.integers(0, 3_000)
