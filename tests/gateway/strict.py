"""Holds raw JSON against an SDK's own types: no member that its models do not know, none that lacks.

The SDKs themselves forgive nearly everything: unknown members are kept, missing ones become None,
wrong ones are passed on. Here nothing is forgiven. It works for every SDK whose types are pydantic
models, TypedDicts or dataclasses of those (openai, anthropic, google-genai, cohere, mistralai), and
for botocore's shapes.
"""

import collections.abc
import datetime
import enum
import json
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typing_extensions
from pydantic import BaseModel

_UNION = (Union, types.UnionType)
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, tuple, set)
_DICTS = (dict, collections.abc.Mapping)
_NUMBERS = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}
_MARKERS = (typing_extensions.Required, typing_extensions.NotRequired, typing_extensions.ReadOnly)


def check(value: Any, kind: Any, *, allow: Iterable[str] = ()) -> None:
    """Fail unless decoded JSON is what a type of an SDK says, with no member beyond it.

    `allow` are members that other vendors brought into the dialect and that are wanted here.
    """
    problem = fault(value, kind, frozenset(allow))
    assert problem is None, problem[:500]


def fault(
    value: Any, kind: Any, allow: frozenset[str] = frozenset(), where: str = ""
) -> str | None:
    """Return what is wrong with a value, None when nothing is."""
    if isinstance(kind, typing_extensions.TypeAliasType):
        kind = kind.__value__
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated or origin in _MARKERS:
        return fault(value, args[0], allow, where)
    if kind is Any or kind is object or isinstance(kind, TypeVar):
        return None
    if origin in _UNION:
        return _any_of(value, args, allow, where)
    if kind is None or kind is type(None):
        return None if value is None else f"{where}: {value!r} is not null"
    if origin is Literal:
        return None if value in args else f"{where}: {value!r} is none of {args}"
    if origin in _LISTS or kind in _LISTS:
        return _list(value, args, allow, where)
    if origin in _DICTS or kind in _DICTS:
        return _dict(value, args, allow, where)
    if isinstance(kind, type):
        return _plain(value, kind, allow, where)
    return f"{where}: this checker does not know {kind!r}"


def _any_of(value: Any, kinds: tuple[Any, ...], allow: frozenset[str], where: str) -> str | None:
    faults = [fault(value, kind, allow, where) for kind in kinds]
    if None in faults:
        return None
    told = [text for text in faults if text]
    # The deepest complaint comes from the member of the union that was meant.
    return max(told, key=lambda text: text.partition(":")[0].count(".") + text.count("["))


def _list(value: Any, args: tuple[Any, ...], allow: frozenset[str], where: str) -> str | None:
    if not isinstance(value, list):
        return f"{where}: {value!r} is no list"
    kind = args[0] if args else Any
    told = (fault(entry, kind, allow, f"{where}[{at}]") for at, entry in enumerate(value))
    return next((text for text in told if text), None)


def _dict(value: Any, args: tuple[Any, ...], allow: frozenset[str], where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where}: {value!r} is no object"
    kind = args[1] if len(args) > 1 else Any
    told = (fault(entry, kind, allow, f"{where}.{name}") for name, entry in value.items())
    return next((text for text in told if text), None)


def _plain(value: Any, kind: type, allow: frozenset[str], where: str) -> str | None:
    if issubclass(kind, BaseModel):
        return _members(value, _model_fields(kind), allow, where, kind.__name__)
    if typing_extensions.is_typeddict(kind):
        hints = typing_extensions.get_type_hints(kind, include_extras=True)
        required: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
        fields = {name: (hint, name in required) for name, hint in hints.items()}
        return _members(value, fields, allow, where, kind.__name__)
    if issubclass(kind, enum.Enum):
        values = {member.value for member in kind}
        return None if value in values else f"{where}: {value!r} is no {kind.__name__}"
    if issubclass(kind, datetime.date | datetime.timedelta | bytes):
        return None if isinstance(value, str) else f"{where}: {value!r} is no text"
    allowed = _NUMBERS.get(kind)
    if allowed is None:
        return f"{where}: this checker does not know {kind!r}"
    right = isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
    return None if right else f"{where}: {value!r} is no {kind.__name__}"


