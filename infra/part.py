"""What a part does from its start to its end, whichever it is (`infra.start` begins it).

The process ends in order on SIGTERM. A part whose supervisor has died goes on serving, so that
nobody notices; when no new `weir up` takes it over within the grace time, it ends in order too.
"""

import asyncio
import fcntl
import importlib
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from infra.handover import FROM_INPUT, Handover
from infra.kafka import KafkaLog
from infra.parts import GATE_VARIABLE, MODULES, kind_of
from infra.state import load_state, supervised
from infra.telemetry import configure
from schemas.errors import WeirError

_ORPHAN_GRACE_S = float(os.environ.get("WEIR_ORPHAN_GRACE_S", "60"))
_GATE_POLL_S = 0.02
_log = logging.getLogger("infra.part")


def main() -> None:
    """Run the part that the command line names until it is told to stop."""
    name, *source = sys.argv[1:]
    configure(name, "info")
    try:
        told = _told(name, from_input=source == [FROM_INPUT])
        configure(name, told.log_level)
        if os.environ.get("WEIR_SUPERVISED"):
            claim = _claim(told.home)
            threading.Thread(target=_watch, args=(told.home, claim), daemon=True).start()
        _run(name, told)
    except Exception as error:  # noqa: BLE001 - the process's last words
        _log.exception("%s ends with an error: %s", name, reason_of(error))
        sys.exit(1)


def reason_of(error: BaseException) -> str:
    """Return what went wrong and what to do about it, in one line; of a group what it holds first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, WeirError):
        said = f"{error.message}. {error.advice}"
    return " ".join(said.split())


def _told(name: str, *, from_input: bool) -> Handover:
    if from_input:
        return Handover.load(kind_of(name), sys.stdin.buffer.read())
    from infra.settings import load
    from infra.words import handover_of

    return handover_of(name, load())


def _run(name: str, told: Handover) -> None:
    kind = kind_of(name)
    module = importlib.import_module(MODULES[kind])
    _wait_at_gate()
    with asyncio.Runner(loop_factory=_loop_factory(kind)) as runner:
        runner.run(_serve(module, name, told))


def _wait_at_gate() -> None:
    """Wait until the log is prepared: what takes long, the imports, is done beside Kafka's start."""
    if gate := os.environ.get(GATE_VARIABLE):
        while not os.path.exists(gate):
            time.sleep(_GATE_POLL_S)


def _loop_factory(kind: str) -> Any:
    if kind in {"gateway", "control", "sandbox"}:
        import uvloop

        return uvloop.new_event_loop
    return None


async def _serve(module: Any, name: str, told: Handover) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _log.info("%s starts", name)
    kind = kind_of(name)
    if kind == "sandbox":  # it stands for the vendors' side and knows nothing of the log
        await module.run(told.own, stop)
    else:
        async with KafkaLog(told.connection, f"/{kind}/{os.getpid()}") as log:
            await module.run(told.own, log, stop)
    _log.info("%s has stopped", name)


def _claim(home: Path) -> int:
    """A shared lock of all parts of one home: the last one to leave can tell that it is."""
    descriptor = os.open(home / "parts.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def _watch(home: Path, claim: int) -> None:
    """End this process in order when it has been without a supervisor for the grace time."""
    since_s = time.monotonic()
    while time.monotonic() - since_s < _ORPHAN_GRACE_S:
        if supervised(home):
            since_s = time.monotonic()
        time.sleep(1)
    _log.warning("no supervisor for %.0f s: this part ends", _ORPHAN_GRACE_S)
    _leave(home, claim)
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(home: Path, claim: int) -> None:
    """The last orphan takes the embedded broker, which cannot watch for itself, with it."""
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(claim)
        return
    state = load_state(home)
    for part in state.parts if state else []:
        if part.name == "broker" and part.pid is not None and part.alive():
            os.kill(part.pid, signal.SIGTERM)
