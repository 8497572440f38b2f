"""`weir doctor`: what this machine and installation lack, each with the way out."""

import os
import shutil
import sys
from typing import NamedTuple

import psutil

from gateway.upstream import read_secret
from infra import jars, trainer_env
from infra.broker import BrokerError, require_free, serves
from infra.parts import cache_dir
from infra.settings import WeirSettings, configured_providers
from infra.state import load_state, supervised
from infra.topics import partition_counts
from infra.vendors import SANDBOX_SECRET, VENDORS
from schemas.errors import ConfigurationError, WeirError
from schemas.events import topics

_MASKED_FROM = 20
"""A shorter secret would be half told by seven of its characters."""
_DISK_FREE_MIN_MIB = 2048
_MEMORY_MIN_MIB = 2048
_PYTHON_MIN = (3, 11)
_PYTHON_BELOW = (3, 14)
_OTHER_VARIABLES = frozenset(
    {
        "WEIR_CACHE",
        "WEIR_CONFIG",
        "WEIR_INTERPRETED",
        "WEIR_KEY",
        "WEIR_ORPHAN_GRACE_S",
        "WEIR_TRAINER_PYTHON",
        SANDBOX_SECRET,
    }
)
"""What else begins so: read by single parts, by the documents, or by the parts themselves."""


class Finding(NamedTuple):
    """One check and its result; `action` says what to do when it is not ok."""

    subject: str
    ok: bool
    text: str
    action: str = ""


def examine(settings: WeirSettings) -> list[Finding]:
    """Run every check."""
    is_up = supervised(settings.home)
    findings = [_python(), _disk(settings), _memory(), _jars(settings), _providers(settings)]
    findings += [_trainer(settings), *_variables()]
    if is_up:
        findings += [_kafka(settings), _topics(settings), _parts(settings)]
    else:
        findings += _ports(settings)
    return findings


def _python() -> Finding:
    here = sys.version_info[:2]
    text = ".".join(str(part) for part in sys.version_info[:3])
    return Finding(
        "python", _PYTHON_MIN <= here < _PYTHON_BELOW, text, "Use Python 3.11, 3.12 or 3.13."
    )


def _disk(settings: WeirSettings) -> Finding:
    folder = settings.home if settings.home.exists() else settings.home.parent
    free_mib = shutil.disk_usage(folder).free // 2**20
    return Finding(
        "disk",
        free_mib >= _DISK_FREE_MIN_MIB,
        f"{free_mib} MiB free below {folder}",
        "Free some space, or set WEIR_HOME to another disk.",
    )


def _memory() -> Finding:
    free_mib = psutil.virtual_memory().available // 2**20
    return Finding(
        "memory",
        free_mib >= _MEMORY_MIN_MIB,
        f"{free_mib} MiB available",
        "Close other programs, or set WEIR_TRAINER=off.",
    )


def _jars(settings: WeirSettings) -> Finding:
    if not settings.embedded:
        return Finding("kafka's jars", ok=True, text="not needed: an existing cluster is used")
    cache = cache_dir()
    missing = [jar for jar in jars.locked() if not jar.path(cache / "maven").exists()]
    text = f"{len(missing)} to be downloaded at the next start" if missing else f"in {cache}"
    return Finding("kafka's jars", ok=True, text=text)


def _providers(settings: WeirSettings) -> Finding:
    found = configured_providers(settings, os.environ)
    if not found:
        named = dict.fromkeys(vendor.key_variable for vendor in VENDORS if vendor.key_variable)
        variables = ", ".join(named)
        return Finding(
            "providers", ok=True, text=f"none, the sandbox answers (variables: {variables})"
        )
    shown, missing = [], []
    for provider in found:
        keys = []
        for reference in provider.secrets:
            try:
                keys.append(f"{reference} {masked(read_secret(reference) or '')}")
            except ConfigurationError:
                keys.append(f"{reference} is not set")
                missing.append(reference)
        shown.append(f"{provider.name} ({', '.join(keys)})" if keys else provider.name)
    action = f"Set {', '.join(missing)}."
    return Finding("providers", not missing, "; ".join(shown), action)


def masked(secret: str) -> str:
    """A secret as it may be shown: enough to tell two apart, too little to use."""
    return f"{secret[:3]}…{secret[-4:]}" if len(secret) >= _MASKED_FROM else "…"


def _variables() -> list[Finding]:
    """Misspelled variables: the environment, unlike the file, cannot be refused as a whole."""
    fields = {name.upper() for name in WeirSettings.model_fields}
    unknown = sorted(
        name
        for name in os.environ
        if name.startswith("WEIR_")
        and name.removeprefix("WEIR_").split("__")[0] not in fields
        and name not in _OTHER_VARIABLES
    )
    if not unknown:
        return []
    action = "Correct the name, or unset it; docs/configuration.md lists them all."
    return [Finding("variables", ok=False, text=f"unknown: {', '.join(unknown)}", action=action)]


def _trainer(settings: WeirSettings) -> Finding:
    if settings.trainer == "off":
        return Finding("trainer", ok=True, text="switched off")
    ready = trainer_env.is_ready()
    text = "environment ready" if ready else "environment not made yet: `weir up` makes it"
    return Finding("trainer", ok=True, text=text)


def _kafka(settings: WeirSettings) -> Finding:
    connection = settings.connection()
    return Finding(
        "kafka",
        serves(connection, 3),
        connection.bootstrap,
        f"See {settings.home / 'logs' / 'broker.log'} and `weir status`.",
    )


def _topics(settings: WeirSettings) -> Finding:
    try:
        counts = partition_counts(settings.connection())
    except WeirError as error:
        return Finding("topics", ok=False, text=error.message, action=error.advice)
    wrong = [topic.name for topic in topics() if counts.get(topic.name) != topic.partitions]
    text = f"{len(topics())} as declared" if not wrong else f"not as declared: {', '.join(wrong)}"
    return Finding("topics", not wrong, text, "Create what is missing: `weir topics --create`.")


def _parts(settings: WeirSettings) -> Finding:
    state = load_state(settings.home)
    bad = [part.name for part in state.parts if part.status != "ready"] if state else ["state.json"]
    text = "all ready" if not bad else f"not ready: {', '.join(bad)}"
    return Finding("parts", not bad, text, f"See the files in {settings.home / 'logs'}.")


def _ports(settings: WeirSettings) -> list[Finding]:
    findings = []
    for port in range(settings.port, settings.port + 6):
        try:
            require_free(port)
        except BrokerError as error:
            findings.append(Finding(f"port {port}", ok=False, text="taken", action=error.advice))
    return findings or [Finding("ports", True, f"{settings.port} to {settings.port + 5} are free")]
