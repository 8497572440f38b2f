"""Steering the sandbox while it serves: behaviours, models, books. Paths under `{base}/sandbox/`."""

from typing import get_args
from urllib.parse import parse_qs, unquote

import msgspec

from infra.sandbox.behaviour import Behaviour, Behaviours, Rule
from infra.sandbox.books import Books
from infra.sandbox.exchange import Receive, Scope, Send
from infra.sandbox.models import Catalogue, Dialect, Model

_BODY_BYTES_MAX = 1 << 20


class Refused(Exception):
    """A control call that cannot be served: status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Control:
    """The control endpoints.

    - `GET /sandbox/health`
    - `GET /sandbox/behaviour`: the rules in force
    - `PUT|GET|DELETE {base}/sandbox/models/{model}/behaviour`: one rule; model `*` for all of the base
    - `POST /sandbox/models`: offer another model
    - `GET /sandbox/books?since=&limit=`, `GET /sandbox/books/summary`
    """

    def __init__(self, catalogue: Catalogue, behaviours: Behaviours, books: Books) -> None:
        self._catalogue = catalogue
        self._behaviours = behaviours
        self._books = books

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one control call."""
        try:
            body = await _read(receive)
            status, answer = 200, self._answer(scope, body)
        except Refused as refused:
            status, answer = (
                refused.status,
                msgspec.json.encode({"error": {"message": str(refused)}}),
            )
        except msgspec.MsgspecError as error:
            status, answer = 400, msgspec.json.encode({"error": {"message": str(error)}})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, scope: Scope, body: bytes) -> bytes:
        base, _, rest = scope["path"].partition("/sandbox/")
        method = scope["method"]
        match method, rest.split("/"):
            case "GET", ["health"]:
                return b'{"status":"ok"}'
            case "GET", ["behaviour"]:
                return msgspec.json.encode(self._behaviours.rules())
            case _, ["models", *name, "behaviour"] if name:
                return self._behaviour(method, base, unquote("/".join(name)), body)
            case "POST", ["models"]:
                self._catalogue.add(msgspec.json.decode(body, type=Model))
                return b'{"status":"ok"}'
            case "GET", ["books"]:
                query = parse_qs(scope["query_string"].decode())
                return self._books.page(_number(query, "since", 0), _number(query, "limit", 1_000))
            case "GET", ["books", "summary"]:
                return msgspec.json.encode(self._books.summary())
        raise Refused(404, f"nothing at {method} {scope['path']}")

    def _behaviour(self, method: str, base: str, model: str, body: bytes) -> bytes:
        known = any(
            name in (model, entry.name)
            for dialect in get_args(Dialect)
            for name, entry in self._catalogue.listed(dialect)
        )
        if model != "*" and not known:
            raise Refused(404, f"no model {model}")
        if method == "PUT":
            self._behaviours.put(base, model, msgspec.json.decode(body, type=Behaviour))
        elif method == "DELETE":
            self._behaviours.put(base, model, None)
        elif method != "GET":
            raise Refused(405, "use GET, PUT or DELETE")
        rules: list[Rule] = [
            r for r in self._behaviours.rules() if (r.base, r.model) == (base, model)
        ]
        return msgspec.json.encode(rules[0].behaviour if rules else Behaviour())


def _number(query: dict[str, list[str]], name: str, default: int) -> int:
    text = query.get(name, [str(default)])[0]
    if not text.isdigit():
        raise Refused(400, f"{name} must be a number")
    return int(text)


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        parts.append(message["body"])
        size += len(message["body"])
        if size > _BODY_BYTES_MAX:
            raise Refused(413, "the body is too large")
        if not message["more_body"]:
            return b"".join(parts)
