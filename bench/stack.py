"""A whole Weir of its own for one claim, and a sandbox beside it that outlives every part of Weir.

Ports lie together from `BENCH_PORT` (18800) on: Weir takes the first six, the sandbox the seventh.
The sandbox is started by the claim and not by the supervisor: its books are the oracle, so nothing
that is killed may take them along.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from infra.compiled import OFF_VARIABLE

ROOT = Path(__file__).parent.parent
READY_S = 120.0
STOP_S = 60.0
KEY = "weir-bench-" + "k" * 32
SANDBOX_KEY_VARIABLE = "BENCH_SANDBOX_KEY"
TENANTS = ("a", "b")
PASSED_ON = frozenset({"WEIR_CACHE", OFF_VARIABLE})
"""The only settings of whoever measures that count for what is measured."""

Json = Any


def base_port() -> int:
    """Return the first port of the claims."""
    return int(os.environ.get("BENCH_PORT", "18800"))


def fetch(
    url: str,
    *,
    key: str | None = None,
    method: str = "GET",
    body: Json = None,
    timeout_s: float = 10.0,
) -> Json:
    """Return the JSON answer of a call. Raises OSError, its text that of an error answer."""
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        raise OSError(f"{method} {url}: {error.code} {text[:1_000]}") from error


def compile_first() -> bool:
    """Have the compiled form made that workers run; False where it cannot be, or shall not."""
    if os.environ.get(OFF_VARIABLE):
        return False
    command = [sys.executable, "-m", "infra.compiled"]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, cwd=ROOT, check=False)
    return ended.returncode == 0


class Child:
    """A process of the claim's own, its output in a file, stopped by SIGINT, then SIGKILL."""

    def __init__(
        self, command: Iterable[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if environment is None else dict(environment),
                cwd=ROOT,
            )
        self.log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def wait_for(self, url: str, timeout_s: float, ours: Callable[[], bool] = lambda: True) -> None:
        """Wait until a GET answers 200. Raises RuntimeError with the log's tail when it does not."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(url, timeout=2.0):
                    if ours():
                        return
                    time.sleep(0.05)
            except (OSError, urllib.error.URLError):
                time.sleep(0.05)
        tail = self.log.read_bytes()[-4_000:].decode("utf-8", "replace")
        raise RuntimeError(f"{url} did not answer within {timeout_s:.0f} s:\n{tail}")

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Ask it to end in order; kill it when it does not."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(10.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Sandbox(Child):
    """The vendors' stand-in with its books; tenants are base paths (`/a`, `/b`)."""

    def __init__(self, out: Path, port: int, seed: int) -> None:
        self.books = out / "books.jsonl"
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "infra.sandbox", "--port", str(port)]
        command += ["--books", str(self.books), "--seed", str(seed)]
        super().__init__(command, out / "sandbox.log")
        self.wait_for(f"{self.url}/sandbox/health", 30.0)

    def behave(self, base: str, model: str, **behaviour: Json) -> None:
        """Set the behaviour (see `infra.sandbox.behaviour.Behaviour`) of a model under a base."""
        prefix = f"/{base}" if base else ""
        url = f"{self.url}{prefix}/sandbox/models/{model}/behaviour"
        fetch(url, method="PUT", body=behaviour)

    def calls(self) -> int:
        """Return how many calls are in the books."""
        return int(fetch(f"{self.url}/sandbox/books/summary")["rows"])


