"""Sends cases over kept connections, several at once, and writes down how each was answered."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from bench.fuzz_cases import Request, draw_cases
from bench.fuzz_judge import Answer, Judge, shown

AT_ONCE = 24
"""Connections of a process, each with one request on it at a time."""
ANSWER_S = 60.0
HEAD_BYTES_MAX = 1024 * 1024
SPOILT = "GET /v1/models"
"""The operation of which the sabotage takes one answer's members away."""


class Share(msgspec.Struct, frozen=True):
    """What one process is to do: `number` of `processes`. `spoils` makes it falsify one answer."""

    document: dict[str, Any]
    hinted: dict[str, Any]
    meant: dict[str, Any]
    port: int
    key: str
    seed: int
    size: int
    number: int
    processes: int
    out: str
    spoils: bool


class Row(msgspec.Struct):
    """A line of the ledger; `status` 0 means that no answer came."""

    operation: str
    mode: str
    digest: str
    status: int
    elapsed_ms: float
    excused: bool = False
    problem: str | None = None


class Problem(msgspec.Struct):
    """One kind of problem of an operation: how often, and the first request and answer with it."""

    operation: str
    kind: str
    count: int
    request: str
    answer: str


class Line:
    """One connection, opened anew when the gateway has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, data: bytes, method: str) -> Answer:
        """Return the answer. Raises OSError, EOFError or TimeoutError when none comes."""
        async with asyncio.timeout(ANSWER_S):
            if self._streams is not None:
                with contextlib.suppress(_Unheard):
                    return await self._exchange(data, method)
            return await self._exchange(data, method)

    async def _exchange(self, data: bytes, method: str) -> Answer:
        kept = self._streams is not None
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, limit=HEAD_BYTES_MAX
            )
        reader, writer = self._streams
        try:
            writer.write(data)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError) as error:
            await self.close()
            heard = error.partial if isinstance(error, asyncio.IncompleteReadError) else b""
            if kept and not heard:
                raise _Unheard from error  # it was closed while it lay idle: asked once more
            raise
        status, headers = _parsed(head)
        if method == "GET" and "event-stream" in headers.get("content-type", ""):
            await self.close()  # news, which have no end
            return Answer(status, headers, b"")
        body = await _body(reader, status, headers)
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return Answer(status, headers, body)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class _Unheard(Exception):
    """A kept connection had been closed by the other side before anything was said on it."""


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> bytes:
    if status in {204, 304}:
        return b""
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", "0")))
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(parts)


class Sender:
    """Sends a share, one ledger line per case."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._judge = Judge(share.document)
        self._cases = draw_cases(
            share.document,
            share.hinted,
            share.meant,
            share.seed,
            share.size,
            share.number,
            share.processes,
        )
        self._problems: dict[tuple[str, str], Problem] = {}
        self._encoder = msgspec.json.Encoder()
        self._spoils = share.spoils

    async def run(self) -> None:
        """Send everything."""
        out = Path(self._share.out)
        # A draw may take long: in the loop's own thread it would hold up every open connection.
        with (
            ThreadPoolExecutor(1) as drawing,
            (out / f"cases-{self._share.number}.jsonl").open("wb") as ledger,
        ):
            lines = [self._line(drawing, ledger) for _ in range(AT_ONCE)]
            await asyncio.gather(*lines)
        worst = sorted(self._problems.values(), key=lambda it: -it.count)
        (out / f"problems-{self._share.number}.json").write_bytes(msgspec.json.encode(worst))

    async def _line(self, drawing: Executor, ledger: BinaryIO) -> None:
        line, loop = Line(self._share.port), asyncio.get_running_loop()
        while (request := await loop.run_in_executor(drawing, next, self._cases, None)) is not None:
            row = await self._send(line, request)
            ledger.write(self._encoder.encode(row) + b"\n")
        await line.close()

    async def _send(self, line: Line, request: Request) -> Row:
        data = request.wire(self._share.key)
        digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        begun = time.monotonic()
        row = Row(request.operation, request.mode, digest, 0, 0.0)
        try:
            answer = await line.ask(data, request.method)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            await line.close()
            row.problem = f"no answer: {type(error).__name__}"
            answer = Answer(0, {}, str(error).encode())
        else:
            if self._spoils and request.operation == SPOILT:
                self._spoils = False
                answer.body = b"{}"
            row.status = answer.status
            row.problem = self._judge.problem(request, answer)
            row.excused = answer.status >= 500 and row.problem is None
        row.elapsed_ms = round((time.monotonic() - begun) * 1000, 1)
        if row.problem is not None:
            self._note(request, row.problem, answer)
        return row

    def _note(self, request: Request, kind: str, answer: Answer) -> None:
        problem = self._problems.get((request.operation, kind))
        if problem is None:
            told = f"{request.method} {request.target} {shown(request.body)}"
            problem = Problem(request.operation, kind, 0, told, shown(answer.body))
            self._problems[request.operation, kind] = problem
        problem.count += 1


def work(share: Share) -> None:
    """Do one process's share."""
    asyncio.run(Sender(share).run())


def read_rows(out: Path) -> Iterator[Row]:
    """Yield the lines of all ledgers."""
    decoder = msgspec.json.Decoder(Row)
    for path in sorted(out.glob("cases-*.jsonl")):
        with path.open("rb") as lines:
            yield from (decoder.decode(line) for line in lines)


def read_problems(out: Path) -> list[Problem]:
    """Return all problems, the most frequent first."""
    found: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Problem] = {}
    for path in sorted(out.glob("problems-*.json")):
        for problem in msgspec.json.decode(path.read_bytes(), type=list[Problem]):
            found[problem.operation, problem.kind] += problem.count
            first.setdefault((problem.operation, problem.kind), problem)
    return [
        msgspec.structs.replace(first[place], count=count) for place, count in found.most_common()
    ]
