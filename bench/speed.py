"""Claim: what a proxied call costs with durable events on, beside a direct call and a minimal proxy.

CPU is that of the gateway's one worker process (user and system, its relay thread included) over
a run, until everything is on the log, divided by its calls. No side is pinned to a core. Gateway and
minimal proxy take turns, and so do the single calls on kept-alive connections whose medians the wall
times are: all of them meet the same machine, whatever else it does meanwhile.
Whole calls come from `bench.callers` on 64 connections, so that it is the server that they wait for.
Every side is called as often before it is measured as while it is. What runs beside a gateway that has
just been started (a broker whose code is not compiled yet) takes four times as much for the first
thousands of calls as for the next; the gateway, which shares its caches, takes a fifth more meanwhile.
The limits are those of a machine on which this minimal proxy took `REFERENCE_US`. What it takes in this
run says how much slower this machine is at this hour (`slowness`); `scaled_…` is a figure divided by it,
so that 150 us are a ratio of 1.21 between the two. On a faster machine nothing is scaled.
LiteLLM's proxy and Portkey's gateway are measured in the same run (`bench.peers`), with a tenth of the
calls; their figures have no limit. With BENCH_PROFILE=1 the workers are sampled, and their profiles lie beside the ledgers.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import aiohttp
import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.callers import Plan, made
from bench.checks import CALL_TOPICS, COMPLETED, calls
from bench.claim import Arguments, Limit, Verdict, main
from bench.peers import KEY as PEER_KEY
from bench.peers import PEERS, NotInstallable, Peer
from bench.rawlog import Raw, read_topics
from bench.stack import Child, Stack, base_port, compile_first

CONNECTIONS = 64
STREAMS_AT_ONCE = 32
FRAMES = 24
REFERENCE_US = 124
"""CPU of a call through the minimal proxy (bare ASGI, aiohttp) where the limits below were set."""
SCALED = {
    "cpu_us_per_request": 150.0,
    "added_ms_written": 0.5,
    "added_ms_synced": 1.0,
    "added_ms_replicated": 4.0,
}
"""Where a slower machine is allowed for, and how much each may be."""
TURNS = 10
STREAM_SHARE = 10
"""One stream is measured for this many whole calls, one latency sample for each stream."""
WHOLE_MODEL = "gpt-4.1-nano"
PACED_MODEL = "gpt-4.1-mini"
FRAME_MS = 4.0
LEVELS = ("written", "synced", "replicated")
PEER_SHARE = 10
QUIET_S = 1.5
SAMPLER = Path(__file__).parent / "sampler"
CONFIG = "".join(
    f'[routes.{level}]\ntargets = [{{ target = "openai/{WHOLE_MODEL}" }}]\ndurability = "{level}"\n\n'
    for level in LEVELS
)

Figures = dict[str, float | int | str | None]


class Caller:
    """Sends chat completions to one address and remembers the ids of what was answered."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        key: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._session = session
        self._base = url
        self._key = key
        self._further = dict(headers or {})
        self._url = f"{url}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._headers |= self._further
        self._sent = 0
        self.answered: list[str] = []

    async def call(self, model: str, *, stream: bool = False) -> None:
        """Make one call and read it to its end. Raises RuntimeError when it is not whole."""
        self._sent += 1
        body = {
            "model": model,
            "messages": [{"role": "user", "content": f"Say where the water goes, {self._sent}."}],
            "max_tokens": 64,
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        data = json.dumps(body).encode()
        async with self._session.post(self._url, data=data, headers=self._headers) as answer:
            content = await answer.read()
            if answer.status != 200 or (stream and not content.rstrip().endswith(b"[DONE]")):
                raise RuntimeError(f"{answer.status}: {content[:300]!r}")
            self.answered.append(answer.headers.get("x-weir-request-id", ""))

    async def streams(self, count: int, model: str) -> None:
        """Make streamed calls, `STREAMS_AT_ONCE` at a time."""
        left = iter(range(count))

        async def one_after_another() -> None:
            for _ in left:
                await self.call(model, stream=True)

        await asyncio.gather(*[one_after_another() for _ in range(STREAMS_AT_ONCE)])

    async def many(self, count: int, model: str, out: Path) -> float:
        """Make whole calls, `CONNECTIONS` at a time; return how many were answered a second."""
        plan = Plan(self._base, self._key, model, count, CONNECTIONS, str(out), self._further)
        came = await made(plan)
        self.answered += came.ids
        return count / came.seconds


def measure(arguments: Arguments) -> Verdict:
    """Run the three sides on one machine, one after the other."""
    compile_first()
    environment = {"WEIR_WORKERS": "1", "WEIR_LOG_LEVEL": "warning"}
    if os.environ.get("BENCH_PROFILE"):
        # Costs some of what it measures: figures with it are no figures, the shares are.
        environment["BENCH_PROFILE"] = str(arguments.out.absolute())
        environment["PYTHONPATH"] = str(SAMPLER)
    with Stack(
        arguments.out,
        seed=arguments.seed,
        config=CONFIG,
        environment=environment,
        keep=arguments.keep,
    ) as stack:
        instant = {"first_token_ms": 0, "per_token_ms": 0, "answer_tokens_max": 16}
        stack.sandbox.behave("", WHOLE_MODEL, **instant)
        paced = {"first_token_ms": FRAME_MS, "per_token_ms": FRAME_MS, "jitter": 0}
        lengths = {"answer_tokens_min": FRAMES, "answer_tokens_max": FRAMES}
        stack.sandbox.behave("", PACED_MODEL, **paced, **lengths)
        port = base_port() + 7
        command = [sys.executable, "-m", "bench.minimal_proxy", str(port), stack.sandbox.url]
        with Child(command, arguments.out / "minimal-proxy.log") as proxy:
            _await_port(port)
            figures, records = asyncio.run(_run(stack, proxy, port, arguments))
        figures["compiled"] = stack.compiled()
        for number, (name, begin) in enumerate(PEERS.items(), 1):
            figures |= _beside(name, begin, stack, port + number, arguments)
    if arguments.sabotage:
        records.remove(next(record for record in records if record.type == COMPLETED))
    figures["recorded"] = len(calls(records).completed)
    slowness = _measured(figures, "minimal_cpu_us_per_request") / REFERENCE_US
    figures["slowness"] = round(slowness, 3)
    for name in SCALED:
        figures[f"scaled_{name}"] = round(_measured(figures, name) / max(1.0, slowness), 3)
    return Verdict(
        figures=figures,
        limits=[
            *(Limit(f"scaled_{name}", maximum) for name, maximum in SCALED.items()),
            Limit("cpu_us_per_stream", 1_900),
            Limit("worker_mib", 100),
            Limit("recorded", float(figures["answered"] or 0), "equal"),
        ],
    )


def _measured(figures: Figures, name: str) -> float:
    """Return a figure. Raises TypeError for one that is no number: it must not pass for zero."""
    value = figures[name]
    if not isinstance(value, int | float):
        raise TypeError(f"{name} was not measured: {value!r}")
    return value


async def _run(
    stack: Stack, proxy: Child, port: int, arguments: Arguments
) -> tuple[Figures, list[Raw]]:
    workers = [pid for name, pid in stack.pids().items() if name.startswith("gateway")]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        direct = Caller(session, stack.sandbox.url, "direct")
        minimal = Caller(session, f"http://127.0.0.1:{port}", "minimal")
        gateway = Caller(session, stack.url, stack.key)
        streams = arguments.size // STREAM_SHARE
        figures: Figures = {"requests": arguments.size, "streams": streams}

        async def quiet() -> None:
            await asyncio.to_thread(_wait_for_the_log, stack.bootstrap)

        sides = [
            Side("", gateway, f"openai/{WHOLE_MODEL}", f"openai/{PACED_MODEL}", workers),
            Side("minimal_", minimal, WHOLE_MODEL, PACED_MODEL, [proxy.pid]),
        ]
        rates: dict[str, list[float]] = {side.name: [] for side in sides}

        async def whole(side: Side, count: int) -> None:
            ledger = arguments.out / f"{side.name or 'weir_'}calls.json"
            rates[side.name].append(await side.caller.many(count, side.whole, ledger))

        async def streamed(side: Side, count: int) -> None:
            await side.caller.streams(count, side.paced)

        figures |= await _in_turns(sides, "cpu_us_per_request", whole, arguments.size, quiet)
        for side in sides:
            figures[f"{side.name}calls_per_s"] = round(statistics.median(rates[side.name]))
        figures |= await _in_turns(sides, "cpu_us_per_stream", streamed, streams, quiet)
        figures |= await _latencies(stack, direct, minimal, gateway, max(streams, 50))
        figures["worker_mib"] = round(max(_rss_mib(workers)), 1)
        figures["minimal_mib"] = round(max(_rss_mib([proxy.pid])), 1)
        await quiet()
        figures["answered"] = len(set(gateway.answered))
    return figures, await asyncio.to_thread(read_topics, stack.bootstrap, CALL_TOPICS)


class Side(NamedTuple):
    """One of those that take turns: how its figures begin, who calls it, and its processes."""

    name: str
    caller: Caller
    whole: str
    paced: str
    pids: list[int]


async def _in_turns(
    sides: list[Side],
    figure: str,
    act: Callable[[Side, int], Awaitable[None]],
    count: int,
    quiet: Callable[[], Awaitable[None]],
) -> Figures:
    """Return each side's CPU per call in microseconds, `count` calls in turns after as many others.

    What a gateway still does for its calls while the other is called is counted as its own.
    """
    for side in sides:
        await act(side, count)
    await quiet()
    each = max(1, count // TURNS)
    before = {side.name: _cpu_s(side.pids) for side in sides}
    for _ in range(TURNS):
        for side in sides:
            await act(side, each)
    await quiet()
    return {
        f"{side.name}{figure}": _us_each(before[side.name], side.pids, each * TURNS)
        for side in sides
    }


def _beside(
    name: str,
    begin: Callable[[Path, int, str, str], Peer],
    stack: Stack,
    port: int,
    arguments: Arguments,
) -> Figures:
    """Return a peer's figures, or why there are none."""
    try:
        peer = begin(arguments.out, port, stack.sandbox.url, WHOLE_MODEL)
    except NotInstallable as error:
        return {name: f"not installable: {error}"}
    with peer.child:
        count = max(arguments.size // PEER_SHARE, CONNECTIONS)
        ledger = arguments.out / f"{name}_calls.json"
        return asyncio.run(_peer(peer, stack.sandbox.url, count, ledger))


async def _peer(peer: Peer, direct_url: str, count: int, ledger: Path) -> Figures:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        direct = Caller(session, direct_url, "direct")
        caller = Caller(session, peer.url, PEER_KEY, peer.headers)
        await caller.many(count, WHOLE_MODEL, ledger)
        before = _cpu_s(peer.pids())
        await caller.many(count, WHOLE_MODEL, ledger)
        cpu_us = _us_each(before, peer.pids(), count)
        sides: dict[str, Callable[[], Awaitable[None]]] = {
            "direct": lambda: direct.call(WHOLE_MODEL),
            "peer": lambda: caller.call(WHOLE_MODEL),
        }
        medians = await _medians(sides, max(count // PEER_SHARE, 50))
    return {
        f"{peer.name}_cpu_us_per_request": cpu_us,
        f"{peer.name}_added_ms": round(medians["peer"] - medians["direct"], 3),
        f"{peer.name}_mib": round(sum(_rss_mib(peer.pids())), 1),
    }


async def _medians(
    sides: Mapping[str, Callable[[], Awaitable[None]]], samples: int
) -> dict[str, float]:
    """Return each side's median in milliseconds; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(samples):
        for name, act in sides.items():
            begun = time.perf_counter()
            await act()
            times[name].append((time.perf_counter() - begun) * 1_000)
    return {name: statistics.median(values) for name, values in times.items()}


async def _latencies(
    stack: Stack, direct: Caller, minimal: Caller, gateway: Caller, samples: int
) -> Figures:
    """Return medians in milliseconds; the sides take turns.

    `fdatasync_ms` and `kafka_ack_ms` are what this machine itself takes for a record of 3 KB: no
    `synced` or `replicated` answer can be faster.
    """
    primitives = Primitives(stack)
    sides: dict[str, Callable[[], Awaitable[None]]] = {
        "direct": lambda: direct.call(WHOLE_MODEL),
        "minimal": lambda: minimal.call(WHOLE_MODEL),
        "written": lambda: gateway.call("written"),
        "synced": lambda: gateway.call("synced"),
        "replicated": lambda: gateway.call("replicated"),
        "fdatasync": primitives.sync,
        "kafka_ack": primitives.acknowledged,
    }
    medians = await _medians(sides, samples)
    figures: Figures = {
        f"{name}_ms": round(medians[name], 3) for name in ("direct", "fdatasync", "kafka_ack")
    }
    for name in ("minimal", *LEVELS):
        figures[f"added_ms_{name}"] = round(medians[name] - medians["direct"], 3)
    return figures


class Primitives:
    """A record of 3 KB to the disk, and to the broker; both may block, as nothing runs beside them."""

    RECORD = b"x" * 3_000
    TOPIC = "bench.acknowledged"

    def __init__(self, stack: Stack) -> None:
        self._file = os.open(
            stack.home / "sync.bench", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600
        )
        admin = AdminClient({"bootstrap.servers": stack.bootstrap})
        admin.create_topics([NewTopic(self.TOPIC, 1, 1)])[self.TOPIC].result(20.0)
        options = {"bootstrap.servers": stack.bootstrap, "acks": "all", "linger.ms": 0}
        self._producer = Producer(options)

    async def sync(self) -> None:
        """Append to a file and wait for the disk."""
        os.write(self._file, self.RECORD)
        os.fdatasync(self._file)

    async def acknowledged(self) -> None:
        """Append to a topic and wait for the acknowledgement."""
        self._producer.produce(self.TOPIC, self.RECORD)
        if self._producer.flush(10.0):
            raise TimeoutError("no acknowledgement from Kafka")


def _cpu_s(pids: Iterable[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(float(t.user + t.system) for t in times)


def _us_each(before_s: float, pids: Iterable[int], count: int) -> float:
    return round((_cpu_s(pids) - before_s) * 1_000_000 / count, 1)


def _rss_mib(pids: Iterable[int]) -> list[float]:
    return [psutil.Process(pid).memory_info().rss / 2**20 for pid in pids]


def _wait_for_the_log(bootstrap: str) -> None:
    """Wait until no record has arrived for a while: the relays have sent all they had."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "speed"})
    try:
        _until_steady(lambda: _ends(consumer))
    finally:
        consumer.close()


def _ends(consumer: Consumer) -> int:
    known = consumer.list_topics(timeout=10).topics
    return sum(
        consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
        for topic in CALL_TOPICS
        for partition in known[topic].partitions
    )


def _until_steady(read: Callable[[], int]) -> None:
    last, since = read(), time.monotonic()
    while time.monotonic() < since + QUIET_S:
        time.sleep(0.3)
        if (now := read()) != last:
            last, since = now, time.monotonic()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 15.0
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


if __name__ == "__main__":
    main("speed", 10_000, measure)
