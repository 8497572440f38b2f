"""Callers who wait for nothing: each sends its next call as soon as its last one is answered.

``python -m bench.callers PLAN.json`` makes the calls of a `Plan` on so many kept-alive connections and
writes what came to the plan's `out`. It takes about a twentieth of the processor time of an HTTP
client that is made for use, so that it is the server that the calls have to wait for.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec
import uvloop

from bench.stack import ROOT

PATH = "/v1/chat/completions"
REQUEST_ID = b"x-weir-request-id"


class Plan(msgspec.Struct, frozen=True):
    """Whom to call for which model, how often in all, on how many connections."""

    url: str
    key: str
    model: str
    count: int
    connections: int
    out: str
    headers: dict[str, str] = {}


class Made(msgspec.Struct, frozen=True):
    """What came: the ids by which a gateway names its answers ("" where it does not), and seconds."""

    ids: list[str]
    seconds: float


class Caller(asyncio.Protocol):
    """One connection; takes the next of the calls' numbers until there are none."""

    def __init__(
        self, plan: Plan, numbers: Iterator[int], ids: list[str], done: asyncio.Future[None]
    ) -> None:
        address = urlsplit(plan.url)
        headers = {
            "host": address.netloc,
            "authorization": f"Bearer {plan.key}",
            "content-type": "application/json",
            "accept": "*/*",
            "user-agent": "bench",
            **plan.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"POST {PATH} HTTP/1.1\r\n{lines}content-length: ".encode()
        self._model = plan.model
        self._numbers = numbers
        self._ids = ids
        self._done = done
        self._id = ""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the connection was closed"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == REQUEST_ID:
            self._id = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            status = self._parser.get_status_code()
            self._done.set_exception(RuntimeError(f"{status}: {self._body[:300]!r}"))
            self._transport.abort()
            return
        self._ids.append(self._id)
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        number = next(self._numbers, None)
        if number is None:
            self._done.set_result(None)
            self._transport.close()
            return
        self._parser = httptools.HttpResponseParser(self)
        self._body, self._id = b"", ""
        body = json.dumps(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": f"Say where the water goes, {number}."}],
                "max_tokens": 64,
            }
        ).encode()
        self._transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))


async def made(plan: Plan) -> Made:
    """Make a plan's calls in a process of their own. Raises RuntimeError when one is not answered."""
    out = Path(plan.out)
    file = out.with_suffix(".plan.json")
    file.write_bytes(msgspec.json.encode(plan))
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.callers",
        str(file),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    _, words = await child.communicate()
    if child.returncode:
        raise RuntimeError(words.decode()[-600:])
    return msgspec.json.decode(out.read_bytes(), type=Made)


async def _call(plan: Plan) -> Made:
    loop = asyncio.get_running_loop()
    address = urlsplit(plan.url)
    numbers, ids = iter(range(plan.count)), list[str]()
    ended = [loop.create_future() for _ in range(plan.connections)]
    begun_s = time.monotonic()
    for done in ended:
        await loop.create_connection(
            lambda done=done: Caller(plan, numbers, ids, done),  # type: ignore[misc]
            address.hostname or "127.0.0.1",
            address.port or 80,
        )
    await asyncio.gather(*ended)
    return Made(ids, time.monotonic() - begun_s)


def main(file: Path) -> None:
    """Make the calls."""
    plan = msgspec.json.decode(file.read_bytes(), type=Plan)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        Path(plan.out).write_bytes(msgspec.json.encode(runner.run(_call(plan))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
