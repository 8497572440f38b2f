"""What all of Bedrock's answers share: signatures, error bodies, headers, and event stream messages.

Written from the vendor's pages: "Create a signed AWS API request" (IAM user guide), "Event stream
encoding" (Lex V2 developer guide), "Common errors" and "Converse" (Bedrock API reference).
"""

import hashlib
import hmac
import math
import struct
import zlib
from urllib.parse import quote

import msgspec

from infra.sandbox.errors import ApiError, ErrorKind
from infra.sandbox.exchange import Exchange, Header

SECRET_PREFIX = "secret-of-"  # noqa: S105 - how the sandbox makes secrets up
"""The secret of access key id X is `secret-of-X`: so signatures can be checked without a list."""

_EXCEPTIONS: dict[ErrorKind, str] = {
    "authentication": "AccessDeniedException",
    "invalid_request": "ValidationException",
    "not_found": "ResourceNotFoundException",
    "rate_limit": "ThrottlingException",
    "server": "InternalServerException",
    "overloaded": "ServiceUnavailableException",
    "too_large": "ValidationException",
}


def exception(error: ApiError) -> str:
    """The name of the exception that an error is."""
    return "ServiceUnavailableException" if error.status == 503 else _EXCEPTIONS[error.kind]


def plain_headers(exchange: Exchange) -> list[Header]:
    """Headers of every answer."""
    return [(b"x-amzn-requestid", exchange.row.id.encode())]


async def answer_error(exchange: Exchange, error: ApiError) -> None:
    """Send an error in the vendor's body: its kind stands in a header."""
    name = exception(error)
    headers = [*plain_headers(exchange), (b"x-amzn-errortype", name.encode())]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
    exchange.row.error_code = name
    await exchange.answer(error.status, msgspec.json.encode({"message": error.message}), headers)


def message(kind: str, name: str, body: object) -> bytes:
    """An event stream message: `kind` is event or exception, `name` its type."""
    block = b""
    for key, value in (
        (f":{kind}-type", name),
        (":content-type", "application/json"),
        (":message-type", kind),
    ):
        block += struct.pack(">B", len(key)) + key.encode()
        block += struct.pack(">BH", 7, len(value)) + value.encode()
    payload = msgspec.json.encode(body)
    prelude = struct.pack(">II", 12 + len(block) + len(payload) + 4, len(block))
    whole = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return whole + struct.pack(">I", zlib.crc32(whole))


def authenticate(exchange: Exchange, body: bytes, keys: frozenset[str]) -> None:
    """Check the API key or the signature of a call.

    Raises:
        ApiError: 403 as the vendor answers it.
    """
    given = exchange.header(b"authorization") or ""
    if given.startswith("Bearer "):
        key = given.removeprefix("Bearer ").strip()
    elif given.startswith("AWS4-HMAC-SHA256 "):
        key = _check_signature(exchange, given, body)
    else:
        raise ApiError(403, "authentication", "Missing Authentication Token")
    exchange.row.key = f"{key[:3]}…{key[-4:]}" if len(key) > 8 else "…"
    if keys and key not in keys:
        raise ApiError(
            403, "authentication", "The security token included in the request is invalid."
        )


def _check_signature(exchange: Exchange, given: str, body: bytes) -> str:
    """The access key id of a request that is signed rightly."""
    parts = dict(
        part.strip().split("=", 1) for part in given.partition(" ")[2].split(",") if "=" in part
    )
    try:
        key_id, day, region, service, end = parts["Credential"].split("/")
        names, signature = parts["SignedHeaders"].split(";"), parts["Signature"]
        stamp = exchange.headers[b"x-amz-date"].decode()
    except (KeyError, ValueError) as error:
        raise ApiError(
            403, "authentication", "Authorization header is not a complete signature."
        ) from error
    raw: bytes = exchange.scope["raw_path"]
    query: bytes = exchange.scope["query_string"]
    wanted = "&".join(sorted(query.decode().split("&"))) if query else ""
    lines = [f"{name}:{' '.join(_header(exchange, name).split())}" for name in names]
    request = "\n".join(
        [
            exchange.row.method,
            quote(raw.partition(b"?")[0].decode(), safe="/-_.~"),
            wanted,
            *lines,
            "",
            ";".join(names),
            hashlib.sha256(body).hexdigest(),
        ]
    )
    digest = hashlib.sha256(request.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{day}/{region}/{service}/{end}\n{digest}"
    key = f"AWS4{SECRET_PREFIX}{key_id}".encode()
    for part in (day, region, service, end):
        key = hmac.digest(key, part.encode(), "sha256")
    right = hmac.digest(key, text.encode(), "sha256").hex()
    if not hmac.compare_digest(right, signature) or service != "bedrock":
        raise ApiError(
            403,
            "authentication",
            "The request signature we calculated does not match the signature you provided.",
        )
    return key_id


def _header(exchange: Exchange, name: str) -> str:
    return exchange.header(name.encode()) or ""
