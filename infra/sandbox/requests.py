"""Reading request bodies strictly, and saying what is wrong with one in words for either dialect."""

import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING = re.compile(r"Object missing required field `([^`]+)`")
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]+)`")
_RANGE = re.compile(r" (?:>=|<=) ")


class BadBody(Exception):
    """A body that the vendor's schema does not accept."""

    def __init__(self, problem: str, path: str, message: str) -> None:
        super().__init__(message)
        self.problem = problem
        """`json`, `missing`, `unknown`, `range` or `type`."""
        self.path = path
        """Where, as `messages.0.content`."""
        self.message = message


def read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a body.

    Raises:
        BadBody: no JSON, or not what the schema says.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBody("json", "", str(error)) from error


def read_form(fields: dict[str, Any], kind: type[T]) -> T:
    """Convert the texts of a form.

    Raises:
        BadBody: not what the schema says.
    """
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from error


def _explain(text: str) -> BadBody:
    found = _PATH.search(text)
    path = re.sub(r"\[(\w*)\.*\]", r".\1", found[1]).strip(".").replace("..", ".") if found else ""
    what = _PATH.sub("", text)
    for problem, pattern in (("missing", _MISSING), ("unknown", _UNKNOWN)):
        if match := pattern.search(what):
            return BadBody(problem, f"{path}.{match[1]}".strip("."), what)
    return BadBody("range" if _RANGE.search(what) else "type", path, what)
