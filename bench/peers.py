"""Other gateways beside ours, on the same machine in the same run: LiteLLM's proxy and Portkey's gateway.

Each is installed from a lock with hashes into a folder of its own in the user's cache, never into our
environment, and passes chat completions to the sandbox with its default settings: no database, no
durable record. One that cannot be had is reported with the reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.stack import ROOT, Child
from infra.parts import cache_dir

CACHE = cache_dir() / "peers"
LOCKS = ROOT / "bench" / "probes"
INSTALL_S = 900.0
START_S = 90.0
KEY = "sk-bench-peer"


class NotInstallable(Exception):
    """A peer cannot be had here; the text says why."""


@dataclass
class Peer:
    """A running peer: how it is called, and its processes. A context manager that ends it."""

    name: str
    url: str
    child: Child
    headers: Mapping[str, str] = field(default_factory=dict)

    def pids(self) -> list[int]:
        """Return its processes: the one that was started and all below it."""
        process = psutil.Process(self.child.pid)
        return [process.pid, *(below.pid for below in process.children(recursive=True))]


def litellm(out: Path, port: int, upstream: str, model: str) -> Peer:
    """Start LiteLLM's proxy. Raises NotInstallable."""
    folder = CACHE / "litellm"
    lock = LOCKS / "litellm.lock"
    if not _is_made_from(folder, lock):
        shutil.rmtree(folder, ignore_errors=True)
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
        if uv is None:
            raise NotInstallable("uv is not there")
        _run([uv, "venv", "-q", "--python", sys.executable, str(folder)])
        python = str(folder / "bin" / "python")
        install = [uv, "pip", "install", "-q", "--require-hashes", "--python", python]
        _run([*install, "-r", str(lock)])
        _note(folder, lock)
    config = out / "litellm.json"
    parameters = {"model": f"openai/{model}", "api_base": f"{upstream}/v1", "api_key": "sk-bench"}
    models = [{"model_name": model, "litellm_params": parameters}]
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}))
    command = [str(folder / "bin" / "litellm"), "--config", str(config), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--num_workers", "1"]
    environment = _environment() | {
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    child = Child(command, out / "litellm.log", environment)
    return _ready(Peer("litellm", f"http://127.0.0.1:{port}", child), "/health/liveliness")


def portkey(out: Path, port: int, upstream: str, model: str) -> Peer:
    """Start Portkey's gateway. Raises NotInstallable."""
    del model  # the request's own headers say where it goes
    folder = CACHE / "portkey"
    lock = LOCKS / "portkey" / "package-lock.json"
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotInstallable("node and npm are not there")
    if not _is_made_from(folder, lock):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(lock.parent, folder)
        _run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
        _note(folder, lock)
    script = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    command = [node, str(script), f"--port={port}", "--headless"]
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{upstream}/v1"}
    child = Child(command, out / "portkey.log", _environment())
    return _ready(Peer("portkey", f"http://127.0.0.1:{port}", child, headers), "/")


PEERS: dict[str, Callable[[Path, int, str, str], Peer]] = {"litellm": litellm, "portkey": portkey}


def _environment() -> dict[str, str]:
    """The environment without keys and addresses of providers, and without our packages."""
    ends = ("_API_KEY", "_BASE_URL", "_API_BASE")
    kept = {name: value for name, value in os.environ.items() if not name.endswith(ends)}
    kept.pop("PYTHONPATH", None)
    return kept


def _ready(peer: Peer, path: str) -> Peer:
    try:
        peer.child.wait_for(peer.url + path, START_S)
    except (RuntimeError, urllib.error.URLError) as error:
        peer.child.stop()
        raise NotInstallable(f"it does not start: {str(error)[-300:]}") from error
    return peer


def _run(command: list[str], folder: Path | None = None) -> None:
    try:
        ended = subprocess.run(
            command, cwd=folder, capture_output=True, timeout=INSTALL_S, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstallable(f"{command[0]}: {error}") from error
    if ended.returncode:
        raise NotInstallable(f"{Path(command[0]).name} fails: {ended.stderr[-300:]}")


def _is_made_from(folder: Path, lock: Path) -> bool:
    note = folder / "made-from.lock"
    return note.exists() and note.read_bytes() == lock.read_bytes()


def _note(folder: Path, lock: Path) -> None:
    (folder / "made-from.lock").write_bytes(lock.read_bytes())
