"""`weir up`: from nothing to a serving installation, and back in order."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from infra import trainer_env
from infra.broker import Broker, BrokerError, BrokerSettings, aot_archive, require_free, serves
from infra.kafka import KafkaLog
from infra.parts import Part
from infra.secret_files import master_key
from infra.seeding import Seeded, seed
from infra.settings import WeirSettings, as_environment, fingerprint, uses_sandbox
from infra.standing import models_part, standing_parts
from infra.state import HomeLock, InstallationState, PartState, load_state
from infra.supervisor import Supervisor, stop_leftovers
from infra.telemetry import configure
from infra.topics import ensure_topics
from infra.vendors import LOCAL_PROVIDER, SANDBOX_SECRET
from schemas import __version__
from schemas.clock import now_us
from schemas.errors import BrokerUnavailable, ConfigurationError
from schemas.events.changes import DeploymentChanged
from schemas.table_view import TableView

_DISK_FREE_MIN = 512 * 1024 * 1024
_BROKER_READY_S = 90.0
_PARTS_READY_S = 90.0
_CLUSTER_ANSWER_S = 15.0
_SERVED_STATES = frozenset({"observing", "analyzing", "promoting", "promoted"})


def last_words(log_file: Path) -> str:
    """The error with which an ended part's log closes, in brackets; nothing where there is none."""
    try:
        line = json.loads(log_file.read_bytes().splitlines()[-1])
        if line["level"] == "error":
            return f" ({line['message']})"
    except (OSError, ValueError, LookupError, TypeError):
        pass  # another program's log, or one that it could not write
    return ""


class Screen(Protocol):
    """Who shows the operator what happens; the command line has one, tests another."""

    def step(self, text: str) -> None:
        """A step of the start has begun."""
        ...

    def progress(self, done: int, total: int) -> None:
        """How far the present step is."""
        ...

    def ready(self, state: InstallationState, seeded: Seeded) -> None:
        """Everything is up."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line has happened while it runs."""
        ...