class Stack(AbstractContextManager["Stack"]):
    """A running Weir over a fresh home, and its sandbox.

    `config` is the text of a `weir.toml` that is added to the two tenants. With `keep` the home
    stays behind under `out`.
    """

    def __init__(
        self,
        out: Path,
        *,
        seed: int = 1,
        config: str = "",
        environment: Mapping[str, str] | None = None,
        models: Iterable[str] = ("gpt-4.1-nano",),
        home: Path | None = None,
        keep: bool = False,
    ) -> None:
        self.out = out.absolute()
        self.seed = seed
        self.port = base_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.control_url = f"http://127.0.0.1:{self.port + 1}"
        self.bootstrap = f"127.0.0.1:{self.port + 4}"
        self.key = KEY
        self.home = home or Path(tempfile.mkdtemp(prefix="weir-bench-"))
        self._own_home = home is None and not keep
        self._extra = dict(environment or {})
        self._config = _tenants(self.port + 6, models) + config
        self._exits = ExitStack()
        self.sandbox: Sandbox
        self.up: Child

    def __enter__(self) -> Stack:
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            self.sandbox = self._exits.enter_context(Sandbox(self.out, self.port + 6, self.seed))
            self._exits.callback(self._clean)
            (self.out / "weir.toml").write_text(self._config, "utf-8")
            self.start()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.close()

    def environment(self) -> dict[str, str]:
        """Return the environment of every process of this Weir, a vendor's client included."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name in PASSED_ON
            or (not name.startswith("WEIR_") and not name.endswith(("_API_KEY", "_BASE_URL")))
        }
        return inherited | {
            "WEIR_HOME": str(self.home),
            "WEIR_PORT": str(self.port),
            "WEIR_ADMIN_KEY": self.key,
            "WEIR_CONFIG": str(self.out / "weir.toml"),
            "WEIR_TRAINER": "off",
            "WEIR_SANDBOX": "off",
            "OPENAI_API_KEY": "sk-bench-openai",
            "OPENAI_BASE_URL": f"{self.sandbox.url}/v1",
            "ANTHROPIC_API_KEY": "sk-bench-anthropic",
            "ANTHROPIC_BASE_URL": self.sandbox.url,
            SANDBOX_KEY_VARIABLE: "sk-bench-tenant",
            **self._extra,
        }

    def start(self, timeout_s: float = READY_S) -> float:
        """Run `weir up` and wait until it is ready; return the seconds that it took."""
        begun = time.monotonic()
        self.up = Child(weir("up"), self.out / "weir-up.log", self.environment())
        self.up.wait_for(f"{self.url}/ready", timeout_s, self._is_ours)
        return time.monotonic() - begun

    def compiled(self) -> bool:
        """Return whether its workers run compiled modules, as they say themselves."""
        said = fetch(f"{self.url}/status/worker", key=self.key)
        return bool(said["compiled"])

    def _is_ours(self) -> bool:
        """Whether what runs on this home is what was started; another Weir may hold the port."""
        try:
            return bool(self.state()["supervisor_pid"] == self.up.pid)
        except FileNotFoundError:
            return False

    def stop(self) -> float:
        """Stop it in order; return the seconds that it took."""
        begun = time.monotonic()
        self.up.stop()
        return time.monotonic() - begun

    def state(self) -> Json:
        """Return what the supervisor last wrote of its parts."""
        return json.loads((self.home / "state.json").read_bytes())

    def pids(self) -> dict[str, int]:
        """Return the process id of every part that runs now, the supervisor's included."""
        state = self.state()
        found = {part["name"]: part["pid"] for part in state["parts"] if part.get("pid")}
        found["supervisor"] = state["supervisor_pid"]
        return {name: pid for name, pid in found.items() if _runs(pid)}

    def sql(self, query: str, *, limit: int = 100_000) -> list[dict[str, Json]]:
        """Return the rows of an analyst's query through the public endpoint."""
        body = {"query": query, "limit": limit}
        answer = fetch(f"{self.url}/sql", key=self.key, method="POST", body=body, timeout_s=60.0)
        names = [column["name"] for column in answer["columns"]]
        return [dict(zip(names, row, strict=True)) for row in answer["rows"]]

    def _clean(self) -> None:
        """Stop Weir, leave no process of it behind, and keep its logs under `out`."""
        if hasattr(self, "up"):
            self.up.stop()
        self._kill_leftovers()
        if (self.home / "logs").is_dir():
            shutil.copytree(self.home / "logs", self.out / "logs", dirs_exist_ok=True)
        if self._own_home:
            shutil.rmtree(self.home, ignore_errors=True)

    def _kill_leftovers(self) -> None:
        """Kill what still runs on this home, and nothing else: the home is in its environment."""
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("WEIR_HOME") == str(self.home)
            except psutil.Error:
                continue
            if ours and process.pid != os.getpid():
                process.kill()


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def weir(*arguments: str) -> list[str]:
    """Return the command line of `weir` in this environment."""
    return [sys.executable, "-m", "infra.cli", *arguments]


def _tenants(sandbox_port: int, models: Iterable[str]) -> str:
    """Two equal providers: the same models behind two base paths of the sandbox."""
    names = json.dumps(list(models))
    return "".join(
        f"[providers.{tenant}]\n"
        f'base_url = "http://127.0.0.1:{sandbox_port}/{tenant}/v1"\n'
        f'key_env = "{SANDBOX_KEY_VARIABLE}"\n'
        'price_provider = "openai"\n'
        f"models = {names}\n\n"
        for tenant in TENANTS
    )
