"""Forms with files (multipart/form-data, RFC 7578), read and written without copying them twice."""

from __future__ import annotations

import hashlib
import re
from secrets import token_hex

import msgspec

from gateway.dialects.neutral import Fields
from schemas.errors import InvalidRequest

BOUNDARY = f"weir-{token_hex(16)}"
"""One for all forms of this process: nobody who writes a file can know it."""
PARTS_MAX = 256
_HEADERS_BYTES_MAX = 8 * 1024
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^;,\s"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'[;\s]name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_FILENAME = re.compile(rb'[;\s]filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_PLAIN = re.compile(rb"-?\d{1,15}|true|false")
_encode = msgspec.json.encode


class FormPart(msgspec.Struct, frozen=True):
    """One part; `headers` are its header lines as they came, `is_file` when it names a file."""

    name: str
    headers: bytes
    data: bytes
    is_file: bool

    @property
    def filename(self) -> str | None:
        """The file's name without folders, None for a part that names none."""
        found = _FILENAME.search(self.headers)
        if found is None:
            return None
        return found[1].decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]


class FormFields(Fields):
    """A form's texts as JSON (numbers and booleans as such), with the parts as they came."""

    parts: list[FormPart]

    def replaced(self, texts: Fields) -> FormFields:
        """Return the form with other texts in it."""
        form = FormFields(texts)
        form.parts = [
            part
            if part.is_file or texts.get(part.name) == self.get(part.name)
            else msgspec.structs.replace(part, data=_text_of(texts[part.name]))
            for part in self.parts
            if part.is_file or part.name in texts
        ]
        return form


def read_form(body: bytes, content_type: str | None) -> FormFields:
    """Return the form in a body. Raises InvalidRequest."""
    found = _BOUNDARY.search(content_type or "")
    if found is None or not (content_type or "").lower().startswith("multipart/form-data"):
        raise InvalidRequest(
            "the body is no form with a file",
            action="Send multipart/form-data with its boundary in content-type.",
        )
    mark = b"--" + (found[1] or found[2]).encode("latin-1")
    start, *pieces = (b"\r\n" + body).split(b"\r\n" + mark)
    if start.strip() or not pieces or not pieces[-1].startswith(b"--"):
        raise InvalidRequest("the form does not end with its boundary")
    if len(pieces) > PARTS_MAX:
        raise InvalidRequest(f"the form has more than {PARTS_MAX} parts")
    form = FormFields()
    form.parts = [_part(piece) for piece in pieces[:-1]]
    for part in form.parts:
        if not part.is_file:
            form[part.name] = _value(part)
    return form


def _part(piece: bytes) -> FormPart:
    headers, found, data = piece.partition(b"\r\n\r\n")
    headers = headers.removeprefix(b"\r\n")
    name = _NAME.search(headers)
    if not found or name is None or len(headers) > _HEADERS_BYTES_MAX:
        raise InvalidRequest("a part of the form has no name")
    is_file = _FILENAME.search(headers) is not None
    return FormPart(name[1].decode("utf-8", "replace"), headers, data, is_file)


def _value(part: FormPart) -> msgspec.Raw:
    if _PLAIN.fullmatch(part.data):
        return msgspec.Raw(part.data)
    try:
        return msgspec.Raw(_encode(part.data.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the form's '{part.name}' is not valid UTF-8") from error


def _text_of(value: msgspec.Raw) -> bytes:
    decoded = msgspec.json.decode(value)
    return decoded.encode() if isinstance(decoded, str) else bytes(value)


def write_form(form: FormFields, model: str) -> bytes:
    """Write a form for a provider: the model is named anew, all else is as it came."""
    mark = f"--{BOUNDARY}\r\n".encode()
    plain = b'Content-Disposition: form-data; name="model"'
    out = [mark, plain, b"\r\n\r\n", model.encode(), b"\r\n"]
    for part in form.parts:
        if part.name != "model":
            out += [mark, part.headers, b"\r\n\r\n", part.data, b"\r\n"]
    out.append(f"--{BOUNDARY}--\r\n".encode())
    return b"".join(out)


def record_form(form: FormFields) -> bytes:
    """Return a form as JSON for the record: texts as they are, files by their hash."""
    record: dict[str, object] = dict(form)
    for part in form.parts:
        if part.is_file:
            digest = hashlib.sha256(part.data).hexdigest()
            record[part.name] = {"bytes": len(part.data), "sha256": digest}
    return _encode(record)