class Installation:
    """One run of `weir up` over one home folder."""

    def __init__(
        self, settings: WeirSettings, overrides: Mapping[str, Any], screen: Screen
    ) -> None:
        self.settings = settings
        self.screen = screen
        self._stop = asyncio.Event()
        self._lock = HomeLock(settings.home)
        self._tasks: set[asyncio.Task[None]] = set()
        self._environment = {
            **os.environ,
            SANDBOX_SECRET: "sandbox",
            **as_environment(settings, overrides),
        }
        self.sandbox = uses_sandbox(settings, os.environ)
        self._state = InstallationState(
            version=__version__,
            supervisor_pid=os.getpid(),
            fingerprint=fingerprint(settings, os.environ),
            port=settings.port,
            public_url=f"http://127.0.0.1:{settings.port}",
            kafka=settings.connection().bootstrap,
            embedded=settings.embedded,
            started_at_us=now_us(),
            sandbox=self.sandbox,
            trainer_environment="off" if settings.trainer == "off" else "waiting",
        )
        self.supervisor = Supervisor(self._state, settings.home, self._environment, self._changed)
        self._former: dict[str, PartState] = {}

    def request_stop(self) -> None:
        """Begin the orderly end."""
        self._stop.set()

    async def run(self) -> None:
        """Start, serve until asked to stop, end in order. Raises ConfigurationError."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop)
        self._claim_home()
        configure(
            "supervisor", self.settings.log_level, self.settings.folder("logs") / "supervisor.log"
        )
        try:
            await self._until_stopped(self._serve())
        finally:
            if self._state.parts:
                self.screen.note("stopping: no new requests, what was accepted is finished")
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.supervisor.stop()
            self._lock.release()
            self.screen.note("stopped")

    async def _until_stopped(self, work: Any) -> None:
        """Run `work`, given up as soon as a stop is asked for; its errors come through."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if working.done():
            working.result()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    def _claim_home(self) -> None:
        home = self.settings.home
        try:
            home.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(home).free
        except OSError as error:
            raise ConfigurationError(
                f"the data folder {home} cannot be used: {error.strerror}",
                action="Set WEIR_HOME to a folder that you may write to.",
            ) from error
        if free < _DISK_FREE_MIN:
            raise ConfigurationError(
                f"only {free // 2**20} MiB are free on the disk of {home}",
                action="Free some space, or set WEIR_HOME to another disk.",
            )
        if not self._lock.take():
            running = load_state(home)
            pid = running.supervisor_pid if running else "unknown"
            raise ConfigurationError(
                f"Weir already runs on {home} (process {pid})",
                action="See `weir status`; stop it there, or set another WEIR_HOME and WEIR_PORT.",
            )

    async def _serve(self) -> None:
        parts = standing_parts(self.settings, sandbox=self.sandbox)
        await self._take_over({part.name: part for part in parts})
        self._require_ports(parts)
        master_key(self.settings)
        if self._former:
            # The broker may be away just now, and whatever dies meanwhile must come back all the same.
            self.supervisor.open_gate()
        else:
            self.supervisor.close_gate()
        # They import beside Kafka's start, and begin when the log is prepared.
        await self._add([part for part in parts if part.needed])
        if self.settings.embedded:
            await self._start_broker()
        else:
            await self._reach_cluster()
        self.screen.step("topics, keys, targets and prices")
        async with KafkaLog(self.settings.connection(), "/supervisor") as log:
            await ensure_topics(self.settings.connection())
            seeded = await seed(log, self.settings, os.environ)
            self.supervisor.open_gate()
            try:
                await self._await_parts(
                    [part.name for part in parts if part.needed and part.awaited]
                )
            except BaseException:
                if seeded.admin_key:  # it is in the log by its hash alone: this is its only showing
                    self.screen.note(f"the first admin key: {seeded.admin_key}")
                raise
            self.screen.ready(self._state, seeded)
            await self._add([part for part in parts if not part.needed])
            self._background(self._prepare_trainer(log))
            self._background(self._train_aot())
            await self._stop.wait()

    async def _take_over(self, parts: Mapping[str, Part]) -> None:
        """Adopt what a dead supervisor has left running with the same settings, else end it."""
        former = load_state(self.settings.home)
        left = [part for part in former.parts if part.alive()] if former else []
        if former is None or not left:
            return
        if former.fingerprint == self._state.fingerprint:
            self.screen.note(f"taking over {len(left)} running parts")
            self._former = {part.name: part for part in left}
            return
        self.screen.step("ending what an earlier start has left running")
        await stop_leftovers(former, parts)

    def _require_ports(self, parts: list[Part]) -> None:
        ports = {part.port for part in parts if part.port and part.name not in self._former}
        if any(name.startswith("gateway-") for name in self._former):
            ports.discard(self.settings.port)
        if self.settings.embedded and "broker" not in self._former:
            ports |= {self.settings.broker_port, self.settings.broker_port + 1}
        for port in sorted(ports):
            require_free(port)

    async def _start_broker(self) -> None:
        settings = self.settings
        broker = Broker(
            BrokerSettings(settings.folder("kafka"), settings.broker_port, settings.broker_port + 1)
        )
        self.screen.step("Kafka: fetching what is missing")
        await asyncio.to_thread(broker.prepare, self.screen.progress)
        self.screen.step("Kafka: starting")
        part = Part(
            "broker", tuple(broker.command()), order=-1, probe="kafka", port=settings.broker_port
        )
        await self.supervisor.add(part, self._former.get("broker"))
        if await self.supervisor.wait_ready(["broker"], _BROKER_READY_S):
            log_file = self.supervisor.log_file("broker")
            raise BrokerError(
                "Kafka is not ready",
                action=f"See {log_file}; `weir doctor` checks the usual causes.",
            )

    async def _reach_cluster(self) -> None:
        bootstrap = self.settings.connection().bootstrap
        self.screen.step(f"Kafka at {bootstrap}: connecting")
        connection = self.settings.connection()
        deadline = asyncio.get_running_loop().time() + _CLUSTER_ANSWER_S
        while not await asyncio.to_thread(serves, connection):
            if asyncio.get_running_loop().time() > deadline:
                raise BrokerUnavailable(
                    f"no answer from Kafka at {bootstrap}",
                    action="Check the address, and the SASL and TLS options of --kafka.",
                )

    async def _await_parts(self, needed: list[str]) -> None:
        self.screen.step(f"starting {len(needed)} parts")
        late = await self.supervisor.wait_ready(needed, _PARTS_READY_S)
        if late:
            logs = {name: self.supervisor.log_file(name) for name in late}
            said = ", ".join(f"{name}{last_words(file)}" for name, file in logs.items())
            raise ConfigurationError(
                f"not ready: {said}",
                action=f"See {', '.join(map(str, logs.values()))}.",
            )

    async def _add(self, parts: list[Part]) -> None:
        for part in sorted(parts, key=lambda part: part.order):
            await self.supervisor.add(part, self._former.get(part.name))

    def _changed(self, part: PartState) -> None:
        if part.status == "restarting":
            why = last_words(self.supervisor.log_file(part.name)) if part.exit_code else ""
            self.screen.note(f"{part.name} {part.detail}{why}: starting it again")
        elif part.status == "ready" and part.restarts:
            self.screen.note(f"{part.name} is back")

    def _background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._background_ended)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.screen.note(f"in the background: {error}")

    async def _prepare_trainer(self, log: KafkaLog) -> None:
        """Make the trainer's environment, then serve local models once some are deployed."""
        if self.settings.trainer == "off":
            return
        if not trainer_env.is_ready():
            log_file = self.supervisor.log_file("trainer-env")
            await trainer_env.make(self._report_environment, log_file)
        if not trainer_env.is_ready():
            return
        self._report_environment("ready")
        view = TableView(DeploymentChanged)
        wanted = asyncio.Event()

        def look(_key: str, event: DeploymentChanged | None) -> None:
            if event and event.provider == LOCAL_PROVIDER and event.state in _SERVED_STATES:
                wanted.set()

        view.listen(look)
        following = asyncio.create_task(log.follow([view], self._stop))
        try:
            await wanted.wait()
            part = models_part(self.settings, trainer_env.trainer_python())
            await self.supervisor.add(part, self._former.get("models"))
            await following
        finally:
            following.cancel()

    def _report_environment(self, text: str) -> None:
        if text != self._state.trainer_environment:
            self._state.trainer_environment = text
            self._state.save(self.settings.home)
            if text == "ready" or text.startswith("failed"):
                self.screen.note(f"the trainer's environment: {text}")

    async def _train_aot(self) -> None:
        """Record Kafka's classes once, at low priority, so that later starts are fast."""
        cache = BrokerSettings(Path(), 0, 0).cache
        if not self.settings.embedded or aot_archive(cache).exists():
            return
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "infra.broker", str(cache)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=Path(__file__).parent.parent,
        )
        try:
            await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            raise
