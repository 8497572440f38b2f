"""Carries out the misbehaviour of `bench.hostile_cases`, in a process of its own, and judges its end."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from pathlib import Path

import msgspec

from bench.hostile_cases import Case, cases

HEARD_MAX = 64 * 1024
CONNECT_S = 10.0
MORE_S = 1.0
"""How long a second answer, to what was smuggled in, is waited for after a refusal."""
LATE_S = 2.0
"""How much later than its bound an end may be noticed by a busy judge."""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


class Outcome(msgspec.Struct):
    """How one socket fared: the statuses that it heard, whether it was closed, and what was wrong."""

    case: str
    statuses: list[int]
    closed: bool
    elapsed_s: float
    problem: str | None = None


class Ear:
    """Hears what comes on a socket, without keeping it: statuses, and the end."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._rest = b""
        self.statuses: list[int] = []
        self.closed = False
        self.heard_s = 0.0
        self.last = b""

    async def listen(self) -> None:
        """Listen to the end. Raises nothing: a reset is an end."""
        try:
            while data := await self._reader.read(HEARD_MAX):
                self._note(data)
        except OSError:
            pass
        self.closed = True

    def _note(self, data: bytes) -> None:
        self.heard_s = time.monotonic()
        text = self._rest + data
        end = 0
        for found in _STATUS.finditer(text):
            self.statuses.append(int(found[1]))
            end = found.end()
        self._rest = text[max(end, len(text) - 16) :]
        self.last = text[-300:]


async def attack(case: Case, port: int, key: str) -> Outcome:
    """Misbehave once; return how it ended."""
    begun = time.monotonic()
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), CONNECT_S)
    ear = Ear(reader)
    hears = case.name not in _OWN_READERS
    listening = asyncio.create_task(ear.listen()) if hears else None
    acting = asyncio.create_task(_acted(case, reader, writer, key))
    waits = [task for task in (listening if hears else acting,) if task is not None]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(case.within_s):
            while waits and not _is_over(case, ear):
                await asyncio.wait(waits, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                waits = [task for task in waits if not task.done()]
    elapsed_s = time.monotonic() - begun
    for task in (listening, acting):
        if task is not None:
            task.cancel()
    writer.transport.abort()
    outcome = Outcome(case.name, ear.statuses[-3:], ear.closed, round(elapsed_s, 2))
    outcome.problem = judged(case, ear.statuses, ear.closed, elapsed_s, ear.last)
    return outcome


_OWN_READERS = frozenset({"hangs up in the answer", "slow readers"})


async def _acted(
    case: Case, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str
) -> None:
    with contextlib.suppress(OSError):  # the gateway has had enough: what it said is judged
        await case.act(reader, writer, key.encode())


def _is_over(case: Case, ear: Ear) -> bool:
    """Return whether it was refused, and no further answer has followed for a while."""
    return (
        case.rule != "left"
        and any(status >= 400 for status in ear.statuses)
        and time.monotonic() - ear.heard_s > MORE_S
    )


def judged(
    case: Case, statuses: list[int], closed: bool, elapsed_s: float, last: bytes
) -> str | None:
    """Return what is wrong with how a case ended, None when it was contained."""
    if any(status >= 500 for status in statuses):
        return f"a server error: {statuses[-1]} {last!r}"
    if case.rule == "left":
        return None
    if elapsed_s > case.within_s + LATE_S:
        return f"took {elapsed_s:.1f} s"
    refusals = [status for status in statuses if 400 <= status < 500]
    if case.rule == "served":
        wrong = [s for s in statuses if s not in {101, 200} and not 400 <= s < 500]
        return f"heard {wrong[:3]}" if wrong or len(refusals) > 1 or not statuses else None
    if len(statuses) > 1:
        return f"{len(statuses)} answers to one request: {statuses[:4]}"
    if statuses and not refusals:
        return f"not refused: {statuses} {last[-120:]!r}"
    if not statuses and not closed:
        return "neither refused nor closed"
    return None


async def _all(port: int, key: str, times: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for case in cases():
        number = case.at_once if case.at_once > 50 else min(case.at_once * times, 50)
        outcomes += await asyncio.gather(*(attack(case, port, key) for _ in range(number)))
    return outcomes


def attack_all(port: int, key: str, times: int, ledger: str) -> None:
    """Misbehave in every way, and write down how each socket fared."""
    outcomes = asyncio.run(_all(port, key, times))
    with Path(ledger).open("wb") as lines:
        lines.writelines(msgspec.json.encode(outcome) + b"\n" for outcome in outcomes)