def _model_fields(model: type[BaseModel]) -> dict[str, tuple[Any, bool]]:
    """The names on the wire of a model's fields, with their types and whether they must be there."""
    generator = model.model_config.get("alias_generator")
    fields: dict[str, tuple[Any, bool]] = {}
    for name, field in model.model_fields.items():
        alias = field.alias
        for extra in field.metadata:  # cohere's models carry their alias beside the type
            alias = getattr(extra, "alias", None) or alias
        if alias is None and callable(generator):
            alias = generator(name)
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        fields[alias or name] = (kind, field.is_required())
    return fields


def _members(
    value: Any,
    fields: dict[str, tuple[Any, bool]],
    allow: frozenset[str],
    where: str,
    name: str,
) -> str | None:
    if not isinstance(value, dict):
        return f"{where}: {value!r} is no {name}"
    # A union is told apart by its tag: a wrong tag is the wrong model, not a wrong member.
    for tag in ("type", "object", "role"):
        if tag in fields and tag in value and (bad := fault(value[tag], fields[tag][0], allow)):
            return f"{where}: no {name}{bad}"
    unknown = sorted(value.keys() - fields.keys() - allow)
    if unknown:
        return f"{where}.: {name} has no {unknown}"
    missing = sorted(key for key, (_, needed) in fields.items() if needed and key not in value)
    if missing:
        return f"{where}.: {name} lacks {missing}"
    told = (
        fault(entry, fields[key][0], allow, f"{where}.{key}")
        for key, entry in value.items()
        if key in fields
    )
    return next((text for text in told if text), None)


def check_shape(value: Any, shape: Any, where: str = "") -> None:
    """Fail unless decoded JSON is what a botocore shape says, with no member beyond it."""
    match shape.type_name:
        case "structure":
            assert isinstance(value, dict), f"{where}: {value!r} is no {shape.name}"
            members = {
                member.serialization.get("name", name): member
                for name, member in shape.members.items()
            }
            unknown = sorted(value.keys() - members.keys())
            assert not unknown, f"{where}: {shape.name} has no {unknown}"
            missing = sorted(set(shape.required_members) - value.keys())
            assert not missing, f"{where}: {shape.name} lacks {missing}"
            for name, entry in value.items():
                if not getattr(members[name], "is_document_type", False):
                    check_shape(entry, members[name], f"{where}.{name}")
        case "list":
            assert isinstance(value, list), f"{where}: {value!r} is no list"
            for at, entry in enumerate(value):
                check_shape(entry, shape.member, f"{where}[{at}]")
        case "map":
            for name, entry in value.items():
                check_shape(entry, shape.value, f"{where}.{name}")
        case "string" | "blob" | "timestamp":
            assert isinstance(value, str), f"{where}: {value!r} is no text"
            allowed = getattr(shape, "enum", None)
            assert not allowed or value in allowed, f"{where}: {value!r} is none of {allowed}"
        case "boolean":
            assert isinstance(value, bool), f"{where}: {value!r} is no bool"
        case "integer" | "long":
            assert isinstance(value, int), f"{where}: {value!r} is no integer"
        case "double" | "float":
            assert isinstance(value, int | float), f"{where}: {value!r} is no number"


def frames(body: bytes) -> list[tuple[str, Any]]:
    """Return the (event, decoded data) of server-sent events; the end mark ``[DONE]`` is left out."""
    found: list[tuple[str, Any]] = []
    for block in body.decode().replace("\r\n", "\n").split("\n\n"):
        event, data = "", []
        for line in block.split("\n"):
            if line.startswith("event:"):
                event = line[6:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].lstrip(" "))
        if data and data != ["[DONE]"]:
            found.append((event, json.loads("\n".join(data))))
    return found
