"""The lines of a batch: what each asks, checked, and what is written of its answer."""

from __future__ import annotations

from typing import Any

import msgspec

LINES_MAX = 50_000
FAULTS_MAX = 20
"""Faults that are told; a file that is wrong throughout is wrong in one way."""
_encode, _decode = msgspec.json.encode, msgspec.json.decode


class Line(msgspec.Struct, frozen=True):
    """One call of a batch."""

    number: int
    custom_id: str
    body: bytes


def read(content: bytes, endpoint: str) -> tuple[list[Line], list[str]]:
    """Return the lines of an input file and what is wrong with it."""
    lines: list[Line] = []
    faults: list[str] = []
    seen: set[str] = set()
    for number, raw in enumerate(content.split(b"\n"), 1):
        if not raw.strip():
            continue
        line, fault = _read_line(number, raw, endpoint)
        if line is not None and line.custom_id in seen:
            fault = f"the custom_id '{line.custom_id[:64]}' is used twice"
        if fault is not None or line is None:
            faults.append(f"line {number}: {fault}")
            if len(faults) >= FAULTS_MAX:
                break
            continue
        seen.add(line.custom_id)
        lines.append(line)
    if not lines and not faults:
        faults.append("the file holds no lines")
    if len(lines) > LINES_MAX:
        faults.append(f"the file holds more than {LINES_MAX} lines")
    return lines, faults


def _read_line(number: int, raw: bytes, endpoint: str) -> tuple[Line | None, str | None]:
    try:
        value: Any = _decode(raw)
    except msgspec.DecodeError:
        return None, "not valid JSON"
    except RecursionError:
        return None, "nested too deeply"
    if not isinstance(value, dict):
        return None, "not a JSON object"
    custom_id, body = value.get("custom_id"), value.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        return None, "no custom_id"
    if value.get("method") != "POST" or value.get("url") != endpoint:
        return None, f"method and url must be POST {endpoint}"
    if not isinstance(body, dict):
        return None, "no body"
    if body.get("stream"):
        return None, "a batch cannot stream"
    return Line(number, custom_id, _encode(body)), None


def write(line: Line, batch_id: str, status: int, request_id: str, answer: bytes) -> bytes:
    """Return the line of an output file (below status 300), or of an error file."""
    try:
        _decode(answer)
        body = msgspec.Raw(answer)
    except (msgspec.DecodeError, RecursionError):
        body = msgspec.Raw(b"null")
    response = {"status_code": status, "request_id": request_id, "body": body}
    record = {
        "id": f"batch_req_{batch_id.removeprefix('batch_')}_{line.number}",
        "custom_id": line.custom_id,
        "response": response,
        "error": None,
    }
    return _encode(record) + b"\n"


def not_run(line: Line, batch_id: str, code: str, message: str) -> bytes:
    """Return the line of an error file for a call that was never made."""
    record = {
        "id": f"batch_req_{batch_id.removeprefix('batch_')}_{line.number}",
        "custom_id": line.custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return _encode(record) + b"\n"
