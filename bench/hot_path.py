"""What one call costs a worker, in figures that do not depend on how busy the machine is.

``python -m bench.hot_path [CALLS]`` serves calls by a worker without Kafka, in this process, from a provider
and callers in processes of their own, and prints as JSON: Python functions entered and C functions
called per call, bytecodes run per call (by what is interpreted), processor time of the worker's thread per call, the same of the
bare pass-through (`bench.minimal_proxy`), and the ratio. The counts are the same however busy the machine
is. With ``--functions`` it names the functions that run most bytecodes, with
``--times`` those that take the time (cProfile, which makes small functions look dearer than they are).
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any, cast

import psutil
import uvloop

from infra import compiled

COMPILED = compiled.prefer()
# Only now: what these import is what may be compiled.
from bench.stack import Child, compile_first
from gateway.app import App, server_of
from gateway.durability import Durability
from gateway.http1 import Pool
from gateway.memory import spare_the_collector
from gateway.outbox import OutboxSettings
from gateway.server import bound
from gateway.settings import GatewaySettings
from gateway.state import GatewayState
from infra.broker import free_port
from infra.kafka import KafkaLog
from schemas.access import hash_of
from schemas.events.changes import KeyChanged, PriceChanged, ProviderChanged, TargetChanged
from schemas.log import Connection
from schemas.privacy import MasterKey
from schemas.table_view import TableView

KEY = "weir-bench-hot-path"
MODEL = "gpt-4.1-nano"
CALLERS = 16
PAUSE_S = 0.015
"""About 900 calls a second: as many as the claim `speed` sends."""
WARM_UP = 500
ROUNDS = 8
_META: dict[str, Any] = {"event_id": "e", "occurred_at_us": 1, "entity_version": 1, "actor": "b"}
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-hot",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Down to the sea. " * 6},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 14, "completion_tokens": 16, "total_tokens": 30},
    }
).encode()
_WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\n"
    b"openai-processing-ms: 1\r\nx-ratelimit-limit-requests: 30000\r\n"
    b"x-ratelimit-remaining-requests: 29999\r\ncontent-length: %d\r\n\r\n%b"
    % (len(_ANSWER), _ANSWER)
)


class _Provider(asyncio.Protocol):
    """Answers every request, whose body fits one packet, with the same bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        del data
        self._transport.write(_WHOLE)


class _Caller(asyncio.Protocol):
    """Sends a request a moment after the last answer has come, until `count` are done.

    A worker that is never idle finds many sockets ready at once and looks cheaper than it is.
    """

    def __init__(self, request: bytes, count: int, done: asyncio.Future[None]) -> None:
        self._request = request
        self._left = count
        self._done = done
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if not self._seen.endswith((b"}", b"0\r\n\r\n")):
            return
        if not self._seen.startswith(b"HTTP/1.1 200"):
            self._done.set_exception(RuntimeError(repr(self._seen[:500])))
            return
        self._seen = b""
        self._left -= 1
        if self._left:
            wait_s = PAUSE_S * random.uniform(0.5, 1.5)
            asyncio.get_running_loop().call_later(wait_s, self._transport.write, self._request)
        elif not self._done.done():
            self._done.set_result(None)


async def _provide(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Provider, "127.0.0.1", port)
    await server.serve_forever()


async def _call(port: int, count: int) -> None:
    """Make `count` calls on every one of the callers' connections."""
    loop = asyncio.get_running_loop()
    body = json.dumps(
        {
            "model": f"openai/{MODEL}",
            "messages": [{"role": "user", "content": "Say where the water goes, 1234."}],
            "max_tokens": 64,
        }
    ).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\naccept: */*\r\naccept-encoding: gzip, deflate\r\n"
        b"user-agent: Python/3.11 aiohttp/3.13\r\ncontent-length: %d\r\n\r\n%b"
        % (port, KEY.encode(), len(body), body)
    )
    done = [loop.create_future() for _ in range(CALLERS)]
    for future in done:
        await loop.create_connection(
            lambda future=future: _Caller(request, count, future),  # type: ignore[misc]
            "127.0.0.1",
            port,
        )
    await asyncio.gather(*done)


def _state(provider_port: int) -> GatewayState:
    state = GatewayState()
    events = [
        KeyChanged(
            **_META, key_id="key-1", name="bench", scopes=["inference"], secret_hash=hash_of(KEY)
        ),
        ProviderChanged(
            **_META,
            name="openai",
            dialect="openai",
            base_url=f"http://127.0.0.1:{provider_port}/v1",
            secret="env:BENCH_HOT_PATH_KEY",
        ),
        TargetChanged(
            **_META, provider="openai", model=MODEL, capabilities=["chat", "stream", "tools"]
        ),
        PriceChanged(
            **_META,
            provider="openai",
            model=MODEL,
            valid_from_us=0,
            input_price=100_000_000,
            output_price=400_000_000,
            price_version="bench",
            source="bench",
        ),
    ]
    views: dict[type, TableView[Any]] = {view.event_type: view for view in state.durable_views}
    for event in events:
        view = views[type(event)]
        view.entries[event.key] = event
        view.generation += 1
    return state


async def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    provider_port, port, minimal_port = free_port(), free_port(), free_port()
    os.environ["BENCH_HOT_PATH_KEY"] = "sk-bench"
    settings = GatewaySettings(
        host="127.0.0.1",
        port=port,
        worker=1,
        control_url="http://127.0.0.1:1",
        data_dir=folder / "gateway",
        outbox_dir=folder / "outbox",
        master_key=bytes(32),
    )
    nobody = Connection("127.0.0.1:1")
    durability = Durability(
        OutboxSettings(folder=settings.outbox_dir), nobody, MasterKey(bytes(32)), "/gateway/bench"
    )
    app = App(
        settings, _state(provider_port), durability, Pool(), KafkaLog(nobody, "/gateway/bench")
    )
    server = server_of(app, settings)
    own = [sys.executable, "-m", "bench.hot_path"]
    with Child([*own, "--provide", str(provider_port)], folder / "provider.log"):
        await _listens(provider_port)
        await server.listen(bound("127.0.0.1", port))
        spare_the_collector()
        base = f"http://127.0.0.1:{provider_port}"
        minimal = [sys.executable, "-m", "bench.minimal_proxy", str(minimal_port), base]
        with Child(minimal, folder / "minimal.log") as child:
            await _listens(minimal_port)
            process = psutil.Process(child.pid)

            def spent_s() -> float:
                times = process.cpu_times()
                return float(times.user + times.system)

            sides = {"cpu_us": (port, time.thread_time), "minimal_cpu_us": (minimal_port, spent_s)}
            figures = await _cpu_us(own, sides, arguments.calls, folder)
        figures |= await _counted(port, arguments, own, folder)
        await server.close(1.0)
    durability.outbox.close()
    figures["compiled"] = COMPILED
    figures["ratio"] = round(figures["cpu_us"] / figures["minimal_cpu_us"], 3)
    return figures


async def _counted(
    port: int, arguments: argparse.Namespace, own: list[str], folder: Path
) -> dict[str, Any]:
    entered: Counter[Any] = Counter()
    c_calls = 0

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal c_calls
        if event == "call":
            entered[frame.f_code] += 1
        elif event == "c_call":
            c_calls += 1

    figures: dict[str, Any] = {}
    sys.setprofile(note)
    calls = await _called(own, port, WARM_UP, folder)
    sys.setprofile(None)
    figures["functions_per_call"] = round(sum(entered.values()) / calls, 1)
    figures["c_functions_per_call"] = round(c_calls / calls, 1)
    figures["bytecodes_per_call"], by_code = await _bytecodes(port, own, folder)
    if arguments.functions:
        for code, count in by_code.most_common(160):
            name = f"{Path(code.co_filename).name}:{code.co_qualname}"
            print(
                f"{count:7.1f} bytecodes, entered {entered[code] / calls:6.2f}  {name}",
                file=sys.stderr,
            )
    if arguments.times:
        profile = cProfile.Profile()
        profile.enable()
        await _called(own, port, arguments.calls, folder)
        profile.disable()
        stats = pstats.Stats(profile, stream=sys.stderr)
        stats.sort_stats("tottime").print_stats(70)
        stats.sort_stats("cumtime").print_stats(90)
    return figures


async def _bytecodes(port: int, own: list[str], folder: Path) -> tuple[float, Counter[Any]]:
    """Return how many of the interpreter's instructions a call takes, all and by function."""
    found: Counter[Any] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            found[frame.f_code] += 1
        return note

    sys.settrace(note)
    calls = await _called(own, port, WARM_UP, folder)
    sys.settrace(None)
    each = Counter({code: round(count / calls, 1) for code, count in found.items()})
    return round(sum(found.values()) / calls, 1), each


async def _cpu_us(
    own: list[str], sides: dict[str, tuple[int, Callable[[], float]]], calls: int, folder: Path
) -> dict[str, Any]:
    """Return the least that each side took in one of several rounds, in which they take turns."""
    figures: dict[str, float] = {}
    for port, _ in sides.values():
        await _called(own, port, WARM_UP, folder)
    for _ in range(ROUNDS):
        for name, (port, spent_s) in sides.items():
            before_s = spent_s()
            made = await _called(own, port, calls // ROUNDS, folder)
            spent_us = (spent_s() - before_s) * 1e6 / made
            figures[name] = round(min(spent_us, figures.get(name, inf)), 1)
    return figures


async def _called(own: list[str], port: int, calls: int, folder: Path) -> int:
    """Have calls made; return how many: each caller makes as many as the others."""
    with (folder / "callers.log").open("ab") as log:
        child = await asyncio.create_subprocess_exec(
            *own, "--call", str(port), str(calls // CALLERS), stdout=log, stderr=log
        )
        if await child.wait():
            raise RuntimeError((folder / "callers.log").read_text())
    return calls // CALLERS * CALLERS


async def _listens(port: int) -> None:
    until_s = time.monotonic() + 15.0
    while time.monotonic() < until_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


def main() -> None:
    """Measure, or play one of the other sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="?", type=int, default=8_000)
    parser.add_argument("--functions", action="store_true")
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--provide", type=int, metavar="PORT")
    parser.add_argument("--call", type=int, nargs=2, metavar=("PORT", "COUNT"))
    arguments = parser.parse_args()

    def run(work: Awaitable[Any]) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)  # type: ignore[arg-type]

    if arguments.provide:
        run(_provide(arguments.provide))
    elif arguments.call:
        run(_call(*arguments.call))
    else:
        if not COMPILED and compile_first():
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run(_measure(Path(folder), arguments))))


if __name__ == "__main__":
    main()
